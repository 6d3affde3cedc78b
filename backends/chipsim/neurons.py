"""Kernels of the function engine.

The fused neuron update: decay, input, firing, reset and the counts, one pass over the state; and sums of inputs.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, nogil=True)
def add_shifted(total: NDArray[np.int64], product: NDArray[Any], exponent: int) -> Any:
    """total += product << exponent, flat; product holds integers in any type."""
    for i in range(len(total)):
        total[i] += np.int64(product[i]) << exponent


@numba.njit(cache=True, nogil=True)
def step(
    v: NDArray[np.int64],
    current: NDArray[Any],
    exponent: int,
    bias: NDArray[np.int64],
    thresholds: NDArray[np.int64],
    subtract: NDArray[np.int64],
    table: NDArray[np.int64],
    keep: int,
    reset: int,
    payloads: NDArray[Any],
    updated: NDArray[np.uint8],
) -> Any:
    """One step of one population, in place on v; all (B, C, positions).

    u = sign(v) * ((|v| * keep) >> 12) + (current << exponent) + bias; current holds integers in any type;
    k = thresholds (levels, C) with u >= threshold (for "gt" the caller passes threshold + 1); payloads = table[k];
    reset 0 none, 1 soft by subtract (levels, C), 2 hard to 0. No decay: keep 4096; may not fire: no thresholds (0, C).
    updated = 1 where the state, the bias or the summed input is not 0: such a neuron costs an update.
    """
    batch, channels, positions = v.shape
    levels = thresholds.shape[0]
    for b in range(batch):
        for c in range(channels):
            for p in range(positions):
                before = v[b, c, p]
                a = np.int64(current[b, c, p]) << exponent
                u = ((before * keep) >> 12) if before >= 0 else -((-before * keep) >> 12)
                u += a + bias[c]
                k = 0
                while k < levels and u >= thresholds[k, c]:
                    k += 1
                payloads[b, c, p] = table[k]
                updated[b, c, p] = before != 0 or a != 0 or bias[c] != 0
                if k > 0 and reset == 1:
                    u -= subtract[k - 1, c]
                elif k > 0 and reset == 2:
                    u = 0
                v[b, c, p] = u


@numba.njit(cache=True, nogil=True)
def step_sum(current: NDArray[Any], exponent: int, payloads: NDArray[Any], updated: NDArray[np.uint8]) -> Any:
    """One step of a population that sends its sum: payloads = current << exponent, flat; updated where not 0."""
    for i in range(len(current)):
        a = np.int64(current[i]) << exponent
        payloads[i] = a
        updated[i] = a != 0


@numba.njit(cache=True, nogil=True)
def add_listed(
    payloads: NDArray[Any],
    first: NDArray[np.int64],
    row: NDArray[np.integer[Any]],
    weight: NDArray[np.integer[Any]],
    total: NDArray[np.int64],
) -> Any:
    """total (N, targets) += W s for payloads s (N, sources): the synapses of every source that sent a spike.

    Those of source j are first[j]..first[j + 1] - 1 (sources + 1,): to target `row`, with `weight`.
    """
    for n in range(len(payloads)):
        for j in range(payloads.shape[1]):
            s = np.int64(payloads[n, j])
            if s != 0:
                for i in range(first[j], first[j + 1]):
                    total[n, row[i]] += s * np.int64(weight[i])
