"""Populations that read themselves: trained weights like any, one step later, on every stage the same."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import program_of
from random_networks import images, quantized, recurrent_network
from snncompile.backends.chipsim.function import FunctionEngine
from test_divergence import chain_of, float_stages
from test_float_engine import assert_as_reference
from test_lowering import LOIHI1, LOIHI2, differing, with_resets

from snncompile import reference
from snncompile.chip import load_chip
from snncompile.errors import CompileError
from snncompile.network import Conv2d, Input, Linear, MultiThresholdLIF, Network, Readout, Sparse, verify
from snncompile.pipeline import lower, run_passes
from snncompile.proof.verify import Asked
from snncompile.quantization.calibration import calibrate
from snncompile.quantization.quantize import quantize
from snncompile.quantization.rounding import METHODS, Rounding
from snncompile.quantization.state_bounds import prove
from snncompile.quantization.verify_integers import verify_integers

ROUTES = [("loihi2", "auto"), ("loihi2", "r1"), ("loihi1", "r1")]


def loop(own: Linear, timesteps: int = 4, **changes: object) -> Network:
    """One neuron of threshold 4 that reads the input by weight 1 and itself."""
    theta = np.array([4.0])
    node = MultiThresholdLIF("n", ("l", own.name), theta, np.ones(1), theta, 1.0, "soft", "ge")
    nodes = (
        Input("x", (), (1,), coding="events"),
        Linear("l", ("x",), np.ones((1, 1)), np.zeros(1)),
        replace(node, **changes),
        own,
        Linear("o", ("n",), np.ones((1, 1)), np.zeros(1)),
        Readout("out", ("o",)),
    )
    return Network(nodes, timesteps)


def own_weight(weight: float, bias: float = 0.0) -> Linear:
    return Linear("own", ("n",), np.array([[weight]]), np.array([bias]))


def test_what_a_population_sends_itself_acts_one_step_later_and_its_bias_always() -> None:
    network = loop(own_weight(-3.0, 0.5))
    verify(network)
    trace = reference.run_float(network, np.array([[[4.0], [4.0], [4.0], [4.0]]]))
    # u: 4.5 fires; 0.5 + 4 - 3 + 0.5 = 2; 2 + 4 + 0.5 = 6.5 fires; 2.5 + 4 - 3 + 0.5 = 4 fires
    assert trace.membranes["n"].ravel().tolist() == [4.5, 2.0, 6.5, 4.0]
    assert trace.outputs["n"].ravel().tolist() == [1.0, 0.0, 1.0, 1.0]


def test_samples_do_not_hear_each_other() -> None:
    integers, host = quantized(loop(own_weight(-3.0)))
    payloads = host.encoder(np.array([[[4.0]] * 4, [[2.0]] * 4, [[4.0]] * 4]))
    clocked = reference.run_on_chip_clock(integers, payloads)
    np.testing.assert_array_equal(clocked.payloads["n"], reference.run_integer(integers, payloads).payloads["n"])
    np.testing.assert_array_equal(clocked.payloads["n"][:, 0], clocked.payloads["n"][:, 2])


@pytest.mark.parametrize(
    ("network", "problem"),
    [
        (
            loop(own_weight(1.0), inputs=("own",)),
            "n: reads nothing but itself (own); connect it to the input",
        ),
        (
            loop(own_weight(1.0, 0.5), mixing=np.ones((4, 4)) / 4),
            "own: has a bias, and n mixes the steps of its other inputs; "
            "give the bias to the synapses that come from another layer",
        ),
        (
            loop(Linear("own", ("n",), np.ones((2, 1)), np.zeros(2))),
            "own: gives shape (2,) to its population of shape (1,)",
        ),
    ],
)
def test_what_is_no_recurrence_is_refused(network: Network, problem: str) -> None:
    with pytest.raises(CompileError) as error:
        verify(network)
    assert str(error.value) == problem


def test_feedback_over_several_populations_is_refused() -> None:
    network = loop(own_weight(1.0))
    nodes = dict(network.by_name)
    nodes["n"] = replace(network.by_name["n"], inputs=("l", "back"))
    second = replace(network.by_name["n"], name="m", inputs=("o",))
    back = Linear("back", ("m",), np.ones((1, 1)), np.zeros(1))
    last = Linear("last", ("m",), np.ones((1, 1)), np.zeros(1))
    order = (nodes["x"], nodes["l"], nodes["n"], nodes["o"], second, back, last, Readout("out", ("last",)))
    with pytest.raises(CompileError) as error:
        verify(Network(order, 4))
    assert str(error.value) == (
        "n: reads 'back', which is not before it; "
        "a population may read itself; feedback over several populations is not supported"
    )


@pytest.mark.parametrize("mode", ["burst", "uniform"])
def test_lowerings_that_spread_a_step_out_are_refused(mode: str) -> None:
    theta = np.array([2.0, 4.0])
    network = loop(own_weight(1.0), thresholds=theta, subtract=theta, payload=np.array([1.0, 2.0]))
    with pytest.raises(CompileError) as error:
        lower(network, LOIHI2, mode)
    assert str(error.value) == (
        f"own: is recurrent, and --lowering {mode} spreads a time step out: "
        "what it carries would act within the step; use --lowering r1"
    )


@given(st.integers(0, 100_000))
def test_the_float_engine_is_the_reference(seed: int) -> None:
    network = recurrent_network(seed)
    x = images(network, 3, seed) / 255 / network.input.scale
    assert_as_reference(network, x)
    assert_as_reference(run_passes(network), x)


@settings(max_examples=150)
@given(st.integers(0, 100_000))
def test_binary_members_are_exact(seed: int) -> None:
    network = with_resets(recurrent_network(seed), ("soft", "none"), seed)
    x = images(network, 3, seed) / 255 / network.input.scale
    folded = run_passes(network)
    lowered = lower(network, LOIHI1, "r1")
    assert all(neuron.payload.tolist() == [1.0] for neuron in lowered.neurons)
    assert differing(folded, lowered, x) == 0


@settings(max_examples=60)
@pytest.mark.parametrize(("chip", "lowering"), ROUTES)
@given(seed=st.integers(0, 100_000))
def test_integers_are_the_same_on_the_clock_in_the_simulator_and_within_proven_widths(
    chip: str, lowering: str, seed: int
) -> None:
    network = with_resets(recurrent_network(seed), ("soft",), seed)
    integers, host = quantized(network, chip=chip, lowering=lowering)
    verify_integers(integers)
    payloads = host.encoder(images(network, 3, seed) / 255 / network.input.scale)
    one, two = reference.run_integer(integers, payloads), reference.run_on_chip_clock(integers, payloads)
    np.testing.assert_array_equal(one.output, two.output)
    for steps in FunctionEngine(integers).run(payloads):
        name = steps.population.name
        bounds = prove(integers, steps.population)
        np.testing.assert_array_equal(one.membranes[name], two.membranes[name])
        np.testing.assert_array_equal(steps.payloads.reshape(one.payloads[name].shape), one.payloads[name])
        u = np.moveaxis(one.membranes[name], 2, 0).reshape(steps.population.shape[0], -1)
        assert (u.min(1) >= bounds.state_low).all()
        assert (u.max(1) <= bounds.state_high).all()


@given(seed=st.integers(0, 100_000), bits=st.sampled_from([4, 6, 8]))
def test_recurrent_weights_share_the_scale_of_their_population(seed: int, bits: int) -> None:
    """Each weight is within half a unit of its layer, which is the population's finest times a power of two."""
    numerics = load_chip("loihi2").numerics
    lowered = lower(recurrent_network(seed), numerics)
    integers, host = quantize(lowered, numerics, bits)
    for population in integers.populations[:-1]:
        units = []
        for synapses in integers.inputs_of(population):
            node = lowered.by_name[synapses.name]
            assert isinstance(node, Conv2d | Linear | Sparse)
            value = 2.0**synapses.exponent * (255 if synapses.source == "x" else 1)
            exact = node.weight / node.per_weight(host.state[population.name]) / value
            assert (np.abs(exact - synapses.weight) <= 0.5 + 1e-9).all()
            assert synapses.weight_bits == bits
            assert np.abs(synapses.weight).max() < 1 << (bits - 1)
            units.append(synapses.exponent)
        assert len(units) == 2


def test_rounding_moves_few_spikes() -> None:
    rates = []
    for seed in range(60):
        network = recurrent_network(seed)
        lowered = lower(network, LOIHI2)
        integers, host = quantize(lowered, LOIHI2)
        x = images(network, 4, seed) / 255 / network.input.scale
        floats, ints = reference.run_float(lowered, x), reference.run_integer(integers, host.encoder(x))
        rates += [float((floats.outputs[n.name] != ints.payloads[n.name]).mean()) for n in lowered.neurons]
    assert np.mean(rates) < 0.02
    assert np.median(rates) == 0


@pytest.mark.parametrize("method", [method for method in METHODS if method != "max"])
def test_every_rounding_takes_recurrent_weights(method: str) -> None:
    network = recurrent_network(3)
    network = Network(tuple(n for n in network.nodes if n.name != "r3"), network.timesteps)
    network = network.replacing({"n3": replace(network.by_name["n3"], inputs=("l3",))})
    lowered = lower(network, LOIHI2)
    x = images(network, 20, 3) / 255 / network.input.scale
    calibration = calibrate(lowered, x)
    assert "r2" in calibration.layers
    integers, _ = quantize(lowered, LOIHI2, 4, Rounding(method, calibration))
    verify_integers(integers)
    assert integers.synapses_by_name["r2"].weight_bits == 4


def test_calibration_sees_what_a_population_sent_itself() -> None:
    lowered = lower(loop(own_weight(-3.0)), LOIHI2)
    x = np.array([[[4.0]] * 4, [[2.0]] * 4])
    sent = reference.run_float(lowered, x).outputs["n"]
    assert sent.sum() > 0
    before = np.concatenate([np.zeros((1, 2, 1)), sent[:-1]])
    assert calibrate(lowered, x).layers["own"].mean.item() == before.mean()


@settings(max_examples=40)
@given(seed=st.integers(0, 100_000))
def test_the_proof_chain_explains_every_difference(seed: int) -> None:
    network = recurrent_network(seed)
    if any(isinstance(node, Sparse) for node in network.nodes):
        network = Network(tuple(n for n in network.nodes if n.name != "r3"), network.timesteps)
        network = network.replacing({"n3": replace(network.by_name["n3"], inputs=("l3",))})
    program = program_of(network)
    chain = chain_of(program, float_stages(network, program))
    x = images(network, 6, seed) / 255 / network.input.scale
    result = chain.compare(x, program.encode(x), None, Asked(("float", "folded", "lowered", "integer", "simulator")))
    assert result["equal"]
    for pair in result["pairs"]:
        if pair["first_difference"] is not None:
            assert "not explained" not in pair["first_difference"]["cause"]
            assert "fault" not in pair["first_difference"]["cause"]
