"""Float networks batch by batch in torch: what `reference.run_float` defines, fast and in bounded memory.

For calibration and the accuracy of a float stage. In float64 its spikes are those of the reference except where a
membrane meets a threshold within the rounding of a sum (the order of additions differs); float32 moves a few more.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch.nn import functional

from snncompile import reference
from snncompile.backend import Progress, silent
from snncompile.network import (
    SYNAPSES,
    Array,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Flatten,
    Linear,
    MultiThresholdLIF,
    Network,
    Node,
    Readout,
    Sparse,
    Synapses,
)
from snncompile.quant_network import pooled_shape

Precision = Literal["float32", "float64"]

BATCH_BYTES = 64_000_000
"""What the largest layer of a batch may take over all T steps; a run holds a few layers at once."""

BATCH_MAX = 256


@dataclass(frozen=True, eq=False)
class Stream:
    """What a node sends in T steps: the different frames (S, B, *shape) and, of every step, which frame it is."""

    frames: torch.Tensor
    of_step: tuple[int, ...]

    def __getitem__(self, step: int) -> torch.Tensor:
        return self.frames[self.of_step[step]]

    def later(self, lag: int) -> "Stream":
        """The same frames `lag` steps later; nothing, a frame of zeros, before."""
        if lag == 0:
            return self
        silence = torch.zeros_like(self.frames[:1])
        kept = self.of_step[: max(len(self.of_step) - lag, 0)]
        before = (len(self.frames),) * (len(self.of_step) - len(kept))
        return Stream(torch.cat([self.frames, silence]), before + kept)

    @property
    def repeats(self) -> NDArray[np.int64]:
        """(S,) in how many steps each frame is sent."""
        return np.bincount(self.of_step, minlength=len(self.frames))


Watch = Callable[[Synapses, Stream], None]
"""Called with every layer of synapses and what its source sends to it, batch by batch."""


class FloatEngine:
    """Runs batches of data through a float network: as read, folded or lowered.

    precision: of all arithmetic. Data x is (N, *input shape), for event input (N, time steps, *input shape).
    """

    def __init__(self, network: Network, precision: Precision = "float32") -> None:
        self.network = network
        self.dtype = torch.float64 if precision == "float64" else torch.float32
        self._last_use = {name: node.name for node in network.nodes for name in node.inputs}
        self._matrices = {node.name: self._matrix(node) for node in network.of_type(Sparse)}

    @property
    def batch(self) -> int:
        """Samples a batch, so that the largest layer over all T steps keeps within `BATCH_BYTES`."""
        largest = max(int(np.prod(shape)) for shape in self.network.shapes.values())
        size = BATCH_BYTES // (largest * self.network.timesteps * self.dtype.itemsize)
        return max(1, min(BATCH_MAX, size))

    def run(self, x: NDArray[np.generic], watch: Watch | None = None, progress: Progress = silent) -> Array:
        """Output of the readout (N, classes)."""
        outputs = []
        for start in range(0, len(x), self.batch):
            part = x[start : start + self.batch]
            for _, stream in self.streams(part, watch):
                last = stream
            outputs.append(last.frames[0].double().numpy())
            progress(start + len(part), len(x))
        return np.concatenate(outputs)

    @torch.inference_mode()
    def streams(self, x: NDArray[np.generic], watch: Watch | None = None) -> Iterator[tuple[Node, Stream]]:
        """Every node with what it sends for one batch, in order; the readout last, as one frame (1, B, classes)."""
        sent = {self.network.input.name: self.input(x)}
        yield self.network.input, sent[self.network.input.name]
        for node in self.network.nodes[1:]:
            if isinstance(node, SYNAPSES) and node.inputs[0] not in sent:
                continue  # lateral, computed within its population
            sent[node.name] = self.sent(node, [sent[name] for name in node.inputs if name in sent], watch)
            yield node, sent[node.name]
            for name in [name for name in sent if self._last_use.get(name) == node.name]:
                del sent[name]

    def input(self, x: NDArray[np.generic]) -> Stream:
        """Frames of the host; zeros are one more frame where there are micro-steps in which it sends nothing."""
        network = self.network
        steps = network.timesteps // network.microsteps
        values = network.input.scale * np.asarray(x, np.float64)
        if network.input.coding == "rate":
            values = reference.rate_coded(values, steps).astype(np.float64)
        frames = values[:, None] if values.ndim == 1 + len(network.input.shape) else values
        stacked = torch.from_numpy(np.ascontiguousarray(frames.swapaxes(0, 1))).to(self.dtype)
        if network.microsteps > 1:
            stacked = torch.cat([stacked, torch.zeros_like(stacked[:1])])
        silence, constant = len(stacked) - 1, frames.shape[1] == 1
        of_step = (
            silence if t % network.microsteps else 0 if constant else t // network.microsteps
            for t in range(network.timesteps)
        )
        return Stream(stacked, tuple(of_step))

    def sent(self, node: Node, inputs: Sequence[Stream], watch: Watch | None = None) -> Stream:
        """What a node of the network sends, given what its inputs do (lateral synapses apart)."""
        if isinstance(node, MultiThresholdLIF):
            return self._neurons(node, _summed(inputs, self.network.timesteps), watch)
        if isinstance(node, Readout):
            return self._readout(node, _summed(inputs, self.network.timesteps))
        (stream,) = inputs
        if isinstance(node, SYNAPSES):
            stream = stream.later(node.lag)
            if watch is not None:
                watch(node, stream)
        steps, batch = stream.frames.shape[:2]
        frames = self._stateless(node, stream.frames.flatten(0, 1))
        return Stream(frames.reshape(steps, batch, *frames.shape[1:]), stream.of_step)

    def _stateless(self, node: Node, x: torch.Tensor) -> torch.Tensor:
        """A node without state on x (N, *shape)."""
        match node:
            case Conv2d():
                image = gathered(node, x if x.ndim == 4 else x[..., None, None])
                weight, bias = self._of(node.weight), self._of(node.bias)
                y = functional.conv2d(image, weight, bias, node.stride, node.padding, node.dilation, node.groups)
                return y if x.ndim == 4 else y.flatten(1)
            case Linear():
                return functional.linear(gathered(node, x).flatten(1), self._of(node.weight), self._of(node.bias))
            case Sparse():
                s = gathered(node, x).flatten(1).numpy()
                product = np.ascontiguousarray((self._matrices[node.name] @ s.T).T)
                return torch.from_numpy(product) + self._of(node.bias)
            case BatchNorm():
                gain = node.gamma / np.sqrt(node.var + node.eps)
                return _channels(self._of(gain), x) * (x - _channels(self._of(node.mean), x)) + _channels(
                    self._of(node.beta), x
                )
            case AvgPool2d():
                return functional.avg_pool2d(x, node.kernel)
            case Flatten():
                return x.flatten(1)
        raise TypeError(f"{node.name}: the engine does not know {node.kind}")

    def _neurons(self, node: MultiThresholdLIF, current: Stream, watch: Watch | None) -> Stream:
        laterals = [s for s in map(self.network.by_name.get, self.network.laterals(node)) if isinstance(s, SYNAPSES)]
        steps, silence = self._mixed(node, current), torch.zeros_like(current[0])
        state = _State(node, silence, self._of)
        sent: list[torch.Tensor] = []
        for t in range(self.network.timesteps):
            micro, arriving = t % self.network.microsteps, steps[t]
            for lateral in laterals:
                at = t - 1 - lateral.lag
                arriving = arriving + self._stateless(lateral, sent[at] if at >= 0 else silence)
            is_open = node.open_steps is None or micro < node.open_steps
            sent.append(state.step(arriving, decays=micro == 0, is_open=is_open))
        stream = Stream(torch.stack(sent), tuple(range(len(sent))))
        for lateral in laterals if watch is not None else ():
            assert watch is not None
            watch(lateral, stream.later(1 + lateral.lag))
        return stream

    def _mixed(self, node: MultiThresholdLIF, current: Stream) -> Sequence[torch.Tensor] | Stream:
        if node.mixing is None:
            return current
        stacked = torch.stack([current[t] for t in range(self.network.timesteps)])
        return list(torch.tensordot(self._of(node.mixing), stacked, 1))

    def _readout(self, node: Readout, current: Stream) -> Stream:
        micro = self.network.microsteps
        total = torch.zeros_like(current[0])
        for t, weight in enumerate(np.repeat(node.weights(self.network.timesteps // micro), micro)):
            total += float(weight) * current[t]
        return Stream(total[None], (0,))

    def _matrix(self, node: Sparse) -> csr_array:
        """(features, columns read) with every synapse of a sparse layer."""
        kind = np.float64 if self.dtype == torch.float64 else np.float32
        columns = int(np.prod(pooled_shape(self.network.shapes[node.inputs[0]], node.pool, node.members)))
        return csr_array((node.weight.astype(kind), (node.row, node.column)), shape=(node.features, columns))

    def _of(self, values: Array) -> torch.Tensor:
        return torch.from_numpy(np.array(values, np.float64)).to(self.dtype)


class _State:
    """A population between its steps: what `network.MultiThresholdLIF` says of it, for states (B, *shape)."""

    def __init__(self, node: MultiThresholdLIF, silence: torch.Tensor, of: Callable[[Array], torch.Tensor]) -> None:
        def each(values: float | Array | None) -> torch.Tensor:
            return _channels(of(np.atleast_1d(np.asarray(0.0 if values is None else values, np.float64))), silence)

        self.node, self.leak, self.current_leak = node, each(node.leak), each(node.current_leak)
        self.drive, self.floor = each(node.drive), each(node.floor)
        self.adapt_leak, self.adapt_step = each(node.adapt_leak), each(node.adapt_step)
        self.thresholds = [_channels(of(np.atleast_1d(theta)), silence) for theta in node.thresholds]
        self.subtract = [_channels(of(np.atleast_1d(less)), silence) for less in node.subtract]
        self.v, self.current, self.level = silence + each(node.v0), silence, silence
        self.adapted = each(node.adapt_start)

    def step(self, arriving: torch.Tensor, decays: bool, is_open: bool) -> torch.Tensor:
        """The payloads sent on the input `arriving`; `decays`: in the first micro-step of a time step."""
        node = self.node
        if node.current_leak is not None:
            arriving = self.current = self.current_leak * self.current + arriving
        u = (self.leak * self.v if decays else self.v) + arriving
        u = u if node.drive is None else u + self.drive
        if node.adapt_leak is not None:
            self.adapted = self.adapt_leak * self.adapted + self.adapt_step * self.level
            u = torch.where(self.level > 0, u - self.adapted, u) if node.adapt_resets else u
        v, y = self._fired(u) if is_open else (u, torch.zeros_like(u))
        self.v = v if node.floor is None else torch.maximum(v, self.floor)
        return y

    def _fired(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """State after reset and payloads for the membranes u of a population that may fire."""
        node, v, y = self.node, u, torch.zeros_like(u)
        counted = node.adapt_leak is not None
        level = torch.zeros_like(u)
        for theta, less, payload in zip(self.thresholds, self.subtract, node.payload, strict=True):
            at = theta + self.adapted if counted else theta
            fires = u >= at if node.fire == "ge" else u > at
            y = torch.where(fires, float(payload), y)
            if node.reset == "soft":
                v = torch.where(fires, u - less, v)
            if counted:
                level = level + fires.to(level.dtype)
        self.level = level
        return (torch.where(y > 0, 0.0, u) if node.reset == "hard" else v), y


def gathered(node: Synapses, x: torch.Tensor) -> torch.Tensor:
    """What meets the weights of synapses: x (N, C, ...) summed over the members of a neuron and over pool windows."""
    if node.members > 1:
        x = x.reshape(len(x), -1, node.members, *x.shape[2:]).sum(2)
    # divisor_override=1 makes it a sum
    return x if node.pool == (1, 1) else functional.avg_pool2d(x, node.pool, divisor_override=1)


def _summed(streams: Sequence[Stream], timesteps: int) -> Stream:
    if len(streams) == 1:
        return streams[0]
    steps = range(timesteps)
    return Stream(torch.stack([torch.stack([s[t] for s in streams]).sum(0) for t in steps]), tuple(steps))


def _channels(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(channels,), or one number, shaped to broadcast over like (N, channels, ...)."""
    return values.reshape(-1, *(1,) * (like.ndim - 2))


def accuracy(network: Network, x: NDArray[np.generic], y: NDArray[np.int64], precision: Precision = "float32") -> float:
    """Share of the samples (N, ...) whose largest output is at the label (N,)."""
    return float((FloatEngine(network, precision).run(x).argmax(1) == y).mean())
