"""Counts what spikes cause on cores: packets, synaptic operations, fired neurons. Exact, by three small products."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snncompile.mapping.connectivity import Connectivity, block_sums
from snncompile.mapping.partition import Grid
from snncompile.quant_network import IntArray

Counts = NDArray[np.float64]

EXACT_FLOAT32 = 1 << 24


@dataclass(frozen=True, eq=False)
class LayerCounter:
    """Counts for one layer of synapses from a source cut by `source_grid` (None: the host) to `target_grid`."""

    packet_masks: tuple[Counts, Counts, Counts]
    synop_masks: tuple[Counts, Counts, Counts]
    source_splits: tuple[int, int, int]
    target_splits: tuple[int, int, int]

    @classmethod
    def of(cls, link: Connectivity, source_grid: Grid | None, target_grid: Grid) -> "LayerCounter":
        per_tile = [block_sums(matrix, edges) for matrix, edges in zip(link.axes, target_grid.axes, strict=True)]
        edges = source_grid.axes if source_grid else [np.array([0, len(matrix)]) for matrix in link.axes]
        masks = [_pair_mask(e, counts > 0) for e, counts in zip(edges, per_tile, strict=True)]
        splits = source_grid.splits if source_grid else (1, 1, 1)
        c, y, x = (counts.astype(np.float64) for counts in per_tile)
        return cls((masks[0], masks[1], masks[2]), (c, y, x), splits, target_grid.splits)

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
    masks = [_one_hot(edges) for edges in grid.axes]
    return contract(values, (masks[0], masks[1], masks[2])).reshape(len(values), -1)


def contract(values: NDArray[np.generic], masks: tuple[Counts, Counts, Counts]) -> Counts:
    """sum over (c, y, x) of values[b, c, y, x] * C[c, i] * Y[y, j] * X[x, k]: (B, i, j, k).

    Spikes (bool or uint8 of 0 and 1) are summed along x in float32, exact since a sum is at most |x| * the largest
    mask entry; the rest, and anything else, in float64, exact below 2^53.
    """
    c, y, x = masks
    small = values.dtype in (np.bool_, np.uint8) and x.sum(0).max(initial=0) * np.iinfo(np.uint8).max < EXACT_FLOAT32
    kind = np.float32 if small else np.float64
    out = np.matmul(y.T, (values.astype(kind) @ x.astype(kind)).astype(np.float64))
    batch, channels, rows, columns = out.shape
    return np.matmul(c.T, out.reshape(batch, channels, -1)).reshape(batch, -1, rows, columns)


def _one_hot(edges: IntArray) -> Counts:
    """(size, blocks): 1 where an index lies in a block."""
    index = np.arange(edges[-1])[:, None]
    return ((index >= edges[:-1]) & (index < edges[1:])).astype(np.float64)


def _pair_mask(edges: IntArray, reaches: NDArray[np.bool_]) -> Counts:
    """(size, source blocks * target blocks): 1 where an index lies in the source block and reaches the target block."""
    mask = _one_hot(edges)[:, :, None] * reaches[:, None, :]
    return mask.reshape(len(mask), -1)
