"""Kernels of the function engine on states and payloads whose neurons are innermost in memory.

The fused neuron update: decay, input, firing, reset and which neurons were updated, all steps of a row of neurons in
turn, so that its states stay in the nearest cache. Loops over a row are plain enough for the compiler to vectorise:
every value is cast back to the type of the states, which numba would widen.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.integer[Any]]


@numba.njit(cache=True, nogil=True)
def add_shifted(total: IntArray, current: NDArray[Any], frame: NDArray[np.int64], exponent: int) -> Any:
    """total[:, t] += current[:, frame[t]] << exponent, nothing where frame[t] < 0.

    total (B, T, n); current (B, frames, n), integers in any type; frame (T,).
    """
    kind = total.dtype.type
    for b in range(len(total)):
        for t in range(len(frame)):
            if frame[t] >= 0:
                into, row = total[b, t], current[b, frame[t]]
                for i in range(len(into)):
                    into[i] += kind(kind(row[i]) << exponent)


@numba.njit(cache=True, nogil=True)
def advance(
    v: IntArray,
    current: NDArray[Any],
    frame: NDArray[np.int64],
    exponent: Any,
    bias: IntArray,
    thresholds: IntArray,
    fired: IntArray,
    payload: NDArray[Any],
    keep: IntArray,
    opened: NDArray[np.bool_],
    mask: Any,
    payloads: NDArray[Any],
    updated: NDArray[np.uint8],
) -> Any:
    """All steps of one population, in place on v (B, P, n): P rows of n neurons, each with its own constants.

    u = sign(v) * ((|v| * keep[t]) >> 12) + a + bias, a = current[:, frame[t]] << exponent, 0 where frame[t] < 0;
    k = thresholds (levels, n), increasing, with u >= threshold (for "gt" the caller passes threshold + 1), 0 unless
    opened[t]; payloads (B, T, P, n) = the first k of payload (levels,) summed; where k > 0, v = (u & mask) - the
    first k of fired (levels, n) summed: mask 0 resets to 0, mask -1 keeps u.
    updated = 1 where the state, the bias or the summed input is not 0: such a neuron costs an update.
    v, keep and the constants of neurons are of one type that holds every state; current (B, frames, P, n) holds
    integers in any type; payload is of the type of payloads.
    """
    kind = v.dtype.type
    levels = len(thresholds)
    before = np.empty(v.shape[2], v.dtype)
    for b in range(v.shape[0]):
        for p in range(v.shape[1]):
            for t in range(len(frame)):
                arriving, gate = current[b, max(frame[t], 0), p], kind(frame[t] >= 0)
                state, sent, touched = v[b, p], payloads[b, t, p], updated[b, t, p]
                if levels == 1 and opened[t]:
                    _step_one(
                        state, arriving, gate, exponent, bias, thresholds[0], fired[0], payload[0], keep[t],
                        kind(mask), sent, touched,
                    )  # fmt: skip
                    continue
                _integrate(state, arriving, gate, exponent, bias, keep[t], touched)
                sent[:] = 0
                if opened[t] and levels > 0:
                    before[:] = state
                    for level in range(levels):
                        all_bits = kind(-1) if level > 0 else kind(mask)
                        _fire(state, before, thresholds[level], fired[level], payload[level], all_bits, sent)


@numba.njit(cache=True, nogil=True, inline="always")
def _potential(before: Any, a: Any, bias: Any, keep: Any, kind: Any) -> Any:
    """u before firing; (4096 h + l) * keep >> 12 = h * keep + (l * keep >> 12), which no product overflows."""
    size = kind(abs(before))
    size = kind(kind(kind(size >> 12) * keep) + kind(kind(kind(size & 4095) * keep) >> 12))
    return kind(kind(size if before >= 0 else -size) + kind(a + bias))


@numba.njit(cache=True, nogil=True)
def _step_one(
    v: IntArray,
    current: NDArray[Any],
    gate: Any,
    exponent: Any,
    bias: IntArray,
    threshold: IntArray,
    fired: IntArray,
    payload: Any,
    keep: Any,
    mask: Any,
    sent: NDArray[Any],
    updated: NDArray[np.uint8],
) -> Any:
    """One step of a row of neurons (n,) of one level; as `advance`."""
    kind, none = v.dtype.type, sent.dtype.type(0)
    for c in range(len(v)):
        before = v[c]
        a = kind(kind(kind(current[c]) << exponent) * gate)
        u = _potential(before, a, bias[c], keep, kind)
        fires = u >= threshold[c]
        sent[c] = payload if fires else none
        updated[c] = np.uint8((before | a | bias[c]) != 0)
        v[c] = kind(kind(u & mask) - fired[c]) if fires else u


@numba.njit(cache=True, nogil=True)
def _integrate(
    v: IntArray,
    current: NDArray[Any],
    gate: Any,
    exponent: Any,
    bias: IntArray,
    keep: Any,
    updated: NDArray[np.uint8],
) -> Any:
    """v = u before firing, of a row of neurons (n,); as `advance`."""
    kind = v.dtype.type
    for c in range(len(v)):
        before = v[c]
        a = kind(kind(kind(current[c]) << exponent) * gate)
        updated[c] = np.uint8((before | a | bias[c]) != 0)
        v[c] = _potential(before, a, bias[c], keep, kind)


@numba.njit(cache=True, nogil=True)
def _fire(
    v: IntArray,
    before: IntArray,
    threshold: IntArray,
    fired: IntArray,
    payload: Any,
    mask: Any,
    sent: NDArray[Any],
) -> Any:
    """One level of a row of neurons (n,) whose u is `before`: where it is reached, adds to the payload and resets v."""
    kind, none = v.dtype.type, sent.dtype.type(0)
    for c in range(len(v)):
        reached = before[c] >= threshold[c]
        sent[c] += payload if reached else none
        v[c] = kind(kind(v[c] & mask) - fired[c]) if reached else v[c]


@numba.njit(cache=True, nogil=True)
def step_sum(
    current: NDArray[Any],
    frame: NDArray[np.int64],
    exponent: Any,
    payloads: IntArray,
    updated: NDArray[np.uint8],
) -> Any:
    """Population that sends its sum: payloads (B, T, n) = current[:, frame[t]] << exponent; updated where not 0."""
    for b in range(len(payloads)):
        for t in range(len(frame)):
            row, sent, touched = current[b, max(frame[t], 0)], payloads[b, t], updated[b, t]
            gate = frame[t] >= 0
            for i in range(len(sent)):
                a = (np.int64(row[i]) << exponent) * gate
                sent[i] = a
                touched[i] = a != 0


@numba.njit(cache=True, nogil=True)
def sum_windows(x: NDArray[Any], first: int, members: int, height: int, width: int, total: NDArray[Any]) -> Any:
    """total (N, h, w, c) += x (N, H, W, C) summed over windows and over `members` channels, from channel `first` on."""
    width_read = total.shape[3] * members
    for n in range(total.shape[0]):
        for y in range(total.shape[1]):
            for z in range(total.shape[2]):
                into = total[n, y, z]
                for dy in range(height):
                    for dz in range(width):
                        row = x[n, y * height + dy, z * width + dz, first : first + width_read]
                        if members == 1:
                            for c in range(len(into)):
                                into[c] += row[c]
                        else:
                            for c in range(len(row)):
                                into[c // members] += row[c]


@numba.njit(cache=True, nogil=True)
def count_classes(
    x: NDArray[np.uint64],
    first: NDArray[np.int64],
    word: NDArray[np.int64],
    mask: NDArray[np.uint64],
    totals: NDArray[np.float64],
) -> Any:
    """totals (N, classes, P): how many bytes of x (N, P, words) are 1, the others 0, in the bytes of each class.

    Class k has those of the masks (of 1 in a byte) first[k] to first[k + 1] on word[i]. Short rows of bytes do not
    vectorise; eight at a time add up in the highest byte of a product.
    """
    ones = np.uint64(0x0101010101010101)
    for n in range(x.shape[0]):
        for p in range(x.shape[1]):
            for k in range(len(first) - 1):
                count = np.uint64(0)
                for i in range(first[k], first[k + 1]):
                    count += ((x[n, p, word[i]] & mask[i]) * ones) >> np.uint64(56)
                totals[n, k, p] = count
