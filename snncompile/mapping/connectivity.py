"""Who reaches whom, as three small matrices instead of a list of synapses.

The number of synapses from source neuron (c, y, x) to target neuron (c', y', x') is
channels[c, c'] * rows[y, y'] * columns[x, x'] for convolution, pooling and linear layers alike; a flat layer of n
neurons is (n, 1, 1). So synapses, axons and packets between boxes of neurons are products of small sums, exact.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from snncompile.network import Shape
from snncompile.quant_network import IntArray, Population, QuantNetwork, QuantSynapses, pooled_shape


@dataclass(frozen=True, eq=False)
class Connectivity:
    """Synapse counts along each axis: (source, target). `axon_*` (source, axons): which input axon a source drives.

    Sources of one pool window share one axon, and so do the members of one neuron where they add up; so axons are
    counted on the pooled grid.
    """

    channels: IntArray
    rows: IntArray
    columns: IntArray
    axon_channels: IntArray
    axon_rows: IntArray
    axon_columns: IntArray

    @property
    def axes(self) -> tuple[IntArray, IntArray, IntArray]:
        return self.channels, self.rows, self.columns

    @cached_property
    def axon_axes(self) -> tuple[IntArray, IntArray, IntArray]:
        """Synapse counts (axon, target) along each axis."""
        axons = (self.axon_channels, self.axon_rows, self.axon_columns)
        channels, rows, columns = (_per_axon(counts, axon) for counts, axon in zip(self.axes, axons, strict=True))
        return channels, rows, columns

    @property
    def synapses(self) -> int:
        """All synapses of the layer, shared lists counted for every source that drives them."""
        return int(np.prod([int(axis.sum()) for axis in self.axes]))


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
    members = _windows(source[0], synapses.members)
    pools = [_windows(source[1 + i], synapses.pool[i]) for i in (0, 1)]
    if synapses.kind == "linear":
        reach = [np.ones((pooled[1 + i], 1), np.int64) for i in (0, 1)]
        channels = np.ones((pooled[0], target[0]), np.int64)
    else:
        reach = [_taps(synapses, i, pooled[1 + i], target[1 + i]) for i in (0, 1)]
        group_of = [np.arange(n) // (n // synapses.groups) for n in (pooled[0], target[0])]
        channels = (group_of[0][:, None] == group_of[1][None, :]).astype(np.int64)
    return Connectivity(members @ channels, pools[0] @ reach[0], pools[1] @ reach[1], members, pools[0], pools[1])


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


def block_sums(matrix: IntArray, edges: NDArray[np.int64]) -> IntArray:
    """Sums the second axis over consecutive blocks that start at edges[:-1]."""
    return np.add.reduceat(matrix, edges[:-1], axis=1)
