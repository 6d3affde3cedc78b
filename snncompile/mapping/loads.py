"""What one layer of synapses takes of the cores that hold its target: input axons and words of synapse memory.

Every load bounds many cuts at once, from above by the largest part along each axis, from below by the tile in the
middle, and counts one cut exactly, tile by tile.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from snncompile.chip import SynapseMemory
from snncompile.mapping.accounting import (
    Listed,
    ListFormat,
    cheapest,
    index_bits,
    kernel_words,
    least_words,
    list_words,
    most_words,
    words_of_lists,
)
from snncompile.mapping.reach import AxisReach, ChannelReach, ChannelTileReach, GroupTileReach, ListedReach, TileReach
from snncompile.mapping.tiles import Grid, Splits, outer
from snncompile.quant_network import IntArray, QuantSynapses

Bound = Literal["upper", "lower"]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Cuts to judge: option of every axis (candidates,), of the splits of each; compartments a neuron takes."""

    splits: tuple[Splits, Splits, Splits]
    options: tuple[IntArray, IntArray, IntArray]
    compartments: int
    price: IntArray
    """(candidates, 3), what they are sorted by; not looked at here."""

    def along(self, axis: int, values: IntArray, bound: Bound) -> IntArray:
        """(candidates,) of values (tiles,) along one axis the largest, or that of the middle tile."""
        splits = self.splits[axis]
        per_option = splits.most(values) if bound == "upper" else values[..., splits.middle]
        return per_option[..., self.options[axis]]

    def product(self, values: Sequence[IntArray], bound: Bound) -> IntArray:
        """(candidates,) products of values along the axes."""
        c, y, x = (self.along(axis, value, bound) for axis, value in enumerate(values))
        return c * y * x

    def occupied(self, bound: Bound) -> IntArray:
        """(candidates,) compartments in use on a core."""
        return self.compartments * self.product([s.stop - s.start for s in self.splits], bound)


@dataclass(frozen=True, eq=False)
class Words:
    """Words of synapse memory, of the longest list, and which format is used; all of one shape."""

    total: IntArray
    longest: IntArray
    form: IntArray


@dataclass(frozen=True, eq=False)
class Load:
    """One layer of synapses on a chip; its kinds differ in `words`."""

    synapses: QuantSynapses
    reach: tuple[ChannelReach, AxisReach, AxisReach]
    memory: SynapseMemory | None
    forms: tuple[ListFormat, ...]

    def over(self, splits: Sequence[Splits]) -> tuple[ChannelTileReach, TileReach, TileReach]:
        """Along each axis what reaches the tiles of some cuts."""
        channels, rows, columns = self.reach
        return channels.over(splits[0]), rows.over(splits[1]), columns.over(splits[2])

    @property
    def form_names(self) -> tuple[str, ...]:
        """Names of the formats that `Words.form` counts from 0."""
        return tuple(form.name for form in self.forms)

    def axons(self, cuts: Candidates, bound: Bound) -> IntArray:
        """(candidates,) input axons of the fullest, or of the middle tile."""
        return cuts.product([tiles.axons for tiles in self.over(cuts.splits)], bound)

    def packets(self, splits: Sequence[Splits]) -> IntArray:
        """(options of channels, of rows, of columns) pairs of a source and a tile that it reaches."""
        return outer(*(tiles.packets for tiles in self.over(splits)))

    def axons_of(self, grid: Grid) -> IntArray:
        """(tiles,) input axons."""
        return outer(*(tiles.axons for tiles in self.over(grid.cuts))).ravel()

    def words(self, cuts: Candidates, bound: Bound) -> Words:
        """(candidates,) bounds of the words of the fullest tile."""
        return _none(len(cuts.options[0]))

    def words_of(self, grid: Grid, occupied: IntArray) -> Words:
        """(tiles,) words, given the compartments in use (tiles,) on the core of each."""
        return _none(grid.tiles)

    def _cheapest(
        self,
        by_form: Callable[[ListFormat], tuple[IntArray, IntArray]],
        forms: Sequence[ListFormat] | None = None,
    ) -> Words:
        """The best of (words, longest list) in every format."""
        assert self.memory is not None
        total, longest = (np.stack(values) for values in zip(*map(by_form, forms or self.forms), strict=True))
        form = cheapest(total, longest, self.memory.words_per_axon_max)
        return Words(_pick(total, form), _pick(longest, form), form)


def _none(size: int) -> Words:
    return Words(*np.zeros((3, size), np.int64))


def _pick(values: IntArray, form: IntArray) -> IntArray:
    return np.take_along_axis(values, form[None], axis=0)[0]


@dataclass(frozen=True, eq=False)
class KernelLoad(Load):
    """A convolution whose kernel is stored once a core: its weights of the tile's channels."""

    @property
    def form_names(self) -> tuple[str, ...]:
        return ("kernel",)

    def _kernel(self, channels: IntArray) -> IntArray:
        assert self.memory is not None
        weights = channels * int(np.prod(self.synapses.weight.shape[1:]))
        return kernel_words(weights, self.forms[0], self.memory)

    def words(self, cuts: Candidates, bound: Bound) -> Words:
        channels = cuts.splits[0]
        total = cuts.along(0, self._kernel(channels.stop - channels.start), bound)
        return Words(total, total * 0, total * 0)

    def words_of(self, grid: Grid, occupied: IntArray) -> Words:
        _, y, x = grid.splits
        total = np.repeat(self._kernel(np.diff(grid.channels)), y * x)
        return Words(total, total * 0, total * 0)


@dataclass(frozen=True, eq=False)
class ListLoad(Load):
    """A layer whose lists are looked at one by one: sparse, or linear with weights of 0. Its target is flat."""

    listed: Listed

    @cached_property
    def _synapses(self) -> IntArray:
        """(targets,) synapses that end in each."""
        return np.bincount(self.listed.target, minlength=self.listed.targets)

    def words(self, cuts: Candidates, bound: Bound) -> Words:
        """From above as if no weight were 0, from below by the bits of those that are not."""
        assert self.memory is not None
        memory, splits = self.memory, cuts.splits[0]
        index = index_bits(cuts.occupied(bound), memory)
        size, axons = cuts.along(0, splits.stop - splits.start, bound), self.axons(cuts, bound)
        there = cuts.along(0, splits.sums(self._synapses), bound)
        average = -(-there // np.maximum(axons, 1))

        def most(form: ListFormat) -> tuple[IntArray, IntArray]:
            longest = list_words(size, form, index, memory)
            full = axons * longest
            if form.indexed_each:
                full = np.minimum(full, most_words(there, axons, form, index, memory))
            return full, longest

        def least(form: ListFormat) -> tuple[IntArray, IntArray]:
            return least_words(there, form, index, memory), list_words(average, form, index, memory)

        if bound == "upper":
            # how many runs skips make is not known before they are counted
            return self._cheapest(most, [form for form in self.forms if not form.skip_bits])
        total, longest = (np.stack(values).min(0) for values in zip(*map(least, self.forms), strict=True))
        return Words(total, longest, total * 0)

    def words_of(self, grid: Grid, occupied: IntArray) -> Words:
        assert self.memory is not None
        memory, index = self.memory, index_bits(occupied, self.memory)
        return self._cheapest(lambda form: words_of_lists(self.listed, grid.channels, form, index, memory))


@dataclass(frozen=True, eq=False)
class DenseLoad(Load):
    """A linear layer without weights of 0: every axon has a list of the tile's size."""

    def words(self, cuts: Candidates, bound: Bound) -> Words:
        assert self.memory is not None
        splits = cuts.splits[0]
        size = cuts.along(0, splits.stop - splits.start, bound)
        return self._of(size, self.axons(cuts, bound), cuts.occupied(bound))

    def words_of(self, grid: Grid, occupied: IntArray) -> Words:
        return self._of(grid.sizes, self.axons_of(grid), occupied)

    def _of(self, size: IntArray, axons: IntArray, occupied: IntArray) -> Words:
        memory = self.memory
        assert memory is not None
        index = index_bits(occupied, memory)

        def of(form: ListFormat) -> tuple[IntArray, IntArray]:
            words = list_words(size, form, index, memory)
            return axons * words, words

        return self._cheapest(of)


@dataclass(frozen=True, eq=False)
class SharedListLoad(Load):
    """A convolution in lists: one for all source positions that meet the same taps (`shared`), or for each axon."""

    shared: bool
    kept: dict[tuple[Splits, tuple[int, int], ListFormat, int], tuple[IntArray, IntArray]] = field(default_factory=dict)
    """`_along_channels`, by its arguments."""

    def words(self, cuts: Candidates, bound: Bound) -> Words:
        assert self.memory is not None
        index = index_bits(cuts.occupied(bound), self.memory)
        tiles = self.over(cuts.splits)
        total, longest = np.zeros((2, len(self.forms), len(index)), np.int64)
        for width in np.unique(index).tolist():
            chosen = index == width
            c, y, x = (option[chosen] for option in cuts.options)
            part = Candidates(cuts.splits, (c, y, x), cuts.compartments, cuts.price[chosen])
            product = partial(part.product, bound=bound)
            for number, form in enumerate(self.forms):
                summed, most = self._summed(tiles, form, width, product)
                total[number, chosen], longest[number, chosen] = summed, most
        return self._best(total, longest, bound)

    def _best(self, total: IntArray, longest: IntArray, bound: Bound) -> Words:
        if bound == "upper":
            return self._cheapest_of(total, longest)
        return Words(total.min(0), longest.min(0), total.argmin(0))

    def _cheapest_of(self, total: IntArray, longest: IntArray) -> Words:
        assert self.memory is not None
        form = cheapest(total, longest, self.memory.words_per_axon_max)
        return Words(_pick(total, form), _pick(longest, form), form)

    def words_of(self, grid: Grid, occupied: IntArray) -> Words:
        assert self.memory is not None
        tiles = self.over(grid.cuts)
        index = index_bits(occupied, self.memory)
        total, longest = np.zeros((2, len(self.forms), grid.tiles), np.int64)
        for width in np.unique(index).tolist():
            chosen = index == width
            for number, form in enumerate(self.forms):
                summed, most = self._summed(tiles, form, width, lambda values: outer(*values).ravel())
                total[number, chosen], longest[number, chosen] = summed[chosen], most[chosen]
        return self._cheapest_of(total, longest)

    def _summed(
        self,
        tiles: tuple[ChannelTileReach, TileReach, TileReach],
        form: ListFormat,
        index: int,
        product: Callable[[list[IntArray]], IntArray],
    ) -> tuple[IntArray, IntArray]:
        """Sum over lists, and the longest: sums over numbers of rows and columns that a list spans."""
        channels, rows, columns = tiles
        assert isinstance(channels, GroupTileReach)
        spans = [axis.patterns if self.shared else axis.lists for axis in (rows, columns)]
        total: IntArray | int = 0
        longest: IntArray | int = 0
        for height, of_rows in spans[0].items():
            for width, of_columns in spans[1].items():
                key = (channels.splits, (height, width), form, index)
                if key not in self.kept:
                    self.kept[key] = self._along_channels(channels, (height, width), form, index)
                summed, most = self.kept[key]
                total = total + product([summed, of_rows, of_columns])
                longest = np.maximum(longest, product([most, (of_rows > 0) * 1, (of_columns > 0) * 1]))
        empty = product([np.zeros(len(t.splits.start), np.int64) for t in tiles])
        return empty + total, empty + longest

    def _along_channels(
        self, channels: GroupTileReach, span: tuple[int, int], form: ListFormat, index: int
    ) -> tuple[IntArray, IntArray]:
        """(tiles of channels,) words of all lists that span so many rows and columns, and of the longest."""
        assert self.memory is not None
        tile, length, axons = channels.by_length
        height, width = span
        if form.runs:
            # channels lie next to each other; so do columns where the list has all channels of the tile
            whole = (length == (channels.splits.stop - channels.splits.start)[tile]) & (self.reach[2].step == 1)
            joined = height * list_words(length * width, form, index, self.memory)
            words = np.where(whole, joined, height * width * list_words(length, form, index, self.memory))
        else:
            words = list_words(length * height * width, form, index, self.memory)
        summed, most = np.zeros((2, len(channels.splits.start)), np.int64)
        np.add.at(summed, tile, axons * words)
        np.maximum.at(most, tile, words)
        return summed, most


def is_shared(load: Load) -> bool:
    """Whether positions of a convolution share lists."""
    return isinstance(load, SharedListLoad) and load.shared


def without_sharing(load: Load) -> Load:
    """The same convolution with a list for every source neuron."""
    assert isinstance(load, SharedListLoad)
    return replace(load, shared=False)


def load_of(
    synapses: QuantSynapses,
    reach: tuple[ChannelReach, AxisReach, AxisReach],
    memory: SynapseMemory | None,
    forms: tuple[ListFormat, ...],
    share: bool,
) -> Load:
    """The load of a layer of synapses; forms: as `accounting.list_formats` gives them.

    share: whether positions of a convolution share lists, where the chip can.
    """
    if memory is None:
        return Load(synapses, reach, memory, forms)
    if synapses.kind == "conv":
        if memory.convolution == "kernel":
            return KernelLoad(synapses, reach, memory, forms)
        # a list of a convolution has no gaps but between its runs
        plain = tuple(form for form in forms if not form.skip_bits)
        return SharedListLoad(synapses, reach, memory, plain, share and memory.convolution == "shared_lists")
    if isinstance(reach[0], ListedReach):
        return ListLoad(synapses, reach, memory, forms, _listed(synapses, reach[0]))
    if _has_zeros(synapses.weight):
        return ListLoad(synapses, reach, memory, forms, Listed.of_matrix(synapses.weight))
    return DenseLoad(synapses, reach, memory, forms)


def _listed(synapses: QuantSynapses, reach: ListedReach) -> Listed:
    """The synapses of a sparse layer whose weight is not 0."""
    if not _has_zeros(synapses.weight):
        return reach.listed
    row, column = synapses.listed
    there = np.argsort(column, kind="stable")
    there = there[synapses.weight[there] != 0]
    return Listed.of(column[there], row[there], len(reach.listed.start) - 1, reach.listed.targets)


def _has_zeros(weight: NDArray[np.int64]) -> bool:
    return int(np.count_nonzero(weight)) < weight.size
