"""Neurons of several states, drives, floors, leaks by channel, and synapses with a lag: every stage says the same."""

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_networks import integer_inputs, integer_network
from lava_networks import emitted_module
from random_networks import images, quantized, recurrent_network
from snncompile.backends.chipsim.function import FunctionEngine
from test_float_engine import assert_as_reference
from test_lava_layers import check
from test_lowering import LOIHI1, LOIHI2

from snncompile import reference
from snncompile.chip import Numerics
from snncompile.errors import CompileError
from snncompile.float_engine import FloatEngine
from snncompile.network import NO_MEMORY, Conv2d, Input, Linear, MultiThresholdLIF, Network, Readout, verify
from snncompile.passes.fold_drive import FoldDrive
from snncompile.passes.order_neurons import OrderNeurons
from snncompile.pipeline import lower, run_passes
from snncompile.proof.rerun import integer_recipe, run
from snncompile.quant_network import QuantNetwork
from snncompile.quantization.quantize import quantize
from snncompile.quantization.state_bounds import prove
from snncompile.quantization.verify_integers import verify_integers


def one(lag: int = 0, steps: int = 5, **changes: object) -> Network:
    """One neuron of threshold 4 that reads the input by weight 1."""
    theta = np.array([4.0])
    node = MultiThresholdLIF("n", ("l",), theta, np.ones(1), theta, 1.0, "soft", "ge")
    nodes = (
        Input("x", (), (1,), coding="events"),
        Linear("l", ("x",), np.ones((1, 1)), np.zeros(1), lag=lag),
        replace(node, **changes),
        Linear("o", ("n",), np.ones((1, 1)), np.zeros(1)),
        Readout("out", ("o",)),
    )
    return Network(nodes, steps)


def membranes(network: Network, *x: float) -> list[float]:
    verify(network)
    trace = reference.run_float(network, np.reshape(x, (1, -1, 1)))
    return trace.membranes["n"].ravel().tolist()


def test_a_synaptic_current_decays_and_sums_up() -> None:
    # i: 2, 1, 0.5, 2.25, 1.125; u adds it: 2, 3, 3.5, 5.75 fires, 1.75 + 1.125
    assert membranes(one(current_leak=0.5), 2, 0, 0, 2, 0) == [2.0, 3.0, 3.5, 5.75, 2.875]


def test_a_drive_acts_in_every_step_and_a_floor_holds() -> None:
    assert membranes(one(drive=np.array([1.0])), 0, 0, 0, 0, 0) == [1.0, 2.0, 3.0, 4.0, 1.0]
    # v: max(-6, -2) = -2; -2 - 1 -> -2; -2 + 5 = 3
    assert membranes(one(floor=-2.0), -6, -1, 5, 0, 0) == [-6.0, -3.0, 3.0, 3.0, 3.0]


def test_a_threshold_rises_with_each_spike_and_falls_back() -> None:
    network = one(adapt_leak=0.5, adapt_step=2.0, adapt_start=0.0)
    # a: 0, 2, 1 + 2 of the spike at 6, 1.5, 0.75 + 2; the thresholds are 4, 6, 7, 5.5, 6.75
    assert membranes(network, 4, 6, 4, 5, 0) == [4.0, 6.0, 6.0, 11.0, 7.0]
    spikes = reference.run_float(network, np.reshape([4.0, 6, 4, 5, 0], (1, -1, 1))).outputs["n"].ravel()
    assert spikes.tolist() == [1.0, 1.0, 0.0, 1.0, 1.0]


def test_an_adaptive_reset_takes_the_raised_threshold_off_a_step_later() -> None:
    network = one(adapt_leak=0.5, adapt_step=2.0, adapt_start=2.0, adapt_resets=True)
    # a: 1, 0.5, 2.25 after the spike at 8 - 0 = 8: then u = 4 + 1 - 2.25
    assert membranes(network, 2, 6, 1, 0, 0) == [2.0, 8.0, 2.75, 2.75, 2.75]


def test_a_lag_holds_spikes_back_and_the_last_ones_are_lost() -> None:
    assert membranes(one(lag=2), 1, 2, 1, 9, 9) == [0.0, 0.0, 1.0, 3.0, 4.0]
    biased = one(lag=1).replacing({"l": replace(one().by_name["l"], lag=1, bias=np.array([0.5]))})
    assert membranes(biased, 1, 1, 0, 0, 0) == [0.5, 2.0, 3.5, 4.0, 0.5]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"current_leak": 1.0}, "n: current_leak is 1; it must lie in [0, 1)"),
        ({"adapt_leak": -0.5}, "n: adapt_leak is -0.5; it must lie in [0, 1)"),
        ({"floor": 1.0}, "n: floor is 1; it must not lie above v0 and the reset"),
        ({"leak": np.array([0.5, 0.5])}, "n: has leak for 2 channels, its input (1,) has 1"),
        ({"adapt_resets": True}, "n: its reset takes off an adaptation it has not; needs adapt_leak and a soft reset"),
        (
            {"adapt_leak": 0.5, "adapt_step": -1.0},
            "n: its threshold adapts downward; adapt_step and adapt_start must be 0 or more",
        ),
    ],
)
def test_what_is_no_neuron_is_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(CompileError) as error:
        verify(one(**changes))
    assert str(error.value) == problem


def general(seed: int) -> Network:
    """A recurrent network whose neurons have some of everything."""
    rng, network = np.random.default_rng(seed), recurrent_network(seed)
    changed = {}
    for node in network.neurons:
        channels = network.shapes[node.name][0]
        given: dict[str, object] = {}
        if rng.random() < 0.6:
            given["leak"] = rng.uniform(0.3, 1.2, channels)
        if rng.random() < 0.5:
            given["current_leak"] = rng.uniform(0, 0.9, channels)
        if rng.random() < 0.5:
            given["drive"] = rng.normal(0, 0.1, channels)
        if rng.random() < 0.4:
            given["floor"] = -rng.uniform(0, 0.5, channels)
        if rng.random() < 0.5:
            adapted = {"adapt_step": rng.uniform(0, 0.3, channels), "adapt_start": rng.uniform(0, 0.2, channels)}
            given |= {"adapt_leak": float(rng.uniform(0, 0.95)), **adapted}
            given["adapt_resets"] = bool(node.reset == "soft" and rng.random() < 0.5)
        changed[node.name] = replace(node, **given)
    late = {s.name: replace(s, lag=int(rng.choice([0, 0, 1, 2]))) for s in network.of_type(Linear)}
    return network.replacing(changed | late)


@given(st.integers(0, 100_000))
@settings(max_examples=40)
def test_the_float_engine_is_the_reference(seed: int) -> None:
    network = general(seed)
    x = images(network, 3, seed) / 255 / network.input.scale
    assert_as_reference(network, x)
    assert_as_reference(run_passes(network), x)


@given(st.integers(0, 100_000))
@settings(max_examples=30)
def test_folding_a_drive_changes_nothing(seed: int) -> None:
    network = general(seed)
    x = images(network, 3, seed) / 255 / network.input.scale
    folded = FoldDrive()(network)
    assert all(n.drive is None or n.current_leak is not None for n in folded.neurons)
    before, after = (reference.run_float(n, x).membranes for n in (network, folded))
    spikes = [reference.run_float(n, x).outputs for n in (network, folded)]
    if all(np.array_equal(spikes[0][n.name], spikes[1][n.name]) for n in network.neurons):
        for name, u in before.items():
            np.testing.assert_allclose(u, after[name], rtol=0, atol=1e-9)
    else:
        assert any(np.abs(before[n.name][..., None] - n.thresholds.ravel()).min() < 1e-9 for n in network.neurons)


@given(st.integers(0, 100_000))
@settings(max_examples=20)
def test_neurons_in_another_order_take_their_parameters_along(seed: int) -> None:
    network = run_passes(general(seed))
    order = np.random.default_rng(seed).permutation(network.shapes["n2"][0])
    x = images(network, 2, seed) / 255 / network.input.scale
    one_way, other = (reference.run_float(n, x) for n in (network, OrderNeurons({"n2": order})(network)))
    np.testing.assert_allclose(one_way.membranes["n2"][:, :, order], other.membranes["n2"], rtol=0, atol=1e-9)


def within(network: QuantNetwork, exact: reference.IntegerTrace) -> None:
    for population in network.populations:
        if population.sums:
            continue
        bounds = prove(network, population)
        u = np.moveaxis(exact.membranes[population.name], 2, -1)
        assert (u >= bounds.state_low).all()
        assert (u <= bounds.state_high).all()


@given(st.integers(0, 100_000))
@settings(max_examples=120)
def test_integers_are_the_same_on_the_clock_in_the_simulator_and_in_the_proof(seed: int) -> None:
    network = integer_network(seed, listed=seed % 2 == 0, general=True)
    x = integer_inputs(network, 3, seed)
    exact = reference.run_integer(network, x)
    within(network, exact)
    clocked = reference.run_on_chip_clock(network, x)
    engine = {steps.population.name: steps for steps in FunctionEngine(network).run(x)}
    for population in network.populations:
        name, shape = population.name, exact.payloads[population.name].shape
        np.testing.assert_array_equal(exact.payloads[name], clocked.payloads[name])
        np.testing.assert_array_equal(exact.membranes[name], clocked.membranes[name])
        np.testing.assert_array_equal(exact.payloads[name], engine[name].payloads.reshape(shape))
        if not population.sums:
            again = run(integer_recipe(network, population, exact.payloads))
            np.testing.assert_array_equal(exact.membranes[name], again.u)
    np.testing.assert_array_equal(exact.output, clocked.output)
    np.testing.assert_array_equal(exact.output, engine[network.readout.name].output)


@pytest.fixture(scope="module")
def layer() -> ModuleType:
    return emitted_module("layer")


@pytest.mark.parametrize("seed", range(40))
def test_the_emitted_program_says_the_same(layer: ModuleType, seed: int) -> None:
    network = integer_network(seed, listed=True, general=True)
    check(layer, network, integer_inputs(network, 5, seed), lanes=2)


def test_the_networks_have_all_of_it_and_spike() -> None:
    networks = [integer_network(seed, general=True) for seed in range(60)]
    populations = [p for network in networks for p in network.populations]
    for field in ("current_decay", "drive", "floor", "adapt_decay"):
        assert sum(getattr(p, field) is not None for p in populations) > 10
    assert any(p.adapt_resets for p in populations)
    assert sum(s.lag > 0 for network in networks for s in network.synapses) > 30
    spikes = [reference.run_integer(n, integer_inputs(n, 3, 0)).payloads for n in networks]
    assert (
        np.mean([any(sent[p.name].any() for p in n.populations) for n, sent in zip(networks, spikes, strict=True)])
        > 0.8
    )


@given(st.integers(0, 100_000))
@settings(max_examples=40)
def test_quantized_networks_verify_and_stay_near(seed: int) -> None:
    network = general(seed)
    integers, host = quantized(network)
    verify_integers(integers)
    x = images(network, 3, seed) / 255 / network.input.scale
    exact, trained = reference.run_integer(integers, host.encoder(x)), reference.run_float(run_passes(network), x)
    first = integers.populations[0].name
    unit = host.state[first].reshape(-1, *(1,) * (exact.membranes[first].ndim - 3))
    before = np.abs(exact.membranes[first][0] * unit - trained.membranes[first][0])
    assert before.max() < 0.1  # the first step: rounding of weights and input, nothing has fired differently yet


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"adapt_leak": 0.5}, "n: has an adaptive threshold; the chip's neurons do not; loihi2-sim's do"),
        ({"floor": -1.0}, "n: has a lower bound of its state; the chip's neurons do not; loihi2-sim's do"),
    ],
)
def test_what_a_chip_lacks_is_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(CompileError) as error:
        quantize(lower(one(**changes), LOIHI1, "r1"), LOIHI1)
    assert str(error.value) == problem
    quantize(lower(one(**changes), LOIHI2, "graded"), LOIHI2)


def test_where_a_chip_adds_biases_to_the_membrane_a_neuron_sends_those_of_a_current() -> None:
    network = one(current_leak=0.5, reset="hard")
    biased = network.replacing({"l": replace(network.by_name["l"], bias=np.array([0.4]))})
    lowered = lower(biased, LOIHI1, "r1")
    x = np.random.default_rng(0).integers(0, 2, (20, network.timesteps, *network.input.shape))
    x = x if network.input.coding == "events" else x[:, 0]
    one_way, other = reference.run_float(biased, x), reference.run_float(lowered, x)
    assert other.outputs["n_always"].all()
    assert one_way.outputs["n"].any()
    assert np.array_equal(one_way.outputs["n"], other.outputs["n"])
    assert not any(node.bias.any() for node in lowered.of_type(Linear) if node.name in lowered.by_name["n"].inputs)
    quantize(lowered, LOIHI1)


def test_a_population_of_images_keeps_the_bias_of_its_current_and_is_refused() -> None:
    theta = np.ones(1)
    nodes = (
        Input("in", (), (1, 2, 2), coding="events", largest=1),
        Conv2d("c", ("in",), np.ones((1, 1, 1, 1)), np.array([0.5])),
        MultiThresholdLIF("n", ("c",), theta, theta, theta, 0.5, "hard", "gt", current_leak=0.5),
        Linear("l", ("n",), np.ones((1, 4)), np.zeros(1)),
        Readout("out", ("l",)),
    )
    with pytest.raises(CompileError) as error:
        quantize(lower(Network(nodes, 3), LOIHI1, "r1"), LOIHI1)
    assert str(error.value) == (
        "n: its bias acts through a synaptic current; the chip adds it after; "
        "train without bias (and without batch norm), or use a target that can, e.g. loihi2-sim"
    )


def test_more_leaks_than_a_core_has_are_refused() -> None:
    theta = np.ones(1)
    node = MultiThresholdLIF("n", ("l",), theta, theta, theta, np.linspace(0.3, 0.9, 40), "soft", "ge")
    nodes = (
        Input("x", (), (4,), coding="events"),
        Linear("l", ("x",), np.ones((40, 4)), np.zeros(40)),
        node,
        Linear("o", ("n",), np.ones((2, 40)), np.zeros(2)),
        Readout("out", ("o",)),
    )
    with pytest.raises(CompileError) as error:
        quantize(lower(Network(nodes, 3), LOIHI1, "r1"), LOIHI1)
    assert str(error.value) == "n: has 40 different pairs of leaks; a core of the chip has 32; loihi2-sim any number"


@pytest.mark.parametrize(("mode", "numerics"), [("r1", LOIHI1), ("burst", LOIHI2)])
def test_lowerings_that_cannot_keep_a_state_refuse_it(mode: str, numerics: object) -> None:
    theta = np.array([2.0, 4.0])
    network = one(thresholds=theta, subtract=theta, payload=np.array([1.0, 2.0]), current_leak=0.5)
    with pytest.raises(CompileError) as error:
        lower(network, numerics, mode)
    assert str(error.value).startswith("n: has ")
    assert "a synaptic current" in str(error.value)


@pytest.mark.parametrize("numerics", [LOIHI1, LOIHI2])
def test_integers_of_a_network_quantised_elsewhere_are_kept(numerics: Numerics) -> None:
    """CUBA neurons as lava-nc 0.10.0 computes them: weights even, up to 9 bits; currents shifted by 6."""
    rng = np.random.default_rng(0)
    w = 2 * rng.integers(-127, 128, (5, 7))
    theta = np.array([30.0])
    node = MultiThresholdLIF(
        "n", ("l",), theta, np.ones(1), theta, 1 - 163 / 4096, "hard", "gt", current_leak=1 - 1024 / 4096, unit=1.0
    )
    nodes = (
        Input("x", (), (7,), coding="events", largest=1),
        Linear("l", ("x",), w.astype(float), np.zeros(5)),
        node,
        Linear("o", ("n",), rng.normal(0, 1, (2, 5)), np.zeros(2)),
        Readout("out", ("o",)),
    )
    integers, _ = quantize(lower(Network(nodes, 20), numerics, "r1"), numerics)
    x = rng.integers(0, 2, (3, 20, 7))
    trace = reference.run_integer(integers, x)
    u = v = np.zeros((3, 5), np.int64)
    for t in range(20):
        u = np.sign(u) * ((np.abs(u) * (4096 - 1024)) >> 12) + ((x[:, t] @ w.T) << 6)
        v = np.sign(v) * ((np.abs(v) * (4096 - 163)) >> 12) + u
        np.testing.assert_array_equal(trace.membranes["n"][t], v)
        s = v > 30 << 6
        np.testing.assert_array_equal(trace.payloads["n"][t], s)
        v = np.where(s, 0, v)
    assert trace.payloads["n"].any()


def test_integers_that_the_bits_do_not_hold_are_refused() -> None:
    network = one(unit=1.0)
    network = network.replacing({"l": replace(network.by_name["l"], weight=np.array([[101.0]]))})
    with pytest.raises(CompileError) as error:
        quantize(lower(network, LOIHI2, "graded"), LOIHI2, 4)
    assert str(error.value) == (
        "l: has integer weights up to 101 that 4 bits do not hold; "
        "more --weight-bits keep them, or import the network as floats"
    )


def test_a_readout_with_a_current_is_the_state_of_that_integrator() -> None:
    x = np.array([[[1.0], [0.0], [3.0], [2.0]]])
    nodes = (
        Input("x", (), (1,), coding="events"),
        Linear("o", ("x",), np.ones((1, 1)), np.array([0.25])),
        Readout("out", ("o",), scale=2.0, leak=0.5, current_leak=0.25),
    )
    network = Network(nodes, 4)
    v = i = 0.0
    for value in (1.25, 0.25, 3.25, 2.25):
        i = 0.25 * i + value
        v = 0.5 * v + i
    wanted = 2.0 * v / (1 + 0.5 + 0.25 + 0.125)
    assert reference.run_float(network, x).output.item() == pytest.approx(wanted, rel=1e-12)
    assert FloatEngine(network, "float64").run(x).item() == pytest.approx(wanted, rel=1e-12)
    integers, host = quantize(lower(network, LOIHI2, "graded"), LOIHI2)
    verify_integers(integers)
    assert reference.run_integer(integers, host.encoder(x)).output.item() * host.output_scale == pytest.approx(
        wanted, rel=1e-2
    )


def test_a_neuron_without_memory_forgets_in_integers_too() -> None:
    integers, _ = quantized(one(leak=NO_MEMORY, reset="none"))
    x = np.array([[[3], [3], [4], [1], [5]]])
    trace = reference.run_integer(integers, x)
    assert trace.payloads["n"].ravel().tolist() == [0, 0, 1, 0, 1]


@given(st.integers(0, 100_000))
@settings(max_examples=60)
def test_bounds_found_early_are_those_of_all_steps(seed: int) -> None:
    network = replace(integer_network(seed, listed=True, general=True), timesteps=12, microsteps=1)
    plain = replace(network, populations=tuple(replace(p, mixing=None) for p in network.populations))
    found = [prove(plain, p) for p in plain.populations]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("snncompile.quantization.state_bounds._steady", lambda network: network.timesteps - 1)
        all_steps = [prove(plain, p) for p in plain.populations]
    for one, other in zip(found, all_steps, strict=True):
        for field in ("input_low", "input_high", "state_low", "state_high"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
