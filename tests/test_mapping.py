"""Connectivity, partition, placement and traffic against brute force."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from integer_networks import integer_inputs, integer_network
from random_networks import conv_network, images, quantized, random_network

from snncompile import reference
from snncompile.chip import Chip, Mesh, load_chip
from snncompile.errors import CompileError, InternalError
from snncompile.levels import activity_of, default_levels
from snncompile.mapping.activity import packet_flow
from snncompile.mapping.connectivity import Grouped, chip_synapses, connectivity, shape3
from snncompile.mapping.partition import RESOURCES, CoreGraph, partition, row_words, verify
from snncompile.mapping.place import hops, link_loads, place_hilbert, place_random, place_row_major, route_quality
from snncompile.mapping.traffic import LayerCounter, tile_sums
from snncompile.quant_network import Population, QuantNetwork, QuantSynapses
from snncompile.quantization.verify_integers import verify_integers


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


@given(st.integers(0, 10_000), st.integers(20, 60))
def test_partition_counts_resources_exactly(seed: int, neurons: int) -> None:
    network, chip = any_network(seed), small_cores(neurons)
    graph = partition(network, chip)
    verify(graph, network, chip)
    owners = owners_of(network, graph)
    usage = {r: np.zeros(len(graph.cores), np.int64) for r in RESOURCES}
    for population in network.populations:
        soft = population.spiking and population.reset == "soft"
        np.add.at(usage["neurons"], owners[population.name], 2 if soft else 1)
    for synapses in chip_synapses(network):
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
    """Input axon every source neuron drives: its pool window, of all members of its neuron; -1 where it drives none."""
    channels, height, width = shape3(network.shape_of(synapses.source))
    ph, pw = synapses.pool
    c, y, x = np.meshgrid(np.arange(channels), np.arange(height) // ph, np.arange(width) // pw, indexing="ij")
    inside = (y < height // ph) & (x < width // pw)
    return np.where(inside, (c // synapses.members * height + y) * width + x, -1).ravel()


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


def test_a_network_too_big_for_a_board_names_its_chips() -> None:
    network, _ = quantized(conv_network(13), chip="tiny")
    chip = load_chip("tiny")
    board = chip.mesh.model_copy(update={"chips_across": 2, "cores_per_router": 1})
    with pytest.raises(CompileError, match=r"\d+ cores needed, the board has 8, 2 chips of 4 \(03_neuron \d+, "):
        partition(network, chip.model_copy(update={"mesh": board}))


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


def test_a_tile_whose_axons_need_longer_lists_does_not_fit() -> None:
    """256 words an axon, as on Loihi 1, hold 901 synapses of 8 bits; 2 words hold 6."""
    weight = np.ones((2000, 3), np.int64)
    synapses = (QuantSynapses("s", "input", "linear", weight, 8, 0),)
    zeros = np.zeros(2000, np.int64)
    levels = np.ones((1, 2000), np.int64)
    population = Population(
        "n", (2000,), ("s",), zeros, zeros, levels, np.ones(1, np.int64), levels, 0, "hard", "ge", 1, 12, 12
    )
    network = QuantNetwork("input", (3,), 255, synapses, (population,), 1)
    verify_integers(network)
    chip = small_cores(4095)
    roomy = chip.core.model_copy(update={"synapse_words": 10**6})
    limited = {r: chip.synapse_memory.model_copy(update={"words_per_axon_max": r}) for r in (None, 256, 2)}
    tiles = {}
    for longest, memory in limited.items():
        model = chip.model_copy(update={"synapse_memory": memory, "core": roomy})
        graph = partition(network, model)
        verify(graph, network, model)
        channels = np.diff(graph.grids["n"].channels)
        words = row_words(channels, 8, chip)
        assert longest is None or words.max() <= longest
        tiles[longest] = graph.grids["n"].tiles
    assert tiles[None] == 1
    assert tiles[256] == 3
    assert tiles[2] == -(-2000 // 6)


def test_an_axons_list_too_long_for_one_neuron_is_a_misfit() -> None:
    network, _ = quantized(conv_network(1))
    chip = load_chip("loihi2")
    memory = chip.synapse_memory.model_copy(update={"words_per_axon_max": 1, "word_bits": 8})
    with pytest.raises(CompileError, match=r"11_neuron needs for one neuron alone .*4 words an axon \(limit 1\)"):
        partition(network, chip.model_copy(update={"synapse_memory": memory}))


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


@pytest.mark.parametrize(
    ("width", "height", "across", "down"),
    [(8, 4, 1, 1), (4, 8, 1, 1), (2, 2, 1, 1), (3, 5, 1, 1), (1, 6, 1, 1), (2, 2, 3, 2), (4, 2, 2, 3)],
)
def test_placements_use_every_core_once(width: int, height: int, across: int, down: int) -> None:
    mesh = Mesh(width=width, height=height, cores_per_router=4, chips_across=across, chips_down=down)
    for placement in (
        place_hilbert(mesh.cores, mesh),
        place_row_major(mesh.cores, mesh),
        place_random(mesh.cores, mesh, 0),
    ):
        axes = (placement.chip, placement.x, placement.y, placement.slot)
        taken = set(zip(*(axis.tolist() for axis in axes), strict=True))
        assert len(taken) == mesh.cores
        assert placement.x.max() < width
        assert placement.y.max() < height
        assert placement.chip.max() < across * down
        assert placement.chips_used == across * down
        assert placement.routers_used == width * height * across * down
        assert placement.routers_of_a_chip == width * height


def test_consecutive_routers_of_the_hilbert_curve_touch() -> None:
    mesh = Mesh(width=8, height=4, cores_per_router=1, chips_across=1, chips_down=1)
    placement = place_hilbert(32, mesh)
    assert (np.abs(np.diff(placement.x)) + np.abs(np.diff(placement.y)) == 1).all()


def test_chips_are_filled_one_after_the_other_in_snake_order() -> None:
    mesh = Mesh(width=2, height=1, cores_per_router=1, chips_across=2, chips_down=2)
    placement = place_hilbert(5, mesh)
    assert placement.chip.tolist() == [0, 0, 1, 1, 2]
    assert placement.x.tolist() == [0, 1, 0, 1, 1]  # the second row of chips runs back
    links = hops(placement, mesh)
    assert links.chip_border[0].tolist() == [0, 0, 1, 1, 2]
    assert links.east_west[0].tolist() == [0, 1, 1, 2, 2]
    assert links.north_south.sum() == 0
    assert place_random(5, mesh, 0).chips_used <= 3


@given(st.integers(0, 10_000))
def test_link_loads_add_up_to_packets_times_hops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mesh = Mesh(width=2, height=3, cores_per_router=2, chips_across=2, chips_down=2)
    placement = place_random(28, mesh, seed)
    flow = rng.integers(0, 9, (28, 28)).astype(float)
    links = hops(placement, mesh)
    loads = link_loads(flow, placement, mesh)
    across, down = loads[:2, :, 1:3], loads[2:, 2:4]  # the links at either side of the middle
    assert (
        across[0, :, 0].sum() + across[1, :, 1].sum() + down[0, 0].sum() + down[1, 1].sum()
        == (flow * links.chip_border).sum()
    )
    assert loads[:2].sum() - across[0, :, 0].sum() - across[1, :, 1].sum() == (flow * links.east_west).sum()
    assert loads[2:].sum() - down[0, 0].sum() - down[1, 1].sum() == (flow * links.north_south).sum()
    quality = route_quality(flow, placement, mesh)
    assert quality.max_link_load == loads.max()
    assert quality.hops_per_packet == pytest.approx(loads.sum() / flow.sum())


def test_xy_routes_turn_once() -> None:
    mesh = Mesh(width=3, height=2, cores_per_router=1, chips_across=1, chips_down=1)
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
    activity = activity_of(network, default_levels(network))
    double = {name: 2 * rates for name, rates in activity.items()}
    np.testing.assert_allclose(packet_flow(network, graph, double), 2 * packet_flow(network, graph, activity))
