"""Who reaches whom, as three small matrices instead of a list of synapses.

The number of synapses from source neuron (c, y, x) to target neuron (c', y', x') is
channels[c, c'] * rows[y, y'] * columns[x, x'] for convolution, pooling and linear layers alike; a flat layer of n
neurons is (n, 1, 1). So synapses, axons and packets between boxes of neurons are products of small sums, exact.
Sparse synapses run between flat layers, and their channels are a sparse matrix, of which nothing is ever filled up:
100,000 neurons with 9 million synapses take 110 MB.
"""

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from snncompile.errors import CompileError
from snncompile.network import Shape
from snncompile.quant_network import IntArray, Population, QuantNetwork, QuantSynapses, pooled_shape


@dataclass(frozen=True)
class Grouped:
    """The (sources, targets) matrix that is 1 within each of `groups` equal blocks, without its entries.

    members: so many consecutive sources are alike, the members of one neuron; any that are left over reach nothing.
    first, end: only these sources reach anything (end None: all from first on), and the blocks are counted among them.
    """

    sources: int
    targets: int
    groups: int = 1
    members: int = 1
    first: int = 0
    end: int | None = None

    def __len__(self) -> int:
        return self.sources

    @property
    def shape(self) -> tuple[int, int]:
        return self.sources, self.targets

    @property
    def group_of_source(self) -> IntArray:
        """(sources,): the block of each source; `groups` where it reaches nothing."""
        neurons, index = self.reading // self.members, np.arange(self.sources) - self.first
        group = index // self.members // max(1, neurons // self.groups)
        return np.where((index < 0) | (index >= self.reading), self.groups, np.minimum(group, self.groups))

    @property
    def reading(self) -> int:
        """Sources that reach anything, but for members left over."""
        return (self.sources if self.end is None else self.end) - self.first

    def sum(self) -> int:
        return self.reading // self.members * self.members * self.targets // self.groups

    def block_sums(self, edges: NDArray[np.int64]) -> IntArray:
        """(sources, blocks): of the targets of each source, how many lie in each block of targets."""
        starts = np.arange(self.groups + 1) * (self.targets // self.groups)
        low, high = np.maximum(starts[:-1, None], edges[:-1]), np.minimum(starts[1:, None], edges[1:])
        per_group = np.vstack([np.maximum(high - low, 0), np.zeros((1, len(edges) - 1), np.int64)])
        return np.asarray(per_group[self.group_of_source])

    def dense(self) -> IntArray:
        return self.block_sums(np.arange(self.targets + 1))


@dataclass(frozen=True, eq=False)
class Connectivity:
    """Synapse counts along each axis: (source, target). Axons are counted apart (`reach.py`)."""

    channels: "Grouped | csr_array"
    rows: IntArray
    columns: IntArray

    @property
    def axes(self) -> "tuple[Axis, Axis, Axis]":
        return self.channels, self.rows, self.columns

    @property
    def synapses(self) -> int:
        """All synapses of the layer, shared lists counted for every source that drives them."""
        return math.prod(int(axis.sum()) for axis in self.axes)


Axis: TypeAlias = "IntArray | Grouped | csr_array"
"""Counts (sources, targets) along an axis: dense, as a rule, or listed (int64 entries)."""


def chip_synapses(network: QuantNetwork) -> tuple[QuantSynapses, ...]:
    """All synapses that are on the chip: not those that stand for input currents, which the host writes as biases."""
    currents = network.input_kind == "currents"
    return tuple(s for s in network.synapses if not (currents and s.source == network.input_name))


def chip_inputs(network: QuantNetwork, population: Population) -> tuple[QuantSynapses, ...]:
    """Synapses on the chip that end in a population."""
    return tuple(s for s in chip_synapses(network) if s.name in population.synapses)


def shape3(shape: Shape) -> tuple[int, int, int]:
    """(C, H, W); features (n,) are (n, 1, 1)."""
    return (shape[0], 1, 1) if len(shape) == 1 else (shape[0], shape[1], shape[2])


def connectivity(network: QuantNetwork, synapses: QuantSynapses) -> Connectivity:
    """The three matrices of one layer of synapses. Raises CompileError for sparse synapses that read an image."""
    source = shape3(network.shape_of(synapses.source))
    target = shape3(network.target_of(synapses).shape)
    if synapses.kind == "sparse":
        return _listed(synapses, source, target)
    pooled = shape3(pooled_shape(network.read_shape(synapses), synapses.pool, synapses.members))
    pools = [_windows(source[1 + i], synapses.pool[i]) for i in (0, 1)]
    if synapses.kind == "linear":
        reach = [np.ones((pooled[1 + i], 1), np.int64) for i in (0, 1)]
        channels = Grouped(source[0], target[0], 1, synapses.members, *(synapses.reads or (0, None)))
    else:
        reach = [_taps(synapses, i, pooled[1 + i], target[1 + i]) for i in (0, 1)]
        channels = Grouped(source[0], target[0], synapses.groups, synapses.members, *(synapses.reads or (0, None)))
    rows, columns = (_through(pool, axis) for pool, axis in zip(pools, reach, strict=True))
    return Connectivity(channels, rows, columns)


def _listed(synapses: QuantSynapses, source: tuple[int, int, int], target: tuple[int, int, int]) -> Connectivity:
    """Sparse synapses, between flat layers: of a neuron's members each has the same list."""
    if source[1:] != (1, 1):
        raise CompileError(
            synapses.name,
            f"is sparse and reads an image of shape {'x'.join(map(str, source))}",
            "sparse layers are mapped from features (n,) only; make the layer before it flat, or this one dense",
        )
    row, column = synapses.listed
    members = np.arange(synapses.members)
    sources = (column[:, None] * synapses.members + members).ravel()
    counts = np.ones(len(sources), np.int64)
    channels = csr_array((counts, (sources, np.repeat(row, synapses.members))), shape=(source[0], target[0]))
    one = np.ones((1, 1), np.int64)
    return Connectivity(channels, one, one)


def _through(pool: IntArray, reach: IntArray) -> IntArray:
    """pool (source, pooled) @ reach (pooled, target), whose product of integers numpy computes slowly."""
    return np.asarray(np.rint(pool.astype(np.float64) @ reach.astype(np.float64)), np.int64)


def _windows(size: int, window: int) -> IntArray:
    """(size, size // window): 1 where a source lies in the window; a remainder lies in none."""
    return (np.arange(size)[:, None] // window == np.arange(size // window)[None, :]).astype(np.int64)


def _taps(synapses: QuantSynapses, axis: int, size: int, out: int) -> IntArray:
    """(size, out): 1 where a kernel tap leads from source position to target position."""
    stride, padding, dilation = synapses.stride[axis], synapses.padding[axis], synapses.dilation[axis]
    taps = np.arange(synapses.weight.shape[2 + axis]) * dilation
    seen = np.arange(out)[:, None] * stride - padding + taps[None, :]
    return (np.arange(size)[:, None, None] == seen[None]).sum(2).astype(np.int64)


def block_sums(matrix: Axis, edges: NDArray[np.int64]) -> Any:
    """(sources, blocks): the second axis summed over consecutive blocks that start at edges[:-1].

    Of a listed matrix a csr_array, else an array.
    """
    if isinstance(matrix, Grouped):
        return matrix.block_sums(edges)
    if issparse(matrix):
        return block_counts(matrix, np.repeat(np.arange(len(edges) - 1), np.diff(edges)), len(edges) - 1)
    return np.add.reduceat(matrix, edges[:-1], axis=1)


def block_counts(matrix: csr_array, block_of: NDArray[np.int64], blocks: int) -> csr_array:
    """(sources, blocks) of a listed matrix (sources, targets): targets summed over blocks of any shape.

    block_of (targets,): the block of each target, 0..blocks-1.
    """
    entries = (matrix.data.copy(), block_of[matrix.indices], matrix.indptr.copy())  # adding up works in place
    counts = csr_array(entries, shape=(matrix.shape[0], blocks))
    counts.sum_duplicates()
    return counts
