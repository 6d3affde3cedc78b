"""`--backend sim`: runs a program batch by batch, counts its traffic and prices it."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from snncompile.backend import Activity, Progress, Run, silent
from snncompile.program import Program
from snncompile.quant_network import IntArray

from .cost import Traffic, energy_report, event_counts, time_report
from .counting import CoreCounter, Part, frames_of

if TYPE_CHECKING:
    from .function import FunctionEngine

BATCH_STATES = 2_000_000
"""Neuron states and input values a batch may hold at once (about 50 bytes each over T steps), which bounds memory."""


class ChipSim:
    """The chip simulator behind the protocol of `snncompile.backend`."""

    name = "sim"

    def emit(self, program: Program) -> Mapping[str, bytes]:
        return {}

    def estimate(self, program: Program, activity: Activity) -> Mapping[str, Any]:
        """Cost of an inference at that activity, from equal samples that follow each other until the pipeline is full.

        Counts are means, so a step is priced at the mean load of its busiest core; a run prices the load it meets.
        The activity of the input is that of a time step, those of populations are means over the chip's steps.
        """
        network = program.network
        samples = 1 + 2 * (network.depth // network.timesteps + 1)
        counter = CoreCounter(program)
        image = activity[network.input_name]
        parts = {network.input_name: counter.of_input(image[None, None]).repeated(samples)}
        for population in network.populations:
            updated = np.ones((1, 1, *population.shape))
            part = counter.of_population(population.name, activity[population.name][None, None], updated)
            parts[population.name] = part.repeated(samples * network.timesteps)
        return cost_of(program, counter.traffic([parts]))

    def run(
        self,
        program: Program,
        directory: Path,
        payloads: IntArray,
        record: Sequence[str] = (),
        progress: Progress = silent,
    ) -> Run:
        """Exact integer run, a batch a thread; cost holds energy, time and counts. `directory` is not used."""
        from .function import FunctionEngine  # noqa: PLC0415 - torch and numba load here

        start = time.perf_counter()
        simulation = _Simulation(program, FunctionEngine(program.network), CoreCounter(program), frozenset(record))
        states = program.neurons * program.network.timesteps + int(np.prod(payloads.shape[1:]))
        size = max(1, BATCH_STATES // states)
        images = [payloads[first : first + size] for first in range(0, len(payloads), size)]
        started = time.perf_counter()
        batches: list[_Batch] = []
        with _one_thread_a_batch() as pool:
            for batch in pool.map(simulation.batch, images):
                batches.append(batch)
                progress(sum(len(done.output) for done in batches), len(payloads))
        cost = cost_of(program, simulation.counter.traffic([batch.parts for batch in batches]))
        return Run(
            backend=self.name,
            output=np.concatenate([batch.output for batch in batches]),
            wall_s=time.perf_counter() - started,
            startup_s=started - start,
            payloads={name: np.concatenate([batch.recorded[name] for batch in batches], axis=1) for name in record},
            cost=cost,
        )


@dataclass(frozen=True, eq=False)
class _Batch:
    """Of some samples: counts, what the host reads (B, classes), payloads of recorded populations (T, B, *shape)."""

    parts: Mapping[str, Part]
    output: IntArray
    recorded: Mapping[str, IntArray]


@dataclass(frozen=True, eq=False)
class _Simulation:
    """What all batches share; nothing in it changes."""

    program: Program
    engine: "FunctionEngine"
    counter: CoreCounter
    record: frozenset[str]

    def batch(self, images: IntArray) -> _Batch:
        network = self.program.network
        parts = {network.input_name: self.counter.of_input(frames_of(network, images) != 0)}
        recorded = {}
        output = np.zeros(0, np.int64)
        for layer in self.engine.run(images):
            name = layer.population.name
            parts[name] = self.counter.of_population(name, layer.payloads != 0, layer.updated)
            if name in self.record:
                shape = (*layer.payloads.shape[:2], *layer.population.shape)
                recorded[name] = layer.payloads.reshape(shape).astype(np.int64)
            output = layer.output
        return _Batch(parts, output, recorded)


@contextmanager
def _one_thread_a_batch() -> Iterator[ThreadPoolExecutor]:
    """A thread a core for batches, and meanwhile one for each torch operation: waiting for each other costs more."""
    import torch  # noqa: PLC0415 - loaded by the function engine already

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def cost_of(program: Program, traffic: Traffic) -> dict[str, Any]:
    """Energy, time and counts per inference, with what they rest on."""
    counts = event_counts(traffic)
    chip, chips = program.chip, program.placement.chips_used
    timing = time_report(traffic, chip, program.placement.routers_of_a_chip)
    static = {
        bound: None if power is None else chips * power * timing["latency_us"] * 1e-3
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
