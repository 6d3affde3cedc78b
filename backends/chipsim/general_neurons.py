"""Kernel for neurons of several states: synaptic currents, adaptive thresholds, floors, decays by channel."""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from .neurons import IntArray, _potential


@numba.njit(cache=True, nogil=True)
def advance_general(
    v: IntArray,
    i: IntArray,
    h: IntArray,
    level: IntArray,
    current: NDArray[Any],
    frame: NDArray[np.int64],
    exponent: Any,
    constants: IntArray,
    thresholds: IntArray,
    fired: IntArray,
    payload: NDArray[Any],
    decays: NDArray[np.bool_],
    opened: NDArray[np.bool_],
    mask: Any,
    adapt_resets: bool,
    payloads: NDArray[Any],
    updated: NDArray[np.uint8],
) -> Any:
    """All steps of one population, in place on v, i, h and level (B, P, n): what `quant_network` says of a step.

    constants (7, n): bias, drive, floor, what of 4096 is kept of v, of i and of h, adapt_step; the rest as in
    `neurons.advance`. decays (T,): whether v decays in the step. The level is that of the step before.
    updated = 1 where v, i, the summed input, bias or drive is not 0.
    """
    kind = v.dtype.type
    bias, drive, floor, keep_v, keep_i, keep_h, adapt_step = constants
    none = kind(0)
    for b in range(v.shape[0]):
        for p in range(v.shape[1]):
            for t in range(len(frame)):
                arriving, gate = current[b, max(frame[t], 0), p], kind(frame[t] >= 0)
                sent, touched = payloads[b, t, p], updated[b, t, p]
                for c in range(v.shape[2]):
                    a = kind(kind(kind(arriving[c]) << exponent) * gate)
                    touched[c] = np.uint8((v[b, p, c] | i[b, p, c] | a | bias[c] | drive[c]) != 0)
                    of_current = _potential(i[b, p, c], a, bias[c], keep_i[c], kind)
                    i[b, p, c] = of_current
                    kept = keep_v[c] if decays[t] else kind(4096)
                    u = _potential(v[b, p, c], of_current, drive[c], kept, kind)
                    adapted = _potential(h[b, p, c], kind(adapt_step[c] * level[b, p, c]), none, keep_h[c], kind)
                    h[b, p, c] = adapted
                    if adapt_resets and level[b, p, c] > 0:
                        u = kind(u - adapted)
                    k, after, y = 0, u, payloads.dtype.type(0)
                    while opened[t] and k < len(thresholds) and kind(u - adapted) >= thresholds[k, c]:
                        after = kind((after if k > 0 else kind(u & mask)) - fired[k, c])
                        y += payload[k]
                        k += 1
                    sent[c] = y
                    level[b, p, c] = kind(k)
                    v[b, p, c] = max(after, floor[c])
