"""Remedies change where things are added up and sent from, and no spike: in the reference and in every engine."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_networks import integer_inputs, integer_network
from lava_networks import emitted_module
from programs import program_of
from random_networks import images, quantized, random_network, recurrent_network
from snncompile.backends.chipsim.function import FunctionEngine
from test_divergence import chain_of, float_stages
from test_lava_layers import check
from test_lowering import single_level_readout, with_resets

from snncompile import metrics, reference
from snncompile.backend import load_backend
from snncompile.chip import load_chip
from snncompile.errors import CompileError
from snncompile.mapping.connectivity import connectivity
from snncompile.mapping.remedies import check_payloads, duplicate, realign, relay, split_inputs, unsplit
from snncompile.network import MultiThresholdLIF
from snncompile.program import from_plain, to_plain
from snncompile.proof.verify import Asked
from snncompile.quant_network import IntArray, QuantNetwork, QuantSynapses
from snncompile.quantization.bit_budget import placed
from snncompile.quantization.state_bounds import prove
from snncompile.quantization.verify_integers import verify_integers

LOIHI1, LOIHI2 = load_chip("loihi1").numerics, load_chip("loihi2").numerics

Remedy = Callable[[np.random.Generator, QuantNetwork], QuantNetwork]


def splittable(network: QuantNetwork) -> list[QuantSynapses]:
    def can(s: QuantSynapses) -> bool:
        host = s.source == network.input_name and network.input_kind == "currents"
        channels = network.read_shape(s)[0] // s.members
        return not host and s.groups == 1 and s.source != network.target_of(s).name and channels > 1

    return [s for s in network.synapses if can(s)]


def targets_of(network: QuantNetwork, source: str) -> list[str]:
    names = dict.fromkeys(network.target_of(s).name for s in network.outputs_of(source))
    return [name for name in names if name != source]


def some_split(rng: np.random.Generator, network: QuantNetwork) -> QuantNetwork:
    if not (candidates := splittable(network)):
        return network
    synapses = candidates[int(rng.integers(len(candidates)))]
    channels = network.read_shape(synapses)[0] // synapses.members
    return split_inputs(network, synapses.name, int(rng.integers(2, min(channels, 4) + 1)))


def some_relay(rng: np.random.Generator, network: QuantNetwork) -> QuantNetwork:
    return relayed(rng, network, LOIHI2)


def relayed(rng: np.random.Generator, network: QuantNetwork, numerics) -> QuantNetwork:
    sources = [p.name for p in network.populations] + [network.input_name] * (network.input_kind == "spikes")
    sources = [name for name in sources if targets_of(network, name)]
    source = str(rng.choice(sources))
    targets = targets_of(network, source)
    return relay(network, source, targets[: int(rng.integers(1, len(targets) + 1))], numerics)


def some_copy(rng: np.random.Generator, network: QuantNetwork) -> QuantNetwork:
    names = [p.name for p in network.populations if len(targets_of(network, p.name)) > 1]
    if not names:
        return network
    name = str(rng.choice(names))
    targets = targets_of(network, name)
    cut = int(rng.integers(1, len(targets)))
    return duplicate(network, name, [targets[:cut], targets[cut:]])


def assert_same(before: QuantNetwork, after: QuantNetwork, payloads: IntArray) -> None:
    """Every population of before sends what it sent and has the membranes it had; so it does on the chip's clock."""
    verify_integers(after)
    old, new = reference.run_integer(before, payloads), reference.run_integer(after, payloads)
    clocked = reference.run_on_chip_clock(after, payloads)
    np.testing.assert_array_equal(new.output, old.output)
    np.testing.assert_array_equal(clocked.output, old.output)
    for population in before.populations:
        name = population.name
        np.testing.assert_array_equal(new.payloads[name], old.payloads[name], err_msg=name)
        np.testing.assert_array_equal(new.membranes[name], old.membranes[name], err_msg=name)
        np.testing.assert_array_equal(clocked.membranes[name], old.membranes[name], err_msg=name)
        same = after.populations_by_name[name]
        assert (prove(after, same).state_bits, same.shape) == (prove(before, population).state_bits, population.shape)


@settings(max_examples=200)
@given(seed=st.integers(0, 100_000), remedies=st.lists(st.sampled_from([some_split, some_relay, some_copy]), min_size=1,
                                                      max_size=3))  # fmt: skip
def test_no_spike_changes(seed: int, remedies: list[Remedy]) -> None:
    rng, network = np.random.default_rng(seed), integer_network(seed, listed=True)
    after = network
    for remedy in remedies:
        after = remedy(rng, after)
    assert_same(network, after, integer_inputs(network, 3, seed))


@settings(max_examples=30)
@given(seed=st.integers(0, 100_000))
def test_the_engines_compute_what_was_split_relayed_and_doubled(seed: int) -> None:
    rng, network = np.random.default_rng(seed), integer_network(seed, listed=True)
    after = some_copy(rng, some_relay(rng, some_split(rng, network)))
    payloads = integer_inputs(network, 3, seed)
    exact = reference.run_integer(after, payloads)
    for steps in FunctionEngine(after).run(payloads):
        name = steps.population.name
        np.testing.assert_array_equal(steps.payloads.reshape(exact.payloads[name].shape), exact.payloads[name])
        if steps.population.sums:
            assert (steps.updated.astype(bool) == (steps.payloads != 0)).all()
    np.testing.assert_array_equal(steps.output, exact.output)
    check(emitted_module("layer"), after, payloads, lanes=2)


@settings(max_examples=60)
@given(seed=st.integers(0, 100_000), chip=st.sampled_from(["loihi1", "loihi2"]))
def test_binary_networks_keep_their_spikes(seed: int, chip: str) -> None:
    """A relay of binary spikes is a neuron: it fires when its source does, and keeps to the chip's fields."""
    numerics = (LOIHI1 if chip == "loihi1" else LOIHI2).model_copy(update={"graded_spikes": False})
    network = with_resets(recurrent_network(seed), ("soft",), seed)
    before, host = quantized(network, chip=chip, lowering="r1")
    rng, x = np.random.default_rng(seed), images(network, 3, seed) / 255 / network.input.scale
    if before.input_kind == "spikes":  # the input is graded on loihi2
        before = replace(before, input_payload_max=1)
        payloads = rng.integers(0, 2, (3, *before.input_shape))
    else:
        payloads = host.encoder(x)
    after = some_copy(rng, relayed(rng, before, numerics))
    assert_same(before, after, payloads)
    new = next(p for p in after.populations if p.name.endswith("_relay"))
    (synapses,) = after.inputs_of(new)
    trace = reference.run_integer(after, payloads)
    np.testing.assert_array_equal(trace.payloads[new.name], trace.payloads[synapses.source])
    assert new.fire in numerics.fire
    assert not (new.thresholds % (1 << numerics.threshold_shift)).any()
    assert synapses.exponent <= (numerics.exponent_max or 99)
    assert synapses.weight_bits in numerics.weight_bits


@settings(max_examples=30)
@given(seed=st.integers(0, 100_000))
def test_bursts_are_relayed_in_their_open_steps(seed: int) -> None:
    network = with_resets(random_network(seed), ("soft",), seed)
    before, _ = quantized(network, lowering="burst")
    before = replace(before, input_payload_max=1)
    after = relayed(np.random.default_rng(seed), before, LOIHI2.model_copy(update={"graded_spikes": False}))
    payloads = np.random.default_rng(seed).integers(0, 2, (3, *before.input_shape))
    assert_same(before, after, payloads)


def test_a_split_layer_asks_for_a_part_of_the_axons() -> None:
    network = _chain()
    after = split_inputs(network, "l2", 3)
    assert [p.name for p in after.populations] == ["n1", "l2_part0_sum", "l2_part1_sum", "l2_part2_sum", "n2", "out"]
    assert [p.depth for p in after.populations] == [1, 2, 2, 2, 3, 4]
    reads = [after.synapses_by_name[f"l2_part{i}"].reads for i in range(3)]
    assert reads == [(0, 3), (3, 6), (6, 9)]
    for i in range(3):
        link = connectivity(after, after.synapses_by_name[f"l2_part{i}"])
        assert link.synapses == 3 * 5
    ones = [after.synapses_by_name[name] for name in after.populations_by_name["n2"].synapses]
    assert {s.exponent for s in ones} == {network.synapses_by_name["l2"].exponent}
    assert all((s.weight == 1).all() for s in ones)


def _chain() -> QuantNetwork:
    """9 -> n1 (9) -> n2 (5), n1 also straight to the readout."""
    rng = np.random.default_rng(3)
    network = integer_network(0)
    zeros = np.zeros(9, np.int64)
    n1 = replace(network.readout, name="n1", shape=(9,), synapses=("l1",), bias=zeros, v0=zeros, decay=0, reset="soft",
                 fire="ge", mixing=None, members=1, open_steps=None, thresholds=zeros[None] + 30,
                 subtract=zeros[None] + 30, payload=np.ones(1, np.int64), depth=1)  # fmt: skip
    n2 = replace(n1, name="n2", shape=(5,), synapses=("l2",), bias=zeros[:5], v0=zeros[:5], decay=0,
                 thresholds=zeros[None, :5] + 9, subtract=zeros[None, :5] + 9, depth=2)  # fmt: skip
    none = np.zeros((0, 2), np.int64)
    out = replace(n2, name="out", shape=(2,), synapses=("l3", "skip"), bias=zeros[:2], v0=zeros[:2], decay=0,
                  thresholds=none, subtract=none, payload=none[:, 0], reset="none", depth=3)  # fmt: skip
    synapses = tuple(
        QuantSynapses(name, source, "linear", rng.integers(-7, 8, shape), 4, 2)
        for name, source, shape in (
            ("l1", "x", (9, 9)),
            ("l2", "n1", (5, 9)),
            ("l3", "n2", (2, 5)),
            ("skip", "n1", (2, 9)),
        )
    )
    made = realign(QuantNetwork("x", (9,), 1, synapses, (n1, n2, out), 4))
    proven = [prove(made, p) for p in made.populations]
    populations = tuple(
        replace(p, input_bits=b.input_bits, state_bits=b.state_bits)
        for p, b in zip(made.populations, proven, strict=True)
    )
    network = replace(made, populations=populations)
    verify_integers(network)
    return network


def test_a_relay_takes_over_the_targets_it_is_given() -> None:
    network = _chain()
    after = relay(network, "n1", ["out"], LOIHI2)
    assert after.synapses_by_name["skip"].source == "n1_relay"
    assert after.synapses_by_name["l2"].source == "n1"
    assert [(p.name, p.depth) for p in after.populations] == [("n1", 1), ("n2", 2), ("n1_relay", 2), ("out", 3)]
    assert after.synapses_by_name["skip"].delay_steps == 1
    again = relay(after, "n1", ["n2"], LOIHI2)
    assert [p.name for p in again.populations] == ["n1", "n1_relay2", "n2", "n1_relay", "out"]
    assert_same(network, again, np.random.default_rng(0).integers(0, 2, (4, 9)))


def test_copies_share_the_targets() -> None:
    network = _chain()
    after = duplicate(network, "n1", [["out"], ["n2"]])
    assert after.synapses_by_name["l2"].source == "n1_copy"
    assert after.synapses_by_name["skip"].source == "n1"
    assert after.synapses_by_name["n1_copy_l1"].part_of == "l1"
    trace = reference.run_integer(after, np.random.default_rng(0).integers(0, 2, (4, 9)))
    np.testing.assert_array_equal(trace.payloads["n1"], trace.payloads["n1_copy"])


@pytest.mark.parametrize(
    ("remedy", "problem"),
    [
        (lambda n: split_inputs(n, "l9", 2), "l9: is no layer of synapses"),
        (lambda n: split_inputs(n, "l2", 1), "l2: cannot be split into 1 parts; it reads 9 channels"),
        (lambda n: split_inputs(n, "l2", 10), "l2: cannot be split into 10 parts; it reads 9 channels"),
        (lambda n: relay(n, "n9", ["out"], LOIHI2), "n9: is no population"),
        (lambda n: relay(n, "n1", ["n1"], LOIHI2), "n1: sends nothing to n1; it reaches n2, out"),
        (lambda n: relay(n, "n1", [], LOIHI2), "n1: has no target to be relayed to"),
        (lambda n: duplicate(n, "x", [["n1"], ["n1"]]), "x: is no population that can be doubled"),
        (
            lambda n: duplicate(n, "n1", [["out"], ["out"]]),
            "n1: targets out; out for 2 copies; every one of n2, out must be in one of two groups or more",
        ),
        (
            lambda n: duplicate(n, "n1", [["out", "n2"]]),
            "n1: targets out, n2 for 1 copies; every one of n2, out must be in one of two groups or more",
        ),
        (
            lambda n: relay(n, "n1", ["n2"], LOIHI1.model_copy(update={"resets": ("soft",)})),
            "n1_relay: needs a hard reset; the chip has: soft",
        ),
        (
            lambda n: check_payloads(split_inputs(n, "l2", 2), LOIHI1),
            "l2_part0_sum: sends sums; the chip's spikes are binary",
        ),
        (
            lambda n: check_payloads(split_inputs(n, "l2", 2), LOIHI2.model_copy(update={"payload_bits": 4})),
            "l2_part0_sum: sends sums of 6 bits; the chip's graded spikes have 4; "
            "more parts, or fewer weight bits, need fewer",
        ),
    ],
)
def test_what_no_remedy_can_do_is_refused(remedy: Callable[[QuantNetwork], object], problem: str) -> None:
    with pytest.raises(CompileError) as error:
        remedy(_chain())
    assert str(error.value) == problem


def test_layers_without_parts_are_refused() -> None:
    network = _chain()
    own = QuantSynapses("own", "n2", "linear", np.ones((5, 5), np.int64), 2, 0)
    populations = tuple(replace(p, synapses=("l2", "own")) if p.name == "n2" else p for p in network.populations)
    recurrent = replace(network, synapses=(*network.synapses, own), populations=populations)
    with pytest.raises(CompileError, match=r"^own: is lateral and must take one step; "):
        split_inputs(recurrent, "own", 2)
    grouped = replace(network.synapses_by_name["l2"], kind="conv", weight=np.ones((5, 1, 1, 1), np.int64), groups=5)
    with pytest.raises(CompileError, match=r"^l2: reads its source in 5 groups; cut its output channels instead"):
        split_inputs(replace(network, synapses=(network.synapses[0], grouped, *network.synapses[2:])), "l2", 2)
    with pytest.raises(CompileError, match=r"^l1: carries currents that the host writes"):
        split_inputs(replace(network, input_kind="currents"), "l1", 2)
    with pytest.raises(CompileError, match=r"^x: gives currents that the host writes"):
        relay(replace(network, input_kind="currents"), "x", ["n1"], LOIHI2)


def test_sums_that_no_payload_holds_are_refused() -> None:
    network = _chain()
    wide = replace(network.synapses_by_name["l2"], weight=network.synapses_by_name["l2"].weight << 28, weight_bits=32)
    with pytest.raises(CompileError, match=r"^l2_part0_sum: would send sums of 34 bits; at most 32"):
        split_inputs(replace(network, synapses=(network.synapses[0], wide, *network.synapses[2:])), "l2", 2)


def test_what_was_split_and_relayed_reads_as_before() -> None:
    network = _chain()
    after = relay(split_inputs(network, "l2", 2), "n1", ["l2_part0_sum", "out"], LOIHI2)
    found = unsplit(after, after.inputs_of(after.populations_by_name["n2"]))
    assert [(s.part_of, s.source, s.exponent, s.reads) for s in found] == [
        ("l2", "n1", 2, (0, 4)), ("l2", "n1", 2, (4, 9))
    ]  # fmt: skip
    assert [s.source for s in unsplit(after, after.inputs_of(after.readout))] == ["n2", "n1"]


@settings(max_examples=25)
@given(seed=st.integers(0, 100_000))
def test_the_proof_chain_explains_what_rounding_did_to_a_split_layer(seed: int) -> None:
    network = random_network(seed)
    if isinstance(network.by_name[network.readout.inputs[0]], MultiThresholdLIF):
        network = single_level_readout(network)
    program = program_of(network)
    rng = np.random.default_rng(seed)
    changed = some_copy(rng, some_relay(rng, some_split(rng, program.network)))
    program = replace(program, network=changed)
    chain = chain_of(program, float_stages(network, program))
    x = images(network, 6, seed) / 255 / network.input.scale
    result = chain.compare(x, program.encode(x), None, Asked(("float", "folded", "lowered", "integer", "simulator")))
    assert result["equal"]
    for pair in result["pairs"]:
        if (found := pair["first_difference"]) is not None:
            assert not found["cause"].startswith(("not explained", "fault")), found


@settings(max_examples=10)
@given(seed=st.integers(0, 100_000))
def test_a_changed_network_is_placed_run_and_counted(seed: int) -> None:
    network, rng = random_network(seed), np.random.default_rng(seed)
    program = program_of(network)
    after = some_copy(rng, some_relay(rng, some_split(rng, program.network)))
    changed = placed(program.chip, after, program.host)
    payloads = program.encode(images(network, 4, seed) / 255 / network.input.scale)
    run = load_backend("sim").run(changed, Path(), payloads)
    np.testing.assert_array_equal(run.output, reference.run_integer(program.network, payloads).output)
    assert run.cost["synops"] == pytest.approx(metrics.metrics_of(changed, payloads)["synaptic_operations"])
    plain, more = (metrics.footprint(n) for n in (program.network, after))
    added = [s for s in after.synapses if s.name.endswith(("_sum_out", "_relay_in"))]
    if not any(p.name.endswith("_copy") for p in after.populations):  # parts have as many weights as the whole
        assert more["weights"] - plain["weights"] == sum(s.weight.size * s.weight_bits for s in added) / 8
        assert more["states"] == plain["states"]


def test_a_split_program_is_sealed_and_read_again() -> None:
    program = program_of(random_network(1))
    after = split_inputs(program.network, splittable(program.network)[0].name, 2)
    source = next(p.name for p in after.populations if p.spiking and not p.sums)
    after = relay(after, source, targets_of(after, source), LOIHI2.model_copy(update={"graded_spikes": False}))
    description, arrays = to_plain(replace(program, network=after))
    read = from_plain(description, arrays).network
    x = images(after, 2, 0)
    np.testing.assert_array_equal(reference.run_integer(read, x).output, reference.run_integer(after, x).output)
    assert [p.sends for p in read.populations] == [p.sends for p in after.populations]
    assert [(s.reads, s.part_of) for s in read.synapses] == [(s.reads, s.part_of) for s in after.synapses]
