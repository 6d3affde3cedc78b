"""Partition against a plain counter: no neuron lost or doubled, nothing counted wrong, no limit exceeded."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from core_counter import owners_of, usage_of
from hypothesis import given
from hypothesis import strategies as st
from integer_networks import integer_network
from random_networks import conv_network, quantized, random_network
from shaped_networks import Conv, Dense, resnet50, shaped, vgg16_cifar

from snncompile.chip import Chip, load_chip, load_limits
from snncompile.errors import InternalError
from snncompile.mapping.connectivity import shape3
from snncompile.mapping.partition import RESOURCES, CoreGraph, DoesNotFit, Misfit, partition, row_words, verify
from snncompile.mapping.tile_search import Layer, Loads
from snncompile.mapping.tiles import Grid, Splits
from snncompile.quant_network import Population, QuantNetwork, QuantSynapses
from snncompile.quantization.verify_integers import verify_integers

MEMORIES = {name: load_limits(name).synapse_memory for name in ("loihi1", "loihi2", "tiny", "spinnaker2")} | {
    "none": None
}


def any_network(seed: int) -> QuantNetwork:
    """As the compiler makes it, or by hand with lateral and sparse synapses, flat convolutions, currents."""
    if seed % 3:
        return quantized(random_network(seed // 2 % 700))[0]
    return integer_network(seed, listed=seed % 2 == 0)


def chip_of(memory: str = "loihi2", **limits: int | None) -> Chip:
    """Loihi 2 with another chip's synapse memory and core limits; a soft reset takes two compartments; 64 chips."""
    chip = load_chip("loihi2")
    cost = chip.numerics.compartments.model_copy(update={"soft": 2})
    found = MEMORIES[memory]
    if found is not None and found.weight_field_bits is not None and max(found.weight_field_bits) < 8:
        found = found.model_copy(update={"weight_field_bits": (4, 8), "delay_bits": None})
    return chip.model_copy(
        update={
            "core": chip.core.model_copy(update={"axon_slots_shared": 2, **limits}),
            "numerics": chip.numerics.model_copy(update={"compartments": cost}),
            "mesh": chip.mesh.model_copy(update={"chips_across": 8, "chips_down": 8}),
            "synapse_memory": found,
        }
    )


@given(st.integers(0, 10_000), st.integers(20, 60), st.sampled_from(sorted(MEMORIES)), st.booleans())
def test_resources_are_counted_exactly(seed: int, neurons: int, memory: str, share: bool) -> None:
    network, chip = any_network(seed), chip_of(memory, neurons=neurons)
    graph = partition(network, chip, share_cores=share)
    verify(graph, network, chip)
    usage, _ = usage_of(network, graph, chip)
    for resource in RESOURCES:
        np.testing.assert_array_equal(graph.usage[resource], usage[resource], resource)
    for number, core in enumerate(graph.cores):
        assert core.usage == {r: int(usage[r][number]) for r in RESOURCES}


@given(
    st.integers(0, 10_000),
    st.sampled_from(sorted(MEMORIES)),
    st.integers(4, 60),
    st.integers(8, 400),
    st.integers(8, 100),
    st.integers(8, 200),
)
def test_no_limit_is_exceeded_and_what_does_not_fit_is_reported(
    seed: int, memory: str, neurons: int, words: int, axons_in: int, axons_out: int
) -> None:
    network = any_network(seed)
    chip = chip_of(memory, neurons=neurons, synapse_words=words, axons_in=axons_in, axons_out=axons_out)
    if chip.synapse_memory is not None:
        longest = chip.synapse_memory.model_copy(update={"words_per_axon_max": 6})
        chip = chip.model_copy(update={"synapse_memory": longest})
    graph, misfits = None, ()
    try:
        graph = partition(network, chip)
    except DoesNotFit as error:
        misfits = error.misfits
    if graph is None:
        assert misfits
        assert all(misfit.used > misfit.limit for misfit in misfits)
        return
    usage, longest_list = usage_of(network, graph, chip)
    assert longest_list <= 6
    for resource in RESOURCES:
        assert usage[resource].max() <= getattr(chip.core, resource)


@given(st.integers(0, 10_000), st.sampled_from(sorted(MEMORIES)), st.integers(4, 60), st.integers(8, 300))
def test_bounds_enclose_the_fullest_tile_of_every_cut(seed: int, memory: str, neurons: int, words: int) -> None:
    """Upper bound >= exact >= lower bound; so the cheapest cut that fits is found, as trying all of them shows."""
    network, chip = any_network(seed), chip_of(memory, neurons=neurons, synapse_words=words)
    loads = Loads.of(network, chip)
    grids: dict[str, Grid] = {}
    for population in reversed(network.populations):
        layer = Layer(network, population, chip, loads.by_name, grids)
        first = None
        for cuts in layer._by_price():
            upper, lower = layer._bounds(cuts, "upper"), layer._bounds(cuts, "lower")
            for number in range(len(cuts.options[0])):
                grid = layer._grid(cuts, number)
                usage = layer.usage(grid)
                for resource in RESOURCES:
                    most = usage.resources[resource].max()
                    assert lower[0][resource][number] <= most <= upper[0][resource][number], resource
                assert lower[1][number] <= usage.words_per_axon.max()
                if first is None and not layer.excess(usage):
                    first = grid
            if first is not None:
                break
        best = layer.cheapest()
        assert (best is None) == (first is None)
        if best is not None and first is not None:
            assert all((a == b).all() for a, b in zip(best.grid.axes, first.axes, strict=True))
            grids[population.name] = best.grid


def test_cuts_that_fail_only_by_the_bound_are_counted_exactly() -> None:
    """Two layers of synapses whose fullest tiles are different ones: their maxima never meet on one core."""
    network = shaped((1, 1, 8), [Conv(2, 1), Conv(2, 1, shortcut=Conv(2, 1, source=-1))])
    first, second = network.synapses[1], network.synapses[2]
    weight = np.ones((8, 8), np.int64)
    left, right = weight.copy(), weight.copy()
    left[4:, 1:], right[:4, 1:] = 0, 0
    n0, n1 = network.populations
    flat = {"pool": (1, 1), "kind": "linear"}
    synapses = (
        QuantSynapses("s0_0", "input", "linear", np.ones((8, 8), np.int64), 8, 0),
        replace(first, weight=left, **flat),
        replace(second, weight=right, **flat),
    )
    constants = {"bias": np.zeros(8, np.int64), "v0": np.zeros(8, np.int64)}
    levels = {"thresholds": np.ones((1, 8), np.int64), "subtract": np.ones((1, 8), np.int64), "shape": (8,)}
    network = replace(
        network,
        input_shape=(8,),
        synapses=synapses,
        populations=(replace(n0, **constants, **levels), replace(n1, **constants, **levels)),
    )
    whole = partition(network, chip_of())
    used = Layer(network, network.populations[1], chip_of(), Loads.of(network, chip_of()).by_name, whole.grids)
    halves = Grid(np.array([0, 4, 8]), np.array([0, 1]), np.array([0, 1]))
    needed = int(used.usage(halves).resources["synapse_words"].max())
    tight = chip_of(synapse_words=max(needed, 16))
    layer = Layer(network, network.populations[1], tight, Loads.of(network, tight).by_name, whole.grids)
    cuts = next(iter(layer._by_price()))
    number = int(np.flatnonzero(cuts.splits[0].tile_sizes[cuts.options[0]] == 4)[0])
    assert layer._bounds(cuts, "upper")[0]["synapse_words"][number] > needed
    best = layer.best()
    assert best is not None
    assert best.grid.tiles <= 2


def test_no_limit_known_is_no_limit() -> None:
    network = shaped((300,), [Dense(300), Dense(300)])
    unknown = chip_of("none", synapse_words=None, axons_in=None, axons_out=None)
    assert partition(network, unknown).core_count == 2
    assert partition(network, chip_of(axons_in=300, axons_out=300)).core_count == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda graph: {"core_of": graph.core_of[1:]}, "tiles of"),
        (lambda graph: {"core_of": np.zeros_like(graph.core_of)}, "or a core without any"),
        (
            lambda graph: {"usage": {**graph.usage, "axons_in": graph.usage["axons_in"] + 1}},
            "core 0: axons_in .*, counted",
        ),
        (
            lambda graph: {"grids": {name: Grid(g.channels[1:], g.rows, g.columns) for name, g in graph.grids.items()}},
            "03_neuron: tiles do not hold every neuron once",
        ),
    ],
)
def test_verify_finds_a_planted_fault(change: Callable[[CoreGraph], dict], message: str) -> None:
    network, _ = quantized(conv_network(2))
    chip = load_chip("loihi2")
    graph = partition(network, chip)
    with pytest.raises(InternalError, match=message):
        verify(replace(graph, **change(graph)), network, chip)


def test_verify_counts_limits_anew() -> None:
    network, chip = shaped((40,), [Dense(40)]), chip_of()
    graph = partition(network, chip)
    with pytest.raises(InternalError, match=r"n0: 40 axons in \(limit 39\)"):
        verify(graph, network, chip_of(axons_in=39))
    shared = partition(shaped((4,), [Dense(4)] * 3), chip, share_cores=True)
    with pytest.raises(InternalError, match="core 0: 3 populations, limit 2"):
        verify(shared, shaped((4,), [Dense(4)] * 3), chip_of(neuron_groups_max=2))


def test_small_layers_share_a_core_up_to_every_limit() -> None:
    network = shaped((8,), [Dense(8)] * 6)
    assert partition(network, chip_of()).core_count == 6
    shared = partition(network, chip_of(), share_cores=True)
    assert shared.core_of.tolist() == [0] * 6
    assert shared.usage["neurons"].tolist() == [48]
    assert partition(network, chip_of(neuron_groups_max=4), share_cores=True).core_of.tolist() == [0, 0, 0, 0, 1, 1]
    assert partition(network, chip_of(neurons=20), share_cores=True).core_of.tolist() == [0, 0, 1, 1, 2, 2]
    assert partition(network, chip_of(neuron_groups_max=None), share_cores=True).core_count == 6
    wide = shaped((8,), [Dense(8), Dense(60), Dense(8), Dense(8)])
    assert partition(wide, chip_of(neurons=40), share_cores=True).core_of.tolist() == [0, 1, 2, 3, 3]


def test_a_network_too_big_names_cores_layers_and_chips() -> None:
    network, _ = quantized(conv_network(13), chip="tiny")
    with pytest.raises(
        DoesNotFit, match=r"--target tiny: \d+ cores needed, the chip has 8 \(03_neuron \d+, "
    ) as caught:
        partition(network, load_chip("tiny"))
    needed = sum(caught.value.cores.values())
    assert caught.value.misfits == (Misfit("network", "cores", needed, 8),)
    assert caught.value.chips_needed == -(-needed // 8)
    assert f"--chips {caught.value.chips_needed}" in caught.value.hint
    board = load_chip("tiny").mesh.model_copy(update={"chips_across": 2, "cores_per_router": 1})
    with pytest.raises(DoesNotFit, match=r"\d+ cores needed, the board has 8, 2 chips of 4 \(03_neuron \d+, "):
        partition(network, load_chip("tiny").model_copy(update={"mesh": board}))


def test_every_layer_that_fits_no_core_is_named_with_resource_and_limit() -> None:
    network, _ = quantized(conv_network(1))
    with pytest.raises(DoesNotFit) as caught:
        partition(network, chip_of(axons_in=3, synapse_words=1))
    assert "03_neuron needs for one neuron alone" in caught.value.problem
    assert "11_neuron needs for one neuron alone" in caught.value.problem
    assert "axons in (limit 3)" in caught.value.problem
    layers = [misfit.layer for misfit in caught.value.misfits]
    assert layers == sorted(layers)
    assert {m.resource: m.limit for m in caught.value.misfits} == {"axons_in": 3, "synapse_words": 1}


def test_delays_formats_and_fields_beyond_the_chip_are_misfits() -> None:
    layers = [Conv(2, 1), Conv(2, 1), Conv(2, 1), Conv(2, 1, shortcut=Conv(2, 1, source=0))]
    network = shaped((1, 2, 2), layers)
    with pytest.raises(DoesNotFit) as caught:
        partition(network, chip_of(delay_extra_steps_max=1, synapse_formats_max=1))
    assert set(caught.value.misfits) == {
        Misfit("n3", "delay_extra_steps", 2, 1),
        Misfit("n3", "synapse_formats", 2, 1),
    }
    chip = chip_of("loihi1")
    narrow = chip.synapse_memory.model_copy(update={"weight_field_bits": (1, 4), "delay_bits": (0, 1)})
    with pytest.raises(DoesNotFit) as caught:
        partition(network, chip.model_copy(update={"synapse_memory": narrow}))
    fields = {(m.layer, m.resource, m.used, m.limit) for m in caught.value.misfits}
    assert ("n0", "weight_field_bits", 8, 4) in fields
    assert any(resource == "weight_field_bits" for _, resource, _, _ in fields)


def test_a_neuron_that_reaches_more_cores_than_it_may_is_a_misfit() -> None:
    network = shaped((4,), [Dense(4), Dense(300)])
    with pytest.raises(DoesNotFit) as caught:
        partition(network, load_limits("truenorth"))
    assert caught.value.misfits == (Misfit("n0", "axons_out_per_neuron", 2, 1),)
    assert partition(shaped((256,), [Dense(256), Dense(256)]), load_limits("truenorth")).core_count == 2


def test_a_tile_whose_axons_need_longer_lists_does_not_fit() -> None:
    """256 words an axon, in sparse lists of a 10-bit index, hold 901 synapses of 8 bits; 2 words hold 6."""
    weight = np.ones((2000, 3), np.int64)
    synapses = (QuantSynapses("s", "input", "linear", weight, 8, 0),)
    zeros = np.zeros(2000, np.int64)
    levels = np.ones((1, 2000), np.int64)
    population = Population(
        "n", (2000,), ("s",), zeros, zeros, levels, np.ones(1, np.int64), levels, 0, "hard", "ge", 1, 12, 12
    )
    network = QuantNetwork("input", (3,), 255, synapses, (population,), 1)
    verify_integers(network)
    tiles = {}
    for longest in (None, 256, 2):
        chip = chip_of(synapse_words=10**6)
        memory = chip.synapse_memory.model_copy(update={"words_per_axon_max": longest})
        chip = chip.model_copy(update={"synapse_memory": memory})
        graph = partition(network, chip)
        verify(graph, network, chip)
        words = row_words(np.diff(graph.grids["n"].channels), 8, chip)
        assert longest is None or words.max() <= longest
        tiles[longest] = graph.grids["n"].tiles
    assert tiles == {None: 1, 256: 3, 2: -(-2000 // 6)}


def test_a_list_too_long_for_one_neuron_is_a_misfit() -> None:
    network, _ = quantized(conv_network(1))
    chip = load_chip("loihi2")
    memory = chip.synapse_memory.model_copy(update={"words_per_axon_max": 1, "word_bits": 8})
    with pytest.raises(DoesNotFit, match=r"11_neuron needs for one neuron alone .*4 words an axon \(limit 1\)"):
        partition(network, chip.model_copy(update={"synapse_memory": memory}))


def test_even_cuts_hold_every_index_once_and_differ() -> None:
    for size in (1, 2, 7, 36, 100):
        splits = Splits.even(size)
        assert len(set(splits.tile_sizes.tolist())) == len(splits.tile_sizes)
        for option, tile in enumerate(splits.tile_sizes.tolist()):
            edges = splits.edges(option)
            assert edges[0] == 0
            assert edges[-1] == size
            assert np.diff(edges).max() == tile
    many = Splits.even(100_000)
    assert len(many.thinned(1 << 20).tile_sizes) == len(many.tile_sizes)
    assert len(many.thinned((1 << 20) + 1).tile_sizes) <= 64


def test_networks_of_the_literature_are_cut() -> None:
    """Every tile is counted anew by `verify`; ResNet-50 for 224x224 images has 9.6 M neurons."""
    for network, neurons in ((vgg16_cifar(), 276_490), (resnet50(), 9_609_704)):
        chip = chip_of(neurons=1024)
        assert sum(p.size for p in network.populations) == neurons
        graph = partition(network, chip.model_copy(update={"mesh": chip.mesh.model_copy(update={"chips_across": 64})}))
        assert sum(int(grid.sizes.sum()) for grid in graph.grids.values()) == neurons
        assert all(int(np.prod(shape3(p.shape))) == p.size for p in network.populations)
        assert owners_of(network, graph) if neurons < 10**6 else graph.core_count >= -(-neurons // 1024)
