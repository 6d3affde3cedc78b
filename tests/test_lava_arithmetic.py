"""The arithmetic of the emitted program against the reference interpreter, without Lava."""

import json
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from lava_networks import emitted_module
from snncompile.backends.lava import emit

from snncompile.quant_network import Population, QuantSynapses
from snncompile.reference import State, emitted, initial_state, input_currents, integer_current, step_population


@pytest.fixture(scope="module")
def arithmetic() -> ModuleType:
    return emitted_module("arithmetic")


def as_json(node: Any) -> dict[str, Any]:
    waits = {"waits": node.waits} if isinstance(node, Population) else {}
    values: dict[str, Any] = json.loads(json.dumps(emit._scalars(node) | waits))
    return values


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("bits", [8, 22, 47])
def test_synapses(arithmetic: ModuleType, seed: int, bits: int) -> None:
    """8, 22 and 47 bits take the float32, float64 and int64 product."""
    rng = np.random.default_rng(seed)
    groups, fan_in, out = int(rng.integers(1, 3)), int(rng.integers(1, 4)), int(rng.integers(1, 4))
    pool, stride, padding, dilation = (tuple(int(n) for n in rng.integers(low, 3, 2)) for low in (1, 1, 0, 1))
    kernel, shape = rng.integers(1, 4, 2), (groups * fan_in, *(int(n) for n in rng.integers(10, 14, 2)))
    linear = seed % 4 == 0
    pooled = (shape[0], shape[1] // pool[0], shape[2] // pool[1])
    weight_shape = (out, int(np.prod(pooled))) if linear else (out * groups, fan_in, *kernel)
    weight = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), weight_shape)
    kind = "linear" if linear else "conv"
    synapses = QuantSynapses(
        "s", "n", kind, weight, bits, int(rng.integers(0, 4)), pool, stride, padding, dilation, 1 if linear else groups
    )
    payloads = rng.integers(0, 256, (5, *shape)) * (rng.random((5, *shape)) < 0.3)
    ours = arithmetic.Synapses(as_json(synapses), weight, shape, 255, np.int64)
    current = ours.current(payloads.reshape(5, -1).astype(np.int32))
    np.testing.assert_array_equal(current, integer_current(synapses, payloads).reshape(5, -1))
    assert ours.product.weight.dtype == {8: np.float32, 22: np.float64, 47: np.int64}[bits]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("bits", [8, 22, 47])
def test_pointwise(arithmetic: ModuleType, seed: int, bits: int) -> None:
    """Kernels of 1x1 on images and on flat features: a weight a channel, groups, all channels; with pool and stride."""
    rng = np.random.default_rng(seed)
    flat, groups = seed % 2 == 0, (1, 2, 5)[seed % 3]
    fan_in, out = (1, 1) if seed % 5 == 0 else (int(n) for n in rng.integers(1, 5, 2))
    pool, stride = ((1, 1), (1, 1)) if flat else (tuple(int(n) for n in rng.integers(1, 4, 2)) for _ in range(2))
    shape = (groups * fan_in,) if flat else (groups * fan_in, 7, 8)
    limit = 1 << (bits - 1)
    weight = rng.integers(-limit, limit, (out * groups, fan_in, 1, 1))
    weight[0] = -limit
    synapses = QuantSynapses(
        "s", "n", "conv", weight, bits, int(rng.integers(0, 4)), pool, stride, dilation=(2, 1), groups=groups
    )
    payloads = rng.integers(-255, 256, (5, *shape)) * (rng.random((5, *shape)) < 0.3)
    payloads[0] = -255
    ours = arithmetic.Synapses(as_json(synapses), weight, shape, 255, np.int64)
    assert isinstance(ours.product, arithmetic.Pointwise)
    current = ours.current(payloads.reshape(5, -1).astype(np.int32))
    np.testing.assert_array_equal(current, integer_current(synapses, payloads).reshape(5, -1))
    assert ours.product.weight.dtype == {8: np.float32, 22: np.float64, 47: np.int64}[bits]


def test_padded_kernel_of_one_and_kernels_on_flat_features(arithmetic: ModuleType) -> None:
    rng = np.random.default_rng(0)
    for shape, kernel in (((3, 4, 5), (1, 1)), ((3,), (1, 1)), ((3,), (3, 3))):
        padding = (1, 1) if kernel == (3, 3) or len(shape) == 3 else (0, 0)
        synapses = QuantSynapses("s", "n", "conv", rng.integers(-9, 9, (2, 3, *kernel)), 8, 0, padding=padding)
        ours = arithmetic.Synapses(as_json(synapses), synapses.weight, shape, 255, np.int64)
        payloads = rng.integers(0, 256, (5, *shape))
        current = ours.current(payloads.reshape(5, -1).astype(np.int32))
        np.testing.assert_array_equal(current, integer_current(synapses, payloads).reshape(5, -1))


def test_silence_costs_no_product(arithmetic: ModuleType) -> None:
    synapses = QuantSynapses("s", "n", "linear", np.ones((2, 3), int), 8, 0)
    ours = arithmetic.Synapses(as_json(synapses), synapses.weight, (3,), 1, np.int32)
    assert ours.current(np.zeros((2, 3), np.int32)) == 0


@pytest.mark.parametrize("reset", ["soft", "hard", "none"])
@pytest.mark.parametrize("fire", ["ge", "gt"])
@pytest.mark.parametrize("decay", [-4096, -1, 0, 1, 2048, 3000, 4095, 4096])
@pytest.mark.parametrize("state_bits", [16, 24, 45])
def test_neurons(arithmetic: ModuleType, reset: Any, fire: Any, decay: int, state_bits: int) -> None:
    """One step from any state the width allows, its ends included."""
    rng = np.random.default_rng(state_bits + decay % 97)
    reach, end = 1 << (state_bits - 6), 1 << (state_bits - 1)
    thresholds = np.cumsum(rng.integers(1, reach, (3, 4)), axis=0)
    constants = {
        "bias": rng.integers(-9, 9, 4),
        "v0": rng.integers(-9, 9, 4),
        "subtract": rng.integers(0, reach, (3, 4)),
    }
    population = Population(
        "n", (4, 2, 3), (), thresholds=thresholds, payload=np.array([1, 5, 300]), decay=decay, reset=reset, fire=fire,
        depth=1, input_bits=state_bits - 1, state_bits=state_bits, **constants,
    )  # fmt: skip
    ours = arithmetic.Neurons(as_json(population), emit._arrays(population))
    assert ours.dtype is (np.int32 if state_bits == 16 or (state_bits == 24 and decay in (0, 4095, 4096)) else np.int64)
    np.testing.assert_array_equal(ours.start(5), initial_state(population, 5).v.reshape(5, -1))
    np.testing.assert_array_equal(ours.bias, np.repeat(population.bias, 6))
    v = rng.integers(-end, end, (40, 4, 2, 3))
    v[0], v[1], v[2] = 0, -end, end - 1
    current = rng.integers(-reach, 3 * reach, v.shape)
    current[0] = thresholds[1, :, None, None]  # exactly at a threshold
    payloads, after = ours.step(v.reshape(40, -1).astype(ours.dtype), current.reshape(40, -1))
    _, k, theirs = step_population(population, State.of(v), current)
    np.testing.assert_array_equal(payloads, emitted(population, k).reshape(40, -1))
    np.testing.assert_array_equal(after, theirs.v.reshape(40, -1))
    assert ours.spiking


@pytest.mark.parametrize("open_steps", [None, 1, 2])
@pytest.mark.parametrize("reset", ["soft", "hard", "none"])
def test_neurons_in_micro_steps(arithmetic: ModuleType, open_steps: int | None, reset: Any) -> None:
    """The decay acts in the first micro-step only; behind the door nothing fires and nothing is reset."""
    rng = np.random.default_rng(0)
    thresholds = np.array([[5, 9], [30, 40]])
    population = Population(
        "n", (2, 3), (), np.zeros(2, int), np.zeros(2, int), thresholds, np.array([1, 2]), thresholds, 2048, reset,
        "ge", 1, 10, 10, open_steps=open_steps,
    )  # fmt: skip
    ours = arithmetic.Neurons(as_json(population), emit._arrays(population))
    v, current = rng.integers(-60, 60, (40, 2, 3)), rng.integers(-60, 60, (40, 2, 3))
    for micro in range(3):
        payloads, after = ours.step(v.reshape(40, -1).astype(ours.dtype), current.reshape(40, -1), micro)
        _, k, theirs = step_population(population, State.of(v), current, micro)
        np.testing.assert_array_equal(payloads, emitted(population, k).reshape(40, -1))
        np.testing.assert_array_equal(after, theirs.v.reshape(40, -1))
        assert payloads.any() == (open_steps is None or micro < open_steps)


@pytest.mark.parametrize(("timesteps", "waits"), [(1, 0), (2, 1), (5, 4), (5, 2), (5, 1), (5, 0)])
@pytest.mark.parametrize("input_bits", [9, 18, 45])
def test_mixing(arithmetic: ModuleType, timesteps: int, waits: int, input_bits: int) -> None:
    """Samples back to back as on the chip's clock; input at both ends of its width; silence is the number 0.

    What lies in the stores before or of an earlier sample is never read.
    """
    rng = np.random.default_rng(timesteps)
    population = mixing_population(rng, timesteps, input_bits, waits)
    assert population.waits == waits
    end = 1 << (input_bits - 1)
    arrived = rng.integers(-end, end, (timesteps, 4, 5, 2, 3))  # (T, samples, lanes, channels, width)
    arrived[:, 0], arrived[:, 1], arrived[0, 2] = end - 1, -end, 0
    flat = np.moveaxis(arrived, 1, 0).reshape(4 * timesteps, 5, 6)
    ours = arithmetic.Mixing(as_json(population), emit._arrays(population), lanes=5)
    ours.stores[:] = np.nan if ours.stores.dtype.kind == "f" else end
    bias, read = np.repeat(population.bias, 3), []
    for chip_step in range(4 * timesteps + waits):
        if chip_step < 4 * timesteps:
            current = flat[chip_step] if flat[chip_step].any() else 0
            ours.store(chip_step, current + bias)
        if (t := chip_step - waits) >= 0:
            read.append(ours.current(t))
    theirs = np.stack([input_currents(population, arrived[:, sample]) for sample in range(4)])
    np.testing.assert_array_equal(np.stack(read), theirs.reshape(4 * timesteps, 5, 6))
    assert ours.stores.dtype == {9: np.float32, 18: np.float64, 45: np.int64}[input_bits]


def mixing_population(rng: np.random.Generator, timesteps: int, input_bits: int, waits: int) -> Population:
    """Rows of mixing up to just below 1/4096 * 2^15 in sum, one of them 0 from two steps on; 0 beyond `waits` ahead."""
    limit = (1 << 15) // timesteps
    mixing = rng.integers(-limit, limit, (timesteps, timesteps))
    mixing[0], mixing[1:2] = limit - 1, 0
    mixing = np.tril(mixing, waits)
    none, bias = np.zeros((0, 2), int), rng.integers(-9, 9, 2)
    return Population(
        "n", (2, 3), (), bias, bias, none, none[:, 0], none, 0, "none", "ge", 1 + waits, input_bits, 62, mixing
    )


def test_neurons_without_thresholds_sum(arithmetic: ModuleType) -> None:
    none = np.zeros((0, 2), int)
    population = Population(
        "n", (2,), (), np.array([1, 2]), np.array([0, 5]), none, none[:, 0], none, 0, "none", "ge", 1, 8, 8
    )
    ours = arithmetic.Neurons(as_json(population), emit._arrays(population))
    payloads, v = ours.step(ours.start(1), np.array([[11, -8]], np.int32))
    assert not ours.spiking
    assert payloads.tolist() == [[0, 0]]
    assert v.tolist() == [[11, -3]]
