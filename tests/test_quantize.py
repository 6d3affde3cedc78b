"""Integers: no float anywhere, proven widths, and the float network within rounding."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_networks import integer_network
from random_networks import conv_network, images, quantized, random_network, residual_network
from test_lowering_integers import lowerable

from snncompile import reference
from snncompile.chip import load_chip
from snncompile.errors import CompileError, InternalError
from snncompile.network import Input, Linear, MultiThresholdLIF, Network, Readout
from snncompile.pipeline import lower
from snncompile.quant_network import QuantNetwork
from snncompile.quantization.quantize import quantize
from snncompile.quantization.state_bounds import prove, signed_bits
from snncompile.quantization.verify_integers import verify_integers


def lowered(network: Network) -> Network:
    return lower(network, load_chip("loihi2").numerics)


def test_signed_bits() -> None:
    for low, high, bits in ((0, 0, 1), (-1, 0, 1), (0, 1, 2), (-128, 127, 8), (-129, 127, 9), (-128, 128, 9)):
        assert signed_bits(np.array([low]), np.array([high])) == bits


def _adversary(network: QuantNetwork, rng: np.random.Generator, samples: int) -> np.ndarray:
    """Inputs that drive one output channel as far as they can: full where its kernel has one sign, 0 elsewhere."""
    synapses = network.outputs_of(network.input_name)[0]
    shape = (samples, *network.input_shape)
    out = rng.integers(0, len(synapses.weight), samples)
    signs = (
        np.sign(synapses.weight[out].mean(axis=tuple(range(2, synapses.weight.ndim))))
        if synapses.kind == "conv"
        else None
    )
    if signs is None or signs.shape[1] != shape[1]:
        chosen = rng.random(shape) < 0.5
    else:
        chosen = np.broadcast_to((signs * rng.choice([-1, 1], (samples, 1)) > 0)[:, :, None, None], shape)
    return np.where(chosen, network.input_payload_max, 0)


@given(st.integers(0, 10_000))
def test_no_input_breaks_the_proof(seed: int) -> None:
    network, _ = quantized(random_network(seed))
    rng = np.random.default_rng(seed)
    full = np.full((1, *network.input_shape), network.input_payload_max)
    x = np.concatenate([images(network, 3, seed), _adversary(network, rng, 4), full, 0 * full])
    trace = reference.run_integer(network, x)
    for population in network.populations:
        bounds = prove(network, population)
        u = np.moveaxis(trace.membranes[population.name], 2, 0).reshape(population.shape[0], -1)
        assert (u.min(1) >= bounds.state_low).all()
        assert (u.max(1) <= bounds.state_high).all()
        assert bounds.state_bits <= population.state_bits <= 24


def climbed(network: QuantNetwork, rng: np.random.Generator, rounds: int) -> list[dict[str, np.ndarray]]:
    """Membranes of every round of a search for inputs that drive one neuron's state as far as they can.

    A random neuron, step and sign; a random input of zeros and largest payloads; each round flips parts of it (one
    place, one channel, one step or many places) in 24 ways and keeps the best.
    """
    steps = network.timesteps // network.microsteps
    low = -network.input_payload_max if network.input_kind == "currents" else 0
    frames = () if rng.random() < 0.5 else (steps,)
    target = network.populations[int(rng.integers(len(network.populations)))]
    at = (int(rng.integers(network.timesteps)), *(int(rng.integers(n)) for n in target.shape))
    sign = int(rng.choice([-1, 1]))
    best = rng.choice([low, network.input_payload_max], (*frames, *network.input_shape))
    seen = []
    for _ in range(rounds):
        tries = np.repeat(best[None], 24, axis=0)
        for row in tries[1:]:
            flip = rng.random(row.shape) < rng.choice([0.02, 0.2, 0.5])
            if rng.random() < 0.4:
                axis = int(rng.integers(row.ndim))
                flip = np.moveaxis(np.zeros(row.shape, bool), axis, 0)
                flip[int(rng.integers(len(flip)))] = True
                flip = np.moveaxis(flip, 0, axis)
            row[flip] = low + network.input_payload_max - row[flip]
        membranes = reference.run_integer(network, tries).membranes
        seen.append(membranes)
        u = membranes[target.name][at[0], :, *at[1:]]
        best = tries[int((sign * u).argmax())]
    return seen


ADVERSARY_ROUTES = [("loihi2", "graded"), ("loihi2", "r1"), ("loihi2", "burst"), ("loihi1", "auto")]


@settings(max_examples=16)
@given(seed=st.integers(0, 10_000), route=st.sampled_from(ADVERSARY_ROUTES), bits=st.sampled_from([2, 4, 8]))
def test_no_search_breaks_the_proof(seed: int, route: tuple[str, str], bits: int) -> None:
    chip, lowering = route
    network, _ = quantized(lowerable(seed, chip, lowering), bits, chip, lowering)
    assert_within_bounds(network, climbed(network, np.random.default_rng(seed), 12))


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_no_search_breaks_the_proof_of_networks_by_hand(seed: int) -> None:
    network = integer_network(seed)
    assert_within_bounds(network, climbed(network, np.random.default_rng(seed), 10))


def assert_within_bounds(network: QuantNetwork, seen: list[dict[str, np.ndarray]]) -> None:
    for population in network.populations:
        bounds = prove(network, population)
        for membranes in seen:
            u = np.moveaxis(membranes[population.name], 2, 0).reshape(population.shape[0], -1)
            assert (u.min(1) >= bounds.state_low).all()
            assert (u.max(1) <= bounds.state_high).all()
        assert bounds.state_bits <= population.state_bits


def test_the_search_reaches_what_the_proof_allows() -> None:
    """It is worth its name: on one layer it finds the bound itself."""
    weight = np.random.default_rng(0).normal(size=(1, 8))
    nodes = (Input("x", (), (8,)), Linear("l", ("x",), weight, np.array([0.1])), Readout("r", ("l",)))
    network, _ = quantized(Network(nodes, 3))
    bounds, reached = prove(network, network.readout), []
    for seed in range(20):
        seen = climbed(network, np.random.default_rng(seed), 20)
        reached += [u["r"] for u in seen]
    assert max(u.max() for u in reached) == bounds.state_high.max()
    assert min(u.min() for u in reached) == bounds.state_low.min()


def test_narrow_weights_leave_the_state_its_unit() -> None:
    """A bit less of weight is a bit more of fraction: thresholds are as fine as with 8 bits."""
    network = conv_network(1)
    (wide, wide_host), (narrow, narrow_host) = quantized(network, 8), quantized(network, 2)
    for population in narrow.populations[:-1]:
        ratio = narrow_host.state[population.name] / wide_host.state[population.name]
        assert (ratio <= 2).all()
    assert [s.weight_bits for s in narrow.synapses] == [2] * len(wide.synapses)


def test_the_proof_is_tight_where_it_can_be() -> None:
    """One linear layer, no leak: the bound is reached by the input that the signs of the weights ask for."""
    weight = np.array([[0.5, -0.25, 0.1], [-0.3, 0.2, 0.4]])
    network = Network(
        (Input("x", (), (3,)), Linear("l", ("x",), weight, np.array([0.1, -0.2])), Readout("r", ("l",))), 3
    )
    integers, _ = quantized(network)
    bounds = prove(integers, integers.readout)
    x = 255 * np.array([[1, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0]])
    states = reference.run_integer(integers, x).output
    assert states.max(axis=0).tolist() == bounds.state_high.tolist()
    assert states.min(axis=0).tolist() == bounds.state_low.tolist()


@given(st.integers(0, 10_000))
def test_holds_no_float_and_verifies(seed: int) -> None:
    network, _ = quantized(random_network(seed))
    verify_integers(network)
    for item in (*network.synapses, *network.populations):
        for value in vars(item).values():
            assert not isinstance(value, float)
            assert not isinstance(value, np.ndarray) or value.dtype == np.int64


def test_refuses_a_float() -> None:
    network, _ = quantized(conv_network(1))
    with pytest.raises(InternalError, match="weight is float64"):
        replace(network.synapses[0], weight=np.ones((2, 2)))
    with pytest.raises(InternalError, match="exponent is a float"):
        replace(network.synapses[0], exponent=1.0)


@pytest.mark.parametrize(
    ("where", "change", "message"),
    [
        ("synapses", lambda s: {"weight": s.weight * 40}, "a weight needs more than 8 bits"),
        ("synapses", lambda s: {"delay_steps": 2}, "delay 2 from depth"),
        ("synapses", lambda s: {"source": "nowhere"}, "reads 'nowhere', which is not before it"),
        ("populations", lambda p: {"state_bits": p.state_bits - 1}, "state bits needed"),
        ("populations", lambda p: {"decay": 5000}, "decay 5000 is beyond 4096"),
        ("populations", lambda p: {"mixing": np.ones((9, 9), np.int64)}, r"mixes \(9, 9\) of"),
        ("populations", lambda p: {"thresholds": -p.thresholds}, "thresholds are not positive and increasing"),
        ("populations", lambda p: {"bias": p.bias[:-1]}, "bias has shape"),
    ],
)
def test_verify_finds_a_planted_fault(where: str, change, message: str) -> None:
    network, _ = quantized(conv_network(2))
    items = list(getattr(network, where))
    items[1] = replace(items[1], **change(items[1]))
    with pytest.raises(InternalError, match=f"^{items[1].name}: .*{message}"):
        verify_integers(replace(network, **{where: tuple(items)}))


def test_verify_counts_the_weights_of_a_shortcut() -> None:
    network, _ = quantized(residual_network(2))
    items = tuple(replace(s, weight=np.ones(9, np.int64)) if s.name == "n3_from_n1" else s for s in network.synapses)
    with pytest.raises(InternalError, match="n3_from_n1: weights for 9 channels"):
        verify_integers(replace(network, synapses=items))


@given(st.integers(0, 10_000))
def test_weights_thresholds_and_bias_are_within_half_a_unit(seed: int) -> None:
    network = lowered(random_network(seed))
    integers, host = quantize(network, load_chip("loihi2").numerics, 8)
    for population in integers.populations:
        node = network.by_name[population.name]
        unit = host.state[population.name]
        bias = sum(getattr(network.by_name[name], "bias", 0.0) for name in node.inputs)
        assert (np.abs(population.bias * unit - bias) <= 0.5 * unit * (1 + 1e-9)).all()
        for synapses in integers.inputs_of(population):
            source = 1 / 255 if synapses.source == integers.input_name else 1.0
            wide = unit.reshape(-1, *(1,) * (synapses.weight.ndim - 1)) * 2**synapses.exponent
            assert (
                np.abs(synapses.weight * wide - network.by_name[synapses.name].weight * source)
                <= 0.5 * wide * (1 + 1e-9)
            ).all()
        if isinstance(node, MultiThresholdLIF):
            assert (np.abs(population.thresholds * unit - node.thresholds[:, None]) <= 0.5 * unit * (1 + 1e-9)).all()


def test_the_shift_is_reduced_until_the_state_fits() -> None:
    def layer(fan_in: int) -> Network:
        nodes = (
            Input("x", (), (fan_in,)),
            Linear("l", ("x",), np.ones((2, fan_in)), np.zeros(2)),
            Readout("r", ("l",)),
        )
        return Network(nodes, 4)

    narrow, wide = (quantized(layer(n))[0].synapses[0].exponent for n in (1, 60))
    assert narrow == 6
    assert wide < narrow
    with pytest.raises(CompileError, match=r"r: a state may need 33 bits, the chip has 24; fewer weight bits than 8"):
        quantized(layer(20_000))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_bits": (4,)}, "--weight-bits: the chip has no 8-bit weights; allowed: 4"),
        ({"graded_spikes": False}, "03_neuron: sends payloads up to 4; the chip's spikes are binary"),
        ({"resets": ("none",)}, "03_neuron: has a soft reset; the chip has: none"),
        ({"payload_bits": 7}, "00_input: sends payloads up to 255; the chip's have 7 bits"),
    ],
)
def test_what_the_chip_cannot_do_is_named(change: dict[str, object], message: str) -> None:
    numerics = load_chip("loihi2").numerics.model_copy(update=change)
    with pytest.raises(CompileError, match=f"^{message}$"):
        quantize(lowered(conv_network(1)), numerics, 8)


def test_a_channel_of_zero_weights_is_kept() -> None:
    nodes = (
        Input("x", (), (3,)),
        Linear("l", ("x",), np.array([[0.0, 0, 0], [1, 2, 3]]), np.array([0.6, 0.0])),
        MultiThresholdLIF("n", ("l",), *(np.array([0.5]),) * 3, 0.5, "soft", "ge"),
        Linear("m", ("n",), np.eye(2), np.zeros(2)),
        Readout("r", ("m",)),
    )
    integers, host = quantized(Network(nodes, 2))
    trace = reference.run_integer(integers, np.zeros((1, 3), np.int64))
    assert trace.payloads["n"][:, 0].tolist() == [[1, 0], [1, 0]]
    assert (trace.output * host.output_scale)[0] == pytest.approx([0.5, 0.0], rel=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leak_above_one": False}, "n: leak is 1.2; the chip's neurons have no leak above 1"),
        ({"step_mixing": False}, r"n: mixes the steps of its input \(T-GIM\); the chip's neurons cannot store them"),
    ],
)
def test_lm_ht_is_refused_where_neurons_are_not_programmable(change: dict[str, object], message: str) -> None:
    theta = np.array([1.0])
    mixed = MultiThresholdLIF(
        "n", ("l",), theta, theta, theta, 1.2, "soft", "ge", mixing=np.array([[0.5, 0.4], [0.3, 0.5]])
    )
    nodes = (
        Input("x", (), (3,)),
        Linear("l", ("x",), np.ones((2, 3)), np.zeros(2)),
        mixed,
        Linear("m", ("n",), np.eye(2), np.zeros(2)),
        Readout("r", ("m",)),
    )
    numerics = load_chip("loihi2").numerics.model_copy(update=change)
    with pytest.raises(CompileError, match=f"^{message}"):
        quantize(lowered(Network(nodes, 2)), numerics, 8)


def test_a_counted_readout_must_be_the_last_population_and_without_leak() -> None:
    theta = np.array([1.0])
    nodes = (
        Input("x", (), (3,)),
        Linear("l", ("x",), np.ones((2, 3)), np.zeros(2)),
        MultiThresholdLIF("n", ("l",), theta, theta, theta, 0.5, "soft", "ge"),
        Readout("r", ("n",), leak=0.5),
    )
    with pytest.raises(CompileError, match=r"^r: weighs spikes of n by a leak of 0.5; let a linear layer come between"):
        quantized(Network(nodes, 2))
