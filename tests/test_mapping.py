"""Connectivity, partition, placement and traffic against brute force."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import conv_network, images, quantized, random_network

from snncompile import reference
from snncompile.chip import Mesh, load_chip
from snncompile.errors import CompileError, InternalError
from snncompile.mapping.activity import default_activity, packet_flow
from snncompile.mapping.connectivity import connectivity, shape3
from snncompile.mapping.partition import RESOURCES, CoreGraph, partition, row_words, verify
from snncompile.mapping.place import hops, link_loads, place_hilbert, place_random, place_row_major, route_quality
from snncompile.mapping.traffic import LayerCounter, tile_sums
from snncompile.quant_network import QuantNetwork, QuantSynapses


def dense(network: QuantNetwork, synapses: QuantSynapses) -> np.ndarray:
    """(source neurons, target neurons) number of synapses, by sending one spike at a time through weights of 1."""
    ones = replace(synapses, weight=np.ones_like(synapses.weight), exponent=0)
    size = int(np.prod(network.shape_of(synapses.source)))
    spikes = np.eye(size, dtype=np.int64).reshape(size, *network.shape_of(synapses.source))
    return reference.integer_current(ones, spikes).reshape(size, -1)


@given(st.integers(0, 10_000))
@settings(max_examples=15)
def test_connectivity_counts_every_synapse(seed: int) -> None:
    network, _ = quantized(random_network(seed))
    for synapses in network.synapses:
        link = connectivity(network, synapses)
        c, y, x = link.axes
        product = np.einsum("ab,cd,ef->acebdf", c, y, x).reshape(len(c) * len(y) * len(x), -1)
        expected = dense(network, synapses)
        np.testing.assert_array_equal(product, expected)
        assert link.synapses == expected.sum()


def _owners(network: QuantNetwork, graph: CoreGraph) -> dict[str, np.ndarray]:
    """Core of every neuron, flat."""
    owners = {p.name: np.zeros(shape3(p.shape), np.int64) for p in network.populations}
    for number, core in enumerate(graph.cores):
        for part in core.slices:
            (c0, c1), (y0, y1), (x0, x1) = part.box
            owners[part.population][c0:c1, y0:y1, x0:x1] = number
    return {name: cores.ravel() for name, cores in owners.items()}


@given(st.integers(0, 10_000), st.integers(20, 60))
@settings(max_examples=15)
def test_partition_counts_resources_exactly(seed: int, neurons: int) -> None:
    network, _ = quantized(random_network(seed))
    chip = load_chip("loihi2").model_copy(
        update={"core": load_chip("loihi2").core.model_copy(update={"neurons": neurons})}
    )
    graph = partition(network, chip)
    verify(graph, network, chip)
    owners = _owners(network, graph)
    usage = {r: np.zeros(len(graph.cores), np.int64) for r in RESOURCES}
    for population in network.populations:
        np.add.at(usage["neurons"], owners[population.name], 1)
    for synapses in network.synapses:
        target = network.target_of(synapses)
        counts = dense(network, synapses)
        pooled = _axon_of(network, synapses)
        for core in graph.cores_of(target.name):
            onto = counts[:, owners[target.name] == core]
            reaching = onto.sum(1) > 0
            usage["axons_in"][core] += len(set(pooled[reaching].tolist()))
            if synapses.kind != "conv":
                lists = {int(axon): int(onto[i].sum()) for i, axon in enumerate(pooled) if reaching[i]}
                usage["synapse_words"][core] += sum(
                    int(row_words(np.array(n), synapses.weight_bits, chip)) for n in lists.values()
                )
            else:
                channels = len(
                    {int(i) // int(np.prod(target.shape[1:])) for i in np.flatnonzero(owners[target.name] == core)}
                )
                usage["synapse_words"][core] += -(
                    -channels * int(np.prod(synapses.weight.shape[1:])) * synapses.weight_bits // 64
                )
            if synapses.source != network.input_name:
                np.add.at(usage["axons_out"], owners[synapses.source][reaching], 1)
    for number, core in enumerate(graph.cores):
        assert core.usage == {r: int(usage[r][number]) for r in RESOURCES}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda core: {"slices": ()}, "03_neuron: .* neurons are not on exactly one core"),
        (lambda core: {"slices": core.slices * 2}, "03_neuron: .* neurons are not on exactly one core"),
        (lambda core: {"usage": {**core.usage, "axons_in": 10**6}}, "core 0: axons_in 1000000, limit 16000"),
    ],
)
def test_verify_finds_a_planted_fault(change, message: str) -> None:
    network, _ = quantized(conv_network(2))
    chip = load_chip("loihi2")
    graph = partition(network, chip)
    first = replace(graph.cores[0], **change(graph.cores[0]))
    with pytest.raises(InternalError, match=message):
        verify(replace(graph, cores=(first, *graph.cores[1:])), network, chip)


def _axon_of(network: QuantNetwork, synapses: QuantSynapses) -> np.ndarray:
    """Input axon every source neuron drives: its pool window; -1 where it drives none."""
    channels, height, width = shape3(network.shape_of(synapses.source))
    ph, pw = synapses.pool
    c, y, x = np.meshgrid(np.arange(channels), np.arange(height) // ph, np.arange(width) // pw, indexing="ij")
    inside = (y < height // ph) & (x < width // pw)
    return np.where(inside, (c * height + y) * width + x, -1).ravel()


@given(st.integers(0, 10_000))
@settings(max_examples=15)
def test_traffic_equals_brute_force(seed: int) -> None:
    network, _ = quantized(random_network(seed))
    chip = load_chip("loihi2").model_copy(update={"core": load_chip("loihi2").core.model_copy(update={"neurons": 40})})
    graph = partition(network, chip)
    owners = _owners(network, graph)
    trace = reference.run_integer(network, images(network, 2, seed))
    for synapses in network.synapses:
        target = network.target_of(synapses).name
        spikes = (trace.payloads[synapses.source][0] != 0).reshape(2, *shape3(network.shape_of(synapses.source)))
        counter = LayerCounter.of(
            connectivity(network, synapses), graph.grids.get(synapses.source), graph.grids[target]
        )
        counts = dense(network, synapses)
        flat = spikes.reshape(2, -1)
        cores = graph.cores_of(target)
        reach = np.stack([counts[:, owners[target] == core].sum(1) for core in cores], axis=1)
        np.testing.assert_array_equal(counter.synops(spikes), flat @ reach)
        sources = owners.get(synapses.source, np.zeros(flat.shape[1], np.int64))
        for i, source_core in enumerate(np.unique(sources)):
            expected = (flat * (sources == source_core)).astype(int) @ (reach > 0).astype(int)
            np.testing.assert_array_equal(counter.packets(spikes)[:, i], expected)


def test_tile_sums_add_up_to_all() -> None:
    network, _ = quantized(conv_network(1))
    graph = partition(network, load_chip("loihi2"))
    population = network.populations[0]
    values = np.random.default_rng(0).integers(0, 5, (2, *population.shape))
    assert tile_sums(values, graph.grids[population.name]).sum() == values.sum()


def test_a_network_too_big_names_cores_and_layers() -> None:
    network, _ = quantized(conv_network(13), chip="tiny")
    with pytest.raises(
        CompileError, match=r"--target tiny: \d+ cores needed, the chip has 8 \(03_neuron \d+, .*\); use a larger chip"
    ):
        partition(network, load_chip("tiny"))


def test_a_neuron_too_big_for_a_core_names_layer_resource_and_limit() -> None:
    network, _ = quantized(conv_network(1))
    small = load_chip("loihi2").model_copy(
        update={"core": load_chip("loihi2").core.model_copy(update={"axons_in": 3, "synapse_words": 1})}
    )
    with pytest.raises(CompileError) as caught:
        partition(network, small)
    assert "03_neuron needs for one neuron alone" in caught.value.problem
    assert "11_neuron needs for one neuron alone" in caught.value.problem  # every misfit in one report
    assert "axons in (limit 3)" in caught.value.problem


def test_dense_rows_cost_what_intels_compiler_prints() -> None:
    """Words per input axon for n synapses of w bits: values in the printouts named in the chip's sources."""
    chip = load_chip("loihi2")
    printed = {
        (1, 8): 1,
        (9, 8): 3,
        (10, 8): 3,
        (17, 8): 5,
        (50, 5): 12,
        (50, 6): 13,
        (50, 8): 15,
        (100, 5): 24,
        (100, 6): 26,
    }
    assert {(n, w): int(row_words(np.array(n), w, chip)) for n, w in printed} == printed


@pytest.mark.parametrize(("width", "height"), [(8, 4), (4, 8), (2, 2), (3, 5), (1, 6)])
def test_placements_use_every_core_once(width: int, height: int) -> None:
    mesh = Mesh(width=width, height=height, cores_per_router=4)
    for placement in (
        place_hilbert(mesh.cores, mesh),
        place_row_major(mesh.cores, mesh),
        place_random(mesh.cores, mesh, 0),
    ):
        taken = set(zip(placement.x.tolist(), placement.y.tolist(), placement.slot.tolist(), strict=True))
        assert len(taken) == mesh.cores
        assert placement.x.max() < width
        assert placement.y.max() < height


def test_consecutive_routers_of_the_hilbert_curve_touch() -> None:
    mesh = Mesh(width=8, height=4, cores_per_router=1)
    placement = place_hilbert(32, mesh)
    assert (np.abs(np.diff(placement.x)) + np.abs(np.diff(placement.y)) == 1).all()


@given(st.integers(0, 10_000))
def test_link_loads_add_up_to_packets_times_hops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mesh = Mesh(width=5, height=3, cores_per_router=2)
    placement = place_random(12, mesh, seed)
    flow = rng.integers(0, 9, (12, 12)).astype(float)
    east_west, north_south = hops(placement)
    loads = link_loads(flow, placement, mesh)
    assert loads[:2].sum() == (flow * east_west).sum()
    assert loads[2:].sum() == (flow * north_south).sum()
    quality = route_quality(flow, placement, mesh)
    assert quality.max_link_load == loads.max()
    assert quality.hops_per_packet == pytest.approx(loads.sum() / flow.sum())


def test_xy_routes_turn_once() -> None:
    mesh = Mesh(width=3, height=2, cores_per_router=1)
    placement = place_row_major(6, mesh)
    flow = np.zeros((6, 6))
    flow[0, 5] = 7  # (0, 0) to (2, 1): east, east, south at column 2
    loads = link_loads(flow, placement, mesh)
    assert loads[0].tolist() == [[7, 7, 0], [0, 0, 0]]
    assert loads[2].tolist() == [[0, 0, 7], [0, 0, 0]]
    assert loads[1].sum() == loads[3].sum() == 0


def test_packet_flow_is_linear_in_the_rate() -> None:
    network, _ = quantized(conv_network(1))
    graph = partition(network, load_chip("loihi2"))
    activity = default_activity(network)
    double = {name: 2 * rates for name, rates in activity.items()}
    np.testing.assert_allclose(packet_flow(network, graph, double), 2 * packet_flow(network, graph, activity))
