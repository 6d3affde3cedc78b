"""Counts per tile, batch by batch: what fires, what is updated, what is sent where, which synapses are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snncompile.chip import Chip
from snncompile.mapping.connectivity import chip_synapses, connectivity, shape3
from snncompile.mapping.partition import Grid, compartments
from snncompile.mapping.routes import hops
from snncompile.mapping.traffic import LayerCounter, Masks, contract_all, tile_masks
from snncompile.program import Program
from snncompile.quant_network import Population, QuantNetwork, QuantSynapses

from .channel_classes import ChannelClasses
from .cost import Counts, Reception, Traffic


@dataclass(frozen=True, eq=False)
class Part:
    """Counts of one population, or of the input, over one batch, (B*T, ...) with steps fastest.

    received: per layer of synapses it sends through, packets and synaptic operations at each target core (B*T, tiles).
    hops (B*T, 3): links east-west, north-south and over borders of chips. All but `received` is None for the input,
    which sits on no core.
    """

    received: Mapping[str, tuple[Counts, Counts]]
    updated: Counts | None = None
    fired: Counts | None = None
    packets_out: Counts | None = None
    hops: Counts | None = None

    def repeated(self, times: int) -> "Part":
        """The same counts as many times, one after the other."""

        def over(counts: Counts | None) -> Counts | None:
            return None if counts is None else np.tile(counts, (times, 1))

        received = {
            name: (np.tile(packets, (times, 1)), np.tile(synops, (times, 1)))
            for name, (packets, synops) in self.received.items()
        }
        return Part(received, over(self.updated), over(self.fired), over(self.packets_out), over(self.hops))


class CoreCounter:
    """Counts spikes of a program; holds no counts itself, so that batches can be counted side by side."""

    def __init__(self, program: Program) -> None:
        self.program = program
        network, grids = program.network, program.core_graph.grids
        self._synapses = chip_synapses(network)
        self._counters = {
            s.name: LayerCounter.of(connectivity(network, s), grids.get(s.source), grids[network.target_of(s).name])
            for s in self._synapses
        }
        sources = [network.input_name, *(p.name for p in network.populations)]
        self._classes = {name: self._classes_of(name) for name in sources}
        self._links = {s.name: self._links_of(s) for s in self._synapses if s.source != network.input_name}

    def _classes_of(self, source: str) -> ChannelClasses:
        """Channels of a source that lie in the same tile and reach the same."""
        grid = self.program.core_graph.grids.get(source)
        masks = [self._counters[synapses.name].synop_masks[0] for synapses in self._outputs_of(source)]
        channels = shape3(self.program.network.shape_of(source))[0]
        tiles = [np.zeros((channels, 1))] if grid is None else [tile_masks(grid)[0]]
        return ChannelClasses.of(tiles + masks, channels)

    def of_input(self, spikes: NDArray[np.generic]) -> Part:
        """Input spikes (S, B, *input shape) that the host sends in the first micro-step of each time step.

        S = 1: the same in all of them. Currents that the host writes are no spikes, and no synapses carry them.
        """
        network = self.program.network
        classes = self._classes[network.input_name]
        flat = classes.sums(spikes.reshape(*spikes.shape[:2], *shape3(network.input_shape)))
        received = {}
        for synapses in self._outputs_of(network.input_name):
            counter = self._counters[synapses.name]
            packets, synops = (counts.reshape(len(flat), -1) for counts in _contracted(flat, classes, counter.sums[:2]))
            received[synapses.name] = (self._spread(packets, len(spikes)), self._spread(synops, len(spikes)))
        return Part(received)

    def _spread(self, counts: Counts, frames: int) -> Counts:
        """(B * frames, tiles) -> (B * T, tiles), 0 where the host sends nothing."""
        network = self.program.network
        by_frame = counts.reshape(-1, frames, counts.shape[1])
        steps = np.zeros((len(by_frame), network.timesteps, counts.shape[1]))
        steps[:, :: network.microsteps] = by_frame
        return steps.reshape(-1, counts.shape[1])

    def _outputs_of(self, source: str) -> list[QuantSynapses]:
        return [s for s in self._synapses if s.source == source]

    def of_population(self, name: str, spikes: NDArray[np.generic], updated: NDArray[np.generic]) -> Part:
        """Spikes and updated neurons (T, B, *shape) of one population."""
        population = self.program.network.populations_by_name[name]
        grid, classes = self.program.core_graph.grids[name], self._classes[name]
        shape = (*spikes.shape[:2], *shape3(population.shape))
        flat = classes.sums(spikes.reshape(shape))
        outputs = self._outputs_of(name)
        masks: list[Masks] = [tile_masks(grid)]
        for synapses in outputs:
            masks += self._counters[synapses.name].sums
        fired, *sums = (counts.reshape(len(flat), -1) for counts in _contracted(flat, classes, masks))
        received, out, hop = {}, np.zeros((len(flat), grid.tiles)), np.zeros((len(flat), 3))
        for synapses, packets, synops, sent in zip(outputs, sums[::3], sums[1::3], sums[2::3], strict=True):
            received[synapses.name] = (packets, synops)
            out += sent
            hop += _weighed(flat, self._links[synapses.name])
        (updates,) = _contracted(classes.sums(updated.reshape(shape)), classes, masks[:1])
        updates = updates.reshape(len(flat), -1) * compartments(population, self.program.chip)
        return Part(received, updates, fired, out, hop)

    def _links_of(self, synapses: QuantSynapses) -> NDArray[np.floating[Any]]:
        """(3, sums of the source): links that a spike takes on its ways to all cores it reaches, of each kind.

        For a channel of each class, rows and columns.
        """
        counter, classes = self._counters[synapses.name], self._classes[synapses.source]
        return np.stack([classes.of_class(counter.per_source(links)).ravel() for links in self._distances(synapses)])

    def _distances(self, synapses: QuantSynapses) -> list[Counts]:
        """(source tiles, target tiles) links east-west, north-south and over chip borders, from core to core."""
        graph, program = self.program.core_graph, self.program
        target = program.network.target_of(synapses).name
        source, targets = graph.cores_of(synapses.source)[:, None], graph.cores_of(target)[None]
        links = hops(program.placement, program.chip.mesh, source, targets)
        return [counts.astype(np.float64) for counts in (links.east_west, links.north_south, links.chip_border)]

    def traffic(self, batches: Sequence[Mapping[str, Part]]) -> Traffic:
        """The counts of all batches as one; each maps the input and every population to its Part."""
        program = self.program
        network, graph = program.network, program.core_graph
        names = [p.name for p in network.populations]

        def joined(arrays: list[Counts]) -> Counts:
            steps = np.concatenate(arrays)
            return steps.reshape(-1, network.timesteps, *steps.shape[1:])

        def per_core(field: str) -> Counts:
            return np.concatenate([joined([getattr(b[name], field) for b in batches]) for name in names], axis=2)

        def hop(axis: int) -> Counts:
            pairs = [[batch[name].hops for batch in batches] for name in names]
            return np.sum([joined([pair[:, axis] for pair in batch if pair is not None]) for batch in pairs], axis=0)

        depths = {network.input_name: 0} | {p.name: p.depth for p in network.populations}
        receptions = tuple(
            Reception(
                depths[s.source],
                graph.tiles_of(network.target_of(s).name).start,
                joined([b[s.source].received[s.name][0] for b in batches]),
                joined([b[s.source].received[s.name][1] for b in batches]),
            )
            for s in self._synapses
        )
        return Traffic(
            core=graph.core_of,
            neurons=np.concatenate(
                [_mapped(network.populations_by_name[n], graph.grids[n], program.chip) for n in names]
            ),
            depth=np.concatenate([np.full(graph.grids[name].tiles, depths[name]) for name in names]),
            updated=per_core("updated"),
            fired=per_core("fired"),
            packets_out=per_core("packets_out"),
            receptions=receptions,
            hops_east_west=hop(0),
            hops_north_south=hop(1),
            hops_chip_border=hop(2),
        )


def _mapped(population: Population, grid: Grid, chip: Chip) -> NDArray[np.int64]:
    """(tiles,) compartments of a population mapped to each of its tiles."""
    c, y, x = (np.diff(edges) for edges in grid.axes)
    return compartments(population, chip) * (c[:, None, None] * y[None, :, None] * x[None, None, :]).ravel()


def frames_of(network: QuantNetwork, payloads: NDArray[Any]) -> NDArray[Any]:
    """Input payloads (B, *shape) or (B, frames, *shape) as (S, B, *shape), S = 1 where every time step has the same."""
    return payloads[None] if payloads.ndim == 1 + len(network.input_shape) else payloads.swapaxes(0, 1)


def _contracted(sums: Counts, classes: ChannelClasses, masks: Sequence[Masks]) -> list[Counts]:
    """`contract_all` for masks along all channels, of values added up by class (N, classes, H, W)."""
    return contract_all(sums, [(classes.of_class(c), y, x) for c, y, x in masks])


def _weighed(sums: Counts, links: NDArray[np.floating[Any]]) -> Counts:
    """(N, 3): links (3, n) times spikes added up (N, ...), n of a step."""
    return sums.reshape(len(sums), -1) @ links.T
