"""Faults planted one at a time: `verify`'s chain names the layer, the step and the cause of each."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from integer_networks import integer_inputs, integer_network
from programs import program_of
from random_networks import images
from test_lowering_integers import ROUTES, lowerable

from snncompile import reference
from snncompile.errors import CompileError
from snncompile.levels import fired_levels, levels_of
from snncompile.network import Input, Linear, MultiThresholdLIF, Network, Readout
from snncompile.pipeline import lower, run_passes
from snncompile.program import Program
from snncompile.proof.divergence import StageRun
from snncompile.proof.rerun import integer_recipe, run
from snncompile.proof.verify import Asked, Chain
from snncompile.quant_network import DECAY_ONE, IntArray, Population, QuantNetwork
from snncompile.quantization.quantize import quantize

Step = Callable[..., tuple[IntArray, IntArray, IntArray]]


def float_stages(network: Network, program: Program, input_coding: str = "direct") -> dict[str, Network]:
    made = program.provenance
    lowered = lower(network, program.chip.numerics, made.lowering_mode, input_coding)
    return {"float": network, "folded": run_passes(network), "lowered": lowered}


def chain_of(
    program: Program, networks: Mapping[str, Network], faulty: Mapping[str, QuantNetwork | Step] | None = None
) -> Chain:
    """The chain with the integer stage, the simulator and Lava run by the reference; of `faulty` ones by a wrong one.

    A wrong network is one to run in place of the program's; a wrong step replaces `reference.step_population`.
    """

    def run_stage(stage: str, x: np.ndarray, payloads: IntArray) -> StageRun:
        if stage in networks:
            trace = reference.run_float(networks[stage], x)
            levels = {n.name: levels_of(trace.outputs[n.name], n.payload) for n in networks[stage].neurons}
            form = "chip" if stage == "lowered" else "trained"
            return StageRun(stage, form, levels, trace.membranes, trace.output.argmax(1), trace.output)
        wrong = (faulty or {}).get(stage, program.network)
        network = wrong if isinstance(wrong, QuantNetwork) else program.network
        with pytest.MonkeyPatch.context() as patch:
            if not isinstance(wrong, QuantNetwork):
                patch.setattr(reference, "step_population", wrong)
            exact = reference.run_integer(network, payloads)
        by_name = network.populations_by_name
        levels = {name: fired_levels(p, exact.payloads[name]) for name, p in by_name.items() if p.spiking}
        membranes = exact.membranes if stage == "integer" else {}
        return StageRun(stage, "chip", levels, membranes, exact.output.argmax(1), exact.output)

    return Chain(program, networks, run_stage)


def compare(chain: Chain, x: np.ndarray, *stages: str) -> dict[str, Any]:
    """The first difference of two stages on data x (N, ...)."""
    result = chain.compare(x, chain.program.encode(x), None, Asked(stages))
    pair = next(p for p in result["pairs"] if (p["a"], p["b"]) == stages)
    assert pair["spikes_differing"] > 0 or pair["outputs_differing"] > 0
    assert pair["first_difference"] is not None
    return pair["first_difference"]


def deep_network(reset: str = "soft", leak: float = 0.75, timesteps: int = 6) -> Network:
    """Two layers of neurons with weights that no rounding moves: integers up to 127, thresholds and leaks likewise."""
    rng = np.random.default_rng(5)
    first, second = rng.integers(-60, 70, (6, 5)) / 1.0, rng.integers(-60, 70, (4, 6)) / 1.0
    first[:, 0], second[:, 0] = 127, 127
    first[:, 1] = -127
    theta = np.array([97.0])
    neuron = MultiThresholdLIF("n1", ("l1",), theta, np.ones(1), theta, leak, reset, "ge")
    nodes = (
        Input("x", (), (5,), coding="events"),
        Linear("l1", ("x",), first, np.zeros(6)),
        neuron,
        Linear("l2", ("n1",), second, np.zeros(4)),
        replace(neuron, name="n2", inputs=("l2",)),
        Linear("l3", ("n2",), np.full((3, 4), 127.0) - 9 * np.arange(12).reshape(3, 4), np.zeros(3)),
        Readout("r", ("l3",)),
    )
    return Network(nodes, timesteps)


def coarse(network: Network, **numerics: object) -> tuple[Program, dict[str, Network]]:
    """A program without fractional bits: one unit of a state is one of the finest weight."""
    program = program_of(network)
    stages = float_stages(network, program)
    plain = program.chip.numerics.model_copy(update={"fraction_bits_max": 0} | numerics)
    integers, host = quantize(stages["lowered"], plain)
    return replace(program, network=integers, host=host), stages


def deep() -> tuple[Program, dict[str, Network], np.ndarray]:
    return *coarse(deep_network()), np.random.default_rng(1).integers(0, 4, (300, 6, 5))


def with_population(network: QuantNetwork, name: str, **changes: object) -> QuantNetwork:
    populations = tuple(replace(p, **changes) if p.name == name else p for p in network.populations)
    return replace(network, populations=populations)


def first_unlike(a: QuantNetwork | StageRun, b: Any, layer: str) -> tuple[int, int, list[int]]:
    """(sample, step, neuron) where levels of two runs first differ in a layer, found without the code under test."""
    for sample in range(a.levels[layer].shape[1]):
        different = a.levels[layer][:, sample] != b.levels[layer][:, sample]
        if different.any():
            step, *neuron = (int(i) for i in np.argwhere(different)[0])
            return sample, step, neuron
    raise AssertionError("equal")


@settings(max_examples=60)
@given(seed=st.integers(0, 100_000))
def test_a_population_run_again_does_what_the_reference_does(seed: int) -> None:
    network = integer_network(seed, listed=True)
    trace = reference.run_integer(network, integer_inputs(network, 3, seed))
    for population in network.populations:
        steps = run(integer_recipe(network, population, trace.payloads))
        np.testing.assert_array_equal(steps.u, trace.membranes[population.name])
        if population.sums:
            np.testing.assert_array_equal(steps.k, trace.payloads[population.name])
        elif population.spiking:
            table = np.concatenate([[0], population.payload])
            np.testing.assert_array_equal(table[steps.k], trace.payloads[population.name])
    if not network.readout.spiking:
        np.testing.assert_array_equal(steps.v, trace.output)


def _step(population: Population, v: reference.State, current: IntArray, micro: int = 0, **changes: object):
    return RIGHT(replace(population, **changes), v, current, micro)


RIGHT = reference.step_population


def _of_layer(layer: str, wrong: Step) -> Step:
    """A step that is wrong in one layer only."""

    def step(population: Population, v: reference.State, current: IntArray, micro: int = 0):
        return (wrong if population.name == layer else RIGHT)(population, v, current, micro)

    return step


def _decay(round_to: Callable[[np.ndarray], np.ndarray]) -> Step:
    def step(population: Population, v: reference.State, current: IntArray, micro: int = 0):
        rate = population.decay.reshape(-1, *(1,) * (v.v.ndim - 2))
        kept = round_to(v.v * (DECAY_ONE - rate) / DECAY_ONE).astype(np.int64)
        return RIGHT(replace(population, decay=0), replace(v, v=kept), current, micro)

    return step


def _clamped(bits: int, wraps: bool = False) -> Step:
    half = 1 << (bits - 1)

    def fitted(v: IntArray) -> IntArray:
        return (v + half) % (2 * half) - half if wraps else np.clip(v, -half, half - 1)

    def step(population: Population, v: reference.State, current: IntArray, micro: int = 0):
        zero = reference.State.of(np.zeros_like(v.v))
        u = fitted(RIGHT(population, v, current, micro)[0])
        _, k, after = RIGHT(replace(population, decay=0), zero, u, micro)
        return u, k, replace(after, v=fitted(after.v))

    return step


FAULTS = {
    "decay_down": (_decay(np.floor), "wrong decay rounding (down, must be toward zero)"),
    "decay_nearest": (
        _decay(lambda v: np.sign(v) * np.floor(np.abs(v) + 0.5)),
        "wrong decay rounding (to nearest, must be toward zero)",
    ),
    "fire_rule": (lambda *given: _step(*given, fire="gt"), "fire rule (>, must be >=)"),
    "no_reset": (lambda *given: _step(*given, reset="none"), "missing reset after a spike"),
    "hard_reset": (lambda *given: _step(*given, reset="hard"), "wrong reset (hard, must be soft)"),
    "no_leak": (lambda *given: _step(*given, decay=0), "no leak"),
}


@pytest.mark.parametrize("layer", ["n1", "n2"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stage", ["simulator", "lava"])
def test_a_fault_of_a_backend_is_located_and_named(fault: str, layer: str, stage: str) -> None:
    program, networks, x = deep()
    wrong, cause = FAULTS[fault]
    chain = chain_of(program, networks, {stage: _of_layer(layer, wrong)})
    found = compare(chain, x, "integer", stage)
    right, faulty = (chain.run(name, x, program.encode(x)) for name in ("integer", stage))
    assert (found["sample"], found["step"], found["neuron"]) == first_unlike(right, faulty, layer)
    assert found["layer"] == layer
    assert found["cause"] == f"fault of {stage}: {cause}"


def _overflowing(bits: int) -> tuple[Program, dict[str, Network], np.ndarray]:
    """States that reach beyond `bits` bits: no reset, no leak, large inputs."""
    program, networks = coarse(deep_network(reset="none", leak=0.98))
    return program, networks, np.random.default_rng(2).integers(0, 40, (100, 6, 5))


@pytest.mark.parametrize(
    ("wraps", "cause"),
    [(False, "saturation (states are clamped to 12 bits)"), (True, "overflow (states wrap around at 12 bits)")],
)
def test_a_saturated_state_is_located_and_named(wraps: bool, cause: str) -> None:
    program, networks, x = _overflowing(12)
    wrong = _of_layer("n1", _clamped(12, wraps))
    chain = chain_of(program, networks, {"simulator": wrong})
    found = compare(chain, x, "integer", "simulator")
    right, faulty = (chain.run(name, x, program.encode(x)) for name in ("integer", "simulator"))
    assert (found["sample"], found["step"], found["neuron"]) == first_unlike(right, faulty, "n1")
    assert (found["layer"], found["cause"]) == ("n1", f"fault of simulator: {cause}")


@pytest.mark.parametrize("layer", ["n1", "n2"])
def test_swapped_channels_are_located_and_named(layer: str) -> None:
    program, networks, x = deep()
    synapses = "l1" if layer == "n1" else "l2"
    order = [0, 3, 2, 1, 4, 5][: len(program.network.synapses_by_name[synapses].weight)]
    moved = tuple(replace(s, weight=s.weight[order]) if s.name == synapses else s for s in program.network.synapses)
    chain = chain_of(program, networks, {"lava": replace(program.network, synapses=moved)})
    found = compare(chain, x, "integer", "lava")
    right, faulty = (chain.run(name, x, program.encode(x)) for name in ("integer", "lava"))
    assert (found["sample"], found["step"], found["neuron"]) == first_unlike(right, faulty, layer)
    assert (found["layer"], found["cause"]) == (layer, "fault of lava: channels 1 and 3 are swapped")
    assert found["neuron"][0] in (1, 3)


def test_a_state_kept_between_samples_is_named() -> None:
    program, networks, x = deep()
    chain = chain_of(program, networks)

    def run_stage(stage: str, x: np.ndarray, payloads: IntArray) -> StageRun:
        if stage != "simulator":
            return chain.run(stage, x, payloads)
        kept: dict[str, reference.State] = {}

        def initial(population: Population, samples: int) -> reference.State:
            silence = np.zeros((samples, *population.shape), np.int64)
            return kept.get(population.name, reference.State.of(silence))

        def step(population: Population, *given: Any):
            u, k, kept[population.name] = RIGHT(population, *given)
            return u, k, kept[population.name]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reference, "initial_state", initial)
            patch.setattr(reference, "step_population", step)
            runs = [chain.run("integer", x[n : n + 1], payloads[n : n + 1]) for n in range(len(x))]
        levels = {name: np.concatenate([run.levels[name] for run in runs], axis=1) for name in runs[0].levels}
        output = np.concatenate([run.output for run in runs])
        return StageRun(stage, "chip", levels, {}, output.argmax(1), output)

    found = compare(replace(chain, run=run_stage), x, "integer", "simulator")
    assert found["layer"] == "n1"
    right, faulty = (run_stage(name, x[:50], program.encode(x[:50])) for name in ("integer", "simulator"))
    assert (found["sample"], found["step"], found["neuron"]) == first_unlike(right, faulty, "n1")
    assert found["sample"] >= 1
    assert found["cause"].startswith("fault of simulator: missing reset between samples")


def test_a_fault_that_no_hypothesis_gives_is_called_unknown() -> None:
    program, networks, x = deep()
    wrong = _of_layer("n2", lambda *given: _step(given[0], given[1], given[2] // 3 + 11, *given[3:]))
    found = compare(chain_of(program, networks, {"simulator": wrong}), x, "integer", "simulator")
    assert found["layer"] == "n2"
    assert found["cause"].startswith("fault of simulator: does not compute the integer network")


def test_a_wrong_readout_is_found_though_every_spike_is_right() -> None:
    program, networks, x = deep()
    wrong = _of_layer("r", lambda *given: _step(given[0], given[1], np.roll(given[2], 1, axis=1), *given[3:]))
    found = compare(chain_of(program, networks, {"simulator": wrong}), x, "integer", "simulator")
    assert (found["layer"], found["step"]) == ("r", 5)
    assert found["output_integer"] != found["output_simulator"]
    assert "channels are permuted" in found["cause"]


def rounded_network(**changes: Any) -> Network:
    """One layer of neurons on two inputs, then two classes: small enough to do its integers by hand."""
    options = {
        "weight": np.array([[127.0, 50.0]]),
        "theta": 100.0,
        "leak": 1.0,
        "reset": "none",
        "fire": "ge",
        "bias": 0.0,
    }
    options |= {"timesteps": 1, "v0": 0.0, "coding": "events"} | changes
    weight, theta = options["weight"], np.array([options["theta"]])
    neuron = MultiThresholdLIF(
        "n", ("l",), theta, np.ones(1), theta, options["leak"], options["reset"], options["fire"], v0=options["v0"]
    )
    nodes = (
        Input("x", (), (weight.shape[1],), coding=options["coding"]),
        Linear("l", ("x",), weight, np.full(len(weight), options["bias"])),
        neuron,
        Linear("m", ("n",), np.ones((2, len(weight))), np.zeros(2)),
        Readout("r", ("m",)),
    )
    return Network(nodes, options["timesteps"])


ROUNDED: dict[str, tuple[dict[str, Any], list[list[float]], str]] = {
    # a weight of 127 units is 12.7: 5.06 becomes 51 units, 5.1, and reaches the threshold
    "weights": ({"weight": np.array([[12.7, 5.06]]), "theta": 5.1}, [[[0, 1]]], "rounding of weights"),
    "bias": ({"bias": 0.6, "theta": 51.0}, [[[0, 1]]], "rounding of the bias"),
    "v0": ({"v0": 0.6, "theta": 51.0}, [[[0, 1]]], "rounding of v0"),
    "threshold": ({"theta": 50.4}, [[[0, 1]]], "rounding of the threshold"),
    # 3 * 5/3 is on the threshold, which `>` does not pass; 3 * 17 units of 0.1 do
    "tie": ({"theta": 5.0, "weight": np.array([[12.7, 5.0 / 3]]), "fire": "gt"}, [[[0, 3]]], "threshold tie"),
    # 51, 89.25, 117.9, 139.45 against 51, 89, 117, 138
    "truncation": (
        {"leak": 0.75, "timesteps": 4, "theta": 139.0, "weight": np.array([[127.0, 51.0]])},
        [[[0, 1]] * 4],
        "decay truncation (toward zero)",
    ),
    # 9000 becomes 8999.02 by a leak of 3686/4096
    "leak": ({"leak": 0.9, "timesteps": 2, "theta": 18999.6}, [[[0, 200]] * 2], "leak rounded to 12 bits"),
    "pixels": (
        {"coding": "direct", "weight": np.array([[127.0, 100.0]]) * 255},
        [[0.0, 0.9975 / 255]],
        "input coding (pixels rounded to 8 bits)",
    ),
    # 50.8 against 50.6; in integers 50 against 51, and any two made exact do not suffice
    "several": (
        {"weight": np.array([[127.0, 50.4]]), "bias": 0.4, "theta": 50.6},
        [[[0, 1]]],
        "several of: rounding of weights, rounding of the bias, rounding of the threshold",
    ),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_what_rounding_did_is_told_apart(name: str) -> None:
    changes, x, cause = ROUNDED[name]
    program, networks = coarse(rounded_network(**changes))
    found = compare(chain_of(program, networks), np.array(x), "lowered", "integer")
    assert (found["layer"], found["neuron"], found["sample"]) == ("n", [0], 0)
    assert found["cause"].startswith(cause)
    assert found["level_lowered"] != found["level_integer"]


def test_a_clipped_weight_is_named() -> None:
    """Quantised for weights up to 127, then found to be trained as 180: the integer stays at the end of its range."""
    clipped = rounded_network(weight=np.array([[20.0, 127.0], [127.0, 3.0]]), theta=150.0)
    program, _ = coarse(clipped)
    weight = np.array([[20.0, 180.0], [127.0, 3.0]])
    trained = clipped.replacing({"l": replace(clipped.by_name["l"], weight=weight)})
    chain = chain_of(program, float_stages(trained, program))
    found = compare(chain, np.array([[[1, 0]], [[0, 1]]]), "lowered", "integer")
    assert (found["layer"], found["sample"], found["neuron"]) == ("n", 1, [0])
    assert (found["membrane_lowered"], found["membrane_integer"]) == (180.0, 127.0)
    assert found["cause"] == "clipping of weights"


@pytest.mark.parametrize(("trained", "wrong"), [("ge", "gt"), ("gt", "ge")])
def test_a_fire_rule_exchanged_in_the_integers_is_named(trained: str, wrong: str) -> None:
    program, networks = coarse(rounded_network(theta=50.0, fire=trained))
    swapped = replace(program, network=with_population(program.network, "n", fire=wrong))
    found = compare(chain_of(swapped, networks), np.array([[[1, 0]], [[0, 1]]]), "lowered", "integer")
    assert (found["sample"], found["step"], found["neuron"]) == (1, 0, [0])
    assert found["membrane_lowered"] == found["membrane_integer"] == found["threshold"] == 50
    assert found["cause"] == "fire rule (`>` and `>=` exchanged)"


def test_a_chip_that_only_fires_above_a_threshold_has_no_fault_of_its_fire_rule() -> None:
    program, networks = coarse(rounded_network(theta=50.4), fire=("gt",))
    assert program.network.populations[0].fire == "gt"
    found = compare(chain_of(program, networks), np.array([[[0, 1]]]), "lowered", "integer")
    assert found["cause"] == "rounding of the threshold"


def test_integers_that_no_rounding_explains_are_called_that() -> None:
    program, networks, x = deep()
    other = replace(program, network=with_population(program.network, "n1", reset="none"))
    found = compare(chain_of(other, networks), x, "lowered", "integer")
    assert found["layer"] == "n1"
    assert found["cause"] == "not explained by rounding: the integers are not those of the trained network"


@pytest.mark.parametrize("stage", ["simulator", "integer"])
def test_a_fault_is_found_against_the_trained_network_too(stage: str) -> None:
    """Float beside a faulty backend, without the integer stage between: a fault, not rounding."""
    program, networks, x = deep()
    chain = chain_of(program, networks, {stage: _of_layer("n2", FAULTS["no_reset"][0])})
    found = compare(chain, x, "float", stage)
    assert (found["layer"], found["cause"]) == ("n2", f"fault of {stage}: missing reset after a spike")


def test_rounding_is_named_where_the_integer_stage_is_left_out() -> None:
    program, networks = coarse(rounded_network(bias=0.6, theta=51.0))
    found = compare(chain_of(program, networks), np.array([[[0, 1]]]), "float", "simulator")
    assert found["cause"] == "rounding of the bias"
    assert found["membrane_integer"] == 51


def test_the_faulty_one_of_two_backends_is_named() -> None:
    program, networks, x = deep()
    wrong = {"simulator": _of_layer("n1", FAULTS["no_leak"][0])}
    found = compare(chain_of(program, networks, wrong), x, "simulator", "lava")
    assert found["cause"] == "fault of simulator: no leak"


def test_a_fault_of_a_pass_is_named() -> None:
    program, networks, x = deep()
    bent = networks["folded"].by_name["l2"]
    assert isinstance(bent, Linear)
    wrong = networks["folded"].replacing({"l2": replace(bent, weight=bent.weight * 1.5)})
    found = compare(chain_of(program, networks | {"folded": wrong}), x, "float", "folded")
    assert found["layer"] == "n2"
    assert found["cause"].startswith("fault of a pass")


CAUSES = (
    "rounding of",
    "several of",
    "threshold tie",
    "decay truncation",
    "leak rounded",
    "input coding",
    "clipping",
    "lowering",
)


@settings(max_examples=30)
@given(seed=st.integers(0, 100_000), route=st.sampled_from((*ROUTES, ("loihi2", "auto"))))
def test_every_difference_of_random_networks_is_explained(seed: int, route: tuple[str, str]) -> None:
    chip, lowering = route
    network = lowerable(seed, chip, lowering)
    try:
        program = program_of(network, chip, lowering=lowering)
    except CompileError:  # the state of a random network may be too wide
        reject()
    chain = chain_of(program, float_stages(network, program))
    x = images(network, 6, seed) / 255 / network.input.scale
    stages = ("float", "folded", "lowered", "integer", "simulator")
    result = chain.compare(x, program.encode(x), None, Asked(stages))
    assert result["equal"]
    for pair in result["pairs"]:
        found = pair["first_difference"]
        assert (found is None) == (pair["spikes_differing"] == pair["outputs_differing"] == 0)
        if found is not None:
            assert found["cause"].startswith(CAUSES), (pair["a"], pair["b"], found)


def test_rate_coded_spikes_are_named_where_the_lowered_network_has_them() -> None:
    network = rounded_network(coding="direct", theta=15.0, timesteps=4)
    numerics = program_of(network).chip.numerics
    lowered = lower(network, numerics, "graded", "rate")
    integers, host = quantize(lowered, numerics)
    program = program_of(network)
    made = replace(program.provenance, input_coding="rate")
    program = replace(program, network=integers, host=host, provenance=made)
    networks = {"float": network, "folded": run_passes(network), "lowered": lowered}
    for a, b in (("folded", "lowered"), ("float", "integer")):
        found = compare(chain_of(program, networks), np.array([[0.0, 0.4]]), a, b)
        assert (found["layer"], found["neuron"]) == ("n", [0])
        assert found["cause"] == "input coding (rate-coded spikes)"


def test_an_approximate_lowering_is_named_as_it_was_declared() -> None:
    """A neuron left above its threshold by a saturated step fires on, although the next current is negative."""
    weight = np.array([[127.0, -100.0]])
    network = rounded_network(weight=weight, theta=20.0, reset="soft", timesteps=3)
    levels = 20.0 * np.arange(1, 3)
    neuron = replace(network.by_name["n"], thresholds=levels, subtract=levels, payload=np.arange(1.0, 3.0))
    network = network.replacing({"n": neuron})
    program = program_of(network, lowering="uniform")
    assert program.provenance.lowering["n"]["exactness"].startswith("approximate")
    chain = chain_of(program, float_stages(network, program))
    x = np.array([[[1, 0], [0, 1], [1, 0]]])
    for pair in (("folded", "lowered"), ("float", "integer")):
        found = compare(chain, x, *pair)
        assert found["layer"] == "n"
        assert found["cause"].startswith("lowering uniform (approximate: a current may be negative")
