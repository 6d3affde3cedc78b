"""A Process for every core slice: what the compiler cut and joined computes what the whole network computes."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from integer_networks import integer_inputs, integer_network
from lava_networks import emitted_module, mixing_network, program_of, random_cut, random_payloads, seal, sealed_network
from programs import program_of as compiled
from random_networks import conv_network, flat_sparse_network, images, recurrent_network
from snncompile.backends.lava import LavaBackend, _check
from snncompile.backends.lava.slices import MOST_PROCESSES, cut
from test_lowering import with_resets

from snncompile.backend import ProcessOptions
from snncompile.errors import CompileError
from snncompile.mapping.partition import CoreGraph
from snncompile.mapping.remedies import relay, split_inputs
from snncompile.quant_network import IntArray, QuantNetwork
from snncompile.reference import run_integer

needs_lava = pytest.mark.skipif(importlib.util.find_spec("lava") is None, reason="lava-nc is not installed")


@pytest.fixture(scope="module")
def placement() -> ModuleType:
    return emitted_module("placement")


def run_slices(placed: tuple, whole: QuantNetwork, payloads: IntArray, lanes: int) -> tuple[dict, IntArray]:
    """Payloads (T, N, *shape) and output of the network of slices, in one process."""
    layer = emitted_module("layer")
    network, arrays, slices = placed
    stream = layer.Stream(-(-len(payloads) // lanes), lanes, whole.timesteps, whole.microsteps)
    frames = layer.InputFrames(payloads, whole.input_shape, stream)
    layers, kept = {}, {}
    for spec in network["populations"]:
        size = (stream.groups, lanes, spec["shape"][0])
        record, output = np.zeros((whole.timesteps, *size), np.int64), np.zeros(size, np.int64)
        params = layer.parameters(network, arrays, spec)
        layers[spec["name"]] = (layer.Layer(**params, stream=stream, output=output, record=record), params["inputs"])
        kept[spec["name"]] = (record, output)
    for c in range(stream.steps + whole.depth):
        sent = {whole.input_name: frames.sent(c)} | {name: one.fire(c) for name, (one, _) in layers.items()}
        for name, (one, inputs) in layers.items():
            one.send_itself(c, sent[name])
            for i, connection in enumerate(inputs):
                one.receive(c, i, sent[connection["spec"]["source"]])
    found = {}
    for population in whole.populations:
        parts = [np.zeros((t, stream.groups, lanes, population.size), np.int64) for t in (whole.timesteps, 1)]
        for name, neurons in slices[population.name]:
            parts[0][..., neurons], parts[1][0][..., neurons] = kept[name]
        found[population.name], output = (
            part.reshape(len(part), -1, *population.shape)[:, : len(payloads)] for part in parts
        )
    return found, output[0]


def check(placement: ModuleType, network: QuantNetwork, graph: CoreGraph, payloads: IntArray, lanes: int = 2) -> None:
    expected = run_integer(network, payloads)
    placed = placement.placed(*sealed_network(network, graph=graph))
    sent, output = run_slices(placed, network, payloads, lanes)
    np.testing.assert_array_equal(output, expected.output)
    for population in network.populations:
        name = population.name
        np.testing.assert_array_equal(sent[name], expected.payloads[name], err_msg=name)


@settings(max_examples=40)
@given(seed=st.integers(0, 100_000), general=st.booleans())
def test_any_cut_computes_the_same(placement: ModuleType, seed: int, general: bool) -> None:
    """Convolutions, lists, lateral synapses, sums, mixing, micro-steps, several states, lags, cut at random places."""
    network = integer_network(seed, listed=True, general=general)
    try:
        graph = random_cut(network, seed)
        described = cut(network, graph)
    except CompileError as refused:
        assume("sparse and reads an image" not in refused.problem)
        raise
    assume(described["slices"] < MOST_PROCESSES)
    check(placement, network, graph, integer_inputs(network, 3, seed))


def test_mixing_and_shortcuts_cut_at_random_places(placement: ModuleType) -> None:
    for seed in range(3):
        network = mixing_network(seed, 1 + seed)
        check(placement, network, random_cut(network, seed, most=2), random_payloads(seed, 4))


FLOATS = {
    "conv": lambda seed: with_resets(conv_network(seed), ("soft",), seed),
    "flat sparse": flat_sparse_network,
    "recurrent": lambda seed: replace(with_resets(recurrent_network(seed), ("soft",), seed), timesteps=5),
}


@pytest.mark.parametrize(
    ("kind", "chip", "neurons", "seed"),
    [
        ("conv", "loihi2", 40, 3),
        ("conv", "loihi1", 100, 4),
        ("flat sparse", "loihi2", 4, 4),
        ("recurrent", "loihi2", 4, 3),
        ("recurrent", "loihi1", 10, 5),
    ],
)
def test_what_the_compiler_maps_computes_the_same(
    placement: ModuleType, kind: str, chip: str, neurons: int, seed: int
) -> None:
    """Real cuts onto cores of few neurons."""
    network = FLOATS[kind](seed)
    program = compiled(network, chip, neurons, "r1" if chip == "loihi1" else "auto")
    assert len(program.network.populations) < program.core_graph.core_count < MOST_PROCESSES
    payloads = program.encode(images(network, 3, 1) / 255 / network.input.scale)
    check(placement, program.network, program.core_graph, payloads)


def test_remedies_cut_onto_cores_compute_the_same(placement: ModuleType) -> None:
    """A layer whose input is split into parts that are summed, and a relay."""
    from snncompile.chip import load_chip

    network = mixing_network(2, 3)
    network = split_inputs(network, "c3", 2)
    network = relay(network, "n1", [network.populations_by_name["n2"].name], load_chip("loihi2").numerics)
    assert any(p.sums for p in network.populations)
    check(placement, network, random_cut(network, 5, most=2), random_payloads(5, 3))


def test_a_link_that_the_mapping_forgot_loses_spikes(placement: ModuleType) -> None:
    """The mapping decides who reaches whom: without one of its links other spikes come out."""
    network = mixing_network(0, 1)
    graph, payloads = random_cut(network, 1, most=2), random_payloads(0, 4)
    described, arrays = sealed_network(network, graph=graph)
    described["cores"]["links"]["c2"].pop()
    sent, _ = run_slices(placement.placed(described, arrays), network, payloads, 2)
    assert (sent["n2"] != run_integer(network, payloads).payloads["n2"]).any()


@pytest.mark.parametrize(("kind", "neurons"), [("conv", 40), ("flat sparse", 4), ("recurrent", 4)])
def test_every_slice_holds_what_its_core_holds(placement: ModuleType, kind: str, neurons: int) -> None:
    """Neurons and input axons of each Process are those that the compiler counted for its core."""
    program = compiled(FLOATS[kind](3), neurons_per_core=neurons)
    network, graph = program.network, program.core_graph
    described, arrays = sealed_network(network, graph=graph)
    arrays = {name: np.where(array == 0, 1, array) if name.endswith(".weight") else array
              for name, array in arrays.items()}  # fmt: skip
    made, listed, _ = placement.placed(described, arrays)
    specs = {int(spec["name"].partition("@")[2]): spec for spec in made["populations"]}
    assert sorted(specs) == list(range(graph.core_count))
    pooled = any(s.pool != (1, 1) or s.members > 1 for s in network.synapses)
    for core, spec in specs.items():
        axons = sum(len(np.unique(listed[f"{name}.column"])) for name in spec["synapses"])
        assert spec["shape"] == [graph.usage["neurons"][core]]
        assert axons >= graph.usage["axons_in"][core] if pooled else axons == graph.usage["axons_in"][core]


def test_too_many_slices_are_refused(placement: ModuleType) -> None:
    network = mixing_network(0, 1)
    graph = random_cut(network, 0, most=5)
    slices = sum(grid.tiles for grid in graph.grids.values())
    assert slices >= MOST_PROCESSES
    files = dict(LavaBackend().emit(program_of(network, graph=graph)))
    assert json.loads(files["lava/network.json"])["cores"] == {"slices": slices}
    with pytest.raises(SystemExit, match=f"{slices} slices and the input are processes each; at most 64"):
        placement.placed(*sealed_network(network, graph=graph))
    with pytest.raises(CompileError, match=f"the program has {slices} core slices") as caught:
        _check(ProcessOptions(placement=True), program_of(network, graph=graph))
    assert caught.value.where == "--lava-placement"


@needs_lava
@pytest.mark.parametrize("seed", [14, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 13, 26, 32))])
def test_slices_as_lava_processes_give_every_spike_and_membrane(tmp_path: Path, seed: int) -> None:
    network = integer_network(seed, listed=True, general=True)
    graph, payloads = random_cut(network, seed, most=2), integer_inputs(network, 5, seed)
    slices = sum(grid.tiles for grid in graph.grids.values())
    assert len(network.populations) < slices < 24
    seal(tmp_path, network, graph=graph)
    names = tuple(p.name for p in network.populations)
    options = ProcessOptions(placement=True, membranes=names)
    run = LavaBackend(2).run(program_of(network, graph=graph), tmp_path, payloads, names, options=options)
    expected = run_integer(network, payloads)
    np.testing.assert_array_equal(run.output, expected.output)
    for name in names:
        np.testing.assert_array_equal(run.payloads[name], expected.payloads[name], err_msg=name)
        np.testing.assert_array_equal(run.membranes[name], expected.membranes[name], err_msg=name)
    assert sum(run.notes["lava"]["slices"].values()) == slices
