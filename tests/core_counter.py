"""Counts what cores hold, neuron by neuron and synapse by synapse: slow and plain, to hold partitioning against."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np

from snncompile import reference
from snncompile.chip import ChipLimits
from snncompile.mapping.connectivity import chip_synapses, shape3
from snncompile.mapping.partition import RESOURCES, CoreGraph
from snncompile.quant_network import QuantNetwork, QuantSynapses, pooled_shape


def products(network: QuantNetwork, synapses: QuantSynapses, weight: np.ndarray) -> np.ndarray:
    """(source neurons, target neurons): the weight between two, by sending one spike at a time."""
    plain = replace(synapses, weight=weight, exponent=0)
    shape = network.shape_of(synapses.source)
    spikes = np.eye(int(np.prod(shape)), dtype=np.int64).reshape(-1, *shape)
    return reference.integer_current(plain, spikes).reshape(len(spikes), -1)


def axon_of(network: QuantNetwork, synapses: QuantSynapses) -> np.ndarray:
    """(source neurons,): the axon that each drives: its pool window, of all members of its neuron; -1: none."""
    shape = shape3(network.shape_of(synapses.source))
    first, last = synapses.reads or (0, shape[0])
    pooled = shape3(pooled_shape(network.read_shape(synapses), synapses.pool, synapses.members))
    axons = np.full(shape, -1)
    for c, y, x in np.ndindex(*shape):
        at = ((c - first) // synapses.members, y // synapses.pool[0], x // synapses.pool[1])
        if first <= c < last and all(i < n for i, n in zip(at, pooled, strict=True)):
            axons[c, y, x] = np.ravel_multi_index(at, pooled)
    return axons.ravel()


def owners_of(network: QuantNetwork, graph: CoreGraph) -> dict[str, np.ndarray]:
    """Core of every neuron, flat; fails where a neuron is on none or on two."""
    owners = {p.name: np.full(shape3(p.shape), -1) for p in network.populations}
    for number, core in enumerate(graph.cores):
        for part in core.slices:
            (c0, c1), (y0, y1), (x0, x1) = part.box
            assert (owners[part.population][c0:c1, y0:y1, x0:x1] == -1).all()
            owners[part.population][c0:c1, y0:y1, x0:x1] = number
    assert all((cores >= 0).all() for cores in owners.values())
    return {name: cores.ravel() for name, cores in owners.items()}


def usage_of(network: QuantNetwork, graph: CoreGraph, chip: ChipLimits) -> tuple[dict[str, np.ndarray], int]:
    """Every resource of every core, and the longest list of all."""
    owners, cores = owners_of(network, graph), len(graph.cores)
    usage = {r: np.zeros(cores, np.int64) for r in RESOURCES}
    for p in network.populations:
        each = getattr(chip.numerics.compartments, p.reset) if p.spiking else 1
        np.add.at(usage["neurons"], owners[p.name], each)
    longest = 0
    for synapses in chip_synapses(network):
        target = network.target_of(synapses)
        there = products(network, synapses, np.ones_like(synapses.weight)) != 0
        axons = axon_of(network, synapses)
        for core in np.unique(owners[target.name]).tolist():
            onto = np.flatnonzero(owners[target.name] == core)
            reaching = there[:, onto].any(1)
            usage["axons_in"][core] += len(set(axons[reaching].tolist()))
            shared = synapses.name in graph.shared
            words, most = words_on(network, synapses, onto, int(usage["neurons"][core]), chip, shared)
            usage["synapse_words"][core] += words
            longest = max(longest, most)
            if synapses.source != network.input_name:
                np.add.at(
                    usage["axons_out"], owners[synapses.source][reaching], chip.core.axon_slots_shared if shared else 1
                )
    return usage, longest


def words_on(
    network: QuantNetwork,
    synapses: QuantSynapses,
    onto: np.ndarray,
    compartments: int,
    chip: ChipLimits,
    shared: bool,
) -> tuple[int, int]:
    """Words of one layer on a core that holds the target's neurons `onto`, and of its longest list."""
    memory = chip.synapse_memory
    if memory is None:
        return 0, 0
    weight_bits = synapses.weight_bits
    low, high = int(synapses.weight.min()), int(synapses.weight.max())
    if memory.sign_bit_saved and not low < 0 < high and low > -(1 << (weight_bits - 1)):
        weight_bits = max(weight_bits - 1, 1)
    if memory.weight_field_bits is not None:
        weight_bits = min(w for w in memory.weight_field_bits if w >= weight_bits)
    delay = (synapses.delay_steps - 1).bit_length()
    if memory.delay_bits is not None:
        delay = min(w for w in memory.delay_bits if w >= delay)
    _, height, width = shape3(network.target_of(synapses).shape)
    if synapses.kind == "conv" and memory.convolution == "kernel":
        held = len({int(i) // (height * width) for i in onto})
        return -(-held * int(np.prod(synapses.weight.shape[1:])) * (weight_bits + delay) // memory.word_bits), 0
    index = min((b for b in memory.index_bits if 1 << b >= compartments), default=max(memory.index_bits))
    lists = list(_lists(network, synapses, onto, shared))
    best = None
    for form in memory.formats:
        for skip in form.skip_bits or (0,):
            if skip and synapses.kind == "conv":
                continue
            fill = synapses.kind != "conv" and not skip
            words = [packed(rows, form.index, fill, skip, (weight_bits + delay, index), memory) for rows in lists]
            longest = max(words, default=0)
            over = memory.words_per_axon_max is not None and longest > memory.words_per_axon_max
            rank = (over, longest if over else sum(words))
            best = min(best or (rank, sum(words), longest), (rank, sum(words), longest))
    assert best is not None
    return best[1], best[2]


def _lists(network: QuantNetwork, synapses: QuantSynapses, onto: np.ndarray, shared: bool) -> Iterator[list[list[int]]]:
    """Every list of the layer on a core: by row of the tile, the positions of its compartments, channels fastest."""
    ids = np.arange(1, synapses.weight.size + 1).reshape(synapses.weight.shape)
    if synapses.kind != "conv":
        ids = np.where(synapses.weight == 0, 0, ids)
    weights = products(network, synapses, ids)
    axons = axon_of(network, synapses)
    channels, height, width = shape3(network.target_of(synapses).shape)
    c, y, x = np.unravel_index(onto, (channels, height, width))
    tile = [np.unique(axis, return_inverse=True) for axis in (c, y, x)]
    (cs, c), (_, y), (xs, x) = tile
    position = (y * len(xs) + x) * len(cs) + c
    seen = set()
    for axon in sorted(set(axons[axons >= 0].tolist())):
        row = weights[np.flatnonzero(axons == axon)[0], onto]
        order = [i for i in np.argsort(position) if row[i]]
        if not order:
            continue
        if synapses.kind == "conv" and shared:
            key = tuple((int(row[i]), int(position[i] - position[order[0]])) for i in order)
            if key in seen:
                continue
            seen.add(key)
        by_row: dict[int, list[int]] = {}
        for i in order:
            by_row.setdefault(int(y[i]) if synapses.kind == "conv" else 0, []).append(int(position[i]))
        yield list(by_row.values())


def packed(rows: list[list[int]], kind: str, fill: bool, skip: int, widths: tuple[int, int], memory) -> int:
    """Words of one list: its entries one after the other."""
    field, index = widths
    if kind == "each":
        entries = [(sum(map(len, rows)), field + index, 0)]
    else:
        entries = []
        for row in rows:
            filled = list(range(row[0], row[-1] + 1)) if fill else row
            runs = [[filled[0]]]
            for a, b in pairwise(filled):
                if b - a - 1 >= 1 << skip:
                    runs.append([])
                runs[-1].append(b)
            entries += [(len(run), field + skip, index) for run in runs]
    words = bits = 0
    for n, each, once in entries:
        for first in range(0, n, memory.entry_synapses_max):
            part = min(n - first, memory.entry_synapses_max)
            bits += memory.entry_prefix_bits + once + part * each
            words += -(-(memory.entry_prefix_bits + once + part * each) // memory.word_bits)
    return -(-bits // memory.word_bits) if memory.rounding == "list" else words
