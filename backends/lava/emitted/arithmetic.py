"""Exact integer arithmetic of synapses and neurons, numpy only.

Arrays hold B independent samples side by side (batch lanes): (B, n), n neurons flat in (channel, row, column) order.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

DECAY_ONE = 4096
"""Denominator of the 12-bit decay, as on Loihi."""

MIX_SHIFT = 12
"""Fractional bits of `mixing`."""

COLUMN_BYTES = 4 << 20
"""Largest unfolded image a convolution makes at once; what fits the cache is fastest."""


def exact_type(bound: int) -> Any:
    """The fastest type in which integer sums up to `bound` are exact: float32 < 2^24, float64 < 2^53, else int64."""
    return np.float32 if bound < 1 << 24 else np.float64 if bound < 1 << 53 else np.int64


def sum_pool(x: np.ndarray, window: tuple[int, int]) -> Any:
    """Sums non-overlapping windows of x (B, C, H, W); rows and columns that fill no window are left out."""
    height, width = x.shape[2] // window[0] * window[0], x.shape[3] // window[1] * window[1]
    parts = [x[:, :, i : height : window[0], j : width : window[1]] for i in range(window[0]) for j in range(window[1])]
    return sum(parts[1:], start=parts[0])


class Synapses:
    """a = (W sum_pool(s)) << exponent for payloads s (B, n_source); gives a (B, n_target) of type `integer`.

    row, column (synapses,): of sparse synapses, target and source of each. spec `reads`: first channel of the source
    that they read, and the first that they do not.

    The product runs in floating point where no partial sum can be rounded: sum |w| * largest pooled payload bounds all
    of them (`exact_type`); payload_max bounds |s|. The factor 2^exponent is part of the float weight and costs no bit
    of it. A convolution takes features (n,) as an image (n, 1, 1). `members`: payloads of that many consecutive
    channels, the members of one neuron, add up first.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        weight: np.ndarray,
        source_shape: tuple[int, ...],
        payload_max: int,
        integer: Any,
        row: np.ndarray | None = None,
        column: np.ndarray | None = None,
        source_depth: int = 0,
    ) -> None:
        weight, self.source_depth = weight.astype(np.int64), source_depth
        self.image, self.pool, self.integer = (*source_shape, 1, 1)[:3], tuple(spec["pool"]), integer
        self.reads = slice(*(spec.get("reads") or (None,)))
        self.delay_steps, self.lag, self.lateral = spec["delay_steps"], spec.get("lag", 0), spec.get("lateral", False)
        self.members = spec["members"]
        self.product: Callable[[np.ndarray], Any]
        if row is not None and column is not None:
            self.product = Listed(weight << spec["exponent"], row, column, spec["features"])
            return
        pooled_max = payload_max * self.pool[0] * self.pool[1] * self.members
        row_sum = int(np.abs(weight).reshape(len(weight), -1).sum(1).max())
        scaled = (weight << spec["exponent"]).astype(exact_type(max(row_sum, 1) * pooled_max))
        if spec["kind"] == "linear":
            self.product = Product(scaled)
        elif weight.shape[2:] == (1, 1) and not any(spec["padding"]):
            self.product = Pointwise(scaled, spec)
        else:
            self.product = Convolution(scaled, spec)

    def current(self, payloads: np.ndarray) -> Any:
        """The current these payloads cause; 0 where no source sent a spike."""
        if not payloads.any():
            return 0
        s = payloads.reshape(len(payloads), *self.image)[:, self.reads]
        if self.members > 1:
            s = s.reshape(len(s), -1, self.members, *self.image[1:]).sum(2)
        if self.pool != (1, 1):
            s = sum_pool(s, self.pool)
        return self.product(s).astype(self.integer)


class Product:
    """W s for weight (out, in) and s (B, ...) with `in` values a lane."""

    def __init__(self, weight: np.ndarray) -> None:
        self.weight = np.ascontiguousarray(weight.T)

    def __call__(self, s: np.ndarray) -> Any:
        return s.reshape(len(s), -1).astype(self.weight.dtype) @ self.weight


class Listed:
    """W s for s (B, ...) and the matrix W (features, n) that is weight[i] at (row[i], column[i]): of spikes only."""

    def __init__(self, weight: np.ndarray, row: np.ndarray, column: np.ndarray, features: int) -> None:
        by_source = np.argsort(column, kind="stable")
        self.weight, self.row, self.features = weight[by_source], row[by_source].astype(np.int64), features
        self.fan_out = np.bincount(column)
        self.first = np.cumsum(self.fan_out) - self.fan_out

    def __call__(self, s: np.ndarray) -> Any:
        y = np.zeros((len(s), self.features), np.int64)
        for lane, payloads in zip(y, s.reshape(len(s), -1)[:, : len(self.first)].astype(np.int64), strict=True):
            sources = np.flatnonzero(payloads)
            fan_out = self.fan_out[sources]
            within = np.arange(int(fan_out.sum())) - np.repeat(np.cumsum(fan_out) - fan_out, fan_out)
            reached = np.repeat(self.first[sources], fan_out) + within
            np.add.at(lane, self.row[reached], self.weight[reached] * np.repeat(payloads[sources], fan_out))
        return y


class Pointwise:
    """Convolution of s (B, C, H, W) with a kernel of 1x1, weight (out, C/groups, 1, 1): a product of channels only.

    With one channel a group (identity shortcuts) a multiplication.
    """

    def __init__(self, weight: np.ndarray, spec: dict[str, Any]) -> None:
        self.stride, self.groups = spec["stride"], spec["groups"]
        self.weight = weight.reshape(self.groups, -1, weight.shape[1])

    def __call__(self, s: np.ndarray) -> Any:
        lanes, (sy, sx) = len(s), self.stride
        fan_in = self.weight.shape[2]
        by_group = s[:, :, ::sy, ::sx].astype(self.weight.dtype).reshape(lanes, self.groups, fan_in, -1)
        if fan_in == 1:
            y: Any = by_group * self.weight
        elif by_group.shape[3] == 1:
            # The lanes of a group in one product, not one product for each.
            y = (by_group[..., 0].swapaxes(0, 1) @ self.weight.swapaxes(1, 2)).swapaxes(0, 1)
        else:
            y = self.weight @ by_group
        return y.reshape(lanes, -1)


class Convolution:
    """Cross-correlation of s (B, C, H, W) with weight (out, C/groups, kh, kw), zero padding: unfold, then multiply."""

    def __init__(self, weight: np.ndarray, spec: dict[str, Any]) -> None:
        self.out, self.fan_in, *self.kernel = weight.shape
        self.stride, self.padding, self.dilation = spec["stride"], spec["padding"], spec["dilation"]
        self.groups = spec["groups"]
        self.weight = weight.reshape(self.groups, self.out // self.groups, -1)

    def __call__(self, s: np.ndarray) -> np.ndarray:
        (py, px), (ky, kx), (sy, sx), (dy, dx) = self.padding, self.kernel, self.stride, self.dilation
        lanes, channels, height, width = s.shape
        padded = np.zeros((lanes, channels, height + 2 * py, width + 2 * px), self.weight.dtype)
        padded[:, :, py : py + height, px : px + width] = s
        rows = (padded.shape[2] - dy * (ky - 1) - 1) // sy + 1
        columns = (padded.shape[3] - dx * (kx - 1) - 1) // sx + 1
        y = np.empty((lanes, self.groups, self.out // self.groups, rows * columns), padded.dtype)
        at_once = max(1, COLUMN_BYTES // (padded.itemsize * channels * ky * kx * rows * columns))
        for first in range(0, lanes, at_once):
            seen = padded[first : first + at_once]
            unfolded = np.empty((len(seen), channels, ky, kx, rows, columns), padded.dtype)
            for i in range(ky):
                for j in range(kx):
                    unfolded[:, :, i, j] = seen[
                        :, :, i * dy : i * dy + sy * rows : sy, j * dx : j * dx + sx * columns : sx
                    ]
            by_group = unfolded.reshape(len(seen), self.groups, self.fan_in * ky * kx, rows * columns)
            np.matmul(self.weight, by_group, out=y[first : first + at_once])
        return y.reshape(lanes, -1)


class Mixing:
    """I[t] = (sum_j mixing[t, j] * (a[j] + bias)) >> 12 over the T steps of a sample: store and forward.

    Input i of the stream (step i % T of its sample) is stored; step t of a sample is read once the sample's inputs up
    to t + waits are there, and reads no others: mixing[t, j] is 0 for j > t + waits. Where a population waits, two
    stores are used in turn: the next sample's input arrives while the last steps of this one are read.

    mixing (T, T). The type follows from the largest sum of |mixing| of a step times the bound of |a + bias|, which the
    proven input_bits give.
    """

    def __init__(self, spec: dict[str, Any], arrays: dict[str, np.ndarray], lanes: int) -> None:
        mixing, bias = (arrays[name].astype(np.int64) for name in ("mixing", "bias"))
        largest = (1 << (spec["input_bits"] - 1)) + int(np.abs(bias).max())
        kind = exact_type(max(int(np.abs(mixing).sum(1).max()), 1) * largest)
        self.waits, self.mixing, self.shape = spec["waits"], mixing.astype(kind), (lanes, int(np.prod(spec["shape"])))
        self.stores = np.zeros((2 if self.waits else 1, len(mixing), int(np.prod(self.shape))), kind)

    def store(self, i: int, biased: np.ndarray) -> None:
        """Input i of the stream: a + bias, (lanes, n) or (n,) for all lanes."""
        sample, step = divmod(i, len(self.mixing))
        self.stores[sample % len(self.stores), step].reshape(self.shape)[:] = biased

    def current(self, t: int) -> Any:
        """I (lanes, n) int64 of logical step t, once input t + waits (or the sample's last) is stored."""
        sample, step = divmod(t, len(self.mixing))
        needed = slice(step + self.waits + 1)
        summed = self.mixing[step, needed] @ self.stores[sample % len(self.stores), needed]
        return summed.astype(np.int64).reshape(self.shape) >> MIX_SHIFT


class Neurons:
    """Multi-threshold integrate-and-fire neurons; one step for all lanes, all integers.

        u = decay(v) + I                        decay(v) = sign(v) * ((|v| * (4096 - decay)) >> 12)
        k = number of j with u >= thresholds[j] (fire "gt": >)
        y = payload[k-1], 0 where k = 0
        v = u - subtract[k-1] ("soft") | 0 where k > 0 ("hard") | u ("none")

    I is a + bias, or what `Mixing` makes of it, and the lateral current; a decay below 0 amplifies. Of the micro-steps
    of a time step the decay acts in the first, and the neurons fire in the first `open_steps` (none given: in all).
    Without thresholds they never fire and only sum; those that send their sum keep no state: y = u = I. `u` is that of
    the last step. bias, v0 (channels,); thresholds, subtract (levels, channels); payload (levels,). Types are as narrow
    as the proven state_bits and input_bits allow.
    """

    def __init__(self, spec: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        size = int(np.prod(spec["shape"]))
        self.decay_rate, self.reset, self.open_steps = int(arrays["decay"][0]), spec["reset"], spec.get("open_steps")
        self.sums = spec.get("sends") == "sum"
        self.reached = np.greater_equal if spec["fire"] == "ge" else np.greater
        self.dtype = self.state_type(spec, arrays)
        repeats = size // spec["shape"][0]
        self.u = np.zeros((1, size), self.dtype)
        self.bias, self.v0, self.thresholds, subtract = (
            np.repeat(arrays[name].astype(self.dtype), repeats, axis=-1)
            for name in ("bias", "v0", "thresholds", "subtract")
        )
        # Thresholds increase: level j is reached only where j - 1 is, so what level j adds is the step from j - 1.
        self.payload_steps = np.diff(arrays["payload"].astype(np.int32), prepend=np.int32(0))
        self.subtract_steps = np.diff(subtract, axis=0, prepend=np.zeros((1, size), self.dtype))

    @staticmethod
    def state_type(spec: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
        """int32 where every state, |v| * (4096 - decay) and every constant fits, else int64."""
        decay = int(arrays["decay"].min())
        factor_bits = (DECAY_ONE - decay).bit_length() if decay else 0
        bits = max(spec["input_bits"], spec["state_bits"] + factor_bits)
        largest = max(int(np.abs(array.astype(np.int64)).max(initial=0)) for array in arrays.values())
        return np.int32 if bits < 32 and largest < 1 << 30 else np.int64

    @property
    def spiking(self) -> bool:
        return self.sums or len(self.thresholds) > 0

    def start(self, lanes: int) -> np.ndarray:
        """State v0 of every neuron (lanes, n)."""
        return np.tile(self.v0, (lanes, 1))

    @staticmethod
    def membrane(state: Any) -> np.ndarray:
        """v of what `start` and `step` give."""
        return state

    def decay(self, v: np.ndarray) -> Any:
        """Toward zero in 12-bit fixed point; a decay of 0 keeps v, one below 0 makes it grow."""
        if self.decay_rate == 0:
            return v
        return np.sign(v) * ((np.abs(v) * (DECAY_ONE - self.decay_rate)) >> 12)

    def step(self, v: np.ndarray, current: Any, micro: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Payloads to send and the state after reset on the input I = `current`, all (lanes, n), in this micro-step."""
        if self.sums:
            self.u = np.zeros(v.shape, np.int32) + np.asarray(current).astype(np.int32)
            return self.u, v
        self.u = u = ((self.decay(v) if micro == 0 else v) + current).astype(self.dtype, copy=False)
        payloads = np.zeros(u.shape, np.int32)
        if self.open_steps is not None and micro >= self.open_steps:
            return payloads, u
        v = u
        for level, threshold in enumerate(self.thresholds):
            fired = self.reached(u, threshold)
            payloads += fired * self.payload_steps[level]
            if self.reset == "soft":
                v = v - fired * self.subtract_steps[level]
            elif self.reset == "hard" and level == 0:
                v = np.where(fired, self.dtype(0), u)
        return payloads, v
