"""Words of synapse memory against entries packed one by one, and against real compilations that vendors printed."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from core_counter import packed, usage_of
from hypothesis import given
from hypothesis import strategies as st
from shaped_networks import Conv, Dense, mobilenet, pilotnet, shaped

from snncompile.chip import ChipLimits, load_chip, load_limits, load_target
from snncompile.errors import CompileError
from snncompile.mapping.accounting import (
    Listed,
    ListFormat,
    cheapest,
    delay_field,
    index_bits,
    list_formats,
    list_words,
    weight_field,
    words_of_lists,
)
from snncompile.mapping.partition import DoesNotFit, partition, row_words, verify
from snncompile.quant_network import QuantNetwork, QuantSynapses

LOIHI1, LOIHI2 = load_chip("loihi1"), load_chip("loihi2")


def forms_of(chip: ChipLimits, field: int = 8) -> list[tuple[ListFormat, str]]:
    """Every format of a chip with weights of `field` bits, and where its index stands."""
    memory = chip.synapse_memory
    assert memory is not None
    return [
        (ListFormat(form.name, form.index == "each", field, 0, skip), form.index)
        for form in memory.formats
        for skip in form.skip_bits or (0,)
    ]


def with_weights(network: QuantNetwork, *weights: np.ndarray) -> QuantNetwork:
    synapses = (replace(s, weight=w) for s, w in zip(network.synapses, weights, strict=True))
    return replace(network, synapses=tuple(synapses))


@given(st.integers(0, 10_000), st.sampled_from(["loihi1", "loihi2", "spinnaker2"]), st.integers(1, 8))
def test_lists_equal_entriespacked_one_by_one(seed: int, name: str, field: int) -> None:
    rng = np.random.default_rng(seed)
    targets, axons = int(rng.integers(1, 300)), int(rng.integers(1, 6))
    weight = (rng.random((targets, axons)) < rng.choice([0.02, 0.2, 0.6, 0.95, 1])).astype(np.int64)
    edges = np.unique([0, targets, *rng.integers(1, targets + 1, 3)])
    index = rng.choice([6, 8, 10], len(edges) - 1)
    chip = load_limits(name)
    assert chip.synapse_memory is not None
    for form, kind in forms_of(chip, field):
        total, longest = words_of_lists(Listed.of_matrix(weight), edges, form, index, chip.synapse_memory)
        for tile, (a, b) in enumerate(pairwise(edges.tolist())):
            lists = [np.flatnonzero(weight[a:b, axon]).tolist() for axon in range(axons)]
            fill = kind == "once" and not form.skip_bits
            widths = (field, int(index[tile]))
            words = [packed([row], kind, fill, form.skip_bits, widths, chip.synapse_memory) for row in lists if row]
            assert (total[tile], longest[tile]) == (sum(words), max(words, default=0)), form


@given(st.integers(1, 700), st.integers(1, 8), st.sampled_from([6, 10]))
def test_a_list_without_gaps_equals_entriespacked_one_by_one(synapses: int, field: int, index: int) -> None:
    for chip in (LOIHI1, LOIHI2):
        for form, kind in forms_of(chip, field):
            fill = kind == "once" and not form.skip_bits
            widths = (field, index)
            expected = packed([list(range(synapses))], kind, fill, form.skip_bits, widths, chip.synapse_memory)
            assert int(list_words(np.array(synapses), form, index, chip.synapse_memory)) == expected


def test_one_entry_of_loihi1_bit_by_bit() -> None:
    """60 synapses of 8 bits, index of 10: 10 + 60 * 18 = 1090, 10 + 10 + 60 * 8 = 500, and + 60 * 2 = 620 bits."""
    forms = {form.name + str(form.skip_bits or ""): form for form, _ in forms_of(LOIHI1)}
    words = {name: int(list_words(np.array(60), form, 10, LOIHI1.synapse_memory)) for name, form in forms.items()}
    assert words["sparse"] == -(-1090 // 64) == 18
    assert words["dense"] == -(-500 // 64) == 8
    assert words["run_length2"] == -(-620 // 64) == 10
    assert int(list_words(np.array(61), forms["dense"], 10, LOIHI1.synapse_memory)) == 9


def test_every_format_is_the_cheapest_somewhere() -> None:
    """Few weights: each with its index; most: a row; some, evenly spread: skips."""
    rng = np.random.default_rng(0)
    found = {}
    for density in (0.02, 0.4, 1.0):
        weight = np.where(rng.random((800, 50)) < density, rng.integers(1, 100, (800, 50)) * rng.choice([-1, 1]), 0)
        weight[0, 0], weight[1, 0] = 1, -1
        network = with_weights(shaped((50,), [Dense(800)]), weight)
        found[density] = set(partition(network, LOIHI1).formats["s0_0"])
    assert found[0.02] == {"sparse"}
    assert found[0.4] <= {"run_length_2", "run_length_3", "run_length_4"}
    assert found[1.0] == {"dense"}


def test_cores_of_networks_with_zero_weights_hold_what_a_plain_count_gives() -> None:
    rng = np.random.default_rng(1)
    for density, name in ((0.3, "loihi1"), (0.5, "loihi2"), (0.05, "loihi1")):
        weights = [rng.integers(-9, 9, shape) * (rng.random(shape) < density) for shape in ((90, 40), (30, 90))]
        network = with_weights(shaped((40,), [Dense(90), Dense(30)], weight_bits=6), *weights)
        chip = load_chip(name)
        small = chip.model_copy(update={"core": chip.core.model_copy(update={"synapse_words": 400})})
        graph = partition(network, small)
        usage, _ = usage_of(network, graph, small)
        np.testing.assert_array_equal(graph.usage["synapse_words"], usage["synapse_words"])
        full = partition(shaped((40,), [Dense(90), Dense(30)], weight_bits=6), small)
        assert graph.usage["synapse_words"].sum() < full.usage["synapse_words"].sum()


def test_weight_and_delay_fields_are_the_narrowest_that_hold() -> None:
    memory = LOIHI1.synapse_memory
    plain = QuantSynapses("s", "input", "linear", np.array([[1, -1]]), 5, 0)
    assert weight_field(plain, memory) == 5
    assert weight_field(replace(plain, weight_bits=7), memory) == 8
    assert weight_field(replace(plain, weight=np.array([[1, 3]])), memory) == 4  # one sign: no bit for it
    assert weight_field(replace(plain, weight=np.array([[-16, 0]])), memory) == 5  # 2^4 takes 5 bits
    assert weight_field(replace(plain, weight=np.array([[1, 3]])), LOIHI2.synapse_memory) == 5
    assert [delay_field(replace(plain, delay_steps=d), memory) for d in (1, 2, 9, 17, 63)] == [0, 3, 4, 5, 6]
    assert [delay_field(replace(plain, delay_steps=d), LOIHI2.synapse_memory) for d in (1, 2, 4, 63)] == [0, 1, 2, 6]
    assert index_bits(np.array([1, 64, 65, 1024, 9999]), memory).tolist() == [6, 6, 7, 10, 12]
    with pytest.raises(CompileError, match="s: 9 bits a weight, the chip stores at most 8"):
        list_formats(replace(plain, weight_bits=9), memory)
    with pytest.raises(CompileError, match="s: delays of 66 steps need more than 6 bits"):
        list_formats(replace(plain, delay_steps=66), memory)


def test_the_cheapest_format_is_one_whose_lists_are_short_enough() -> None:
    words, longest = np.array([[10, 10, 10], [20, 20, 20]]), np.array([[9, 5, 9], [4, 4, 7]])
    assert cheapest(words, longest, None).tolist() == [0, 0, 0]
    assert cheapest(words, longest, 5).tolist() == [1, 0, 1]


def test_neurons_of_one_convolution_share_lists() -> None:
    """3x3 on 10x10 maps: 5 different runs of taps along each axis at one tile, 25 lists an input channel; 3 in one."""
    network = shaped((2, 12, 12), [Conv(4)])
    usage, _ = usage_of(network, partition(network, LOIHI1), LOIHI1)
    assert usage["axons_in"].tolist() == [2 * 12 * 12]
    # runs of 1, 2, 3, 2, 1 targets along each axis; a list has a run of 4 * columns synapses in each of its rows
    entry = {n: -(-(10 + 9 + 4 * n * 7) // 64) for n in (1, 2, 3)}
    lists = [rows * entry[columns] for rows in (1, 2, 3, 2, 1) for columns in (1, 2, 3, 2, 1)]
    network = replace(network, synapses=(replace(network.synapses[0], weight_bits=7),))
    wide = LOIHI1.synapse_memory.model_copy(update={"weight_field_bits": None, "sign_bit_saved": False})
    graph = partition(network, LOIHI1.model_copy(update={"synapse_memory": wide}))
    assert graph.formats == {"s0_0": {"dense": 1}}
    assert graph.usage["synapse_words"].tolist() == [2 * sum(lists)]


def test_a_population_axon_takes_two_output_slots() -> None:
    layers = [Conv(2, 1), Conv(2, 1), Dense(3)]
    graph = partition(shaped((1, 3, 3), layers), LOIHI1)
    assert graph.usage["axons_out"].tolist() == [2 * 18, 18, 0]
    assert partition(shaped((1, 3, 3), layers), LOIHI2).usage["axons_out"].tolist() == [18, 18, 0]


def test_rows_cost_what_intels_compiler_prints() -> None:
    """Words per input axon for n synapses of w bits, delays within; printouts named in the sources of loihi2.yaml."""
    printed = {
        (1, 8, 0): 1,
        (9, 8, 0): 3,
        (10, 8, 0): 3,
        (17, 8, 0): 5,
        (50, 5, 0): 12,
        (50, 6, 0): 13,
        (50, 8, 0): 15,
        (85, 8, 2): 27,
        (100, 5, 0): 24,
        (100, 6, 0): 26,
    }
    assert {(n, w, d): int(row_words(np.array(n), w, LOIHI2, d)) for n, w, d in printed} == printed
    # printed as 31.5, which no whole number of words is
    assert int(row_words(np.array(100), 8, LOIHI2, 2)) == 32


def test_mnist_takes_the_cores_that_intels_compiler_takes() -> None:
    """784-128-64-10: 3, 1 and 1 cores, synapses 78.4 %, 16.8 % and 1.6 %.

    78.4 % are 12 words an axon, 43 weights of 7 bits; 16.8 % are 15.75: of 5 bits 16, or 15 with two weights of 0.
    """
    network = shaped((784,), [Dense(128), Dense(64), Dense(10)])
    assert [grid.tiles for grid in partition(network, LOIHI2).grids.values()] == [3, 1, 1]
    weights = [s.weight.copy() for s in network.synapses]
    weights[1][:2, : 128 // 4] = 0
    network = with_weights(network, *weights)
    bits = [replace(s, weight_bits=b) for s, b in zip(network.synapses, (7, 5, 8), strict=True)]
    graph = partition(replace(network, synapses=tuple(bits)), LOIHI2)
    assert [grid.tiles for grid in graph.grids.values()] == [3, 1, 1]
    used = graph.usage["synapse_words"] / LOIHI2.core.synapse_words
    assert [round(100 * float(part), 1) for part in used] == [78.4, 78.4, 78.4, 16.8, 1.6]


def test_oxford_takes_no_more_cores_than_intels_compiler() -> None:
    """200-256-200: Intel 3 + 2 cores and 16200 + 16128 words; ours 2 + 2, as many words with its cuts (row by row)."""
    network = shaped((200,), [Dense(256), Dense(200)])
    assert [grid.tiles for grid in partition(network, LOIHI2).grids.values()] == [2, 2]
    assert 3 * 200 * int(row_words(np.array(85), 8, LOIHI2, 2)) == 16200
    assert 2 * 256 * int(row_words(np.array(100), 8, LOIHI2, 2)) == 16384  # 1.6 % above the printed 16128


def test_intels_compiler_stores_zero_weights(shared_data: Path) -> None:
    """Oxford's second layer: 16128 words printed; 16384 with all weights, 12882 without the 22 % that are 0."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(shared_data / "checkpoints" / "lava_dl" / "oxford_200_256_200_cuba.net") as file:
        weight = file["layer/1/weight"][()].astype(np.int64)
    assert (weight == 0).mean() == pytest.approx(0.219, abs=1e-3)
    form, edges = ListFormat("sparse", True, 8, 2, 0), np.array([0, 100, 200])
    memory, index = LOIHI2.synapse_memory, np.array([10, 10])
    there, _ = words_of_lists(Listed.of_matrix(weight), edges, form, index, memory)
    every, _ = words_of_lists(Listed.of_matrix(np.ones_like(weight)), edges, form, index, memory)
    assert (there.sum(), every.sum()) == (12882, 16384)


def test_mobilenet_fits_the_16_chips_of_loihi1_that_nxtf_took() -> None:
    """28 layers, 4 M parameters, 128x128: 2048 cores in NxTF, filled to 80 %; here with all limits."""
    chip = load_target("loihi1-sim", "16")
    network = mobilenet()
    assert (len(network.populations), sum(s.weight.size for s in network.synapses)) == (28, 4_209_088)
    graph = partition(network, chip)
    verify(graph, network, chip)
    assert graph.core_count == 1894


def test_what_other_tools_refuse_or_let_pass() -> None:
    """1024 -> 2000 dense (nengo-loihi fails) is cut; 900,000 synapses on one core (SANA-FE passes) are refused."""
    network = shaped((1024,), [Dense(2000)], weight_bits=8)
    graph = partition(network, LOIHI1)
    verify(graph, network, LOIHI1)
    assert graph.core_count == 17  # 118 neurons: 16 words an axon, 16384 in all
    one = {"width": 1, "height": 1, "cores_per_router": 1, "chips_across": 1, "chips_down": 1}
    single = LOIHI1.model_copy(update={"mesh": LOIHI1.mesh.model_copy(update=one)})
    with pytest.raises(DoesNotFit, match="8 cores needed, the chip has 1"):
        partition(shaped((900,), [Dense(1000)]), single)


def test_pilotnet_takes_fewer_cores_than_intels_compiler() -> None:
    """Intel: 13 for the input, convolutions 25/13/3/3/2, dense 12/1/1/1: 74."""
    intel = [25, 13, 3, 3, 2, 12, 1, 1, 1]
    graph = partition(pilotnet(), LOIHI2)
    ours = [grid.tiles for grid in graph.grids.values()]
    assert ours == [20, 7, 2, 2, 2, 8, 1, 1, 1]
    assert all(a <= b for a, b in zip(ours, intel, strict=True))
    assert partition(pilotnet(), LOIHI2, share_cores=True).core_count == 42
