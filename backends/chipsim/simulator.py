"""`--backend sim`: runs a program batch by batch, counts its traffic and prices it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snncompile.backend import Activity, Progress, Run, silent
from snncompile.mapping.connectivity import connectivity, shape3
from snncompile.mapping.place import hops
from snncompile.mapping.traffic import LayerCounter, tile_sums
from snncompile.program import Program
from snncompile.quant_network import IntArray

from .cost import Counts, Reception, Traffic, energy_report, event_counts, time_report

BATCH_STATES = 4_000_000
"""Neuron states a batch may hold at once (about 100 bytes each over T steps), which bounds memory."""


class ChipSim:
    """The chip simulator behind the protocol of `snncompile.backend`."""

    name = "sim"

    def emit(self, program: Program) -> Mapping[str, bytes]:
        return {}

    def estimate(self, program: Program, activity: Activity) -> Mapping[str, Any]:
        """Cost of an inference at that activity, from equal samples that follow each other until the pipeline is full.

        Counts are means, so a step is priced at the mean load of its busiest core; a run prices the load it meets.
        """
        network = program.network
        samples = 1 + 2 * (network.depth // network.timesteps + 1)
        counter = _TrafficCounter(program)

        def repeated(name: str) -> NDArray[np.float64]:
            return np.broadcast_to(activity[name], (network.timesteps, samples, *activity[name].shape))

        counter.add_input(repeated(network.input_name)[:1])
        for population in network.populations:
            counter.add(
                population.name, repeated(population.name), np.ones((network.timesteps, samples, *population.shape))
            )
        return cost_of(program, counter.traffic())

    def run(
        self,
        program: Program,
        directory: Path,
        payloads: IntArray,
        record: Sequence[str] = (),
        progress: Progress = silent,
    ) -> Run:
        """Exact integer run; cost holds energy, time and counts. `directory` is not used: all is in the program."""
        from .function import FunctionEngine  # noqa: PLC0415 - torch and numba load here

        start = time.perf_counter()
        engine = FunctionEngine(program.network)
        counter = _TrafficCounter(program)
        started = time.perf_counter()
        recorded: dict[str, list[IntArray]] = {name: [] for name in record}
        outputs = []
        batch = max(1, BATCH_STATES // (program.neurons * program.network.timesteps))
        for first in range(0, len(payloads), batch):
            images = payloads[first : first + batch]
            counter.add_input(images[None] != 0)
            for layer in engine.run(images):
                counter.add(layer.population.name, layer.payloads != 0, layer.updated)
                if layer.population.name in recorded:
                    steps = layer.payloads.reshape(*layer.payloads.shape[:2], *layer.population.shape)
                    recorded[layer.population.name].append(steps.astype(np.int64))
            outputs.append(layer.output)
            progress(first + len(images), len(payloads))
        cost = cost_of(program, counter.traffic())
        return Run(
            backend=self.name,
            output=np.concatenate(outputs),
            wall_s=time.perf_counter() - started,
            startup_s=started - start,
            payloads={name: np.concatenate(parts, axis=1) for name, parts in recorded.items()},
            cost=cost,
        )


def cost_of(program: Program, traffic: Traffic) -> dict[str, Any]:
    """Energy, time and counts per inference, with what they rest on."""
    counts = event_counts(traffic)
    routers = program.placement.routers_used
    chip = program.chip
    timing = time_report(traffic, chip, routers)
    static = {
        bound: None if power is None else power * timing["latency_us"] * 1e-3
        for bound, power in (("low", chip.static_power.low_mw), ("high", chip.static_power.high_mw))
    }
    return {
        "synops": counts["synop"],
        "spikes": counts["spike"],
        "packets": counts["packet"],
        "events": counts,
        "energy_pj": energy_report(counts, chip),
        "static_energy_uj_during_latency": static,
        "timing": "event",
        **timing,
    }


@dataclass(frozen=True, eq=False)
class _Part:
    """Counts of one population over one batch, (B*T, ...) with steps fastest."""

    updated: Counts
    fired: Counts
    packets_out: Counts
    hops: tuple[Counts, Counts]


class _TrafficCounter:
    """Collects counts per core, batch by batch."""

    def __init__(self, program: Program) -> None:
        self.program = program
        network, graph = program.network, program.core_graph
        self._hops = hops(program.placement)
        self._parts: dict[str, list[_Part]] = {p.name: [] for p in network.populations}
        self._received: dict[str, list[tuple[Counts, Counts]]] = {s.name: [] for s in network.synapses}
        self._counters = {
            s.name: LayerCounter.of(
                connectivity(network, s), graph.grids.get(s.source), graph.grids[network.target_of(s).name]
            )
            for s in network.synapses
        }

    def add_input(self, spikes: NDArray[np.generic]) -> None:
        """Input spikes (1, B, *input shape), which the host sends in every step."""
        network = self.program.network
        flat = self._by_sample(spikes, shape3(network.input_shape))
        for synapses in network.outputs_of(network.input_name):
            counter = self._counters[synapses.name]
            packets, synops = counter.packets(flat).sum(1), counter.synops(flat)
            repeated = (np.repeat(packets, network.timesteps, axis=0), np.repeat(synops, network.timesteps, axis=0))
            self._received[synapses.name].append(repeated)

    def add(self, name: str, spikes: NDArray[np.generic], updated: NDArray[np.generic]) -> None:
        """Spikes and updated neurons (T, B, *shape) of one population."""
        network, graph = self.program.network, self.program.core_graph
        grid, shape = graph.grids[name], shape3(network.populations_by_name[name].shape)
        flat = self._by_sample(spikes, shape)
        out = np.zeros((len(flat), grid.tiles))
        hop = [np.zeros(len(flat)), np.zeros(len(flat))]
        for synapses in network.outputs_of(name):
            counter = self._counters[synapses.name]
            packets = counter.packets(flat)
            self._received[synapses.name].append((packets.sum(1), counter.synops(flat)))
            out += packets.sum(2)
            pairs = np.ix_(graph.cores_of(name), graph.cores_of(network.target_of(synapses).name))
            for axis in (0, 1):
                hop[axis] += np.tensordot(packets, self._hops[axis][pairs].astype(np.float64), 2)
        fired = tile_sums(flat, grid)
        self._parts[name].append(_Part(tile_sums(self._by_sample(updated, shape), grid), fired, out, (hop[0], hop[1])))

    @staticmethod
    def _by_sample(steps: NDArray[np.generic], shape: tuple[int, int, int]) -> NDArray[np.generic]:
        """(T, B, ...) -> (B*T, C, H, W), steps fastest."""
        return steps.swapaxes(0, 1).reshape(-1, *shape)

    def traffic(self) -> Traffic:
        program = self.program
        network, graph = program.network, program.core_graph
        parts = [self._parts[p.name] for p in network.populations]

        def per_core(field: str) -> Counts:
            return np.concatenate([np.concatenate([getattr(b, field) for b in batches]) for batches in parts], axis=1)

        def steps(values: Counts) -> Counts:
            return values.reshape(-1, network.timesteps, *values.shape[1:])

        hop = [
            np.sum([np.concatenate([b.hops[axis] for b in batches]) for batches in parts], axis=0) for axis in (0, 1)
        ]
        depths = {network.input_name: 0} | {p.name: p.depth for p in network.populations}
        receptions = tuple(
            Reception(
                depths[s.source],
                graph.cores_of(network.target_of(s).name).start,
                *(steps(np.concatenate([batch[i] for batch in self._received[s.name]])) for i in (0, 1)),
            )
            for s in network.synapses
        )
        return Traffic(
            neurons=np.array([core.usage["neurons"] for core in graph.cores]),
            depth=np.repeat(
                [p.depth for p in network.populations], [graph.grids[p.name].tiles for p in network.populations]
            ),
            updated=steps(per_core("updated")),
            fired=steps(per_core("fired")),
            packets_out=steps(per_core("packets_out")),
            receptions=receptions,
            hops_east_west=steps(hop[0]),
            hops_north_south=steps(hop[1]),
        )
