"""Which core sends how many packets to which, chip step by chip step, from the spikes of single samples."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from snncompile.mapping.connectivity import chip_synapses, connectivity
from snncompile.mapping.routes import router_grid
from snncompile.mapping.traffic import ChannelMask, Counts, LayerCounter, Masks, contract_all
from snncompile.program import Program
from snncompile.quant_network import IntArray, QuantNetwork, QuantSynapses

from .cost import Traffic, logical_steps, steps_of

Spikes = Callable[[IntArray], Iterable[tuple[str, NDArray[np.generic]]]]
"""Of some samples (numbers): every population and which of its neurons fire, (T, samples, C, H, W)."""

FLOW_VALUES = 8_000_000
"""Values that the pairs of tiles of some samples may take at once, which bounds memory."""

STEPS_AT_ONCE = 4096
"""Chip steps whose links are bounded in one go, which bounds memory."""


@dataclass(frozen=True, eq=False)
class StepFlow:
    """Packets over the mesh in one chip step: source, target (pairs,) logical cores, distinct pairs; packets and the
    synapses they reach (pairs,). What the host sends is not in it: where it enters the mesh is not published.
    """

    step: int
    source: IntArray
    target: IntArray
    packets: IntArray
    synops: Counts

    @classmethod
    def of(cls, step: int, parts: Sequence[tuple[IntArray, IntArray, Counts, Counts]], cores: int) -> "StepFlow":
        """From source, target, packets and synapses of several layers; pairs that occur twice add up."""
        source, target, packets, synops = (np.concatenate(column) for column in zip(*parts, strict=True))
        pairs, at = np.unique(source * cores + target, return_inverse=True)
        summed = np.rint(np.bincount(at, packets, len(pairs))).astype(np.int64)
        reached: Counts = np.bincount(at, synops, len(pairs)).astype(np.float64)
        return cls(step, pairs // cores, pairs % cores, summed, reached)


@dataclass(frozen=True, eq=False)
class PairCounter:
    """Packets and synapses reached, from source tile to target tile, of one layer of synapses, exactly.

    Along each axis a column for every pair of blocks that is joined: 1 (`reach`), or the synapses (`synops`), where an
    index lies in the source block and reaches the target block. source, target (pairs,): tile numbers.
    """

    reach: Masks
    synops: Masks
    source: IntArray
    target: IntArray

    @classmethod
    def of(cls, counter: LayerCounter) -> "PairCounter":
        axes = [_axis(edges, synops) for edges, synops in zip(counter.source_edges, counter.synop_masks, strict=True)]
        source = np.ravel_multi_index(np.ix_(*(axis[0] for axis in axes)), counter.source_splits)
        target = np.ravel_multi_index(np.ix_(*(axis[1] for axis in axes)), counter.target_splits)
        reach: Masks = (axes[0][2], axes[1][2], axes[2][2])
        synops: Masks = (axes[0][3], axes[1][3], axes[2][3])
        return cls(reach, synops, source.ravel(), target.ravel())

    def __call__(self, spikes: NDArray[np.generic]) -> tuple[Counts, Counts]:
        """Packets and synapses (B, pairs) of spikes (B, C, H, W)."""
        packets, synops = contract_all(spikes, [self.reach, self.synops])
        return packets.reshape(len(spikes), -1), synops.reshape(len(spikes), -1)


def _axis(edges: IntArray, synops: ChannelMask) -> tuple[IntArray, IntArray, ChannelMask, ChannelMask]:
    """Source and target block (pairs,) of joined blocks along an axis, and (size, pairs) what joins them: 1, synapses.

    edges: of the source blocks; synops (size, target blocks), dense or sparse.
    """
    blocks = synops.shape[1]
    if issparse(synops):
        entries = synops.tocoo()
        index, target, values = (part[entries.data > 0] for part in (entries.row, entries.col, entries.data))
        block = np.searchsorted(edges, index, side="right") - 1
        pairs, column = np.unique(block.astype(np.int64) * blocks + target, return_inverse=True)
        shape = (synops.shape[0], len(pairs))
        reach, kept = (csr_array((data, (index, column)), shape=shape) for data in (np.ones(len(index)), values))
        return pairs // blocks, pairs % blocks, reach, kept
    block = np.searchsorted(edges, np.arange(len(synops)), side="right") - 1
    inside = (block[:, None] == np.arange(len(edges) - 1)).astype(np.float64)
    source, target = np.nonzero(inside.T @ synops)
    kept = inside[:, source] * synops[:, target]
    return source, target, (kept > 0).astype(np.float64), kept


class FlowCounter:
    """Flows of the chip steps of a program; holds no counts."""

    def __init__(self, program: Program) -> None:
        network, graph = program.network, program.core_graph
        self.network, self.cores = network, graph.core_count
        self._layers: dict[str, list[tuple[PairCounter, IntArray, IntArray]]] = {}
        for s in mesh_synapses(network):
            target = network.target_of(s).name
            counter = LayerCounter.of(connectivity(network, s), graph.grids[s.source], graph.grids[target])
            pairs = PairCounter.of(counter)
            cores = graph.cores_of(s.source)[pairs.source], graph.cores_of(target)[pairs.target]
            self._layers.setdefault(s.source, []).append((pairs, *cores))
        self.depths = {name: network.populations_by_name[name].depth for name in self._layers}
        pairs_of_all = sum(len(source) for layers in self._layers.values() for _, source, _ in layers)
        self._samples_at_once = max(1, FLOW_VALUES // (network.timesteps * max(pairs_of_all, 1)))

    def flows(self, steps: IntArray, samples: int, spikes: Spikes, at_once: int = 1) -> Iterator[StepFlow]:
        """Flows of the chip steps (sorted) of so many samples that follow each other, in order; empty ones left out.

        at_once: most samples that `spikes` is asked for in one go.
        A population of depth d sends in chip step c what its logical step c - d, of sample (c - d) // T, fires.
        """
        timesteps = self.network.timesteps
        needed = self._samples_of(steps, samples)
        wanted = set(steps.tolist())
        pending: dict[int, list[tuple[IntArray, IntArray, Counts, Counts]]] = {}
        size = min(at_once, self._samples_at_once)
        for group in (needed[first : first + size] for first in range(0, len(needed), size)):
            for name, fired in spikes(group):
                for counter, source, target in self._layers.get(name, ()):
                    self._add(pending, wanted, group, fired, (counter, source, target, self.depths[name]))
            ready = (int(group[-1]) + 1) * timesteps + min(self.depths.values())
            for step in sorted(step for step in pending if step < ready):
                yield StepFlow.of(step, pending.pop(step), self.cores)
        for step in sorted(pending):
            yield StepFlow.of(step, pending.pop(step), self.cores)

    def _samples_of(self, steps: IntArray, samples: int) -> IntArray:
        """Numbers of the samples that send anything in the chip steps."""
        if not self.depths:
            return np.zeros(0, np.int64)
        depths = np.array(sorted(set(self.depths.values())))
        found = np.unique((steps[:, None] - depths) // self.network.timesteps)
        return found[(found >= 0) & (found < samples)]

    def _add(
        self,
        pending: dict[int, list[tuple[IntArray, IntArray, Counts, Counts]]],
        wanted: set[int],
        group: IntArray,
        fired: NDArray[np.generic],
        layer: tuple[PairCounter, IntArray, IntArray, int],
    ) -> None:
        """Adds the pairs of one layer of synapses to the wanted chip steps that its source sends in."""
        counter, source, target, depth = layer
        for i, sample in enumerate(group.tolist()):
            first = sample * self.network.timesteps + depth
            chosen = [t for t in range(self.network.timesteps) if first + t in wanted]
            if not chosen:
                continue
            packets, synops = counter(fired[chosen, i])
            for t, row, reached in zip(chosen, packets, synops, strict=True):
                used = np.flatnonzero(row)
                if len(used):
                    pending.setdefault(first + t, []).append((source[used], target[used], row[used], reached[used]))


def mesh_synapses(network: QuantNetwork) -> list[QuantSynapses]:
    """Layers of synapses whose packets cross the mesh: all but those from the host."""
    return [s for s in chip_synapses(network) if s.source != network.input_name]


def most_on_a_link(program: Program, traffic: Traffic) -> Counts:
    """(steps,) upper bound on the packets over any link in each chip step, without looking at their ways.

    A link east carries at most what the cores of its row up to it send, and what all cores right of it receive; a link
    south at most what all rows up to it send, and what its column receives below it; west and north alike.
    """
    x, y = router_grid(program.placement, program.chip.mesh)
    x, y = x - x.min(), y - y.min()  # XY routes stay within the rectangle
    steps = traffic.samples * traffic.timesteps + int(traffic.depth.max())
    parts = ((i, min(i + STEPS_AT_ONCE, steps)) for i in range(0, steps, STEPS_AT_ONCE))
    return np.concatenate([_bound(*mesh_packets(program, traffic, *part), x, y) for part in parts])


def _bound(sent: Counts, received: Counts, x: IntArray, y: IntArray) -> Counts:
    """(steps,) as `most_on_a_link`, for some steps; x, y (cores,): column and row of each core's router."""
    steps, rows, columns = len(sent), int(y.max()) + 1, int(x.max()) + 1
    out, into = np.zeros((2, rows * columns, steps))
    np.add.at(out, y * columns + x, sent.T)
    np.add.at(into, y * columns + x, received.T)
    out, into = out.reshape(rows, columns, steps), into.reshape(rows, columns, steps)
    most = np.zeros(steps)
    for sends, receives in ((out, into), (out[:, ::-1], into[:, ::-1])):  # eastwards, westwards
        upto = sends.cumsum(axis=1)[:, :-1]
        beyond = receives.sum(axis=0)[::-1].cumsum(axis=0)[::-1][1:]
        most = np.maximum(most, np.minimum(upto, beyond).max(axis=(0, 1), initial=0))
    for sends, receives in ((out, into), (out[::-1], into[::-1])):  # southwards, northwards
        upto = sends.sum(axis=1).cumsum(axis=0)[:-1, None]
        below = receives[::-1].cumsum(axis=0)[::-1][1:]
        most = np.maximum(most, np.minimum(upto, below).max(axis=(0, 1), initial=0))
    return most


def mesh_packets(program: Program, traffic: Traffic, first: int, stop: int) -> tuple[Counts, Counts]:
    """Packets that every core sends and receives over the mesh in the chip steps first to stop - 1, (steps, cores)."""
    sent, received = np.zeros((2, stop - first, program.core_graph.core_count))
    for tile, (core, depth) in enumerate(zip(traffic.core.tolist(), traffic.depth.tolist(), strict=True)):
        rows, logical = steps_of(depth, first, stop, traffic)
        sent[rows, core] += logical_steps(traffic.packets_out)[logical, tile]
    for synapses, reception in zip(chip_synapses(program.network), traffic.receptions, strict=True):
        if synapses.source == program.network.input_name:
            continue
        rows, logical = steps_of(reception.depth, first, stop, traffic)
        arriving = logical_steps(reception.packets)[logical]
        for tile in range(arriving.shape[1]):
            received[rows, traffic.core[reception.first_tile + tile]] += arriving[:, tile]
    return sent, received
