"""Orders of irregular populations: a permutation, the same function, fewer packets, and proofs in trained numbers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import flat_sparse_network, neuron, recurrent_network, sparse_layer

from snncompile import reference
from snncompile.chip import Chip, load_chip
from snncompile.errors import InternalError
from snncompile.levels import as_trained, fired_levels
from snncompile.lowering import resolve
from snncompile.mapping.accounting import Listed
from snncompile.mapping.graph_cut import Nets, refined, regions
from snncompile.mapping.orders import choose_orders
from snncompile.network import Input, Linear, MultiThresholdLIF, Network, Readout, one_to_one, sparse
from snncompile.passes.order_neurons import OrderNeurons, is_free, listed, places
from snncompile.pipeline import lower, lowering_of, place_program, run_passes
from snncompile.program import Program, Provenance, from_plain, to_plain
from snncompile.proof.divergence import StageRun, trained_numbers
from snncompile.proof.traces import Traces
from snncompile.proof.verify import Asked, Chain, _run_stage

STAGES = ("float", "folded", "lowered", "integer", "simulator")


def small(neurons: int, chip: str = "loihi2") -> Chip:
    model = load_chip(chip)
    return model.model_copy(update={"core": model.core.model_copy(update={"neurons": neurons})})


def grid(side: int, seed: int = 0) -> Network:
    """A torus of neurons, each joined to those near it, whose numbers are shuffled."""
    rng, n = np.random.default_rng(seed), side * side
    source = np.repeat(np.arange(n), 9)
    dx, dy = np.rint(rng.normal(0, 1.2, (2, len(source)))).astype(int)
    target = (source // side + dy) % side * side + (source % side + dx) % side
    shuffled = rng.permutation(n)
    column, row = np.divmod(np.unique(shuffled[source] * n + shuffled[target]), n)
    theta = np.ones(1)
    nodes = (
        Input("x", (), (10,)),
        Linear("l", ("x",), rng.normal(0, 1, (n, 10)), np.zeros(n)),
        MultiThresholdLIF("n", ("l", "own"), theta, theta, theta, 0.9, "soft", "ge"),
        sparse("own", "n", rng.normal(0, 0.3, len(row)), row, column, rng.normal(0, 0.1, n)),
        Linear("o", ("n",), rng.normal(0, 1, (4, n)), np.zeros(4)),
        Readout("out", ("o",)),
    )
    return Network(nodes, 3)


def one_to_one_network(seed: int) -> Network:
    """Two populations, joined one to one and by sparse synapses, with thresholds of their own in the first."""
    rng, n = np.random.default_rng(seed), 12
    first, second = neuron(rng, "n1", "s1"), neuron(rng, "n2", "s2")
    thresholds = first.thresholds[:, None] * rng.uniform(0.5, 1.5, n)
    nodes = (
        Input("x", (), (7,)),
        sparse_layer(rng, "s1", "x", n, 7),
        replace(first, thresholds=thresholds, subtract=thresholds, fire="ge"),
        sparse_layer(rng, "s2", "n1", n, n),
        one_to_one("skip", "n1", rng.normal(0, 1, n)),
        replace(second, inputs=("s2", "skip")),
        sparse_layer(rng, "s3", "n2", 3, n),
        Readout("out", ("s3",)),
    )
    return Network(nodes, 3)


KINDS = (flat_sparse_network, recurrent_network, one_to_one_network)


def shuffles(folded: Network, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n.name: rng.permutation(folded.shapes[n.name][0]) for n in folded.neurons if is_free(folded, n)}


def program_of(network: Network, chip: Chip, orders: dict[str, np.ndarray], lowering: str = "auto") -> Program:
    mode = resolve(lowering, chip.numerics)
    declared = lowering_of(run_passes(network), chip.numerics, mode)
    made = Provenance("0" * 64, {}, (), 8, "max", {}, mode, "direct", declared, orders=orders)
    return place_program("t", chip, lower(network, chip.numerics, lowering, orders=orders), made)


def chain_of(network: Network, program: Program) -> Chain:
    made = program.provenance
    lowered = lower(network, program.chip.numerics, made.lowering_mode, orders=made.orders)
    networks = {"float": network, "folded": run_passes(network), "lowered": lowered}

    def run(stage: str, x: np.ndarray, payloads: np.ndarray) -> StageRun:
        return _run_stage(stage, Path(), program, networks, x, payloads)

    return Chain(program, networks, run)


@pytest.mark.parametrize("make", KINDS)
@given(seed=st.integers(0, 100_000))
@settings(max_examples=25)
def test_the_float_function_is_unchanged_neuron_by_neuron(make, seed: int) -> None:
    folded = run_passes(make(seed))
    orders = shuffles(folded, seed)
    assert orders
    ordered = run_passes(folded, (OrderNeurons(orders),))
    x = np.random.default_rng(seed).uniform(0, 1, (3, *folded.input.shape)) / folded.input.scale
    one, two = reference.run_float(folded, x), reference.run_float(ordered, x)
    np.testing.assert_allclose(two.output, one.output, rtol=0, atol=1e-9)
    for node in folded.neurons:
        order = orders.get(node.name, slice(None))
        np.testing.assert_allclose(two.membranes[node.name], one.membranes[node.name][:, :, order], rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", [flat_sparse_network, one_to_one_network])
@pytest.mark.parametrize(("chip", "lowering"), [("loihi2", "auto"), ("loihi1", "r1")])
@given(seed=st.integers(0, 100_000))
@settings(max_examples=8)
def test_every_integer_spike_is_that_of_the_trained_neuron(make, chip: str, lowering: str, seed: int) -> None:
    """One threshold by channel needs no lowering; members stay together."""
    network = make(seed)
    if chip == "loihi1":  # binary neurons that reset softly or not at all
        network = network.replacing({n.name: replace(n, reset="none") for n in network.neurons})
        if make is one_to_one_network:
            return
    orders = shuffles(run_passes(network), seed)
    plain, ordered = (program_of(network, small(60, chip), o, lowering).network for o in ({}, orders))
    programs = program_of(network, small(60, chip), orders, lowering)
    x = np.random.default_rng(seed).uniform(0, 1, (3, *network.input.shape))
    sent = program_of(network, small(60, chip), {}, lowering).encode(x)
    one, two = reference.run_integer(plain, sent), reference.run_integer(ordered, programs.encode(x))
    np.testing.assert_array_equal(one.output, two.output)
    for name, order in orders.items():
        members = plain.populations_by_name[name].members
        levels = [
            fired_levels(n.populations_by_name[name], t.payloads[name]) for n, t in ((plain, one), (ordered, two))
        ]
        a, b = (as_trained(k, members, plain.microsteps) for k in levels)
        np.testing.assert_array_equal(b, a[:, :, order])


@given(seed=st.integers(0, 100_000), side=st.integers(4, 16), neurons=st.integers(3, 40))
@settings(max_examples=20)
def test_orders_are_permutations_always_the_same_and_save_what_they_tell(seed: int, side: int, neurons: int) -> None:
    network, chip = grid(side, seed), small(neurons)
    folded = run_passes(network)
    found, again = choose_orders(folded, chip, "graded", 8), choose_orders(folded, chip, "graded", 8)
    assert found.told == again.told
    told = found.told["n"]
    assert told["ordered"] == ("n" in found.orders)
    for name, order in found.orders.items():
        np.testing.assert_array_equal(order, again.orders[name])
        np.testing.assert_array_equal(np.sort(order), np.arange(side * side))
        assert told["packets_after"] <= 0.95 * told["packets_before"]
        assert told["cores_after"] <= told["cores_before"]


def test_a_shuffled_grid_is_found_again() -> None:
    network, chip = grid(24), small(36)
    ordering = choose_orders(run_passes(network), chip, "graded", 8)
    told = ordering.told["n"]
    assert told["packets_after"] < 0.5 * told["packets_before"]
    plain, ordered = (program_of(network, chip, orders) for orders in ({}, ordering.orders))
    reached = [p.core_graph.usage["axons_in"].sum() for p in (plain, ordered)]
    assert reached[1] < 0.7 * reached[0]


def test_a_random_graph_is_left_alone() -> None:
    rng, n = np.random.default_rng(0), 400
    row, column = np.divmod(rng.choice(n * n, 20 * n, replace=False), n)
    network = grid(20)
    network = network.replacing({"own": sparse("own", "n", rng.normal(0, 1, len(row)), row, column, np.zeros(n))})
    ordering = choose_orders(run_passes(network), small(25), "graded", 8)
    assert not ordering.orders
    assert not ordering.told["n"]["ordered"]


def test_networks_without_free_populations_are_not_looked_at() -> None:
    rng = np.random.default_rng(0)
    nodes = (
        Input("x", (), (7,)),
        sparse_layer(rng, "s1", "x", 9, 7),
        neuron(rng, "n1", "s1"),
        Readout("out", ("n1",)),  # counts its spikes: they are the classes
    )
    folded = run_passes(Network(nodes, 2))
    ordering = choose_orders(folded, small(3), "graded", 8)
    assert (ordering.orders, ordering.told) == ({}, {})
    with pytest.raises(InternalError, match="n1: its neurons must stay in order"):
        OrderNeurons({"n1": np.arange(9)})(folded)
    with pytest.raises(InternalError, match="x: its neurons must stay in order"):
        OrderNeurons({"x": np.arange(7)})(folded)


def test_what_is_no_permutation_is_refused() -> None:
    with pytest.raises(InternalError, match="n: no order of 16 neurons"):
        OrderNeurons({"n": np.zeros(16, np.int64)})(run_passes(grid(4)))


def test_a_population_of_one_neuron_and_empty_rows_go_through() -> None:
    rng = np.random.default_rng(0)
    zero = np.zeros(1, np.int64)
    nodes = (
        Input("x", (), (3,)),
        sparse("s1", "x", np.ones(1), zero, zero, np.zeros(1)),
        neuron(rng, "n1", "s1"),
        sparse("s2", "n1", np.ones(1), zero + 4, zero, np.zeros(9)),  # eight neurons without any synapse
        neuron(rng, "n2", "s2"),
        Linear("o", ("n2",), rng.normal(0, 1, (2, 9)), np.zeros(2)),
        Readout("out", ("o",)),
    )
    ordering = choose_orders(run_passes(Network(nodes, 2)), small(4), "graded", 8)
    assert not ordering.orders
    assert set(ordering.told) == {"n2"}


@given(seed=st.integers(0, 100_000))
@settings(max_examples=40)
def test_refined_parts_hold_what_they_may_and_cost_what_is_counted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sources, neurons, size = (int(n) for n in rng.integers(1, 60, 3))
    there = rng.random((sources, neurons)) < rng.uniform(0, 0.5)
    axon, target = np.nonzero(there)
    nets = Nets.of([Listed.of(axon, target, sources, neurons)], [rng.uniform(0.1, 1, sources)], neurons)
    parts = -(-neurons // size)
    part = refined(nets, np.arange(neurons) // size, size)
    held = np.bincount(part, minlength=parts)
    assert (held[:-1] == size).all()
    assert held[-1] == neurons - (parts - 1) * size
    reached = np.array([len(np.unique(part[there[s]])) for s in range(sources) if there[s].any()])
    assert nets.packets(part) == pytest.approx(nets.weight @ reached)
    table = np.arange(neurons + 1) ** 2
    axons, words, _ = nets.judged(part, table)
    counts = np.stack([there[:, part == p].sum(1) for p in range(parts)])
    np.testing.assert_array_equal(axons, (counts > 0).sum(1))
    np.testing.assert_array_equal(words, (counts**2).sum(1))


def test_moves_save_what_a_bad_start_costs_and_rates_decide() -> None:
    """Two groups that are driven apart, dealt out to two parts; of two sources that pull, the busier one wins."""
    start = np.array([0, 4, 8])
    nets = Nets(start, np.array([0, 2, 4, 6, 1, 3, 5, 7], np.int32), np.ones(2), 8)
    assert nets.packets(np.arange(8) // 4) == 4
    assert nets.packets(refined(nets, np.array([0, 1, 0, 1, 0, 1, 1, 0]), 4)) == 2
    pair = np.array([0, 1, 0, 2, 1, 3, 2, 3], np.int32)
    for weight, start_at in (([9.0, 1.0, 1.0, 9.0], [0, 1, 0, 1]), ([1.0, 9.0, 9.0, 1.0], [0, 0, 1, 1])):
        square = Nets(np.array([0, 2, 4, 6, 8]), pair, np.array(weight), 4)
        assert square.packets(np.array(start_at)) == 38
        assert square.packets(refined(square, np.array(start_at), 2)) == 22


def test_disconnected_groups_become_regions() -> None:
    groups = np.arange(40) % 4
    source, target = np.nonzero(groups[:, None] == groups)
    found = regions(40, [(source, target)], 4, np.ones(40, np.int64))
    assert len({(int(g), int(r)) for g, r in zip(groups, found, strict=True)}) == 4
    np.testing.assert_array_equal(regions(6, [], 3, np.ones(6, np.int64)), [0, 0, 1, 1, 2, 2])


def test_one_to_one_synapses_are_listed() -> None:
    node = listed(one_to_one("s", "x", np.array([2.0, 3.0])))
    assert (node.row.tolist(), node.column.tolist(), node.weight.tolist()) == ([0, 1], [0, 1], [2.0, 3.0])


@pytest.mark.parametrize("seed", range(6))
def test_verify_compares_neuron_for_neuron_and_seals_the_orders(seed: int) -> None:
    network = (flat_sparse_network, one_to_one_network)[seed % 2](seed)
    program = program_of(network, small(8), shuffles(run_passes(network), seed))
    read = from_plain(*to_plain(program))
    assert set(read.provenance.orders) == set(program.provenance.orders) != set()
    for name, order in program.provenance.orders.items():
        np.testing.assert_array_equal(read.provenance.orders[name], order)
    x = np.random.default_rng(seed).uniform(0, 1, (5, *network.input.shape))
    result = chain_of(network, read).compare(x, read.encode(x), None, Asked(STAGES))
    assert result["equal"]
    assert next(p for p in result["pairs"] if p["b"] == "folded")["spikes_differing"] == 0
    assert next(p for p in result["pairs"] if p["b"] == "lowered")["spikes_differing"] == 0
    for pair in result["pairs"]:
        if (found := pair["first_difference"]) is not None:
            assert not found["cause"].startswith(("not explained", "fault")), found


def test_the_first_difference_and_dumps_are_in_trained_numbers(tmp_path: Path) -> None:
    network = flat_sparse_network(3)
    orders = shuffles(run_passes(network), 1)
    program = program_of(network, small(8), orders)
    chain = chain_of(network, program)
    x = np.random.default_rng(0).uniform(0, 1, (2, *network.input.shape))
    payloads = program.encode(x)
    trained = reference.run_float(network, x)

    def flipped(stage: str, x: np.ndarray, payloads: np.ndarray) -> StageRun:
        run = chain.run(stage, x, payloads)
        if stage != "simulator":
            return run
        levels = run.levels["n1"].copy()
        levels[0, 0, places(orders["n1"])[4]] += 1
        return replace(run, levels={**run.levels, "n1": levels})

    dump = tmp_path / "t.npz"
    faulty = Chain(program, chain.networks, flipped).compare(x, payloads, None, Asked(("integer", "simulator")))
    assert faulty["pairs"][0]["first_difference"]["neuron"] == [4]
    traces = Traces(dump, program, chain.networks)
    for stage in ("float", "lowered"):
        traces.add(stage, chain.run(stage, x, payloads))
    traces.write()
    with np.load(dump) as file:
        np.testing.assert_array_equal(file["float/n1/membranes"], trained.membranes["n1"])
        np.testing.assert_array_equal(file["lowered/n1/levels"], file["float/n1/levels"])


def test_members_are_numbered_behind_their_neuron() -> None:
    order = np.array([2, 0, 1])
    assert trained_numbers(order, "trained", 2).tolist() == [2, 0, 1]
    assert trained_numbers(order, "chip", 2).tolist() == [4, 5, 0, 1, 2, 3]
