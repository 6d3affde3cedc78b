"""Connectivity, partition, placement and traffic against brute force."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from integer_networks import integer_inputs, integer_network
from random_networks import conv_network, images, quantized, random_network

from snncompile import reference
from snncompile.chip import Chip, load_chip
from snncompile.levels import activity_of, default_levels
from snncompile.mapping.activity import packet_flow
from snncompile.mapping.connectivity import Grouped, chip_synapses, connectivity, shape3
from snncompile.mapping.partition import CoreGraph, partition
from snncompile.mapping.traffic import LayerCounter, contract, tile_masks
from snncompile.quant_network import QuantNetwork, QuantSynapses


def dense(network: QuantNetwork, synapses: QuantSynapses) -> np.ndarray:
    """(source neurons, target neurons) number of synapses, by sending one spike at a time through weights of 1."""
    ones = replace(synapses, weight=np.ones_like(synapses.weight), exponent=0)
    size = int(np.prod(network.shape_of(synapses.source)))
    spikes = np.eye(size, dtype=np.int64).reshape(size, *network.shape_of(synapses.source))
    return reference.integer_current(ones, spikes).reshape(size, -1)


def any_network(seed: int) -> QuantNetwork:
    """As the compiler makes it, or by hand with lateral synapses, flat convolutions and currents of the host."""
    return integer_network(seed) if seed % 2 else quantized(random_network(seed // 2 % 700))[0]


def small_cores(neurons: int, compartments: int = 2) -> Chip:
    """Loihi 2 with fewer neurons a core, on a board of chips; a soft reset takes several compartments."""
    chip = load_chip("loihi2")
    cost = chip.numerics.compartments.model_copy(update={"soft": compartments})
    return chip.model_copy(
        update={
            "core": chip.core.model_copy(update={"neurons": neurons}),
            "numerics": chip.numerics.model_copy(update={"compartments": cost}),
            "mesh": chip.mesh.model_copy(update={"chips_across": 2, "chips_down": 2}),
        }
    )


@given(st.integers(0, 10_000))
def test_connectivity_counts_every_synapse(seed: int) -> None:
    network = any_network(seed)
    for synapses in network.synapses:
        link = connectivity(network, synapses)
        c, y, x = (axis.dense() if isinstance(axis, Grouped) else axis for axis in link.axes)
        product = np.einsum("ab,cd,ef->acebdf", c, y, x).reshape(len(c) * len(y) * len(x), -1)
        expected = dense(network, synapses)
        np.testing.assert_array_equal(product, expected)
        assert link.synapses == expected.sum()


def owners_of(network: QuantNetwork, graph: CoreGraph) -> dict[str, np.ndarray]:
    """Core of every neuron, flat."""
    owners = {p.name: np.zeros(shape3(p.shape), np.int64) for p in network.populations}
    for number, core in enumerate(graph.cores):
        for part in core.slices:
            (c0, c1), (y0, y1), (x0, x1) = part.box
            owners[part.population][c0:c1, y0:y1, x0:x1] = number
    return {name: cores.ravel() for name, cores in owners.items()}


@given(st.integers(0, 10_000))
def test_traffic_equals_brute_force(seed: int) -> None:
    network, chip = any_network(seed), small_cores(40)
    graph = partition(network, chip)
    owners = owners_of(network, graph)
    x = integer_inputs(network, 2, seed) if seed % 2 else images(network, 2, seed)
    trace = reference.run_integer(network, x)
    for synapses in chip_synapses(network):
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
        per_channel = np.broadcast_to(np.arange(1.0, 1 + spikes.shape[1])[:, None, None], spikes.shape[1:])
        for rates in (*spikes.astype(float), per_channel):
            flow = counter.tile_flow(rates)
            found = np.zeros((len(np.unique(sources)), len(cores)))
            found[flow.source, flow.target] = flow.packets
            assert np.count_nonzero(found) == len(flow.packets)
            for i, source_core in enumerate(np.unique(sources)):
                expected = (rates.ravel() * (sources == source_core)) @ (reach > 0)
                np.testing.assert_array_equal(found[i], expected)


def test_sums_over_tiles_add_up_to_all() -> None:
    network, _ = quantized(conv_network(1))
    graph = partition(network, load_chip("loihi2"))
    population = network.populations[0]
    values = np.random.default_rng(0).integers(0, 5, (2, *population.shape))
    assert contract(values, tile_masks(graph.grids[population.name])).sum() == values.sum()


def test_packet_flow_is_linear_in_the_rate() -> None:
    network, _ = quantized(conv_network(1))
    graph = partition(network, load_chip("loihi2"))
    activity = activity_of(network, default_levels(network))
    double = {name: 2 * rates for name, rates in activity.items()}
    flow, doubled = packet_flow(network, graph, activity), packet_flow(network, graph, double)
    np.testing.assert_array_equal(flow.source, doubled.source)
    np.testing.assert_array_equal(flow.target, doubled.target)
    np.testing.assert_allclose(doubled.packets, 2 * flow.packets)
