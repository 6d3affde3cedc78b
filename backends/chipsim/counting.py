"""Counts per core, batch by batch: what fires, what is updated, what is sent where, which synapses are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snncompile.mapping.connectivity import connectivity, shape3
from snncompile.mapping.place import hops
from snncompile.mapping.traffic import LayerCounter, tile_sums
from snncompile.program import Program
from snncompile.quant_network import QuantSynapses

from .cost import Counts, Reception, Traffic


@dataclass(frozen=True, eq=False)
class Part:
    """Counts of one population, or of the input, over one batch, (B*T, ...) with steps fastest.

    received: per layer of synapses it sends through, packets and synaptic operations at each target core (B*T, tiles).
    The rest is None for the input, which sits on no core.
    """

    received: Mapping[str, tuple[Counts, Counts]]
    updated: Counts | None = None
    fired: Counts | None = None
    packets_out: Counts | None = None
    hops: tuple[Counts, Counts] | None = None


class CoreCounter:
    """Counts spikes of a program; holds no counts itself, so that batches can be counted side by side."""

    def __init__(self, program: Program) -> None:
        self.program = program
        network, grids = program.network, program.core_graph.grids
        self._hops = hops(program.placement)
        self._counters = {
            s.name: LayerCounter.of(connectivity(network, s), grids.get(s.source), grids[network.target_of(s).name])
            for s in network.synapses
        }

    def of_input(self, spikes: NDArray[np.generic]) -> Part:
        """Input spikes (1, B, *input shape), which the host sends in every step."""
        network = self.program.network
        flat = _by_sample(spikes, shape3(network.input_shape))
        received = {}
        for synapses in network.outputs_of(network.input_name):
            counter = self._counters[synapses.name]
            counts = counter.packets(flat).sum(1), counter.synops(flat)
            received[synapses.name] = (
                np.repeat(counts[0], network.timesteps, axis=0),
                np.repeat(counts[1], network.timesteps, axis=0),
            )
        return Part(received)

    def of_population(self, name: str, spikes: NDArray[np.generic], updated: NDArray[np.generic]) -> Part:
        """Spikes and updated neurons (T, B, *shape) of one population."""
        network, graph = self.program.network, self.program.core_graph
        grid, shape = graph.grids[name], shape3(network.populations_by_name[name].shape)
        flat = _by_sample(spikes, shape)
        out, hop = np.zeros((len(flat), grid.tiles)), (np.zeros(len(flat)), np.zeros(len(flat)))
        received = {}
        for synapses in network.outputs_of(name):
            counter = self._counters[synapses.name]
            packets = counter.packets(flat)
            received[synapses.name] = (packets.sum(1), counter.synops(flat))
            out += packets.sum(2)
            for total, distance in zip(hop, self._distances(synapses), strict=True):
                total += np.tensordot(packets, distance, 2)  # noqa: PLW2901 - in place
        return Part(received, tile_sums(_by_sample(updated, shape), grid), tile_sums(flat, grid), out, hop)

    def _distances(self, synapses: QuantSynapses) -> tuple[Counts, Counts]:
        """(source tiles, target tiles) links east-west and north-south between the cores of two populations."""
        graph = self.program.core_graph
        target = self.program.network.target_of(synapses).name
        pairs = np.ix_(graph.cores_of(synapses.source), graph.cores_of(target))
        return self._hops[0][pairs].astype(np.float64), self._hops[1][pairs].astype(np.float64)

    def traffic(self, batches: Sequence[Mapping[str, Part]]) -> Traffic:
        """The counts of all batches as one; each maps the input and every population to its Part."""
        network, graph = self.program.network, self.program.core_graph
        names = [p.name for p in network.populations]

        def joined(arrays: list[Counts]) -> Counts:
            steps = np.concatenate(arrays)
            return steps.reshape(-1, network.timesteps, *steps.shape[1:])

        def per_core(field: str) -> Counts:
            return np.concatenate([joined([getattr(b[name], field) for b in batches]) for name in names], axis=2)

        def hop(axis: int) -> Counts:
            pairs = [[batch[name].hops for batch in batches] for name in names]
            return np.sum([joined([pair[axis] for pair in batch if pair is not None]) for batch in pairs], axis=0)

        depths = {network.input_name: 0} | {p.name: p.depth for p in network.populations}
        receptions = tuple(
            Reception(
                depths[s.source],
                graph.cores_of(network.target_of(s).name).start,
                joined([b[s.source].received[s.name][0] for b in batches]),
                joined([b[s.source].received[s.name][1] for b in batches]),
            )
            for s in network.synapses
        )
        return Traffic(
            neurons=np.array([core.usage["neurons"] for core in graph.cores]),
            depth=np.concatenate([np.full(graph.grids[name].tiles, depths[name]) for name in names]),
            updated=per_core("updated"),
            fired=per_core("fired"),
            packets_out=per_core("packets_out"),
            receptions=receptions,
            hops_east_west=hop(0),
            hops_north_south=hop(1),
        )


def _by_sample(steps: NDArray[np.generic], shape: tuple[int, int, int]) -> NDArray[np.generic]:
    """(T, B, ...) -> (B*T, C, H, W), steps fastest."""
    return steps.swapaxes(0, 1).reshape(-1, *shape)
