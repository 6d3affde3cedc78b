"""The function engine: every kernel it may choose equals the reference, and it falls back where one is not there."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_networks import integer_inputs, integer_network
from snncompile.backends.chipsim import int8, products
from snncompile.backends.chipsim.channel_classes import ChannelClasses
from snncompile.backends.chipsim.function import FunctionEngine

from snncompile import reference
from snncompile.errors import InternalError
from snncompile.quant_network import Population, QuantNetwork, QuantSynapses, pooled_shape
from snncompile.quantization.state_bounds import prove


def layer_network(seed: int, payload_max: int | None = None) -> QuantNetwork:
    """Input -> one layer of dense synapses of any geometry -> neurons of one or more levels or none."""
    rng = np.random.default_rng(seed)
    members, groups = int(rng.choice([1, 1, 2])), int(rng.choice([1, 1, 1, 3]))
    channels, height, width = int(rng.integers(1, 12)) * groups * members, *(int(n) for n in rng.integers(1, 10, 2))
    shape = (channels, height, width)
    most = payload_max or int(rng.choice([1, 1, 3, 63, 128, 255, 300, 1 << 20]))
    currents = bool(rng.random() < 0.2)
    pool = (int(rng.integers(1, min(height, 2) + 1)), int(rng.integers(1, min(width, 2) + 1)))
    pooled = pooled_shape(shape, pool, members)
    largest = int(rng.choice([7, 127, 127, 2000]))
    if rng.random() < 0.25:
        weight = rng.integers(-largest, largest + 1, (int(rng.integers(1, 40)), int(np.prod(pooled))))
        synapses = QuantSynapses("s", "input", "linear", weight, 12, 1, pool, members=members)
        target: tuple[int, ...] = (len(weight),)
    else:
        kernel, stride, padding = (rng.integers(1, 4, 2), rng.integers(1, 3, 2), rng.integers(0, 3, 2))
        if rng.random() < 0.25:
            kernel, stride, padding = np.ones(2, np.int64), np.ones(2, np.int64), np.zeros(2, np.int64)
        padding = np.maximum(padding, kernel - pooled[1:])
        weight = rng.integers(-largest, largest + 1, (groups * int(rng.integers(1, 20)), pooled[0] // groups, *kernel))
        geometry = {"stride": tuple(map(int, stride)), "padding": tuple(map(int, padding)), "groups": groups}
        synapses = QuantSynapses("s", "input", "conv", weight, 12, 1, pool, members=members, **geometry)
        out = (pooled[1:] + 2 * padding - kernel) // stride + 1
        target = (len(weight), *map(int, out))
    levels, scale = int(rng.integers(0, 4)), int(np.abs(weight).max()) * most + 1
    thresholds = np.cumsum(rng.integers(1, 2 * scale + 2, (levels, len(weight))), axis=0)
    reset = str(rng.choice(["hard", "soft", "none"]))
    per_channel = rng.integers(-scale, scale + 1, (2, len(weight)))
    population = Population(
        "n", target, ("s",), per_channel[0], per_channel[1], thresholds, np.arange(1, levels + 1), thresholds,
        int(rng.choice([0, 1000, 4096])), reset, str(rng.choice(["ge", "gt"])), 1, 0, 0,
    )  # fmt: skip
    kind = "currents" if currents else "spikes"
    network = QuantNetwork("input", shape, most, (synapses,), (population,), int(rng.integers(1, 4)), 1, kind)
    bounds = prove(network, population)
    proven = replace(population, input_bits=bounds.input_bits, state_bits=bounds.state_bits)
    return replace(network, populations=(proven,))


def inputs_of(network: QuantNetwork, seed: int, samples: int) -> np.ndarray:
    """Of any density, and one sample of largest payloads."""
    rng = np.random.default_rng(seed)
    most = network.input_payload_max
    low = -most if network.input_kind == "currents" else 0
    x = rng.integers(low, most + 1, (samples, *network.input_shape))
    x *= rng.random(x.shape) < rng.choice([0.01, 0.1, 1.0])
    x[0] = most
    return x


def assert_as_reference(network: QuantNetwork, x: np.ndarray) -> None:
    exact = reference.run_integer(network, x)
    for layer in FunctionEngine(network).run(x):
        name = layer.population.name
        np.testing.assert_array_equal(layer.payloads.reshape(exact.payloads[name].shape), exact.payloads[name], name)
        np.testing.assert_array_equal(layer.fired != 0, layer.payloads != 0)
    np.testing.assert_array_equal(layer.output, exact.output)


@given(st.integers(0, 100_000))
@settings(max_examples=150)
def test_a_layer_of_any_geometry_equals_the_reference(seed: int) -> None:
    network = layer_network(seed)
    assert_as_reference(network, inputs_of(network, seed, samples=1 + seed % 7))


@given(st.integers(0, 100_000))
@settings(max_examples=150)
def test_every_kernel_that_could_be_chosen_equals_the_reference(seed: int) -> None:
    """Not only the first: all candidates, and spike by spike, whatever the density."""
    network = layer_network(seed)
    (synapses,) = network.synapses
    product = products.Product(network, synapses)
    layer = product.layer
    x = inputs_of(network, seed, samples=5)
    expected = reference.integer_current(replace(synapses, exponent=0), x).reshape(5, -1, *layer.target[:2])
    expected = np.moveaxis(expected, 1, 3)
    seen = np.moveaxis(x, 1, 3)
    for make in products._candidates(layer):
        try:
            kernel = make(synapses.weight)
        except int8.Unavailable:
            continue
        gathered = product._gathered(seen, kernel.kind)
        np.testing.assert_array_equal(kernel.of(gathered), expected, kernel.name)
        if products.EventKernel.can(layer, kernel):
            found = products.EventKernel(layer, kernel).of(product._gathered(seen, np.uint8))
            np.testing.assert_array_equal(found, expected)


def test_each_kind_of_kernel_is_used_somewhere() -> None:
    """Guards the tests above: what they draw reaches them all."""
    chosen = {name for seed in range(150) for name in FunctionEngine(layer_network(seed)).kernels.values()}
    silent = ", spike by spike where silent"
    assert {
        "int8 convolution" + silent, "int8 matrix" + silent, "float32 convolution", "float32 matrix",
        "float64 convolution", "float64 matrix", "float32 within groups",
    } <= chosen  # fmt: skip


@pytest.mark.parametrize("silent", [True, False])
def test_networks_of_all_features_spike_by_spike_and_not(monkeypatch: pytest.MonkeyPatch, silent: bool) -> None:
    monkeypatch.setattr(products.EventKernel, "pays", lambda self, x: silent)
    for seed in range(60):
        network = integer_network(seed, listed=seed % 2 == 0)
        assert_as_reference(network, integer_inputs(network, samples=3, seed=seed))


def int8_network() -> QuantNetwork:
    return next(
        n
        for n in (layer_network(seed, payload_max=255) for seed in range(200))
        if n.synapses[0].pool == (1, 1) and "int8 convolution" in FunctionEngine(n).kernels["s"]
    )


@pytest.mark.parametrize("missing", ["qconv_prepack", "qconv2d_pointwise"])
def test_without_the_operation_another_kernel_is_used(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    network = int8_network()
    there = int8._operation

    def gone(name: str) -> Callable[..., Any]:
        if name == missing:
            raise int8.Unavailable(name)
        return there(name)

    monkeypatch.setattr(int8, "_operation", gone)
    assert FunctionEngine(network).kernels["s"].startswith("float32 convolution")
    assert_as_reference(network, inputs_of(network, 0, samples=3))


def test_an_operation_that_torch_lacks_is_unavailable() -> None:
    with pytest.raises(int8.Unavailable):
        int8._operation("no_such_operation")


def test_a_product_that_saturates_is_noticed_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a CPU without VNNI: two products of neighbouring channels add up in 16 bits."""
    network = int8_network()

    def saturating(weight: np.ndarray, geometry: int8.Geometry) -> Callable[[np.ndarray], np.ndarray]:
        even = np.arange(weight.shape[1]) % 2 == 0

        def of(x: np.ndarray) -> np.ndarray:
            parts = []
            for first in range(0, x.shape[3], 2):
                pair = slice(first, first + 2)
                y = reference.convolve(
                    np.moveaxis(x[..., pair], 3, 1).astype(np.int64), weight[:, pair], geometry.stride,
                    geometry.padding, geometry.dilation, 1,
                )  # fmt: skip
                parts.append(np.clip(y, -(1 << 15), (1 << 15) - 1))
            return np.moveaxis(np.sum(parts, axis=0), 1, 3).astype(np.float32)

        assert even.any()
        return of

    few = replace(network.synapses[0], weight=np.minimum(np.abs(network.synapses[0].weight), 1))
    network = replace(network, synapses=(few,))
    assert "int8 convolution" in FunctionEngine(network).kernels["s"]
    monkeypatch.setattr(int8, "convolution", saturating)
    assert FunctionEngine(network).kernels["s"].startswith("float32 convolution")


def test_a_kernel_that_is_wrong_for_one_batch_size_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    network = int8_network()
    convolution = int8.convolution

    def wrong(weight: np.ndarray, geometry: int8.Geometry) -> Callable[[np.ndarray], np.ndarray]:
        product = convolution(weight, geometry)
        return lambda x: product(x) + (len(x) == 16)

    monkeypatch.setattr(int8, "convolution", wrong)
    assert FunctionEngine(network).kernels["s"].startswith("float32 convolution")
    assert_as_reference(network, inputs_of(network, 0, samples=3))


@given(st.integers(1, 200))
@settings(max_examples=20)
def test_oneDNN_is_given_tested_batch_sizes_only(samples: int) -> None:  # noqa: N802 - its name
    given_sizes: list[int] = []

    def product(x: np.ndarray) -> np.ndarray:
        given_sizes.append(len(x))
        return x.astype(np.float32)

    x = np.arange(samples, dtype=np.uint8)
    np.testing.assert_array_equal(int8._in_blocks(product)(x), x)
    assert set(given_sizes) <= set(int8.BLOCKS)


@pytest.mark.parametrize(
    ("kernel", "geometry"),
    [
        ((1, 1), int8.Geometry(stride=(2, 2))),
        ((3, 3), int8.Geometry(padding=(3, 1))),
        ((3, 3), int8.Geometry(dilation=(2, 1))),
        ((3, 3), int8.Geometry(groups=2)),
    ],
)
def test_convolutions_that_oneDNN_is_not_trusted_with(kernel: tuple[int, int], geometry: int8.Geometry) -> None:  # noqa: N802
    with pytest.raises(int8.Unavailable):
        int8.convolution(np.ones((4, 4, *kernel), np.int64), geometry)


def test_payloads_that_the_network_does_not_take_are_refused() -> None:
    network = int8_network()
    engine = FunctionEngine(network)
    for payload in (-1, 256):
        if payload < 0 and network.input_kind == "currents":
            continue
        with pytest.raises(InternalError, match="input payloads are"):
            list(engine.run(np.full((1, *network.input_shape), payload)))


@given(st.integers(0, 100_000))
@settings(max_examples=60)
def test_sums_over_classes_of_channels_keep_every_count(seed: int) -> None:
    """Classes by the rows of a mask: contracting their sums gives what contracting the channels gives."""
    rng = np.random.default_rng(seed)
    channels, tiles = int(rng.integers(1, 90)), int(rng.integers(1, 5))
    mask = rng.integers(0, 3, (channels, tiles)).astype(np.float64)
    steps, samples, height, width = (int(n) for n in rng.integers(1, 4, 4))
    spikes = rng.random((steps, samples, channels, height, width)) < rng.random()
    classes = ChannelClasses.of([mask], channels)
    assert len(classes.first) == len(np.unique(mask, axis=0))
    by_sample = spikes.swapaxes(0, 1).reshape(steps * samples, channels, height, width)
    expected = np.einsum("nchw,ci->nihw", by_sample, mask)
    for values in (spikes, spikes.astype(np.uint8), spikes * 0.5):
        found = np.einsum("nkhw,ki->nihw", classes.sums(values), classes.of_class(mask))
        np.testing.assert_array_equal(found, expected * (0.5 if values.dtype == np.float64 else 1))


def test_one_thread_gives_what_many_give() -> None:
    network = int8_network()
    x = inputs_of(network, 3, samples=20)
    before = torch.get_num_threads()
    outputs = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        (*_, last) = FunctionEngine(network).run(x)
        outputs.append(last.output)
    torch.set_num_threads(before)
    np.testing.assert_array_equal(*outputs)
