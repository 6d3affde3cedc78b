"""Counts what spikes cause on cores: packets, synaptic operations, fired neurons. Exact, by three small products."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from snncompile.mapping.connectivity import Connectivity, block_sums
from snncompile.mapping.partition import Grid
from snncompile.quant_network import IntArray

Counts = NDArray[np.float64]

ChannelMask = Any
"""Dense (channels, i), or the same as a csr_array; scipy has no types to say so."""

Masks = tuple[ChannelMask, Counts, Counts]
"""(channels, i), (rows, j), (columns, k)."""

EXACT_FLOAT32 = 1 << 24


@dataclass(frozen=True, eq=False)
class TileFlow:
    """Values of pairs of tiles that exchange packets: source, target (pairs,) tile numbers, packets (pairs,)."""

    source: IntArray
    target: IntArray
    packets: Counts


@dataclass(frozen=True, eq=False)
class LayerCounter:
    """Counts for one layer of synapses from a source cut by `source_edges` to a target cut into `target_splits`.

    The matrices along the channels may be sparse (csr); then the layer is flat, one row and one column.
    """

    synop_masks: Masks
    source_edges: tuple[IntArray, IntArray, IntArray]
    target_splits: tuple[int, int, int]

    @classmethod
    def of(cls, link: Connectivity, source_grid: Grid | None, target_grid: Grid) -> "LayerCounter":
        """Of a layer whose source is cut by `source_grid` (None: the host, one tile)."""
        c, y, x = (
            block_sums(matrix, edges).astype(np.float64)
            for matrix, edges in zip(link.axes, target_grid.axes, strict=True)
        )
        edges = source_grid.axes if source_grid else tuple(np.array([0, matrix.shape[0]]) for matrix in link.axes)
        return cls((c, y, x), (edges[0], edges[1], edges[2]), target_grid.splits)

    @property
    def source_splits(self) -> tuple[int, int, int]:
        c, y, x = (len(edges) - 1 for edges in self.source_edges)
        return c, y, x

    @cached_property
    def reach(self) -> Masks:
        """(source, target tiles) along each axis: 1 where a source reaches a tile."""
        c, y, x = ((counts > 0).astype(np.float64) for counts in self.synop_masks)
        return c, y, x

    @cached_property
    def _sent(self) -> Masks:
        """(source, source tiles) along each axis: how many target tiles a source reaches, in the column of its tile."""
        c, y, x = (
            _in_blocks(edges, reach.sum(1), sparse=issparse(reach))
            for edges, reach in zip(self.source_edges, self.reach, strict=True)
        )
        return c, y, x

    @property
    def sums(self) -> tuple[Masks, Masks, Masks]:
        """Masks for `contract_all`: packets in and synapses reached, by target tile; packets out, by source tile."""
        return self.reach, self.synop_masks, self._sent

    def per_source(self, values: Counts) -> Counts:
        """(C, H, W): of every source the sum of values (source tiles, target tiles) over the tiles it reaches."""
        if issparse(self.reach[0]):
            source, target = self.reach[0].nonzero()
            tile = np.searchsorted(self.source_edges[0], source, side="right") - 1
            listed = np.bincount(source, values[tile, target], self.reach[0].shape[0])
            return listed.astype(np.float64)[:, None, None]
        grid = values.reshape(*self.source_splits, *self.target_splits)
        summed = np.zeros([len(reach) for reach in self.reach])
        c, y, x = ([slice(a, b) for a, b in pairwise(edges.tolist())] for edges in self.source_edges)
        for i, j, k in np.ndindex(*self.source_splits):
            over_x = grid[i, j, k] @ self.reach[2][x[k]].T
            over_y = self.reach[1][y[j]] @ over_x
            summed[c[i], y[j], x[k]] = np.tensordot(self.reach[0][c[i]], over_y, 1)
        return summed

    def tile_flow(self, rates: Counts) -> TileFlow:
        """Sum of rates (C, H, W) over the sources in each tile that reach each target tile, where any does.

        Rates that are the same all over a channel make it a product of one sum per axis; other rates are summed along
        columns, rows and channels in turn, for the pairs of blocks alone that are joined along each.
        """
        uniform = bool((rates == rates[:, :1, :1]).all())
        weights = (rates[:, 0, 0], *(np.ones(n) for n in rates.shape[1:]))
        axes = [
            _BlockPairs.of(edges, reach, weight if uniform else np.ones_like(weight))
            for edges, reach, weight in zip(self.source_edges, self.reach, weights, strict=True)
        ]
        if uniform:
            c, y, x = (axis.sums for axis in axes)
            packets = c[:, None, None] * y[:, None] * x
        else:
            cut = zip(axes, self.source_edges, self.reach, strict=True)
            masks = [axis.mask(edges, reach) for axis, edges, reach in cut]
            packets = contract(rates[None], (masks[0], masks[1], masks[2]))[0]
        source = np.ravel_multi_index(np.ix_(*(axis.source for axis in axes)), self.source_splits)
        target = np.ravel_multi_index(np.ix_(*(axis.target for axis in axes)), self.target_splits)
        flows = packets > 0
        return TileFlow(source[flows], target[flows], packets[flows])

    def synops(self, spikes: NDArray[np.generic]) -> Counts:
        """(B, target tiles): synapses reached by spikes (B, C, H, W), one each."""
        return contract(spikes, self.synop_masks).reshape(len(spikes), -1)


def tile_masks(grid: Grid) -> Masks:
    """Masks for `contract` that sum over each tile of a grid."""
    c, y, x = (_in_blocks(edges, np.ones(edges[-1])) for edges in grid.axes)
    return c, y, x


def contract(values: NDArray[np.generic], masks: Masks) -> Counts:
    """sum over (c, y, x) of values[b, c, y, x] * C[c, i] * Y[y, j] * X[x, k]: (B, i, j, k)."""
    return contract_all(values, [masks])[0]


def contract_all(values: NDArray[np.generic], masks: Sequence[Masks]) -> list[Counts]:
    """`contract` for several masks (C, Y, X), in one pass over the values.

    Spikes (bool, or 0 and 1 as uint8 or float32) are summed along x in float32, exact since a sum is at most |x| * the
    largest mask entry; the rest, and anything else, in float64, exact below 2^53.
    """
    x = np.concatenate([mask[2] for mask in masks], axis=1)
    small = (
        values.dtype in (np.bool_, np.uint8, np.float32)
        and x.sum(0).max(initial=0) * np.iinfo(np.uint8).max < EXACT_FLOAT32
    )
    kind = np.float32 if small else np.float64
    flat = values.reshape(-1, values.shape[3]).astype(kind, copy=False)
    along_x = (flat @ x.astype(kind)).reshape(*values.shape[:3], -1)  # one product: small ones cost most to start
    ends = np.cumsum([mask[2].shape[1] for mask in masks])[:-1]
    summed = []
    for (c, y, _), part in zip(masks, np.split(along_x, ends, axis=3), strict=True):
        out = np.tensordot(part.astype(np.float64, copy=False), y, (2, 0))  # (B, channels, k, j)
        batch, channels, columns, rows = out.shape
        over_c = _along_channels(c, out.reshape(batch, channels, columns * rows))
        summed.append(over_c.reshape(batch, c.shape[1], columns, rows).swapaxes(2, 3))
    return summed


def _along_channels(mask: ChannelMask, values: Counts) -> Counts:
    """(B, i, ...) from values (B, C, ...) and a mask (C, i), dense or sparse."""
    if not issparse(mask):
        return np.tensordot(values, mask, (1, 0)).swapaxes(1, 2)
    batch, channels, rest = values.shape
    summed = mask.T @ values.swapaxes(0, 1).reshape(channels, batch * rest)
    return summed.reshape(mask.shape[1], batch, rest).swapaxes(0, 1)


@dataclass(frozen=True, eq=False)
class _BlockPairs:
    """Along one axis: source and target block (pairs,) of those that are joined, and sums of weights (pairs,)."""

    source: IntArray
    target: IntArray
    sums: Counts

    @classmethod
    def of(cls, edges: IntArray, reach: ChannelMask, weights: Counts) -> "_BlockPairs":
        """sums: of the weights (size,) of the indices of a source block that reach a target block."""
        if issparse(reach):
            sums = (_in_blocks(edges, weights, sparse=True).T @ reach).tocoo()
            return cls(sums.row.astype(np.int64), sums.col.astype(np.int64), sums.data)
        sums = np.add.reduceat(reach * weights[:, None], edges[:-1], axis=0)
        source, target = np.nonzero(np.add.reduceat(reach, edges[:-1], axis=0))
        return cls(source, target, sums[source, target])

    def mask(self, edges: IntArray, reach: ChannelMask) -> ChannelMask:
        """(size, pairs): 1 where an index lies in the source block and reaches the target block."""
        if issparse(reach):
            index, target = reach.nonzero()
            block = np.searchsorted(edges, index, side="right") - 1
            blocks = reach.shape[1]
            order = np.argsort(self.source * blocks + self.target)
            pair = order[np.searchsorted((self.source * blocks + self.target)[order], block * blocks + target)]
            return csr_array((np.ones(len(index)), (index, pair)), shape=(reach.shape[0], len(self.source)))
        inside = _in_blocks(edges, np.ones(len(reach)))
        return inside[:, self.source] * reach[:, self.target]


def _in_blocks(edges: IntArray, values: Counts, sparse: bool = False) -> ChannelMask:
    """(size, blocks): the value (size,) of an index in the column of its block, 0 elsewhere."""
    index = np.arange(edges[-1])
    block = np.searchsorted(edges, index, side="right") - 1
    if sparse:
        return csr_array((values, (index, block)), shape=(len(index), len(edges) - 1))
    mask = np.zeros((len(index), len(edges) - 1))
    mask[index, block] = values
    return mask
