"""Counts what spikes cause on cores: packets, synaptic operations, fired neurons. Exact, by three small products."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from snncompile.mapping.connectivity import Connectivity, block_sums
from snncompile.mapping.partition import Grid
from snncompile.quant_network import IntArray

Counts = NDArray[np.float64]

Masks = tuple[Counts, Counts, Counts]
"""(channels, i), (rows, j), (columns, k)."""

EXACT_FLOAT32 = 1 << 24


@dataclass(frozen=True, eq=False)
class LayerCounter:
    """Counts for one layer of synapses from a source cut by `source_grid` (None: the host) to `target_grid`."""

    packet_masks: Masks
    synop_masks: Masks
    source_edges: tuple[IntArray, IntArray, IntArray]
    target_splits: tuple[int, int, int]

    @classmethod
    def of(cls, link: Connectivity, source_grid: Grid | None, target_grid: Grid) -> "LayerCounter":
        per_tile = [block_sums(matrix, edges) for matrix, edges in zip(link.axes, target_grid.axes, strict=True)]
        edges = source_grid.axes if source_grid else tuple(np.array([0, len(matrix)]) for matrix in link.axes)
        masks = [_pair_mask(e, counts > 0) for e, counts in zip(edges, per_tile, strict=True)]
        c, y, x = (counts.astype(np.float64) for counts in per_tile)
        return cls((masks[0], masks[1], masks[2]), (c, y, x), (edges[0], edges[1], edges[2]), target_grid.splits)

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
            _one_hot(edges) * reach.sum(1, keepdims=True)
            for edges, reach in zip(self.source_edges, self.reach, strict=True)
        )
        return c, y, x

    @property
    def sums(self) -> tuple[Masks, Masks, Masks]:
        """Masks for `contract_all`: packets in and synapses reached, by target tile; packets out, by source tile."""
        return self.reach, self.synop_masks, self._sent

    def per_source(self, values: Counts) -> Counts:
        """(C, H, W): of every source the sum of values (source tiles, target tiles) over the tiles it reaches."""
        grid = values.reshape(*self.source_splits, *self.target_splits)
        summed = np.zeros([len(reach) for reach in self.reach])
        c, y, x = ([slice(a, b) for a, b in pairwise(edges.tolist())] for edges in self.source_edges)
        for i, j, k in np.ndindex(*self.source_splits):
            over_x = grid[i, j, k] @ self.reach[2][x[k]].T
            over_y = self.reach[1][y[j]] @ over_x
            summed[c[i], y[j], x[k]] = np.tensordot(self.reach[0][c[i]], over_y, 1)
        return summed

    def packets(self, spikes: NDArray[np.generic]) -> Counts:
        """(B, source tiles, target tiles): spikes (B, C, H, W) of each source tile that reach each target tile."""
        both = contract(spikes, self.packet_masks)
        (sc, sy, sx), (dc, dy, dx) = self.source_splits, self.target_splits
        split = both.reshape(len(spikes), sc, dc, sy, dy, sx, dx).transpose(0, 1, 3, 5, 2, 4, 6)
        return split.reshape(len(spikes), sc * sy * sx, dc * dy * dx)

    def synops(self, spikes: NDArray[np.generic]) -> Counts:
        """(B, target tiles): synapses reached by spikes (B, C, H, W), one each."""
        return contract(spikes, self.synop_masks).reshape(len(spikes), -1)


def tile_sums(values: NDArray[np.generic], grid: Grid) -> Counts:
    """(B, tiles): sums of values (B, C, H, W) over each tile of a grid."""
    return contract(values, tile_masks(grid)).reshape(len(values), -1)


def tile_masks(grid: Grid) -> Masks:
    """Masks for `contract` that sum over each tile of a grid."""
    c, y, x = (_one_hot(edges) for edges in grid.axes)
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
    along_x = values.astype(kind, copy=False) @ x.astype(kind)
    ends = np.cumsum([mask[2].shape[1] for mask in masks])[:-1]
    summed = []
    for (c, y, _), part in zip(masks, np.split(along_x, ends, axis=3), strict=True):
        out = np.matmul(y.T, part.astype(np.float64))
        batch, channels, rows, columns = out.shape
        summed.append(np.matmul(c.T, out.reshape(batch, channels, -1)).reshape(batch, -1, rows, columns))
    return summed


def _one_hot(edges: IntArray) -> Counts:
    """(size, blocks): 1 where an index lies in a block."""
    index = np.arange(edges[-1])[:, None]
    return ((index >= edges[:-1]) & (index < edges[1:])).astype(np.float64)


def _pair_mask(edges: IntArray, reaches: NDArray[np.bool_]) -> Counts:
    """(size, source blocks * target blocks): 1 where an index lies in the source block and reaches the target block."""
    mask = _one_hot(edges)[:, :, None] * reaches[:, None, :]
    return mask.reshape(len(mask), -1)
