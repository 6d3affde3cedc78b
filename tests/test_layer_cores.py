"""Layers on the unequal cores of a layer-per-core chip."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shaped_networks import Conv, Dense, shaped

from snncompile.chip import CoreMemory, LayerChip, load_any
from snncompile.mapping.layer_cores import LayersDoNotFit, assign_layers
from snncompile.mapping.partition import Misfit


def speck() -> LayerChip:
    chip = load_any("speck2f")
    assert isinstance(chip, LayerChip)
    return chip


def with_cores(*cores: tuple[int, int]) -> LayerChip:
    """Speck 2f with other cores: kernel and neuron words."""
    memories = tuple(CoreMemory(kernel_words=k, neuron_words=n, bias_words=1024) for k, n in cores)
    chip = speck()
    return chip.model_copy(update={"layer_core": chip.layer_core.model_copy(update={"cores": memories})})


def test_memories_are_powers_of_two_as_sinabs_counts_them() -> None:
    """2x34x34 -> 8C3 (stride 2) -> pool 2, 16C3 -> pool 2, 10: kernels 2 * 2^(4 + 3), neurons 8 * 2^(5 + 5)."""
    network = shaped((2, 34, 34), [Conv(8, 3, 2, 1), Conv(16, 3, padding=1, pool=2), Dense(10, pool=2)])
    needs = {need.layer: need.words for need in assign_layers(network, speck()).needs}
    assert [needs["n0"][m] for m in ("kernel_words", "neuron_words")] == [2 * 2**7, 8 * 2**10]
    assert [needs["n1"][m] for m in ("kernel_words", "neuron_words")] == [8 * 2**8, 16 * 2**6]
    assert [needs["n2"][m] for m in ("kernel_words", "neuron_words")] == [16 * 2**8, 10]


def test_layers_take_cores_that_hold_them_and_spare_the_large_ones() -> None:
    network = shaped((2, 32, 32), [Conv(32, 3, 1, 1), Conv(64, 3, padding=1, pool=4), Dense(10, pool=4)])
    found = assign_layers(network, speck())
    cores = speck().layer_core.cores
    assert len(set(found.core_of.values())) == 3
    for need in found.needs:
        assert need.fits(cores[found.core_of[need.layer]])
    assert found.core_of["n0"] in (3, 4)  # 32768 neuron words, so not on the cores of 65536
    assert cores[found.core_of["n2"]].neuron_words == cores[found.core_of["n2"]].kernel_words == 16384


@given(st.lists(st.tuples(st.sampled_from([16, 64, 256]), st.sampled_from([4, 16, 64])), min_size=3, max_size=5))
def test_a_matching_is_found_wherever_there_is_one(cores: list[tuple[int, int]]) -> None:
    network = shaped((1, 8, 8), [Conv(1, 3, 1, 1), Conv(4, 3, padding=1, pool=4), Dense(4)])
    chip = with_cores(*cores)
    needs = [(16, 64), (64, 16), (64, 4)]  # kernel and neuron words
    possible = any(
        all(k <= core[0] and n <= core[1] for (k, n), core in zip(needs, chosen, strict=True))
        for chosen in permutations(cores, 3)
    )
    if possible:
        found = assign_layers(network, chip)
        assert sorted(found.core_of) == ["n0", "n1", "n2"]
        assert all(n.fits(chip.layer_core.cores[found.core_of[n.layer]]) for n in found.needs)
        assert [(n.words["kernel_words"], n.words["neuron_words"]) for n in found.needs] == needs
    else:
        with pytest.raises(LayersDoNotFit):
            assign_layers(network, chip)


def test_more_layers_than_cores_is_a_misfit_of_the_network() -> None:
    network = shaped((4,), [Dense(4)] * 10)
    with pytest.raises(LayersDoNotFit, match="10 layers, of which at most 9 find a core") as caught:
        assign_layers(network, speck())
    assert caught.value.misfits == (Misfit("network", "cores", 10, 9),)
    both = shaped((2, 64, 64), [Conv(16, 3, 1, 1), Conv(16, 3, 1, 1), Conv(16, 3, 1, 1), Conv(16, 3, 1, 1)])
    with pytest.raises(LayersDoNotFit, match="4 layers, of which at most 3 find a core") as caught:
        assign_layers(both, speck())
    assert caught.value.misfits == (Misfit("network", "cores", 4, 3),)


def test_everything_that_fits_no_core_is_told_at_once() -> None:
    network = shaped((2, 130, 130), [Conv(2, 17, 3, 8), Conv(2000, 3, pool=3, groups=2), Dense(9)])
    with pytest.raises(LayersDoNotFit, match="n0: kernel size 17, limit 16") as caught:
        assign_layers(network, speck())
    assert {(m.layer, m.resource, m.used, m.limit) for m in caught.value.misfits} >= {
        ("n0", "input_size", 130, 128),
        ("n0", "kernel_size", 17, 16),
        ("n0", "padding", 8, 7),
        ("n0", "stride", 3, 2),
        ("n1", "channels", 2000, 1024),
        ("n1", "pool", 3, 2),
        ("n1", "groups", 2, 1),
        ("n2", "kernel_words", 2000 * 2**12, 65536),
    }
