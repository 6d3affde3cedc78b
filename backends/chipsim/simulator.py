"""`--backend sim`: runs a program batch by batch, counts its traffic and prices it."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from snncompile.backend import Activity, Progress, Run, RunOptions, Timing, Trace, silent
from snncompile.chip import Chip
from snncompile.errors import CompileError
from snncompile.program import Program
from snncompile.quant_network import IntArray

from .breakdown import Hops, arrays_of, energy_by_layer, hops_of, lines_of
from .cost import CoreTimes, Counts, Traffic, energy_report, event_counts, step_times_ns, time_report
from .counting import CoreCounter, Part, frames_of
from .flows import FlowCounter
from .max_affine import busiest, known, max_affine_ns

if TYPE_CHECKING:
    from .clocked import Clocked
    from .function import FunctionEngine

BATCH_STATES = 16_000_000
"""Neuron states of all steps and input values a batch may hold at once (about 5 bytes each), which bounds memory."""


class ChipSim:
    """The chip simulator behind the protocol of `snncompile.backend`."""

    name = "sim"
    timings: tuple[Timing, ...] = ("event", "cycle", "auto")

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
        traffic, hops = counter.traffic([parts]), hops_of(program, [parts])
        timed = _Timed.by_events(program, traffic)
        lines = lines_of(program, timed.arrays(program, traffic, hops))
        return {**cost_of(program, traffic, hops, timed), **lines}

    def run(
        self,
        program: Program,
        directory: Path,
        payloads: IntArray,
        record: Sequence[str] = (),
        progress: Progress = silent,
        options: RunOptions = RunOptions(),  # noqa: B008 - frozen
    ) -> Run:
        """Exact integer run, a batch a thread; cost holds energy, time and counts. `directory` is not used.

        Raises CompileError: no samples, or payloads that the network's input cannot have; a timing that the chip's
        model does not allow; a trace that would be too large.
        """
        _check(program, payloads, options)
        from .function import FunctionEngine  # noqa: PLC0415 - torch and numba load here

        start = time.perf_counter()
        simulation = _Simulation(program, FunctionEngine(program.network), CoreCounter(program), frozenset(record))
        states = program.neurons * program.network.timesteps + int(np.prod(payloads.shape[1:]))
        size = max(1, min(BATCH_STATES // states, -(-len(payloads) // (os.cpu_count() or 1))))
        images = [payloads[first : first + size] for first in range(0, len(payloads), size)]
        started = time.perf_counter()
        batches: list[_Batch] = []
        with _one_thread_a_batch() as pool:
            for batch in pool.map(simulation.batch, images):
                batches.append(batch)
                progress(sum(len(done.output) for done in batches), len(payloads))
        parts = [batch.parts for batch in batches]
        traffic, hops = simulation.counter.traffic(parts), hops_of(program, parts)
        spikes = _Again(simulation.engine, payloads, size)
        timed = _timed(program, traffic, spikes, options.timing, progress)
        return Run(
            backend=self.name,
            output=np.concatenate([batch.output for batch in batches]),
            wall_s=time.perf_counter() - started,
            startup_s=started - start,
            payloads={name: np.concatenate([batch.recorded[name] for batch in batches], axis=1) for name in record},
            cost={**cost_of(program, traffic, hops, timed), "kernels": simulation.engine.kernels},
            arrays=timed.arrays(program, traffic, hops) if options.arrays else {},
            trace=_trace(program, spikes, timed) if options.trace else None,
        )


def _check(program: Program, payloads: IntArray, options: RunOptions) -> None:
    """Before anything is computed. Raises CompileError."""
    network = program.network
    shape, most = network.input_shape, network.input_payload_max
    frames = network.timesteps // network.microsteps
    if payloads.shape[1:] not in (shape, (frames, *shape)):
        needed = f"needed: (N, *{shape}) or (N, {frames}, *{shape})"
        raise CompileError("payloads", f"have shape {payloads.shape}", needed)
    if not len(payloads):
        raise CompileError("payloads", "no samples to run", "give at least one")
    if payloads.dtype.kind not in "biu":
        raise CompileError("payloads", f"are {payloads.dtype}", "needed: integers, as `Program.encode` gives them")
    low, high = int(payloads.min()), int(payloads.max())
    least = -most if network.input_kind == "currents" else 0
    if low < least or high > most:
        binary = ": its spikes are binary" if most == 1 else ""
        raise CompileError("payloads", f"from {low} to {high}", f"the network's input takes {least} to {most}{binary}")
    if options.timing == "cycle":
        from .clocked import RouterMesh  # noqa: PLC0415 - numba loads here

        RouterMesh.of(program)
    if options.trace:
        from .timeline import check_size  # noqa: PLC0415

        check_size(program, len(payloads))


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
        recorded, output = {}, np.zeros(0, np.int64)
        for layer in self.engine.run(images):
            name = layer.population.name
            parts[name] = self.counter.of_population(name, layer.fired, layer.updated)
            if name in self.record:
                shape = (*layer.payloads.shape[:2], *layer.population.shape)
                recorded[name] = layer.payloads.reshape(shape).astype(np.int64)
            if layer.population is network.readout:
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


@dataclass(frozen=True, eq=False)
class _Again:
    """The spikes of some samples once more: what single packets do is only looked at where it is asked for."""

    engine: "FunctionEngine"
    payloads: IntArray
    samples_at_once: int

    def __call__(self, samples: IntArray) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Every population and which of its neurons fire, (T, samples, C, H, W)."""
        for layer in self.engine.run(self.payloads[samples]):
            yield layer.population.name, layer.payloads != 0

    @property
    def count(self) -> int:
        return len(self.payloads)


@dataclass(frozen=True, eq=False)
class _Timed:
    """How long chip steps take (steps,) in ns, which of them went through the router, and what is said of it."""

    busy: CoreTimes
    step_ns: Counts
    routed: NDArray[np.bool_]
    name: str
    note: str | None = None

    @classmethod
    def by_events(cls, program: Program, traffic: Traffic) -> "_Timed":
        busy = CoreTimes(traffic, program.chip)
        step_ns = step_times_ns(traffic, program.chip, program.placement.routers_of_a_chip, busy)
        return cls(busy, step_ns, np.zeros(len(step_ns), bool), "event")

    def through_router(self, clocked: "Clocked", timing: Timing) -> "_Timed":
        """Named cycle where all steps were to go through the router, event+router where some did, else event."""
        some = "event+router" if clocked.routed.any() else "event"
        return _Timed(self.busy, clocked.step_ns, clocked.routed, "cycle" if timing == "cycle" else some)

    def arrays(self, program: Program, traffic: Traffic, hops: Hops) -> dict[str, NDArray[Any]]:
        return arrays_of(program, traffic, hops, self.busy, {"step_ns": self.step_ns, "step_routed": self.routed})


def _timed(program: Program, traffic: Traffic, spikes: _Again, timing: Timing, progress: Progress) -> _Timed:
    """Event-timed, or with those steps through the router that `timing` asks for.

    By the max-affine model where the chip has all its coefficients; `cycle` then is the router's, too.
    """
    events = _Timed.by_events(program, traffic)
    model = program.chip.max_affine
    if timing != "cycle" and model is not None and known(model):
        step_ns = max_affine_ns(busiest(program, traffic), _links(program, spikes, events)[0].max(1, initial=0), model)
        return replace(events, step_ns=step_ns, name="max-affine")
    if timing == "event":
        return events
    from .clocked import clocked_steps, not_routable  # noqa: PLC0415 - numba loads here

    reason = not_routable(program)
    if timing == "auto" and reason is not None:
        return replace(events, note=f"event-timed throughout: {reason}")
    every = timing == "cycle"
    done = clocked_steps(program, traffic, events.busy, spikes, every, spikes.samples_at_once, progress)
    return events.through_router(done, timing)


def _links(program: Program, spikes: _Again, timed: _Timed) -> tuple[Counts, IntArray, IntArray, IntArray]:
    """Packets over each used link in each chip step, and the links (`timeline.links_of`)."""
    from .timeline import links_of  # noqa: PLC0415 - numba loads here

    steps = len(timed.step_ns)
    flows = FlowCounter(program).flows(np.arange(steps), spikes.count, spikes, spikes.samples_at_once)
    return links_of(program, flows, steps)


def _trace(program: Program, spikes: _Again, timed: _Timed) -> Trace:
    from .timeline import TimeLines, trace_of  # noqa: PLC0415

    apart = timed.name != "max-affine"
    barrier = program.chip.time.barrier_ns(program.placement.routers_of_a_chip) if apart else 0.0
    packets, direction, x, y = _links(program, spikes, timed)
    generation, reception = timed.busy.of(0, timed.busy.steps)
    lines = TimeLines(timed.step_ns, timed.routed, barrier, generation, reception, packets, direction, x, y)
    return trace_of(program, lines)


def cost_of(
    program: Program, traffic: Traffic, hops: Hops | None = None, timed: _Timed | None = None
) -> dict[str, Any]:
    """Energy, time and counts per inference, with what they rest on.

    hops: links by population (`hops_of`); None: energy by layer is left out. timed: None: event-timed.
    """
    timed = timed or _Timed.by_events(program, traffic)
    counts = event_counts(traffic)
    chip, chips = program.chip, program.placement.chips_used
    timing = time_report(traffic, chip, program.placement.routers_of_a_chip, timed.step_ns)
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
        **({} if hops is None else {"energy_by_layer_pj": energy_by_layer(program, traffic, hops)}),
        "static_energy_uj_during_latency": static,
        "timing": timed.name,
        "steps": len(timed.step_ns),
        "routed_steps": int(timed.routed.sum()),
        "timing_note": timed.note,
        "timing_basis": _basis(chip, timed),
        **({} if chip.max_affine is None else {"max_affine_counts": busiest(program, traffic).summary()}),
        **timing,
    }


def _basis(chip: Chip, timed: _Timed) -> str:
    """Where the times come from, in a line."""
    modelled = timed.name == "max-affine"
    source = chip.source_of("max_affine.time_synop_ns" if modelled else "time.time_synop_ns")
    about = "" if source is None else f"{source.basis}, confidence {source.confidence}: {source.source}"
    if chip.max_affine is None or modelled:
        return about
    return f"{about} (the coefficients of the chip's max-affine model, arXiv:2601.10035, are not known)"
