"""Chip steps through the clocked mesh router: those whose mesh may be busy (`auto`), or all (`cycle`).

    t_step = max(cycles until all packets are served, cycle the last packet enters the mesh, event-timed step) + barrier

The event-timed step (`cost.CoreTimes`) is what cores generate and receive, packets from the host among them, which
take no way on the mesh here. So the mesh can make a step longer, never shorter. Every core sends its packets evenly
over the time it generates in the step, its targets in turns (`router.packets_of_flow`); the mesh is empty at a barrier.

`auto` routes a step where its busiest link is predicted to be busy for more than half of it
(`router_bound.predicted_utilisation`). Where a bound from packets per row and column alone excludes that, the ways of
its packets are not even looked at.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from snncompile.backend import Progress, silent
from snncompile.chip import Chip, Mesh, Router
from snncompile.errors import CompileError
from snncompile.mapping.place import Placement
from snncompile.program import Program
from snncompile.quant_network import IntArray

from .cost import CoreTimes, Counts, Traffic
from .flows import FlowCounter, Spikes, StepFlow, most_on_a_link
from .router import Packets, RouterSettings, core_numbers, packets_of_flow, route_steps
from .router_bound import predicted_utilisation, router_bound

UTILISATION = 0.5
"""Above it the analytic bound is not to be trusted (`router_bound`)."""

STEPS_AT_ONCE = 8
"""Chip steps a thread routes in one go."""

GENERATION_STEPS = 64
"""Chip steps whose generation is computed in one go."""


@dataclass(frozen=True, eq=False)
class Clocked:
    """Duration of every chip step (steps,) in ns with the barrier, and which of them went through the router."""

    step_ns: Counts
    routed: "np.ndarray[tuple[int], np.dtype[np.bool_]]"


@dataclass(frozen=True, eq=False)
class RouterMesh:
    """The part of the board that packets cross, with the cores' numbers on it (`router.core_numbers`)."""

    router: Router
    settings: RouterSettings
    mesh: Mesh
    number: IntArray

    @classmethod
    def of(cls, program: Program) -> "RouterMesh":
        """Raises CompileError where the chip's router, or its links from chip to chip, are not known."""
        reason = not_routable(program)
        router = program.chip.router
        if reason is not None or router is None:
            raise CompileError("--timing cycle", str(reason), "use --timing event, or auto")
        mesh, placement = _crossed(program)
        settings = RouterSettings(
            fifo_flits=router.fifo_flits,
            subnetworks=router.subnetworks,
            hop_cycles_east_west=router.hop_cycles_east_west,
            hop_cycles_north_south=router.hop_cycles_north_south,
            eject_cycles=router.eject_cycles,
            border_flit_cycles=router.border_flit_cycles or 1,  # None: on one chip, without borders
            receive_packets=router.receive_packets,
            generation_waits=router.generation_waits,
        )
        return cls(router, settings, mesh, core_numbers(placement, mesh))

    def packets(self, flow: StepFlow, generation_ns: Counts, chip: Chip) -> Packets:
        """Packets of a step; generation_ns (logical cores,)."""
        cores = self.mesh.cores
        by_number = np.zeros(cores)
        by_number[self.number] = generation_ns
        service = chip.time.time_packet_in_ns + chip.time.time_synop_ns * flow.synops / flow.packets
        source, target = self.number[flow.source], self.number[flow.target]
        packets = packets_of_flow(source, target, flow.packets, by_number, service, self.router.cycle_ns)
        return replace(packets, flits=packets.flits * self.router.packet_flits)


def not_routable(program: Program) -> str | None:
    """Why no step of a program can go through the router; None: it can."""
    chip, router = program.chip, program.chip.router
    if router is None:
        return f"the router of {chip.name} is not known (router: null in its chip file)"
    if program.placement.chips_used > 1 and router.border_flit_cycles is None:
        return (
            f"the program takes {program.placement.chips_used} chips, and what a link between chips of {chip.name} "
            "takes is not known (router.border_flit_cycles: null in its chip file)"
        )
    return None


def _crossed(program: Program) -> tuple[Mesh, Placement]:
    """The board, or the one chip in use: XY routes do not leave it."""
    mesh, placement = program.chip.mesh, program.placement
    if placement.chips_used > 1:
        return mesh, placement
    one = mesh.model_copy(update={"chips_across": 1, "chips_down": 1})
    return one, replace(placement, chip=np.zeros_like(placement.chip))


def clocked_steps(
    program: Program,
    traffic: Traffic,
    busy: CoreTimes,
    spikes: Spikes,
    every: bool,
    samples_at_once: int = 1,
    progress: Progress = silent,
) -> Clocked:
    """Times of all chip steps, those through the router that need it; every: all of them.

    samples_at_once: that `spikes` may be asked for.
    Raises CompileError where the chip's router is not known (`RouterMesh.of`).
    """
    board = RouterMesh.of(program)
    window = np.maximum(busy.longest.generation, busy.longest.reception)
    step_ns, cycle_ns = window.copy(), board.router.cycle_ns
    steps = np.arange(len(window))
    if not every:
        packet_ns = board.router.packet_flits * board.settings.border_flit_cycles * cycle_ns  # at most
        steps = np.flatnonzero(most_on_a_link(program, traffic) * packet_ns > UTILISATION * window)
    routed = np.full(len(window), every)

    def timed(flows: list[tuple[StepFlow, Counts]]) -> list[tuple[int, int]]:
        """Step and cycles of those of the steps that are to be routed."""
        loads = [(flow.step, board.packets(flow, generation, program.chip)) for flow, generation in flows]
        if not every:
            loads = [(s, p) for s, p in loads if _utilisation(p, board, window[s] / cycle_ns) > UTILISATION]
        runs = route_steps((packets for _, packets in loads), board.mesh, board.settings)
        return [(s, max(r.cycles, int(r.entered.max()))) for (s, _), r in zip(loads, runs, strict=True)]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        flows = FlowCounter(program).flows(steps, traffic.samples, spikes, samples_at_once) if len(steps) else iter(())
        for group in _groups(_with_generation(flows, busy), STEPS_AT_ONCE * (os.cpu_count() or 1)):
            parts = [group[i : i + STEPS_AT_ONCE] for i in range(0, len(group), STEPS_AT_ONCE)]
            for done in pool.map(timed, parts):
                for step, cycles in done:
                    step_ns[step], routed[step] = max(window[step], cycles * cycle_ns), True
            progress(int(np.searchsorted(steps, group[-1][0].step)) + 1, len(steps))
    return Clocked(step_ns + program.chip.time.barrier_ns(program.placement.routers_of_a_chip), routed)


def _with_generation(flows: Iterator[StepFlow], busy: CoreTimes) -> Iterator[tuple[StepFlow, Counts]]:
    """Flows, in order, and how long every core generates in their steps (cores,)."""
    first, rows = 0, np.zeros((0, 0))
    for flow in flows:
        if flow.step >= first + len(rows):
            first, stop = flow.step, min(flow.step + GENERATION_STEPS, busy.steps)
            rows = busy.of(first, stop)[0]
        yield flow, rows[flow.step - first]


def _groups(flows: Iterator[tuple[StepFlow, Counts]], size: int) -> Iterator[list[tuple[StepFlow, Counts]]]:
    while group := list(islice(flows, size)):
        yield group


def _utilisation(packets: Packets, board: RouterMesh, window_cycles: float) -> float:
    return predicted_utilisation(router_bound(packets, board.mesh, board.settings), window_cycles)
