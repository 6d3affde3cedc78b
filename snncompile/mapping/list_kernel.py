"""Packs lists of synapses one after the other; compiled, since large layers have tens of millions of them."""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

EACH, FILLED, SKIPPED = 0, 1, 2
"""How a list holds its synapses: each with its index; in a row from the first to the last, gaps filled; in runs that
end where the next target is further than a skip reaches."""


@numba.njit(cache=True)
def packed_words(
    start: Array, target: Array, tile_of: Array, words: Array, width_of: Array, held: int, reach: int
) -> tuple[Array, Array]:
    """(tiles,) words of all lists to each tile, and of the longest one.

    start (axons + 1,): where each axon's synapses begin; target (synapses,) increasing within an axon; tile_of
    (targets,) increasing; words (widths, n + 1): of a run of up to n synapses; width_of (tiles,): which row of it;
    held: EACH, FILLED or SKIPPED, then with gaps of fewer than `reach` targets.
    """
    total, longest = np.zeros(len(width_of), np.int64), np.zeros(len(width_of), np.int64)
    for axon in range(len(start) - 1):
        tile, run, list_words, first, last = -1, 0, 0, 0, 0
        for number in range(start[axon], start[axon + 1]):
            now = target[number]
            if tile_of[now] != tile:
                if tile >= 0:
                    list_words += words[width_of[tile], run]
                    total[tile] += list_words
                    longest[tile] = max(longest[tile], list_words)
                tile, run, list_words, first = tile_of[now], 0, 0, now
            elif held == SKIPPED and now - last > reach:
                list_words += words[width_of[tile], run]
                run = 0
            run = now - first + 1 if held == FILLED else run + 1
            last = now
        if tile >= 0:
            list_words += words[width_of[tile], run]
            total[tile] += list_words
            longest[tile] = max(longest[tile], list_words)
    return total, longest


@numba.njit(cache=True)
def listed(weight: Array) -> tuple[Array, Array]:
    """start (axons + 1,), target (synapses,) of the weights (targets, axons) that are not 0, by axon, then target."""
    targets, axons = weight.shape
    start = np.zeros(axons + 1, np.int64)
    for target in range(targets):
        for axon in range(axons):
            start[axon + 1] += weight[target, axon] != 0
    start = np.cumsum(start)
    found, at = np.empty(start[-1], np.int32), start[:-1].copy()
    for target in range(targets):
        for axon in range(axons):
            if weight[target, axon] != 0:
                found[at[axon]] = target
                at[axon] += 1
    return start, found


@numba.njit(cache=True)
def count_lists(start: Array, target: Array, tile_of: Array, tiles: int) -> tuple[Array, Array]:
    """(tiles,) axons that reach each tile, (axons,) tiles that each axon reaches; arguments as of `packed_words`."""
    axons, reached = np.zeros(tiles, np.int64), np.zeros(len(start) - 1, np.int64)
    for axon in range(len(start) - 1):
        tile = -1
        for number in range(start[axon], start[axon + 1]):
            now = tile_of[target[number]]
            if now != tile:
                tile = now
                axons[tile] += 1
                reached[axon] += 1
    return axons, reached
