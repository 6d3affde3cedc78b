"""Time lines of a run: what cores and links do in every chip step, as arrays and as a Chrome trace (Perfetto reads it).

A chip step begins with all cores at once; a core generates and receives at the same time, from the start of the step,
each for as long as its counts take (`cost.CoreTimes`). The barrier is the end of the step. Where a step went through
the clocked router, its duration is the router's; when single packets were under way is not in the trace.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snncompile.backend import Trace
from snncompile.errors import CompileError
from snncompile.mapping.routes import Flow, link_loads
from snncompile.program import Program
from snncompile.quant_network import IntArray

from .cost import Counts
from .flows import StepFlow
from .router import DIRECTIONS

MOST_SLICES = 500_000
"""Slices of cores in a trace file, two for every core and chip step (about 120 bytes each)."""

Event = dict[str, Any]


@dataclass(frozen=True, eq=False)
class TimeLines:
    """Of every chip step: duration in ns (steps,), whether it went through the router, and the barrier in it.

    barrier_ns is 0 where the model does not tell it apart.
    generation_ns, reception_ns (steps, cores): how long each logical core does so. link_packets (steps, links): over
    each link that is used at all; link_direction, link_x, link_y (links,): an index of `router.DIRECTIONS`, and column
    and row of the router it leaves, on the grid of the board.
    """

    step_ns: Counts
    routed: NDArray[np.bool_]
    barrier_ns: float
    generation_ns: Counts
    reception_ns: Counts
    link_packets: Counts
    link_direction: IntArray
    link_x: IntArray
    link_y: IntArray

    @property
    def start_ns(self) -> Counts:
        return np.concatenate([[0.0], np.cumsum(self.step_ns)[:-1]])


def check_size(program: Program, samples: int) -> None:
    """Raises CompileError where a trace of so many samples would be larger than tools show."""
    network = program.network
    steps = samples * network.timesteps + network.depth
    slices = 2 * steps * program.core_graph.core_count
    if slices > MOST_SLICES:
        per_sample = 2 * network.timesteps * program.core_graph.core_count
        fits = max((MOST_SLICES - 2 * network.depth * program.core_graph.core_count) // per_sample, 0)
        raise CompileError(
            "--trace",
            f"{samples} samples make {slices:,} slices, a trace holds {MOST_SLICES:,}",
            f"use --limit {fits}" if fits else "the network is too large for a trace of one sample",
        )


def links_of(program: Program, flows: Iterable[StepFlow], steps: int) -> tuple[Counts, IntArray, IntArray, IntArray]:
    """Packets over each used link (steps, links), and direction, column and row (links,) of the link."""
    mesh, cores = program.chip.mesh, program.core_graph.core_count
    found: list[tuple[int, IntArray, Counts]] = []
    shape = (len(DIRECTIONS), mesh.height * mesh.chips_down, mesh.width * mesh.chips_across)
    for flow in flows:
        apart = flow.source != flow.target
        if not apart.any():
            continue
        packets = flow.packets[apart].astype(np.float64)
        loads = link_loads(Flow(cores, flow.source[apart], flow.target[apart], packets), program.placement, mesh)
        used = np.flatnonzero(loads)
        found.append((flow.step, used, loads.ravel()[used]))
    links = np.unique(np.concatenate([np.zeros(0, np.int64), *(used for _, used, _ in found)]))
    table = np.zeros((steps, len(links)))
    for step, used, loads in found:
        table[step, np.searchsorted(links, used)] = loads
    direction, row, column = np.unravel_index(links, shape)
    return table, direction, column, row


def trace_of(program: Program, lines: TimeLines) -> Trace:
    """The lines as named arrays and as Chrome trace events."""
    placement = program.placement
    arrays: dict[str, NDArray[Any]] = {
        "step_start_ns": lines.start_ns,
        "step_ns": lines.step_ns,
        "step_routed": lines.routed,
        "barrier_ns": np.array(lines.barrier_ns),
        "core_generation_ns": lines.generation_ns,
        "core_reception_ns": lines.reception_ns,
        "core_chip": placement.chip,
        "core_x": placement.x,
        "core_y": placement.y,
        "core_slot": placement.slot,
        "link_packets": lines.link_packets,
        "link_direction": np.array(DIRECTIONS)[lines.link_direction],
        "link_x": lines.link_x,
        "link_y": lines.link_y,
    }
    events = [*_names(program, lines), *_steps(program, lines), *_cores(program, lines), *_links(lines)]
    return Trace(arrays, {"traceEvents": events, "displayTimeUnit": "ns"})


STEPS_PID, LINKS_PID, FIRST_ROUTER_PID = 1, 2, 3
"""Processes of the trace: the steps, the links, then one for every router in use."""


def _pids(program: Program) -> tuple[IntArray, IntArray]:
    """Routers in use (routers, 3): chip, column, row; and the process (cores,) of every core's router."""
    placement = program.placement
    routers, of_core = np.unique(np.stack([placement.chip, placement.x, placement.y]), axis=1, return_inverse=True)
    return routers.T, FIRST_ROUTER_PID + of_core.ravel()


def _names(program: Program, lines: TimeLines) -> Iterator[Event]:
    """What processes and threads are called, and the order they are shown in."""
    routers, pids = _pids(program)
    titles = {STEPS_PID: "chip steps", LINKS_PID: "links, packets a step"}
    titles |= {FIRST_ROUTER_PID + i: f"chip {chip} router {x},{y}" for i, (chip, x, y) in enumerate(routers.tolist())}
    for pid, title in titles.items():
        yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": title}}
        yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": pid}}
    for tid, title in enumerate(("steps", "barrier")):
        yield {"ph": "M", "name": "thread_name", "pid": STEPS_PID, "tid": tid, "args": {"name": title}}
    layers = [", ".join(dict.fromkeys(part.population for part in core.slices)) for core in program.core_graph.cores]
    for core, (pid, slot) in enumerate(zip(pids.tolist(), program.placement.slot.tolist(), strict=True)):
        for way, title in enumerate(("generates", "receives")):
            name = {"name": f"core {core} ({layers[core]}) {title}"}
            yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": 2 * slot + way, "args": name}


def _slice(name: str, pid: int, tid: int, start_ns: float, length_ns: float, args: Event | None = None) -> Event:
    event = {"ph": "X", "name": name, "pid": pid, "tid": tid, "ts": start_ns / 1e3, "dur": length_ns / 1e3}
    return event if args is None else {**event, "args": args}


def _steps(program: Program, lines: TimeLines) -> Iterator[Event]:
    """A slice for every chip step and for the barrier at its end."""
    columns = zip(lines.start_ns.tolist(), lines.step_ns.tolist(), lines.routed.tolist(), strict=True)
    for step, (start, length, routed) in enumerate(columns):
        sample, t = divmod(step, program.network.timesteps)
        about = {"input_sample": sample, "input_step": t, "timing": "router" if routed else "event"}
        yield _slice(f"step {step}", STEPS_PID, 0, start, length, about)
        if lines.barrier_ns:
            yield _slice("barrier", STEPS_PID, 1, start + length - lines.barrier_ns, lines.barrier_ns)


def _cores(program: Program, lines: TimeLines) -> Iterator[Event]:
    """Slices of what takes any time."""
    _, pids = _pids(program)
    slots, start = program.placement.slot, lines.start_ns
    for way, (name, busy) in enumerate((("generate", lines.generation_ns), ("receive", lines.reception_ns))):
        for step, core in np.argwhere(busy > 0).tolist():
            tid = 2 * int(slots[core]) + way
            length = min(float(busy[step, core]), float(lines.step_ns[step]))  # other models may make steps shorter
            yield _slice(name, int(pids[core]), tid, float(start[step]), length)


def _links(lines: TimeLines) -> Iterator[Event]:
    """A counter for every link that is used, where it changes, and 0 at the end."""
    start, end = lines.start_ns, float(lines.step_ns.sum())
    for column, (way, x, y) in enumerate(
        zip(lines.link_direction.tolist(), lines.link_x.tolist(), lines.link_y.tolist(), strict=True)
    ):
        counter = {"ph": "C", "name": f"link {x},{y} {DIRECTIONS[way]}", "pid": LINKS_PID, "tid": 0}
        packets = lines.link_packets[:, column]
        for step in np.flatnonzero(np.diff(packets, prepend=0.0)).tolist():
            yield {**counter, "ts": float(start[step]) / 1e3, "args": {"packets": float(packets[step])}}
        yield {**counter, "ts": end / 1e3, "args": {"packets": 0.0}}
