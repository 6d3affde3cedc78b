"""Boxes of neurons: how a population is cut, and all the even cuts of one axis."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np

from snncompile.quant_network import IntArray

OPTIONS_OF_MANY_SYNAPSES = 64

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Splits:
    """All even cuts ("options") of one axis, coarsest first: one for every distinct largest tile.

    Tiles of all options stand one after the other: start, stop (tiles,), option k from first[k] on.
    """

    size: int
    tile_sizes: IntArray
    start: IntArray
    stop: IntArray
    first: IntArray

    @classmethod
    def even(cls, size: int) -> "Splits":
        return _even_splits(size)

    @classmethod
    def of(cls, edges: IntArray) -> "Splits":
        """The one option that is given by its edges."""
        return cls(int(edges[-1]), np.diff(edges).max(keepdims=True), edges[:-1], edges[1:], np.zeros(1, np.int64))

    def thinned(self, synapses: int) -> "Splits":
        """For a layer whose synapses are looked at one by one: fewer options, evenly among all, where there are many.

        `OPTIONS_OF_MANY_SYNAPSES` above 2^20 synapses, a matter of seconds.
        """
        options = len(self.tile_sizes)
        if synapses <= 1 << 20 or options <= OPTIONS_OF_MANY_SYNAPSES:
            return self
        kept = np.unique(np.linspace(0, options - 1, OPTIONS_OF_MANY_SYNAPSES).round().astype(np.int64))
        return _with_sizes(self.size, self.tile_sizes[kept])

    @cached_property
    def counts(self) -> IntArray:
        """(options,) tiles."""
        return np.diff(np.append(self.first, len(self.start)))

    @cached_property
    def middle(self) -> IntArray:
        """(options,) number of the tile in the middle of each, which is seldom smaller than others."""
        return self.first + (self.counts - 1) // 2

    @cached_property
    def option(self) -> IntArray:
        """(tiles,) the option that a tile is of."""
        return np.repeat(np.arange(len(self.first)), self.counts)

    def edges(self, option: int) -> IntArray:
        tiles = slice(int(self.first[option]), int(self.first[option] + self.counts[option]))
        return np.append(self.start[tiles], self.size)

    def most(self, values: IntArray) -> IntArray:
        """(options,) largest of values (..., tiles) over the tiles of each."""
        return np.maximum.reduceat(values, self.first, axis=-1)

    def total(self, values: IntArray) -> IntArray:
        return np.add.reduceat(values, self.first, axis=-1)

    def sums(self, values: IntArray) -> IntArray:
        """(..., tiles) sums of values (..., size) over every tile."""
        below = np.zeros((*values.shape[:-1], self.size + 1), np.int64)
        np.cumsum(values, axis=-1, out=below[..., 1:])
        return below[..., self.stop] - below[..., self.start]


@dataclass(frozen=True, eq=False)
class Grid:
    """A population cut into len(channels)-1 x len(rows)-1 x len(columns)-1 boxes; arrays hold the edges, 0 first."""

    channels: IntArray
    rows: IntArray
    columns: IntArray

    @property
    def axes(self) -> tuple[IntArray, IntArray, IntArray]:
        return self.channels, self.rows, self.columns

    @property
    def splits(self) -> tuple[int, int, int]:
        return len(self.channels) - 1, len(self.rows) - 1, len(self.columns) - 1

    @property
    def tiles(self) -> int:
        return math.prod(self.splits)

    @cached_property
    def cuts(self) -> tuple[Splits, Splits, Splits]:
        """The cut of each axis, as the only option."""
        return Splits.of(self.channels), Splits.of(self.rows), Splits.of(self.columns)

    @property
    def sizes(self) -> IntArray:
        """(tiles,) neurons of every tile."""
        return outer(*(np.diff(edges) for edges in self.axes)).ravel()

    def boxes(self) -> Iterator[Box]:
        """Channel, row and column range of every tile, columns fastest."""
        for c in _ranges(self.channels):
            for y in _ranges(self.rows):
                for x in _ranges(self.columns):
                    yield c, y, x


def _ranges(edges: IntArray) -> list[tuple[int, int]]:
    return list(pairwise(edges.tolist()))


def outer(c: IntArray, y: IntArray, x: IntArray) -> IntArray:
    """(len c, len y, len x) products."""
    return c[:, None, None] * y[None, :, None] * x[None, None, :]


@lru_cache(maxsize=512)
def _even_splits(size: int) -> Splits:
    return _with_sizes(size, np.unique(-(-size // np.arange(1, size + 1)))[::-1])


def _with_sizes(size: int, sizes: IntArray) -> Splits:
    counts = -(-size // sizes)
    first = np.cumsum(counts) - counts
    number = np.arange(counts.sum()) - np.repeat(first, counts)
    tile = np.repeat(sizes, counts)
    return Splits(size, sizes, number * tile, np.minimum((number + 1) * tile, size), first)
