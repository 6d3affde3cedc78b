"""Operations of NIR that our network has no node for: a draft holds them until `settle` has folded them away."""

from dataclasses import dataclass, field

import numpy as np

from snncompile.errors import CompileError
from snncompile.network import Array, MultiThresholdLIF, Node, Pair, Shape, infer_shape
from snncompile.network_nodes import INDEX, IndexArray


@dataclass(frozen=True, eq=False)
class Pool(Node):
    """Sum, or mean, over windows of `kernel`, `stride` apart, of the input with `padding` rows and columns of zeros."""

    kernel: Pair
    stride: Pair
    padding: Pair
    average: bool


@dataclass(frozen=True, eq=False)
class Gain(Node):
    """y = values * x; values of the shape of x, or one number ()."""

    values: Array


@dataclass(frozen=True, eq=False)
class Delayed(Node):
    """y[t] = x[t - steps], neuron by neuron; steps of the shape of x, or one number ()."""

    steps: IndexArray = field(metadata=INDEX)


@dataclass(frozen=True, eq=False)
class Gained(MultiThresholdLIF):
    """A population whose input is multiplied by `gain` first, one number or (channels,)."""

    gain: float | Array = 1.0


@dataclass(frozen=True, eq=False)
class Comparison(Node):
    """y = 1 where x > threshold, else 0; threshold one number or (channels,)."""

    threshold: float | Array


@dataclass(frozen=True, eq=False)
class Integrator(Node):
    """v[t] = leak * v[t-1] + i[t] + drive, sent as it is; i[t] = current_leak * i[t-1] + gain * x[t].

    gain and drive are one number or (channels,); current_leak None: i = gain * x.
    """

    leak: float
    gain: float | Array
    drive: float | Array
    current_leak: float | None = None


def pending_shape(node: Node, inputs: list[Shape]) -> Shape:
    """`network.infer_shape`, which also knows `Pool`."""
    if not isinstance(node, Pool) or len(set(inputs)) != 1:
        return infer_shape(node, inputs)
    shape = inputs[0]
    if len(shape) != 3:
        raise CompileError(node.name, f"pools an input of shape {shape}", "pooling needs (channels, height, width)")
    if any(2 * pad > k for pad, k in zip(node.padding, node.kernel, strict=True)):
        raise CompileError(node.name, f"pads {node.padding} around windows of {node.kernel}", "at most half a window")
    size = (
        (n + 2 * pad - k) // step + 1
        for n, k, step, pad in zip(shape[1:], node.kernel, node.stride, node.padding, strict=True)
    )
    pooled = (shape[0], *size)
    if min(pooled) < 1:
        raise CompileError(node.name, f"a pool window of {node.kernel} is larger than its input {shape}")
    return pooled


def per_channel(where: str, key: str, values: Array, shape: Shape) -> float | Array:
    """Values of the shape of the neurons, or one number, as one number or (channels,) for neurons of `shape`.

    Raises CompileError where they differ within a channel, and where they are of another shape.
    """
    if values.size == 1:
        return float(values.reshape(-1)[0])
    if values.shape != shape:
        raise CompileError(where, f"{key} has shape {values.shape}", f"needed: one number or {shape}, a value a neuron")
    channels = values.reshape(len(values), -1)
    if (differs := (channels != channels[:, :1]).any(1)).any():
        problem = f"{key} differs within channel {int(differs.argmax())}"
        raise CompileError(where, problem, "needed: one value a channel")
    first = channels[:, 0]
    return float(first[0]) if (first == first[0]).all() else np.array(first)
