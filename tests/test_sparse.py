"""Sparse synapses: a dense layer without its zeros, everywhere: reference, engines, integers, mapping, disk, proof."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_networks import dense, integer_inputs, integer_network
from programs import program_of
from random_networks import flat_sparse_network, images, quantized, sparse_network, without_sparse
from snncompile.backends.chipsim.function import FunctionEngine
from test_divergence import chain_of, float_stages
from test_float_engine import assert_as_reference

from snncompile import metrics, reference
from snncompile.backend import load_backend
from snncompile.chip import load_chip
from snncompile.errors import CompileError
from snncompile.mapping.connectivity import block_counts, block_sums, connectivity
from snncompile.network import (
    Input,
    Linear,
    MultiThresholdLIF,
    Network,
    Readout,
    Sparse,
    format_network,
    sparse,
    verify,
)
from snncompile.pipeline import lower, run_passes
from snncompile.program import from_plain, to_plain
from snncompile.proof.verify import Asked
from snncompile.quant_network import QuantNetwork, QuantSynapses
from snncompile.quantization.quantize import quantize
from snncompile.quantization.rounding import METHODS, Rounding
from snncompile.quantization.verify_integers import verify_integers

BINARY = [("loihi2", "r1"), ("loihi2", "burst"), ("loihi1", "r1")]


def layer(row: list[int], column: list[int], features: int = 3) -> Network:
    node = Sparse("s", ("x",), np.ones(len(row)), np.zeros(features), np.array(row), np.array(column))
    return Network((Input("x", (), (4,)), node, Readout("out", ("s",))), 1)


def test_a_sparse_layer_is_the_dense_one_without_its_zeros() -> None:
    node = sparse(
        "s", "x", np.array([2.0, 3.0, 5.0]), np.array([2, 0, 0]), np.array([1, 3, 0]), np.array([0.0, 7.0, 0.0])
    )
    assert node.row.tolist() == [0, 0, 2]
    assert node.row.dtype == node.column.dtype == np.int64
    assert not node.row.flags.writeable
    y = reference.stateless(node, np.array([[1.0, 10.0, 100.0, 1000.0]]))
    assert y.tolist() == [[3005.0, 7.0, 20.0]]


@pytest.mark.parametrize(
    ("row", "column", "problem"),
    [
        ([0, 1, 1], [0, 2, 2], "s: has two synapses from 2 to 1; add their weights up to one"),
        ([1, 0], [0, 0], "s: lists its synapses in no order; sort them by row, then column: network.sparse"),
        ([0, 0], [1, 0], "s: lists its synapses in no order; sort them by row, then column: network.sparse"),
        ([0, 3], [0, 0], "s: has synapses to targets 0 to 3 and from sources 0 to 0, and 3 targets"),
        ([0, 1], [-1, 0], "s: has synapses to targets 0 to 1 and from sources -1 to 0, and 3 targets"),
        ([0, 1], [0, 4], "s: reads feature 4, its input (4,) gives 4"),
        ([], [], "s: has no synapses"),
        ([0, 1], [0], "s: has weights, rows and columns of shapes (2,), (2,), (1,); one of each a synapse"),
    ],
)
def test_what_is_no_sparse_layer_is_refused(row: list[int], column: list[int], problem: str) -> None:
    with pytest.raises(CompileError) as error:
        verify(layer(row, column))
    assert str(error.value) == problem


def test_the_text_of_a_sparse_layer_gives_its_size() -> None:
    assert "s: Sparse(x) -> 3  weight=<2> " not in format_network(layer([0, 1], [0, 2]))
    assert "s: Sparse(x) -> 3  weight=[1 1] bias=[0 0 0] row=[0 1] column=[0 2]" in format_network(
        layer([0, 1], [0, 2])
    )


@given(st.integers(0, 100_000))
def test_float_stages_and_the_engine_compute_the_dense_network(seed: int) -> None:
    network = sparse_network(seed)
    x = images(network, 3, seed) / 255 / network.input.scale
    plain = reference.run_float(without_sparse(network), x)
    np.testing.assert_allclose(reference.run_float(network, x).output, plain.output, rtol=0, atol=1e-9)
    np.testing.assert_allclose(reference.run_float(run_passes(network), x).output, plain.output, rtol=0, atol=1e-7)
    assert_as_reference(network, x)
    assert_as_reference(run_passes(network), x)


@settings(max_examples=15)
@pytest.mark.parametrize(("chip", "lowering"), [("loihi2", "auto"), *BINARY])
@given(seed=st.integers(0, 100_000))
def test_quantised_it_is_the_dense_network_in_integers(chip: str, lowering: str, seed: int) -> None:
    """The same scales, widths and weights where there are synapses; so every spike is the same, too."""
    network = sparse_network(seed)
    try:
        plain, host = quantized(without_sparse(network), chip=chip, lowering=lowering)
    except CompileError as refused:
        with pytest.raises(CompileError, match=refused.problem.replace("(", ".").replace(")", ".")[:20]):
            quantized(network, chip=chip, lowering=lowering)
        return
    ours, our_host = quantized(network, chip=chip, lowering=lowering)
    verify_integers(ours)
    for one, two in zip(ours.populations, plain.populations, strict=True):
        assert (one.state_bits, one.input_bits) == (two.state_bits, two.input_bits)
        np.testing.assert_array_equal(our_host.state[one.name], host.state[two.name])
    x = np.random.default_rng(seed).uniform(0, 1 / our_host.encoder.scale, (3, *our_host.encoder.shape))
    np.testing.assert_array_equal(our_host.encoder(x), host.encoder(x))
    a, b = (reference.run_integer(n, our_host.encoder(x)) for n in (ours, plain))
    for population in ours.populations:
        np.testing.assert_array_equal(a.membranes[population.name], b.membranes[population.name])


def test_rounding_by_statistics_names_the_sparse_layer() -> None:
    lowered = lower(flat_sparse_network(1), load_chip("loihi2").numerics)
    refused = [method for method in METHODS if method in ("percentile", "mse")]
    assert len(refused) == 2
    for method in refused:
        with pytest.raises(CompileError) as error:
            quantize(lowered, load_chip("loihi2").numerics, 8, Rounding(method))
        assert str(error.value) == f"s1: is sparse; rounding by {method} needs dense weights; use --rounding max"


@given(st.integers(0, 100_000))
def test_integer_networks_equal_their_dense_form_and_themselves_on_the_chip_clock(seed: int) -> None:
    network = integer_network(seed, listed=True)
    payloads = integer_inputs(network, 3, seed)
    ours, plain = (reference.run_integer(n, payloads) for n in (network, dense(network)))
    clocked = reference.run_on_chip_clock(network, payloads)
    np.testing.assert_array_equal(ours.output, clocked.output)
    for population in network.populations:
        name = population.name
        np.testing.assert_array_equal(ours.membranes[name], plain.membranes[name], err_msg=name)
        np.testing.assert_array_equal(ours.membranes[name], clocked.membranes[name], err_msg=name)


@given(st.integers(0, 100_000))
@settings(max_examples=40)
def test_the_simulator_computes_the_reference(seed: int) -> None:
    network = integer_network(seed, listed=True)
    payloads = integer_inputs(network, 3, seed)
    exact = reference.run_integer(network, payloads)
    for steps in FunctionEngine(network).run(payloads):
        name = steps.population.name
        sent = steps.payloads.reshape(exact.payloads[name].shape)
        np.testing.assert_array_equal(sent, exact.payloads[name], err_msg=name)
    np.testing.assert_array_equal(steps.output, exact.output)


@given(st.integers(0, 100_000))
def test_proven_widths_hold_and_are_those_of_the_dense_form(seed: int) -> None:
    network = integer_network(seed, listed=True)
    verify_integers(dense(network))
    trace = reference.run_integer(network, integer_inputs(network, 4, seed))
    for population in network.populations:
        u = trace.membranes[population.name]
        assert np.abs(u).max() <= 1 << (population.state_bits - 1)
        if population.sums:
            assert np.abs(u).max() <= population.payload_max


@given(st.integers(0, 100_000))
def test_connectivity_lists_the_synapses_of_flat_layers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sources, targets, members = (int(n) for n in rng.integers(1, 9, 3))
    there = rng.random((targets, sources)) < 0.4
    there[0, 0] = True
    row, column = np.nonzero(there)
    synapses = QuantSynapses(
        "s", "input", "sparse", row * 0 + 1, 2, 0, row=row, column=column, features=targets, members=members
    )
    readout = replace(integer_network(0).readout, shape=(targets,), synapses=("s",), depth=1)
    network = QuantNetwork("input", (sources * members,), 1, (synapses,), (readout,), 1)
    link = connectivity(network, synapses)
    expected = np.repeat(there.T, members, axis=0)
    np.testing.assert_array_equal(link.channels.toarray(), expected)
    assert link.synapses == expected.sum()
    edges = np.unique([0, targets, *rng.integers(0, targets + 1, 2)])
    summed = block_sums(link.channels, edges)
    np.testing.assert_array_equal(summed.toarray(), np.add.reduceat(expected.astype(int), edges[:-1], axis=1))
    block_of = rng.integers(0, 3, targets)
    counted = block_counts(link.channels, block_of, 3)
    for block in range(3):
        np.testing.assert_array_equal(counted.toarray()[:, block], expected[:, block_of == block].sum(1))
    assert (link.channels.data == 1).all()


def test_an_image_is_not_mapped_through_sparse_synapses() -> None:
    network, _ = quantized(sparse_network(0))
    shape = "x".join(map(str, network.shape_of("n1")))
    with pytest.raises(CompileError, match=f"^s2: is sparse and reads an image of shape {shape}; sparse layers are"):
        connectivity(network, network.synapses_by_name["s2"])


@given(st.integers(0, 100_000))
def test_connectivity_of_dense_synapses_leaves_out_what_they_do_not_read(seed: int) -> None:
    network = integer_network(seed, listed=True)
    for synapses in network.synapses:
        if synapses.kind != "sparse":
            link = connectivity(network, synapses)
            reached = np.multiply.outer(np.multiply.outer(*(block_sums(a, np.array([0, a.shape[1]])).ravel()
                                        for a in link.axes[:2])), link.axes[2].sum(1))  # fmt: skip
            fan_out = metrics.fan_out(network, synapses)
            np.testing.assert_array_equal(reached, fan_out.reshape(reached.shape))


@given(st.integers(0, 100_000))
def test_fan_out_counts_the_synapses_there_are(seed: int) -> None:
    network = integer_network(seed, listed=True)
    plain = dense(network)
    for synapses in network.synapses:
        if synapses.kind == "sparse":
            theirs = plain.synapses_by_name[synapses.name]
            ours, expected = (metrics.fan_out(n, s, s.weight != 0) for n, s in ((network, synapses), (plain, theirs)))
            np.testing.assert_array_equal(ours, expected)


@settings(max_examples=10)
@given(seed=st.integers(0, 100_000))
def test_a_placed_program_runs_is_counted_explained_and_sealed(seed: int) -> None:
    network = flat_sparse_network(seed)
    program = program_of(network)
    x = np.random.default_rng(seed).uniform(0, 1, (4, *network.input.shape))
    payloads, names = program.encode(x), [p.name for p in program.network.populations]
    exact, run = (
        reference.run_integer(program.network, payloads),
        load_backend("sim").run(program, Path(), payloads, names),
    )
    np.testing.assert_array_equal(run.output, exact.output)
    for name in names:
        np.testing.assert_array_equal(run.payloads[name], exact.payloads[name])
    counted = metrics.metrics_of(program, payloads)
    assert run.cost["synops"] == pytest.approx(counted["synaptic_operations"])
    assert counted["connection_sparsity"] < 0.2  # what is not listed is no weight of zero
    read = from_plain(*to_plain(program))
    np.testing.assert_array_equal(reference.run_integer(read.network, payloads).output, exact.output)
    chain = chain_of(program, float_stages(network, program))
    result = chain.compare(x, payloads, None, Asked(("float", "folded", "lowered", "integer", "simulator")))
    assert result["equal"]
    for pair in result["pairs"]:
        if (found := pair["first_difference"]) is not None:
            assert not found["cause"].startswith(("not explained", "fault")), found


@pytest.mark.slow
def test_a_hundred_thousand_neurons_with_nine_million_synapses_go_through_every_stage() -> None:
    """Nothing of neurons x neurons is ever made: that would be 80 GB."""
    rng, size, fan_in = np.random.default_rng(0), 100_000, 90

    def layer(name: str, source: str, out: int, sources: int, each: int) -> Sparse:
        row = np.repeat(np.arange(out), each)
        column = np.sort(rng.integers(0, sources - each + 1, (out, each)), 1) + np.arange(each)
        return sparse(name, source, rng.normal(0, each**-0.5, len(row)), row, column.ravel(), np.zeros(out))

    theta = np.ones(1)
    nodes = (
        Input("x", (), (1000,), coding="events"),
        layer("in", "x", size, 1000, 5),
        MultiThresholdLIF("n", ("in", "own"), theta, theta, theta, 0.9, "soft", "ge"),
        layer("own", "n", size, size, fan_in),
        layer("last", "n", 10, size, 1000),
        Readout("out", ("last",)),
    )
    network, host = quantized(Network(nodes, 3))
    verify_integers(network)
    link = connectivity(network, network.synapses_by_name["own"])
    assert link.synapses == size * fan_in
    assert block_sums(link.channels, np.arange(0, size + 1, 250)).sum() == size * fan_in
    payloads = host.encoder(rng.integers(0, 3, (2, 3, 1000)))
    exact = reference.run_integer(network, payloads)
    first, last = FunctionEngine(network).run(payloads)
    np.testing.assert_array_equal(first.payloads.reshape(exact.payloads["n"].shape), exact.payloads["n"])
    np.testing.assert_array_equal(last.output, exact.output)
    assert 0.05 < (exact.payloads["n"] != 0).mean() < 0.95


def test_linear_layers_stay_what_they_are() -> None:
    assert isinstance(without_sparse(flat_sparse_network(0)).by_name["s1"], Linear)
