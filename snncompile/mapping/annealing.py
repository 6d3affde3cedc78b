"""Moves cores between slots: force-directed swaps, then simulated annealing; loops that numba compiles and caches.

The cost of a placement, in packets times links:

    sum over pairs of packets * distance  +  PRESSURE * sum over links of press(load)
    press(load) = load * (load / hottest)^7, 0 for links less than a quarter as loaded as the hottest

distance: links, of which one over a border of chips counts as several (stretched coordinates `far_x`, `far_y`). The
second sum is a soft maximum: a packet pays 8 * PRESSURE links more over the hottest link, next to nothing over one half
as loaded. `hottest` is brought up to date between rounds. Packets are whole units, so distances and loads stay exact
however many swaps are made; random numbers are xorshift64 (Marsaglia 2003) from a fixed seed, and nothing looks at the
clock: the same flow gives the same placement.
Sources: force-directed swaps, Jin et al., ASPLOS 2023; annealing, Kirkpatrick et al., Science 220, 1983.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from snncompile.quant_network import IntArray

PRESSURE = 2.0
"""Weight of the soft maximum. Ours: from 0 to 4 it cost ResNet-50 2 % in hops and halved its hottest link."""

FELT_FROM = 0.25
"""Part of the hottest load from which a link counts in the soft maximum: below, it would add less than 2^-14 of it."""

ROUNDS = 200
"""Rounds of annealing, from the first temperature to the last."""

COOLING = 0.9885
"""Temperature of a round by that of the one before: a tenth after 200 rounds."""

FIRST_TEMPERATURE = 0.1
"""By the packets of a mean core times one link."""

ATTRACTED_PERCENT = 80
"""Of the moves, those that try a slot next to a core it exchanges packets with; others try one within a radius."""


class Board(NamedTuple):
    """What no swap changes. Slots (slots,) are those that may hold a core; edges (2 * pairs,) are those of each core.

    first (cores + 1,): where the edges of each core begin. other: twice the core at the far end, plus 1 where packets
    go to it. units: packets of the edge. x, y: router of each slot; far_x, far_y: the same with borders of chips
    stretched. slot_at (rows, columns, cores of a router): number of the slot, -1 where none is free. movable: cores.
    """

    first: IntArray
    other: IntArray
    units: IntArray
    x: IntArray
    y: IntArray
    far_x: IntArray
    far_y: IntArray
    slot_at: IntArray
    movable: IntArray


class State(NamedTuple):
    """What a swap changes: slot_of (cores,), core_at (slots,) or -1, and the units over every directed link.

    along_rows (2, rows, columns): east and west; along_columns (2, columns, rows): south and north, at the router left.
    """

    slot_of: IntArray
    core_at: IntArray
    along_rows: IntArray
    along_columns: IntArray


@numba.njit(cache=True)
def pull(board: Board, state: State) -> Any:
    """Force-directed: tries to swap every core onto the best of the routers around the centre of what it talks to.

    Gives the number of swaps made; each lowers the cost.
    """
    hottest = _hottest(state)
    rows, columns, of_router = board.slot_at.shape
    swaps = 0
    for core in board.movable:
        centre_x, centre_y = _centre(board, state, core)
        best, best_change = -1, 0
        for near_y in range(max(centre_y - 1, 0), min(centre_y + 2, rows)):
            for near_x in range(max(centre_x - 1, 0), min(centre_x + 2, columns)):
                slot = board.slot_at[near_y, near_x, core % of_router]
                if slot >= 0 and slot != state.slot_of[core]:
                    change = _farther(board, state, core, slot)
                    if change < best_change:
                        best, best_change = slot, change
        if best >= 0 and swap_if(board, state, core, best, 0.0, hottest):
            swaps += 1
    return swaps


@numba.njit(cache=True)
def anneal(board: Board, state: State, moves: int, temperature: float, radius: int, seed: int) -> Any:
    """Annealing of `moves` tries in `ROUNDS` rounds; radius and temperature fall. Gives the number of swaps made."""
    rows, columns, of_router = board.slot_at.shape
    random = np.array([seed], np.uint64)
    swaps = 0
    for number in range(ROUNDS):
        hottest = _hottest(state)
        reach = max(1, radius * (ROUNDS - number) // ROUNDS)
        for _ in range(moves * number // ROUNDS, moves * (number + 1) // ROUNDS):
            core = board.movable[_below(random, len(board.movable))]
            around, spread = state.slot_of[core], reach
            edges = board.first[core + 1] - board.first[core]
            if edges > 0 and _below(random, 100) < ATTRACTED_PERCENT:
                around = state.slot_of[board.other[board.first[core] + _below(random, edges)] >> 1]
                spread = 2
            x = board.x[around] + _below(random, 2 * spread + 1) - spread
            y = board.y[around] + _below(random, 2 * spread + 1) - spread
            if x < 0 or y < 0 or x >= columns or y >= rows:
                continue
            slot = board.slot_at[y, x, _below(random, of_router)]
            if slot < 0 or (x == board.x[state.slot_of[core]] and y == board.y[state.slot_of[core]]):
                continue
            if swap_if(board, state, core, slot, temperature * _exponential(random), hottest):
                swaps += 1
        temperature *= COOLING
    return swaps


@numba.njit(cache=True)
def swap_if(board: Board, state: State, core: int, slot: int, allowed: float, hottest: float) -> Any:
    """Swaps a core with what is on a slot (or moves it there) unless the cost rises by more than allowed; whether.

    Loads are looked at only where the distance alone is within what is allowed: that decides most tries.
    """
    change = _farther(board, state, core, slot)
    if change > allowed:
        return False
    start = state.slot_of[core]
    pressed = _exchange(board, state, core, slot, hottest)
    if change + pressed <= allowed:
        return True
    _exchange(board, state, core, start, hottest)
    return False


@numba.njit(cache=True)
def _farther(board: Board, state: State, core: int, slot: int) -> Any:
    """Change of packets * distance if a core swaps with what is on a slot."""
    start, other = state.slot_of[core], state.core_at[slot]
    change = _moved(board, state, core, other, start, slot)
    return change if other < 0 else change + _moved(board, state, other, core, slot, start)


@numba.njit(cache=True)
def _moved(board: Board, state: State, core: int, without: int, start: int, end: int) -> Any:
    """Change of packets * distance of a core's edges as it moves, but for those to the core `without`."""
    change = 0
    for edge in range(board.first[core], board.first[core + 1]):
        other = board.other[edge] >> 1
        if other != without:
            at = state.slot_of[other]
            change += board.units[edge] * (
                abs(board.far_x[end] - board.far_x[at])
                + abs(board.far_y[end] - board.far_y[at])
                - abs(board.far_x[start] - board.far_x[at])
                - abs(board.far_y[start] - board.far_y[at])
            )
    return change


@numba.njit(cache=True)
def _exchange(board: Board, state: State, core: int, slot: int, hottest: float) -> Any:
    """Swaps a core with what is on a slot, loads and all; gives the change of the soft maximum."""
    start, other = state.slot_of[core], state.core_at[slot]
    pressed = _route(board, state, core, -1, -1, hottest)
    if other >= 0:
        pressed += _route(board, state, other, core, -1, hottest)
        state.slot_of[other] = start
    state.slot_of[core] = slot
    state.core_at[slot] = core
    state.core_at[start] = other
    pressed += _route(board, state, core, -1, 1, hottest)
    if other >= 0:
        pressed += _route(board, state, other, core, 1, hottest)
    return pressed


@numba.njit(cache=True)
def _route(board: Board, state: State, core: int, without: int, sign: int, hottest: float) -> Any:
    """Adds (sign 1) or takes away (-1) the packets of a core's edges, but for those to `without`, along their ways."""
    pressed = 0.0
    here = state.slot_of[core]
    for edge in range(board.first[core], board.first[core + 1]):
        other = board.other[edge] >> 1
        if other != without:
            source, target = state.slot_of[other], here
            if board.other[edge] & 1:
                source, target = here, source
            units = sign * board.units[edge]
            x0, y0, x1, y1 = board.x[source], board.y[source], board.x[target], board.y[target]
            if x1 != x0:
                step = 1 if x1 > x0 else -1
                pressed += _along(state.along_rows[(1 - step) // 2, y0], x0, x1, step, units, hottest)
            if y1 != y0:
                step = 1 if y1 > y0 else -1
                pressed += _along(state.along_columns[(1 - step) // 2, x1], y0, y1, step, units, hottest)
    return pressed


@numba.njit(cache=True)
def _along(load: IntArray, start: int, end: int, step: int, units: int, hottest: float) -> Any:
    """Adds units to the links of one line (places,) from start to end; gives the change of the soft maximum."""
    pressed, scale = 0.0, 1.0 / hottest
    for place in range(start, end, step):
        before = load[place]
        load[place] = before + units
        pressed += _press(before + units, scale) - _press(before, scale)
    return PRESSURE * hottest * pressed


@numba.njit(cache=True)
def _press(load: int, scale: float) -> Any:
    """Share of one link in the soft maximum, by the hottest load: 1 / scale."""
    ratio = load * scale
    if ratio < FELT_FROM:
        return 0.0
    square = ratio * ratio
    fourth = square * square
    return fourth * fourth


@numba.njit(cache=True)
def _hottest(state: State) -> Any:
    return float(max(state.along_rows.max(), state.along_columns.max(), 1))


@numba.njit(cache=True)
def _centre(board: Board, state: State, core: int) -> Any:
    """Router nearest to the mean position of what a core exchanges packets with, weighted by packets."""
    total, sum_x, sum_y = 0, 0, 0
    for edge in range(board.first[core], board.first[core + 1]):
        at = state.slot_of[board.other[edge] >> 1]
        total += board.units[edge]
        sum_x += board.units[edge] * board.x[at]
        sum_y += board.units[edge] * board.y[at]
    if total == 0:
        return board.x[state.slot_of[core]], board.y[state.slot_of[core]]
    return (2 * sum_x + total) // (2 * total), (2 * sum_y + total) // (2 * total)


@numba.njit(cache=True)
def _next(random: NDArray[np.uint64]) -> Any:
    """Next 64 bits of xorshift64, in place."""
    bits = random[0]
    bits ^= bits << np.uint64(13)
    bits ^= bits >> np.uint64(7)
    bits ^= bits << np.uint64(17)
    random[0] = bits
    return bits


@numba.njit(cache=True)
def _below(random: NDArray[np.uint64], end: int) -> Any:
    """A number from 0 to end - 1."""
    return np.int64(((_next(random) >> np.uint64(32)) * np.uint64(end)) >> np.uint64(32))


@numba.njit(cache=True)
def _exponential(random: NDArray[np.uint64]) -> Any:
    """An exponentially distributed number of mean about 1: -ln(u), the logarithm linear between powers of 2.

    So plain that it has the same bits on every machine, which no library's logarithm has.
    """
    mantissa = np.int64(_next(random) >> np.uint64(11)) | 1
    halvings = 0
    while mantissa < 1 << 52:
        mantissa <<= 1
        halvings += 1
    return 0.6931471805599453 * (halvings + 2.0 - 2.0 * (mantissa / 9007199254740992.0))
