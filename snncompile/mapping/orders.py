"""Chooses in which order the neurons of irregular populations stand: where it saves packets, that of a graph cut."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from snncompile.chip import Chip
from snncompile.lowering import Mode, plan
from snncompile.mapping.accounting import Listed, ListFormat, index_bits, list_words, words_of_lists
from snncompile.mapping.graph_cut import SLACK, FloatArray, Nets, refined, regions
from snncompile.mapping.tiles import Splits
from snncompile.network import Conv2d, Network, Sparse, Synapses
from snncompile.network_nodes import IndexArray
from snncompile.passes.order_neurons import Joined, Orders, places
from snncompile.quant_network import pooled_shape

SAVES = 0.05
"""Part of the packets that an order must save to be used."""

FINER = 4
"""Regions a tile, where several populations are cut together: the tiles of each end elsewhere."""

TRIES = 3
"""Most times that the graph is cut: again for smaller tiles where those hoped for do not fit."""

AGAIN = 2
"""Most times that parts are refined again, in another size that lists packed together let fit."""

STEPS = 8
"""Next larger sizes that are tried so."""

NEAR = 0.9
"""Tiles of at least so much of the size that was cut for are good enough."""


@dataclass(frozen=True, eq=False)
class Ordering:
    """The orders to use, and by population that was looked at what they save (`told`, JSON-ready)."""

    orders: Orders
    told: Mapping[str, Mapping[str, Any]]


def choose_orders(
    network: Network, chip: Chip, mode: Mode, weight_bits: int, rates: Mapping[str, FloatArray] | None = None
) -> Ordering:
    """Orders of the free populations (`order_neurons.is_free`) that sparse synapses join, where they pay.

    network: folded; mode: resolved. Packets are estimated: the parts that each source reaches, of the largest even
    parts that fit a core, times how often it fires (`rates` by source, (neurons,); 1 where none is given). An order
    is used where it saves at least 5 % of those into its population (`SAVES`) and takes no more cores; a population
    that only sends follows those that it sends to.
    """
    joined = Joined.of(network)
    if not joined.layers:
        return Ordering({}, {})
    cuts = {name: _Cut.of(joined, name, chip, mode, weight_bits, rates or {}) for name in joined.names}
    parts = _parts(joined, cuts)
    if parts is None:
        return Ordering({}, {name: cut.told(None) for name, cut in cuts.items() if len(cut.nets.pin)})
    orders: dict[str, IndexArray] = {}
    told = {}
    for name, cut in cuts.items():
        if len(cut.nets.pin):
            part, size = parts[name]
            order = np.argsort(_refined_to_fit(cut, part, size), kind="stable")
            told[name] = cut.told(order)
            if told[name]["ordered"]:
                orders[name] = order
    for name, cut in cuts.items():
        if not len(cut.nets.pin) and joined.targets(name) & set(orders):
            orders[name] = np.argsort(parts[name][0], kind="stable")
    return Ordering({name: orders[name] for name in cuts if name in orders}, told)


def _parts(joined: Joined, cuts: Mapping[str, "_Cut"]) -> dict[str, tuple[IndexArray, int]] | None:
    """(neurons,) part of every neuron and the size of the parts; None where METIS finds nothing to save."""
    vertices, edges = joined.vertices, list(joined.edges())
    weight = np.zeros(max(v.stop for v in vertices.values()), np.int64)
    for name in joined.names:
        weight[vertices[name]] = 1  # a source that cannot move takes no place
    sizes = {name: cut.hoped for name, cut in cuts.items()}
    for attempt in range(TRIES):
        fewest = max(-(-cut.neurons // sizes[name]) for name, cut in cuts.items())
        count = fewest if len(cuts) == 1 else min(FINER * fewest, int(weight.sum()))
        region = regions(len(weight), edges, count, weight)
        parts = {name: _cut_along(region[vertices[name]], sizes[name]) for name in cuts}
        if not any(cut.saves(parts[name]) for name, cut in cuts.items()):
            return None
        fitting = {name: cut.largest(_stood(parts[name]), sizes[name]) for name, cut in cuts.items()}
        if attempt == TRIES - 1 or all(fitting[name] >= NEAR * sizes[name] for name in cuts):
            break
        sizes = fitting
    return {name: (parts[name], sizes[name]) for name in cuts}


def _refined_to_fit(cut: "_Cut", part: IndexArray, size: int) -> IndexArray:
    """Refined parts, of the size in which the partition will cut them: else its parts begin and end elsewhere."""
    part = refined(cut.nets, part, size)
    for _ in range(AGAIN):
        exact = cut.largest_exactly(_stood(part))
        if exact == size:
            break
        part, size = refined(cut.nets, _stood(part) // exact, exact), exact
    return part


def _cut_along(region: IndexArray, size: int) -> IndexArray:
    """(neurons,) parts of about `size`: the regions where they are of that size, else runs of neurons along them."""
    held = np.bincount(region)
    if len(held) == -(-len(region) // size) and held.max() <= (1 + SLACK) * size + 1:
        return region
    return _stood(region) // size


def _stood(part: IndexArray) -> IndexArray:
    """(neurons,) the place of each, part after part."""
    return places(np.argsort(part, kind="stable"))


@dataclass(frozen=True, eq=False)
class _Cut:
    """One population to be cut into even parts, and what a core takes.

    taken: compartments of one neuron; repeated: its members; axons, words: input axons and a neuron's words of synapses
    that no order changes; limit: the chip's.
    """

    nets: Nets
    chip: Chip
    taken: int
    repeated: int
    weight_bits: int
    beside: tuple[tuple[int, int], ...]
    """Of the other synapses into it: axons that reach a part, or -1: one for each neuron's own, and fan-in."""

    @classmethod
    def of(
        cls, joined: Joined, name: str, chip: Chip, mode: Mode, weight_bits: int, rates: Mapping[str, FloatArray]
    ) -> "_Cut":
        network = joined.network
        lists = [_by_source(network, layer) for layer in joined.into(name)]
        weights = [
            rates.get(s.inputs[0], np.ones(len(li.start) - 1)) for s, li in zip(joined.into(name), lists, strict=True)
        ]
        neuron = next(node for node in network.neurons if node.name == name)
        members = plan(network, chip.numerics, mode)[name].members
        taken = members * int(getattr(chip.numerics.compartments, neuron.reset))
        hosted = network.input.name if network.input.coding == "direct" and not chip.numerics.graded_spikes else ""
        beside = tuple(_axons(network, s) for s in joined.beside(name) if s.inputs[0] != hosted)
        return cls(Nets.of(lists, weights, network.shapes[name][0]), chip, taken, members, weight_bits, beside)

    @property
    def neurons(self) -> int:
        return self.nets.neurons

    @property
    def sizes(self) -> IndexArray:
        """Sizes of parts that the partition tries and whose neurons fit, largest first; 1 at least."""
        sizes = Splits.even(self.neurons).thinned(len(self.nets.pin)).tile_sizes
        return np.append(sizes[sizes * self.taken <= self.chip.core.neurons], 1)

    @property
    def hoped(self) -> int:
        """The largest size of part that could fit if every list were without gaps and axons were no limit."""
        words = self.chip.core.synapse_words
        if words is None or self.chip.synapse_memory is None:
            return int(self.sizes[0])
        each = len(self.nets.pin) / self.neurons * self.repeated
        bits = self._formats()[0].weight_bits + min(self.chip.synapse_memory.index_bits, default=0)
        most = words * self.chip.synapse_memory.word_bits / max(each * bits, 1)
        return int(next((size for size in self.sizes if size <= most), 1))

    def _all_formats(self) -> list[ListFormat]:
        memory = self.chip.synapse_memory
        assert memory is not None
        return [
            ListFormat(form.name, form.index == "each", self.weight_bits, 0, skip)
            for form in memory.formats
            for skip in form.skip_bits or (0,)
        ]

    def _formats(self) -> list[ListFormat]:
        """Formats for scattered targets: those with an index for each synapse, if there are any."""
        forms = self._all_formats()
        return [form for form in forms if form.indexed_each] or forms

    def _words(self, size: int, dense: bool = False) -> IndexArray:
        """(n + 1,) words of a list to n neurons of a part of that size, scattered or (dense) one after the other."""
        n, memory = np.arange(size + 1), self.chip.synapse_memory
        if memory is None:
            return np.zeros_like(n)
        index = index_bits(np.array(size * self.taken), memory)
        formats = self._all_formats() if dense else self._formats()
        return np.min([list_words(n * self.repeated, form, index, memory) for form in formats], axis=0)

    def _fits(self, place: IndexArray, size: int, words: IndexArray | None = None) -> bool:
        """Whether all parts of a size fit a core, as far as their inputs go; neuron i stands at place[i].

        words: (parts,) of the sparse lists, where they are known; else of lists without gaps.
        """
        core, table = self.chip.core, self._words(size)
        axons, total, _ = self.nets.judged(place // size, table)
        most_axons, most_words = int(axons.max()), int((total if words is None else words).max())
        for reach, fan_in in self.beside:
            most_axons += size if reach < 0 else reach
            most_words += int(size * fan_in * table[1] if reach < 0 else reach * self._words(size, dense=True)[size])
        return (core.axons_in is None or most_axons <= core.axons_in) and (
            core.synapse_words is None or most_words <= core.synapse_words
        )

    def largest(self, place: IndexArray, at_most: int | None = None) -> int:
        """The largest size of part that fits (by halving: smaller parts are taken to fit where larger ones do)."""
        sizes = self.sizes if at_most is None else self.sizes[self.sizes <= at_most]
        low, high = 0, len(sizes) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._fits(place, int(sizes[middle])) else (middle + 1, high)
        return int(sizes[low])

    def largest_exactly(self, place: IndexArray) -> int:
        """As `largest`, but of lists packed in every format, with their gaps, as the partition counts them."""
        size, memory = self.largest(place), self.chip.synapse_memory
        if memory is None or self.repeated > 1 or self.chip.core.synapse_words is None:
            return size
        nets, sizes = self.nets, self.sizes
        entries = (np.ones(len(nets.pin), np.int8), place[nets.pin], nets.start)
        sorted_by_place = csr_array(entries, shape=(len(nets.start) - 1, self.neurons)).tocsc().tocsr()
        lists = Listed(nets.start, sorted_by_place.indices.astype(np.int32), self.neurons)
        for larger in sizes[sizes > size][::-1][:STEPS].tolist():
            edges = np.append(np.arange(0, self.neurons, larger), self.neurons)
            index = np.full(len(edges) - 1, index_bits(np.array(larger * self.taken), memory))
            packed = [words_of_lists(lists, edges, form, index, memory)[0] for form in self._all_formats()]
            if not self._fits(place, larger, np.min(packed, axis=0)):
                break
            size = larger
        return size

    def saves(self, part: IndexArray) -> bool:
        """Whether these parts alone save enough, in cuts as large as the order that there is allows."""
        place = np.arange(self.neurons)
        size = self.largest(place)
        before = self.nets.packets(place // size)
        return self.nets.packets(_stood(part) // size) <= (1 - SAVES) * before

    def told(self, order: IndexArray | None) -> dict[str, Any]:
        """Packets if every source fires as often as is known, and parts, before and after; whether that pays."""
        before = self._cost(np.arange(self.neurons))
        after = before if order is None else self._cost(places(order))
        saves = after[0] <= (1 - SAVES) * before[0] and after[1] <= before[1]
        return {
            "ordered": bool(order is not None and saves),
            "packets_before": before[0],
            "packets_after": after[0] if order is not None else None,
            "cores_before": before[1],
            "cores_after": after[1] if order is not None else None,
        }

    def _cost(self, place: IndexArray) -> tuple[float, int]:
        part = place // self.largest(place)
        return self.nets.packets(part), int(part.max()) + 1


def _by_source(network: Network, layer: Sparse) -> Listed:
    """The targets of every source of a layer."""
    sources = int(np.prod(pooled_shape(network.shapes[layer.inputs[0]], layer.pool)))
    start = np.concatenate([[0], np.cumsum(np.bincount(layer.row, minlength=layer.features))])
    matrix = csr_array((np.ones(len(layer.row), np.int8), layer.column, start), shape=(layer.features, sources))
    turned = matrix.tocsc()
    return Listed(turned.indptr.astype(np.int64), turned.indices.astype(np.int32), layer.features)


def _axons(network: Network, synapses: Synapses) -> tuple[int, int]:
    """Axons that reach any part of the target, -1: its neurons' own; and fan-in."""
    if isinstance(synapses, Conv2d) and synapses.groups > 1:
        return -1, synapses.weight.shape[1]
    sources = int(np.prod(network.shapes[synapses.inputs[0]]))
    return sources, sources
