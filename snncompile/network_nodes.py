"""The nodes of the float network: what each computes, of which shapes, and what reads its rows of weights.

A node names its inputs; two synapse nodes that end in one neuron node add up. Shapes leave out time and batch:
images (C, H, W), features (n,). `network.verify` checks them.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from snncompile.semantics import Fire, Reset

Array = NDArray[np.float64]
IndexArray = NDArray[np.int64]
Shape = tuple[int, ...]
Pair = tuple[int, int]
Coding = Literal["direct", "events", "rate"]

INPUT_PAYLOAD_MAX = 255
"""Largest graded input spike: an 8-bit pixel, the value 1.0."""


INDEX = {"index": True}
"""Metadata of a field of integers, which say where and not how much."""


def frozen(values: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    """The values as a read-only array of that type; themselves where they are one and own their memory."""
    if values.dtype == kind and values.base is None and not values.flags.writeable:
        return values
    copied = np.array(values, dtype=kind)
    copied.flags.writeable = False
    return copied


@dataclass(frozen=True, eq=False)
class Node:
    """One operation. Arrays are made read-only: float64, int64 in fields declared with `INDEX`."""

    name: str
    inputs: tuple[str, ...]

    def __post_init__(self) -> None:
        for declared in fields(self):
            value = getattr(self, declared.name)
            if isinstance(value, np.ndarray):
                kind = np.int64 if declared.metadata.get("index") else np.float64
                object.__setattr__(self, declared.name, frozen(value, np.dtype(kind)))

    @property
    def kind(self) -> str:
        return type(self).__name__


@dataclass(frozen=True, eq=False)
class Input(Node):
    """What the host sends in the first micro-step of every time step; 0 in the others.

    coding "direct": the value scale * x, the same at every time step, 0 <= scale * x <= 1; on the chip a graded spike
    of payload round(scale * x * 255). "events": frame t of x (T, *shape), scale * x an integer from 0 to
    `largest`: its payload.
    "rate": spikes, spread evenly over the T time steps, whose mean is scale * x rounded to 1/T.
    """

    shape: Shape
    scale: float = 1.0
    coding: Coding = "direct"
    largest: int = INPUT_PAYLOAD_MAX


@dataclass(frozen=True, eq=False)
class Weighted(Node):
    """Synapses with a row of weights for every output channel: weight (out, ...), bias (out,)."""

    weight: Array
    bias: Array

    def per_weight(self, values: Array) -> Array:
        """One value a row (out,), shaped to broadcast over `weight`."""
        return values.reshape(-1, *(1,) * (self.weight.ndim - 1))

    def row_sums(self, values: Array) -> Array:
        """(out,) sums over each row of values in the shape of `weight`."""
        summed: Array = values.reshape(len(self.bias), -1).sum(1)
        return summed

    def row_largest(self, values: Array) -> Array:
        """(out,) largest of each row of values >= 0 in the shape of `weight`; 0 for an empty row."""
        largest: Array = values.reshape(len(self.bias), -1).max(1)
        return largest


@dataclass(frozen=True, eq=False)
class Conv2d(Weighted):
    """y = W * sum_pool(x) + b, cross-correlation as in torch.

    weight (out, in/groups, kh, kw), bias (out,). `pool`: x is summed over pool windows first (the sources of one window
    share one axon on the chip); (1, 1) is a plain convolution. `members`: so are that many consecutive channels, the
    members of one neuron. Features (n,) are an image (n, 1, 1). An identity shortcut is `one_to_one` of weight 1.
    `of_reset`: made by the lowering from a soft reset, so that its weights are thresholds and are rounded like them.
    `lag`: W * x[t - lag] + b, x before the sample is 0; what was sent in its last steps then never acts.
    """

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    pool: Pair = (1, 1)
    members: int = 1
    delay_steps: int | None = None
    lag: int = 0
    of_reset: bool = False


@dataclass(frozen=True, eq=False)
class Linear(Weighted):
    """y = W flatten(sum_pool(x)) + b; weight (out, in), bias (out,), flattened in C order; the rest as in Conv2d."""

    pool: Pair = (1, 1)
    members: int = 1
    delay_steps: int | None = None
    lag: int = 0


@dataclass(frozen=True, eq=False)
class Sparse(Weighted):
    """y = W flatten(sum_pool(x)) + b, of W only the synapses there are: W[row[i], column[i]] = weight[i].

    weight, row, column (synapses,), sorted by row, then column, no pair twice (`sparse` sorts them); bias (features,):
    it says how many rows there are. Columns count the flattened source in C order; the rest as in Conv2d.
    """

    row: IndexArray = field(metadata=INDEX)
    column: IndexArray = field(metadata=INDEX)
    pool: Pair = (1, 1)
    members: int = 1
    delay_steps: int | None = None
    lag: int = 0

    @property
    def features(self) -> int:
        return len(self.bias)

    def per_weight(self, values: Array) -> Array:
        return values[self.row]

    def row_sums(self, values: Array) -> Array:
        return np.bincount(self.row, values, self.features).astype(np.float64)

    def row_largest(self, values: Array) -> Array:
        largest = np.zeros(self.features)
        np.maximum.at(largest, self.row, values)
        return largest


@dataclass(frozen=True, eq=False)
class BatchNorm(Node):
    """y = gamma * (x - mean) / sqrt(var + eps) + beta per channel (axis 0 of the shape); all (channels,)."""

    gamma: Array
    beta: Array
    mean: Array
    var: Array
    eps: float


@dataclass(frozen=True, eq=False)
class AvgPool2d(Node):
    """Mean over non-overlapping windows of `kernel`; rows and columns that fill no window are left out."""

    kernel: Pair


@dataclass(frozen=True, eq=False)
class Flatten(Node):
    """(C, H, W) -> (C*H*W,) in C order."""


@dataclass(frozen=True, eq=False)
class MultiThresholdLIF(Node):
    """Multi-threshold leaky integrate-and-fire population (the node MTLIF of docs/how-it-works.md).

        I[t] = sum of inputs                                  mixing: sum over j of mixing[t, j] * (sum of inputs)[j]
        i[t] = current_leak * i[t-1] + I[t]                   i = I without; i before the sample is 0
        a[t] = adapt_leak * a[t-1] + adapt_step * k[t-1]      a = 0 without; before the sample adapt_start and k = 0
        u[t] = leak * v[t-1] + i[t] + drive                   v before the sample is v0
               - a[t] where k[t-1] > 0                        only if adapt_resets
        k[t] = number of j with u[t] >= thresholds[j] + a[t]  (fire "gt": >)
        y[t] = payload[k-1], 0 where k = 0
        v[t] = u[t] - subtract[k-1] ("soft") | 0 where k > 0 ("hard") | u[t] ("none"), no less than floor

    thresholds, subtract (levels,) or (levels, channels), payload (levels,); thresholds strictly increasing.
    leak, v0, current_leak, floor, adapt_leak, adapt_step, adapt_start: one number or (channels,); drive (channels,).
    current_leak: the synaptic current of CUBA neurons. adapt_*: the adaptive threshold of ALIF neurons (Bellec et al.,
    2018; Yin et al., 2021, whose reset subtracts the adapted threshold a step later: adapt_resets).
    mixing (T, T) or None, T the network's timesteps: LM-HT's global input (T-GIM, arXiv 2402.00411): the population
    waits for the last step it needs. A leak above 1 (LM-HT again) amplifies; only programmable neurons have it.
    What the lowering to binary spikes sets: `members` consecutive channels stand for one neuron of the trained network,
    whose level is the number of them that fire; of the micro-steps of a time step the leak acts in the first, and the
    population fires in the first `open_steps` only (None: in all).
    unit: value of one unit of the integer weights of a network that was quantised elsewhere, whose integers are kept: a
    state counts in unit / 2^F, F the fractional bits of the chip (6 on Loihi).
    `depth`: how many chip steps this population runs behind the input; None before the delays are aligned.
    """

    thresholds: Array
    payload: Array
    subtract: Array
    leak: float | Array
    reset: Reset
    fire: Fire
    v0: float | Array = 0.0
    mixing: Array | None = None
    members: int = 1
    open_steps: int | None = None
    depth: int | None = None
    current_leak: float | Array | None = None
    drive: Array | None = None
    floor: float | Array | None = None
    adapt_leak: float | Array | None = None
    adapt_step: float | Array = 0.0
    adapt_start: float | Array = 0.0
    adapt_resets: bool = False
    unit: float | None = None

    @property
    def by_channel(self) -> tuple[str, ...]:
        """Its parameters of one axis, the channels'."""
        names = ("leak", "v0", "current_leak", "drive", "floor", "adapt_leak", "adapt_step", "adapt_start")
        return tuple(name for name in names if np.ndim(getattr(self, name) if getattr(self, name) is not None else 0))

    @property
    def beyond_lif(self) -> tuple[str, ...]:
        """What of this population a leaky integrate-and-fire neuron with one state and one leak does not have."""
        named = {
            "a synaptic current": self.current_leak is not None,
            "an adaptive threshold": self.adapt_leak is not None,
            "a lower bound of its state": self.floor is not None,
            "a leak for every channel": np.ndim(self.leak) > 0,
        }
        return tuple(name for name, has in named.items() if has)


def waits(mixing: NDArray[Any] | None) -> int:
    """Steps a population must wait for input that its mixing (T, T) needs: the largest j - t with mixing[t, j] != 0."""
    if mixing is None or not mixing.any():
        return 0
    t, j = np.nonzero(mixing)
    return max(0, int((j - t).max()))


@dataclass(frozen=True, eq=False)
class Readout(Node):
    """Output = scale * v[T] / sum over t of leak^(T-t).

        i[t] = current_leak * i[t-1] + x[t];  v[t] = leak * v[t-1] + i[t]

    x is the sum of its inputs; current_leak None: i = x. Leak 1 and no current: the mean of x over the T time steps; t
    counts time steps; the micro-steps of one add up.

    The predicted class is the largest entry. Fed by synapses it is a population that sums and never fires; fed by one
    neuron population it counts that one's spikes.
    """

    scale: float = 1.0
    leak: float = 1.0
    depth: int | None = None
    current_leak: float | None = None

    def weights(self, steps: int) -> Array:
        """(steps,) output of an x that is 1 in one time step only, by that step."""
        response, i, v = np.zeros(steps), 1.0, 0.0
        for n in range(steps):
            v = self.leak * v + i
            response[n] = v
            i = (self.current_leak or 0.0) * i
        return self.scale * response[::-1] / self.total(steps)

    def total(self, steps: int) -> float:
        """Sum of leak^(T-t) over the time steps."""
        return float(np.sum(self.leak ** np.arange(steps)))


Synapses = Conv2d | Linear | Sparse
SYNAPSES = (Conv2d, Linear, Sparse)
FOLDED = (Input, *SYNAPSES, MultiThresholdLIF, Readout)
"""Node types left once every norm and pool is folded."""

NO_MEMORY = float(np.finfo(np.float64).tiny)
"""The leak of a neuron that keeps nothing: positive, as leaks are, and 0 on a chip."""

LEAK_BELOW = 2.0
"""LM-HT's leak lies in (0.5, 1.5); every other system's in (0, 1]."""


def scaled(node: Synapses, gain: float | Array) -> Synapses:
    """The synapses with weights and bias times `gain`, one number or (out,)."""
    per_row = np.broadcast_to(np.asarray(gain, np.float64), node.bias.shape)
    return replace(node, weight=node.weight * node.per_weight(per_row), bias=node.bias * per_row)


def one_to_one(name: str, source: str, weight: Array, pool: Pair = (1, 1)) -> Conv2d:
    """y = weight * sum_pool(x), weight (channels,): every source drives the neuron at its own place only."""
    channels = len(weight)
    kernels = np.reshape(weight, (channels, 1, 1, 1))
    return Conv2d(name, (source,), kernels, np.zeros(channels), groups=channels, pool=pool)


def sparse(
    name: str, source: str, weight: Array, row: NDArray[Any], column: NDArray[Any], bias: Array, **options: Any
) -> Sparse:
    """`Sparse` of synapses (synapses,) in any order."""
    return Sparse(name, (source,), bias=bias, **in_order(weight, row, column), **options)


def in_order(weight: NDArray[Any], row: NDArray[Any], column: NDArray[Any]) -> dict[str, Any]:
    """weight, row and column of synapses, sorted by row, then column, by their names."""
    order = np.lexsort((column, row))
    return {"weight": weight[order], "row": row[order], "column": column[order]}
