"""Who reaches whom, as three small matrices instead of a list of synapses.

The number of synapses from source neuron (c, y, x) to target neuron (c', y', x') is
channels[c, c'] * rows[y, y'] * columns[x, x'] for convolution, pooling and linear layers alike; a flat layer of n
neurons is (n, 1, 1). So synapses, axons and packets between boxes of neurons are products of small sums, exact.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from snncompile.network import Shape
from snncompile.quant_network import IntArray, Population, QuantNetwork, QuantSynapses, pooled_shape


@dataclass(frozen=True)
class Grouped:
    """The (sources, targets) matrix that is 1 within each of `groups` equal blocks, without its entries.

    members: so many consecutive sources are alike, the members of one neuron; any that are left over reach nothing.
    """

    sources: int
    targets: int
    groups: int = 1
    members: int = 1

    def __len__(self) -> int:
        return self.sources

    @property
    def shape(self) -> tuple[int, int]:
        return self.sources, self.targets

    @property
    def group_of_source(self) -> IntArray:
        """(sources,): the block of each source; `groups` where it reaches nothing."""
        neurons = self.sources // self.members
        group = np.arange(self.sources) // self.members // max(1, neurons // self.groups)
        return np.minimum(group, self.groups)

    def sum(self) -> int:
        return self.sources // self.members * self.members * self.targets // self.groups

    def block_sums(self, edges: NDArray[np.int64]) -> IntArray:
        """(sources, blocks): of the targets of each source, how many lie in each block of targets."""
        starts = np.arange(self.groups + 1) * (self.targets // self.groups)
        low, high = np.maximum(starts[:-1, None], edges[:-1]), np.minimum(starts[1:, None], edges[1:])
        per_group = np.vstack([np.maximum(high - low, 0), np.zeros((1, len(edges) - 1), np.int64)])
        return np.asarray(per_group[self.group_of_source])

    def per_axon(self) -> "Grouped":
        """The same for one source of each neuron's members."""
        return Grouped(self.sources // self.members, self.targets, self.groups)

    def dense(self) -> IntArray:
        return self.block_sums(np.arange(self.targets + 1))


@dataclass(frozen=True, eq=False)
class Connectivity:
    """Synapse counts along each axis: (source, target); `axon_rows`, `axon_columns` (source, axons).

    The last two say which input axon a source drives.

    Sources of one pool window share one axon, and so do the members of one neuron where they add up; so axons are
    counted on the pooled grid.
    """

    channels: Grouped
    rows: IntArray
    columns: IntArray
    axon_rows: IntArray
    axon_columns: IntArray

    @property
    def axes(self) -> "tuple[Axis, Axis, Axis]":
        return self.channels, self.rows, self.columns

    @cached_property
    def axon_axes(self) -> "tuple[Axis, Axis, Axis]":
        """Synapse counts (axon, target) along each axis."""
        rows, columns = _per_axon(self.rows, self.axon_rows), _per_axon(self.columns, self.axon_columns)
        return self.channels.per_axon(), rows, columns

    @property
    def synapses(self) -> int:
        """All synapses of the layer, shared lists counted for every source that drives them."""
        return math.prod(int(axis.sum()) for axis in self.axes)


Axis = IntArray | Grouped


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
    """The three matrices of one layer of synapses."""
    source = shape3(network.shape_of(synapses.source))
    target = shape3(network.target_of(synapses).shape)
    pooled = shape3(pooled_shape(network.shape_of(synapses.source), synapses.pool, synapses.members))
    pools = [_windows(source[1 + i], synapses.pool[i]) for i in (0, 1)]
    if synapses.kind == "linear":
        reach = [np.ones((pooled[1 + i], 1), np.int64) for i in (0, 1)]
        channels = Grouped(source[0], target[0], 1, synapses.members)
    else:
        reach = [_taps(synapses, i, pooled[1 + i], target[1 + i]) for i in (0, 1)]
        channels = Grouped(source[0], target[0], synapses.groups, synapses.members)
    return Connectivity(channels, _through(pools[0], reach[0]), _through(pools[1], reach[1]), *pools)


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


def _per_axon(synapses: IntArray, axons: IntArray) -> IntArray:
    """(axons, target): the synapse list of an axon is that of any source that drives it."""
    return synapses[axons.argmax(0)]


def block_sums(matrix: Axis, edges: NDArray[np.int64]) -> IntArray:
    """Sums the second axis over consecutive blocks that start at edges[:-1]."""
    if isinstance(matrix, Grouped):
        return matrix.block_sums(edges)
    return np.add.reduceat(matrix, edges[:-1], axis=1)
