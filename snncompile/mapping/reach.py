"""Which part of each axis a synapse list spans: what partitioning needs of connectivity, without matrices of channels.

Along each axis a source drives one axon or none. Numbers of axons, packets and lists are products of one number per
axis (`connectivity`); along the channels they follow from the groups alone.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from snncompile.mapping.accounting import Listed
from snncompile.mapping.connectivity import shape3
from snncompile.mapping.tiles import Splits
from snncompile.quant_network import IntArray, QuantNetwork, QuantSynapses, pooled_shape


@dataclass(frozen=True, eq=False)
class GroupReach:
    """The channels: axons and targets fall into `groups` of consecutive ones, of equal size, each joined with its like.

    axon_of_source (source,), -1: drives none; `members` consecutive sources drive one axon.
    """

    groups: int
    axons: int
    targets: int
    members: int
    axon_of_source: IntArray

    @property
    def axons_each(self) -> int:
        return self.axons // self.groups

    @property
    def targets_each(self) -> int:
        return self.targets // self.groups

    @cached_property
    def _over(self) -> dict[Splits, "GroupTileReach"]:
        return {}

    def over(self, splits: Splits) -> "GroupTileReach":
        """Over the tiles of some cuts of the target; kept for the even cuts, which are asked for again and again."""
        tiles = GroupTileReach(self, splits)
        return self._over.setdefault(splits, tiles) if splits is Splits.even(splits.size) else tiles

    def targets_per_source(self, edges: IntArray) -> IntArray:
        """(source,): how many tiles of the target an index reaches."""
        start = np.arange(self.groups) * self.targets_each
        tile_of = [np.searchsorted(edges, ends, side="right") for ends in (start, start + self.targets_each - 1)]
        reached = (tile_of[1] - tile_of[0] + 1)[np.maximum(self.axon_of_source, 0) // self.axons_each]
        return np.where(self.axon_of_source >= 0, reached, 0)


@dataclass(frozen=True, eq=False)
class GroupTileReach:
    """The channels of one layer over the tiles of some cuts of its target."""

    reach: GroupReach
    splits: Splits

    @cached_property
    def _first_last(self) -> tuple[IntArray, IntArray]:
        """(tiles,) first and last group of each."""
        each = self.reach.targets_each
        return self.splits.start // each, (self.splits.stop - 1) // each

    @cached_property
    def axons(self) -> IntArray:
        """(tiles,) axons that reach each tile."""
        first, last = self._first_last
        return (last - first + 1) * self.reach.axons_each

    @cached_property
    def packets(self) -> IntArray:
        """(options,) pairs of a source and a tile that it reaches."""
        return self.splits.total(self.axons) * self.reach.members

    @cached_property
    def by_length(self) -> tuple[IntArray, IntArray, IntArray]:
        """tile, synapses n > 0, axons: how many axons have n synapses in a tile; (entries,) each.

        Of the tile's first group, of the last, and of all between.
        """
        (first, last), each = self._first_last, self.reach.targets_each
        tiles = np.arange(len(first))
        size = self.splits.stop - self.splits.start
        head = np.minimum((first + 1) * each, self.splits.stop) - self.splits.start
        tail = np.where(last > first, self.splits.stop - last * each, 0)
        whole = np.where(last > first, (size - head - tail) // each, 0)
        length = np.concatenate([head, tail, np.full_like(head, each)])
        groups = np.concatenate([np.ones_like(head), np.ones_like(tail), whole])
        tile, axons = np.concatenate([tiles] * 3), groups * self.reach.axons_each
        there = (length > 0) & (axons > 0)
        return tile[there], length[there], axons[there]


@dataclass(frozen=True, eq=False)
class AxisReach:
    """Rows or columns: rows (rows, target) 0 or 1; row_of_axon (axons,); axon_of_source (source,), -1: none.

    step: distance of the targets that one axon reaches; taps (axons, target): which kernel tap leads there, where rows
    is 1 (None for linear layers).
    """

    rows: IntArray
    row_of_axon: IntArray
    axon_of_source: IntArray
    step: int = 1
    taps: IntArray | None = None

    @cached_property
    def axons_of_row(self) -> IntArray:
        return np.bincount(self.row_of_axon, minlength=len(self.rows))

    @cached_property
    def sources_of_row(self) -> IntArray:
        driving = self.axon_of_source[self.axon_of_source >= 0]
        return np.bincount(self.row_of_axon[driving], minlength=len(self.rows))

    @cached_property
    def _over(self) -> dict[Splits, "TileReach"]:
        return {}

    def over(self, splits: Splits) -> "TileReach":
        """Over the tiles of some cuts of the target; kept for the even cuts, which are asked for again and again."""
        if splits is not Splits.even(splits.size):
            return TileReach(self, splits)
        return self._over.setdefault(splits, TileReach(self, splits))

    def targets_per_source(self, edges: IntArray) -> IntArray:
        """(source,): how many tiles of the target an index reaches."""
        per_row = (Splits.of(edges).sums(self.rows) > 0).sum(1)
        return np.where(self.axon_of_source >= 0, per_row[self.row_of_axon[self.axon_of_source]], 0)


@dataclass(frozen=True, eq=False)
class TileReach:
    """One axis of one layer over the tiles of some cuts of its target."""

    reach: AxisReach
    splits: Splits

    @cached_property
    def counts(self) -> IntArray:
        """(rows, tiles) synapses of an axon's row in every tile."""
        return self.splits.sums(self.reach.rows)

    @cached_property
    def axons(self) -> IntArray:
        """(tiles,) axons that reach each tile."""
        return self.reach.axons_of_row @ (self.counts > 0)

    @cached_property
    def packets(self) -> IntArray:
        """(options,) pairs of a source and a tile that it reaches."""
        return self.splits.total(self.reach.sources_of_row @ (self.counts > 0))

    @cached_property
    def patterns(self) -> dict[int, IntArray]:
        """By number n of synapses: (tiles,) different runs of kernel taps, n long, with which axons reach a tile.

        Axons that meet a tile with the same taps have the same list, shifted (shared lists of a convolution).
        """
        taps = self.reach.taps
        assert taps is not None
        axon, tile = np.nonzero(self.counts)
        length = self.counts[axon, tile]
        # the first target that an axon reaches in a tile: the one after all it reaches below the tile's start
        below = np.concatenate([np.zeros((len(taps), 1), np.int64), np.cumsum(self.reach.rows, axis=1)], axis=1)
        reached, positions = np.nonzero(self.reach.rows)
        offset = np.concatenate([[0], np.cumsum(np.bincount(reached, minlength=len(taps)))])
        first = positions[offset[axon] + below[axon, self.splits.start[tile]]]
        found: dict[int, IntArray] = {}
        for n in np.unique(length).tolist():
            chosen = length == n
            seen = np.zeros((len(self.splits.start), int(taps.max()) + 1), np.int64)
            seen[tile[chosen], taps[axon[chosen], first[chosen]]] = 1
            found[n] = seen.sum(1)
        return found

    @cached_property
    def lists(self) -> dict[int, IntArray]:
        """By number n of synapses: (tiles,) axons with n synapses in a tile."""
        lengths = np.unique(self.counts[self.counts > 0]).tolist()
        return {n: self.reach.axons_of_row @ (self.counts == n) for n in lengths}


def reaches(network: QuantNetwork, synapses: QuantSynapses) -> tuple[GroupReach, AxisReach, AxisReach]:
    """Channels, rows and columns of one layer of convolution or linear synapses."""
    source = shape3(network.shape_of(synapses.source))
    target = shape3(network.target_of(synapses).shape)
    pooled = shape3(pooled_shape(network.read_shape(synapses), synapses.pool, synapses.members))
    first, last = synapses.reads or (0, source[0])
    groups = 1 if synapses.kind == "linear" else synapses.groups
    channels = _channels((source[0], first, last), synapses.members, groups, target[0])
    if synapses.kind == "linear":
        rows, columns = (_dense(source[1 + i], synapses.pool[i], pooled[1 + i]) for i in (0, 1))
    else:
        rows, columns = (
            _taps(
                source[1 + i],
                synapses.pool[i],
                target[1 + i],
                synapses.weight.shape[2 + i],
                synapses.stride[i],
                synapses.padding[i],
                synapses.dilation[i],
            )
            for i in (0, 1)
        )
    return channels, rows, columns


@lru_cache(maxsize=512)
def _channels(source: tuple[int, int, int], members: int, groups: int, target: int) -> GroupReach:
    """source: size, and the range that is read."""
    size, first, last = source
    axons = (last - first) // members
    return GroupReach(groups, axons, target, members, _driven(size, (first, last), members))


def _driven(size: int, reads: tuple[int, int] | None, members: int) -> IntArray:
    """(size,): the axon along the channels that each drives, -1 for none."""
    first, last = reads or (0, size)
    index = np.arange(size)
    drives = (index >= first) & (index < first + (last - first) // members * members)
    return np.where(drives, (index - first) // members, -1)


@lru_cache(maxsize=512)
def _dense(source: int, pool: int, axons: int) -> AxisReach:
    return AxisReach(np.ones((1, 1), np.int64), np.zeros(axons, np.int64), _windows(source, pool))


@lru_cache(maxsize=512)
def _taps(source: int, pool: int, target: int, kernel: int, stride: int, padding: int, dilation: int) -> AxisReach:
    """Axon i meets target j with tap (i + padding - stride * j) / dilation, where that is a whole number < kernel."""
    axons = source // pool
    distance = np.arange(axons)[:, None] + padding - stride * np.arange(target)
    taps, rest = np.divmod(distance, dilation)
    meets = (rest == 0) & (taps >= 0) & (taps < kernel)
    step = dilation // math.gcd(dilation, stride)
    return AxisReach(meets.astype(np.int64), np.arange(axons), _windows(source, pool), step, np.where(meets, taps, -1))


def _windows(size: int, window: int) -> NDArray[np.int64]:
    """(size,): the window an index lies in; -1 for a remainder, which lies in none."""
    index = np.arange(size) // window
    return np.where(index < size // window, index, -1)


@dataclass(frozen=True, eq=False)
class ListedReach:
    """A sparse layer as one axis, the flattened source and target.

    axon_of_source (source neurons,), -1: drives none. `listed`: all synapses, weights of 0 too.
    """

    listed: Listed
    axon_of_source: IntArray

    @cached_property
    def _over(self) -> dict[Splits, "ListedTileReach"]:
        return {}

    def over(self, splits: Splits) -> "ListedTileReach":
        """Over the tiles of some cuts of the target; kept for those of many options."""
        tiles = ListedTileReach(self, splits)
        return self._over.setdefault(splits, tiles) if len(splits.first) > 1 else tiles

    def counted(self, edges: IntArray) -> tuple[IntArray, IntArray]:
        """(tiles,) axons that reach each tile, and (source neurons,) tiles that each neuron reaches."""
        # numba takes half a second to load
        from snncompile.mapping.list_kernel import count_lists  # noqa: PLC0415

        tile_of = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
        axons, reached = count_lists(self.listed.start, self.listed.target, tile_of, len(edges) - 1)
        return axons, np.where(self.axon_of_source >= 0, reached[self.axon_of_source], 0)

    def targets_per_source(self, edges: IntArray) -> IntArray:
        """(source neurons,): how many tiles of the target each reaches."""
        return self.counted(edges)[1]


@dataclass(frozen=True, eq=False)
class ListedTileReach:
    """A sparse layer over the tiles of some cuts of its target."""

    reach: ListedReach
    splits: Splits

    @cached_property
    def _counted(self) -> list[tuple[IntArray, IntArray]]:
        return [self.reach.counted(self.splits.edges(option)) for option in range(len(self.splits.first))]

    @cached_property
    def axons(self) -> IntArray:
        """(tiles,) axons that reach each tile."""
        return np.concatenate([axons for axons, _ in self._counted])

    @cached_property
    def packets(self) -> IntArray:
        """(options,) pairs of a source and a tile that it reaches."""
        return np.array([reached.sum() for _, reached in self._counted])

    @cached_property
    def sent(self) -> IntArray:
        """(tiles,) pairs of a source in the tile and a tile that it reaches, of lateral synapses."""
        splits = [Splits.of(self.splits.edges(option)) for option in range(len(self.splits.first))]
        return np.concatenate([s.sums(reached) for s, (_, reached) in zip(splits, self._counted, strict=True)])


def sent_along(reach: "AxisReach | ChannelReach", splits: Splits) -> IntArray:
    """(tiles of all options,) pairs of a source in the tile and a tile of the same cut that it reaches (lateral)."""
    if isinstance(reach, ListedReach):
        return reach.over(splits).sent
    edges = [splits.edges(option) for option in range(len(splits.first))]
    return np.concatenate([Splits.of(cut).sums(reach.targets_per_source(cut)) for cut in edges])


UNIT = AxisReach(np.ones((1, 1), np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64))
"""The rows and columns of a flat population."""


def listed_reach(network: QuantNetwork, synapses: QuantSynapses) -> ListedReach:
    """Of a sparse layer; its target is flat."""
    row, column = synapses.listed
    order = np.argsort(column, kind="stable")
    source = shape3(network.shape_of(synapses.source))
    pooled = shape3(pooled_shape(network.read_shape(synapses), synapses.pool, synapses.members))
    drives = (
        _driven(source[0], synapses.reads, synapses.members),
        _windows(source[1], synapses.pool[0]),
        _windows(source[2], synapses.pool[1]),
    )
    c, y, x = np.ix_(*drives)
    axon = np.where((c >= 0) & (y >= 0) & (x >= 0), (c * pooled[1] + y) * pooled[2] + x, -1)
    return ListedReach(Listed.of(column[order], row[order], math.prod(pooled), synapses.channels), axon.ravel())


ChannelReach = GroupReach | ListedReach
ChannelTileReach = GroupTileReach | ListedTileReach
