"""Event-driven kernels: the synapses of the spikes that there are, and of no others; channels innermost in memory.

Sums in float32 are exact below 2^24, which the caller proves.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


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


@numba.njit(cache=True, nogil=True)
def add_rows(payloads: NDArray[Any], weight: NDArray[Any], total: NDArray[np.float32]) -> Any:
    """total (N, targets) += payloads (N, sources) @ weight (sources, targets), row by row of what is not 0."""
    for n in range(len(payloads)):
        into = total[n]
        for j in range(payloads.shape[1]):
            s = np.float32(payloads[n, j])
            if s != 0:
                _add_row(into, weight[j], s)


@numba.njit(cache=True, nogil=True)
def add_taps(
    payloads: NDArray[Any],
    weight: NDArray[Any],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    total: NDArray[np.float32],
) -> Any:
    """total (N, h, w, out) += convolution of payloads (N, H, W, C) with weight (C, kh, kw, out), spike by spike."""
    _, height, width, _ = total.shape
    for n in range(payloads.shape[0]):
        for y in range(payloads.shape[1]):
            for x in range(payloads.shape[2]):
                row = payloads[n, y, x]
                for c in range(len(row)):
                    s = np.float32(row[c])
                    if s == 0:
                        continue
                    for i in range(weight.shape[1]):
                        above = y + padding[0] - i * dilation[0]
                        if above < 0 or above % stride[0] != 0 or above // stride[0] >= height:
                            continue
                        for j in range(weight.shape[2]):
                            left = x + padding[1] - j * dilation[1]
                            if left < 0 or left % stride[1] != 0 or left // stride[1] >= width:
                                continue
                            _add_row(total[n, above // stride[0], left // stride[1]], weight[c, i, j], s)


@numba.njit(cache=True, nogil=True)
def _add_row(total: NDArray[np.float32], weight: NDArray[Any], payload: Any) -> Any:
    for o in range(len(total)):
        total[o] += np.float32(weight[o]) * payload


@numba.njit(cache=True, nogil=True)
def count_spikes(payloads: NDArray[Any]) -> Any:
    """How many of payloads (n,) are not 0."""
    count = 0
    for i in range(len(payloads)):
        count += payloads[i] != 0
    return count
