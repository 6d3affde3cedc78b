"""Searches for a placement: plain starts, then force-directed swaps and annealing, then the best of all of them.

What counts: packets times links, and the hottest link. How much the busiest core does is decided by the partition,
and no placement changes it. A link over a border of chips counts `BORDER_LINKS` times. Where the host's packets enter
a chip is not published, so they pull no core anywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from snncompile.chip import Mesh
from snncompile.errors import CompileError
from snncompile.mapping.place import (
    Placement,
    block_order,
    chip_positions,
    first_chips,
    hilbert_order,
    lay,
    row_order,
)
from snncompile.mapping.routes import Flow, RouteQuality, link_loads, route_quality, router_grid, whole_units
from snncompile.quant_network import IntArray

if TYPE_CHECKING:
    from snncompile.mapping import annealing

BORDER_LINKS = 2
"""How many links within a chip one over a border of chips is taken for. Our choice: its time and energy are not
published for any chip that we describe, only that it leaves the chip."""

UNIT_BITS = 40
"""All packets of a flow are 2^40 units: times the links of a million routers they stay below 2^63."""

DEFAULT_EFFORT = 1

SEARCHED_PAIRS = 300_000
"""Pairs of cores that the search looks at, of a flow that has more: layers in which all cores send to all have
millions, and a part of them pulls a core to the same place. What is found is judged by the whole flow."""

PULLS = 3
"""Sweeps of force-directed swaps before the annealing."""


@dataclass(frozen=True)
class Effort:
    """How long to search: annealed starts, and tries of each: so many a core, but not more than visit `edges` edges."""

    starts: int
    tries_per_core: int
    edges: int


EFFORTS = (
    Effort(0, 0, 0),
    Effort(1, 200, 30_000_000),
    Effort(2, 800, 200_000_000),
    Effort(3, 3000, 1_500_000_000),
)
"""By `--effort`: 0 the best plain start, 1 a second or two for 14,000 cores, 2 and 3 longer."""


@dataclass(frozen=True, eq=False)
class _Candidate:
    """Slots (cores,) of a placement, the order its free slots were taken in, and how good it is."""

    slots: IntArray
    order: IntArray
    quality: RouteQuality

    @property
    def distance(self) -> float:
        """Links of a mean packet, those over borders of chips at their price."""
        return self.quality.hops_per_packet + (BORDER_LINKS - 1) * self.quality.borders_per_packet


def place(flow: Flow, mesh: Mesh, effort: int = DEFAULT_EFFORT, pins: Mapping[int, int] | None = None) -> Placement:
    """The best placement found for a flow; pins: slot that a core must be on (`pins.pinned_slots`).

    It takes as few chips as hold the cores (and those of the pins), and on a single chip as few routers, since the
    barrier takes longer the more are used. Its mean hops and its hottest link are at most those of cores laid row by
    row around the same pins. Of those, the one with the least distance + hottest link, each by that of the rows, is
    taken. The same flow gives the same placement. Raises CompileError for an effort there is not.
    """
    if not 0 <= effort < len(EFFORTS):
        raise CompileError("--effort", f"{effort} is not known", f"0 to {len(EFFORTS) - 1}")
    pins = pins or {}
    chips = first_chips(flow.cores, mesh, pins)
    rows = row_order(chips, mesh)
    orders = (rows, hilbert_order(chips, mesh), block_order(chips, flow.cores, mesh))
    part = flow.thinned(SEARCHED_PAIRS, seed=0)
    starts = [_candidate(lay(order, flow.cores, pins), order, part, mesh) for order in orders]
    ranked = sorted(starts, key=lambda start: _score(start, starts[0]))
    found = starts if part is flow else list(dict.fromkeys((starts[0], ranked[0])))
    if flow.total and len(pins) < flow.cores:
        chosen = ranked[: EFFORTS[effort].starts]
        found += [_searched(c, part, mesh, pins, EFFORTS[effort], seed) for seed, c in enumerate(chosen, 1)]
    if part is not flow:
        found = [_candidate(candidate.slots, candidate.order, flow, mesh) for candidate in found]
    baseline = found[0]
    best = min((c for c in found if _no_worse(c, baseline)), key=lambda candidate: _score(candidate, baseline))
    return Placement.at(best.slots, mesh)


def _candidate(slots: IntArray, order: IntArray, flow: Flow, mesh: Mesh) -> _Candidate:
    return _Candidate(slots, order, route_quality(flow, Placement.at(slots, mesh), mesh))


def _score(candidate: _Candidate, baseline: _Candidate) -> float:
    pairs = (
        (candidate.distance, baseline.distance),
        (candidate.quality.max_link_load, baseline.quality.max_link_load),
    )
    return sum(value / of if of else value for value, of in pairs)


def _no_worse(candidate: _Candidate, baseline: _Candidate) -> bool:
    ours, rows = candidate.quality, baseline.quality
    return ours.hops_per_packet <= rows.hops_per_packet and ours.max_link_load <= rows.max_link_load


def _searched(
    start: _Candidate, flow: Flow, mesh: Mesh, pins: Mapping[int, int], effort: Effort, seed: int
) -> _Candidate:
    """Force-directed swaps and annealing from a start."""
    from snncompile.mapping.annealing import FIRST_TEMPERATURE, anneal, pull  # noqa: PLC0415 - numba loads here

    slots = _slots_searched(start, flow.cores, mesh, pins)
    board = _board(flow, slots, mesh, pins)
    state = _state(board, start.slots, slots, flow, mesh)
    for _ in range(PULLS):
        if not pull(board, state):
            break
    edges = max(1, len(board.other) // flow.cores)
    moves = min(effort.tries_per_core * flow.cores, effort.edges // (2 * edges))
    temperature = FIRST_TEMPERATURE * float(board.units.sum()) / flow.cores
    radius = max(2, max(board.slot_at.shape[:2]) // 10)
    anneal(board, state, moves, temperature, radius, seed)
    return _candidate(slots[state.slot_of], start.order, flow, mesh)


def _slots_searched(start: _Candidate, cores: int, mesh: Mesh, pins: Mapping[int, int]) -> IntArray:
    """Slots that cores may move to, then those of the pins: on one chip, those of the routers the start uses."""
    pinned = np.array(list(pins.values()), np.int64)
    free = start.order[~np.isin(start.order, pinned)]
    if len(first_chips(cores, mesh, pins)) == 1:
        used = np.unique(free[: cores - len(pins)] // mesh.cores_per_router)
        free = free[np.isin(free // mesh.cores_per_router, used)]
    return np.concatenate([free, pinned])


def _board(flow: Flow, slots: IntArray, mesh: Mesh, pins: Mapping[int, int]) -> "annealing.Board":
    """What the search needs of a flow and the slots; the last slots are those of the pins."""
    from snncompile.mapping.annealing import Board  # noqa: PLC0415 - numba loads here

    at = Placement.at(slots, mesh)
    x, y = router_grid(at, mesh)
    column, row = (position[at.chip] for position in chip_positions(mesh))
    slot_at = np.full((int(y.max()) + 1, int(x.max()) + 1, mesh.cores_per_router), -1)
    free = len(slots) - len(pins)
    slot_at[y[:free], x[:free], at.slot[:free]] = np.arange(free)
    first, other, units = _edges(flow)
    movable = np.setdiff1d(np.arange(flow.cores), list(pins))
    stretch = BORDER_LINKS - 1
    return Board(first, other, units, x, y, x + stretch * column, y + stretch * row, slot_at, movable)


def _edges(flow: Flow) -> tuple[IntArray, IntArray, IntArray]:
    """first, other and units of `annealing.Board`; packets that stay on a core are in none."""
    units, _ = whole_units(flow.packets, UNIT_BITS)
    goes = flow.source != flow.target
    source, target, units = flow.source[goes], flow.target[goes], units[goes]
    rows, ends = np.concatenate([source, target]), np.concatenate([2 * target + 1, 2 * source])
    edges = csr_array((np.concatenate([units, units]), (rows, ends)), shape=(flow.cores, 2 * flow.cores))
    return edges.indptr.astype(np.int64), edges.indices.astype(np.int64), edges.data


def _state(board: "annealing.Board", placed: IntArray, slots: IntArray, flow: Flow, mesh: Mesh) -> "annealing.State":
    """Cores where a start has put them."""
    from snncompile.mapping.annealing import State  # noqa: PLC0415 - numba loads here

    order = np.argsort(slots)
    slot_of = order[np.searchsorted(slots[order], placed)]
    core_at = np.full(len(slots), -1)
    core_at[slot_of] = np.arange(flow.cores)
    units, _ = whole_units(flow.packets, UNIT_BITS)
    whole = Flow(flow.cores, flow.source, flow.target, units.astype(np.float64))
    rows, columns = board.slot_at.shape[:2]
    loads = np.rint(link_loads(whole, Placement.at(placed, mesh), mesh)).astype(np.int64)[:, :rows, :columns]
    return State(slot_of, core_at, loads[:2].copy(), loads[2:].swapaxes(1, 2).copy())
