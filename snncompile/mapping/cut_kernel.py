"""Counts and moves neurons between the parts of a population; compiled, since graphs have tens of millions of synapses.

A net is what one source of one layer drives: its pins are target neurons. Nets stand one after the other: start
(nets + 1,), pin (pins,). The parts that a net reaches are kept where its pins stand: held (pins, 2) is their number and
how many of its pins lie in each; span (nets, 2) is where they begin and end.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@numba.njit(cache=True)
def judged(start: Array, pin: Array, part: Array, parts: int, words: Array) -> tuple[Array, Array, Array]:
    """(parts,) nets that reach each part and words of their lists, (nets,) parts that each net reaches.

    part (neurons,); words (n + 1,): of a list of up to n synapses.
    """
    axons, total = np.zeros(parts, np.int64), np.zeros(parts, np.int64)
    reached, held = np.zeros(len(start) - 1, np.int64), np.zeros(parts, np.int64)
    for net in range(len(start) - 1):
        for i in range(start[net], start[net + 1]):
            held[part[pin[i]]] += 1
        for i in range(start[net], start[net + 1]):
            now = part[pin[i]]
            if held[now]:
                axons[now] += 1
                total[now] += words[held[now]]
                reached[net] += 1
                held[now] = 0
    return axons, total, reached


@numba.njit(cache=True)
def tallied(start: Array, pin: Array, part: Array) -> tuple[Array, Array]:
    """span and held, see above."""
    held = np.zeros((len(pin), 2), np.int32)
    span = np.empty((len(start) - 1, 2), np.int64)
    for net in range(len(start) - 1):
        span[net] = start[net]
        for i in range(start[net], start[net + 1]):
            _join(span, held, net, part[pin[i]])
    return span, held


@numba.njit(cache=True)
def inverse(start: Array, pin: Array, neurons: int) -> tuple[Array, Array]:
    """first (neurons + 1,), net (pins,): the nets of every neuron, one after the other."""
    first = np.zeros(neurons + 1, np.int64)
    for neuron in pin:
        first[neuron + 1] += 1
    first = np.cumsum(first)
    net, at = np.empty(len(pin), np.int32), first[:-1].copy()
    for number in range(len(start) - 1):
        for i in range(start[number], start[number + 1]):
            net[at[pin[i]]] = number
            at[pin[i]] += 1
    return first, net


@numba.njit(cache=True)
def _join(span: Array, held: Array, net: int, new: int) -> None:
    """One more pin of a net in part `new`."""
    for i in range(span[net, 0], span[net, 1]):
        if held[i, 0] == new:
            held[i, 1] += 1
            return
    held[span[net, 1], 0] = new
    held[span[net, 1], 1] = 1
    span[net, 1] += 1


@numba.njit(cache=True)
def _leave(span: Array, held: Array, net: int, old: int) -> None:
    """One pin of a net less in part `old`."""
    for i in range(span[net, 0], span[net, 1]):
        if held[i, 0] == old:
            held[i, 1] -= 1
            if held[i, 1] == 0:
                span[net, 1] -= 1
                held[i] = held[span[net, 1]]
            return


@numba.njit(cache=True)
def move(
    weight: Array, first: Array, net: Array, span: Array, held: Array,
    part: Array, order: Array, load: Array, sizes: Array, loads: Array, least: Array, crowded: bool,
) -> int:  # fmt: skip
    """Moves neurons, in `order`, to the part where the weighted number of parts that nets reach falls most.

    gain(a -> b) = sum of weight over the neuron's nets with no other pin in a - those with no pin in b
    weight (nets,); first, net: `inverse`; span, held: `tallied`, and part (neurons,), are changed; load (neurons,):
    what a neuron takes of its part beside one place; sizes, loads (2, parts): what parts hold, changed, and the most
    they may.
    A neuron moves for a gain above 0; with `crowded` only out of parts that hold too much, and for a gain of at least
    `least` (neurons,), to any part with room. Returns how many moved. Ties: the part of the lowest number.
    """
    score, seen = np.zeros(sizes.shape[1]), np.empty(sizes.shape[1], np.int64)
    moved = 0
    for neuron in order:
        a = part[neuron]
        over = sizes[0, a] > sizes[1, a] or loads[0, a] > loads[1, a]
        if crowded and not over:
            continue
        freed, base, found = 0.0, 0.0, 0
        for j in range(first[neuron], first[neuron + 1]):
            number = net[j]
            base += weight[number]
            for i in range(span[number, 0], span[number, 1]):
                b = held[i, 0]
                if b == a:
                    freed += weight[number] * (held[i, 1] == 1)
                    continue
                if score[b] == 0:
                    seen[found] = b
                    found += 1
                score[b] += weight[number]
        best, gain = -1, -np.inf if crowded else 0.0
        for b in seen[:found]:
            now = freed - base + score[b]
            room = sizes[0, b] < sizes[1, b] and loads[0, b] + load[neuron] <= loads[1, b]
            if room and (now > gain or (now == gain and best >= 0 and b < best)):
                best, gain = b, now
            score[b] = 0.0
        if crowded and best < 0 and least[neuron] == -np.inf:
            best, gain = _nearest_with_room(a, sizes), freed - base
        if best < 0 or (crowded and gain < least[neuron]):
            continue
        for j in range(first[neuron], first[neuron + 1]):
            _leave(span, held, net[j], a)
            _join(span, held, net[j], best)
        part[neuron] = best
        sizes[0, a] -= 1
        sizes[0, best] += 1
        loads[0, a] -= load[neuron]
        loads[0, best] += load[neuron]
        moved += 1
    return moved


@numba.njit(cache=True)
def _nearest_with_room(a: int, sizes: Array) -> int:
    """The part of the nearest number that can hold one neuron more; -1 for none."""
    for distance in range(1, sizes.shape[1]):
        for b in (a - distance, a + distance):
            if 0 <= b < sizes.shape[1] and sizes[0, b] < sizes[1, b]:
                return b
    return -1
