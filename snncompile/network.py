"""The float network: frozen nodes in topological order, from reading a model up to quantisation.

A node names its inputs; two synapse nodes that end in one neuron node add up. Shapes leave out time and batch:
images (C, H, W), features (n,). `verify` checks a whole network and is run after every pass.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from snncompile.errors import CompileError

Array = NDArray[np.float64]
Shape = tuple[int, ...]
Pair = tuple[int, int]
Reset = Literal["soft", "hard", "none"]
Fire = Literal["ge", "gt"]
Coding = Literal["direct", "events", "rate"]

INPUT_PAYLOAD_MAX = 255
"""Largest graded input spike: an 8-bit pixel, the value 1.0."""


def frozen(values: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    """The values as a read-only array of that type; themselves where they are one and own their memory."""
    if values.dtype == kind and values.base is None and not values.flags.writeable:
        return values
    copied = np.array(values, dtype=kind)
    copied.flags.writeable = False
    return copied


@dataclass(frozen=True, eq=False)
class Node:
    """One operation. Arrays are made read-only; float arrays are float64."""

    name: str
    inputs: tuple[str, ...]

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                object.__setattr__(self, field.name, frozen(value, np.dtype(np.float64)))

    @property
    def kind(self) -> str:
        return type(self).__name__


@dataclass(frozen=True, eq=False)
class Input(Node):
    """What the host sends in the first micro-step of every time step; 0 in the others.

    coding "direct": the value scale * x, the same at every time step, 0 <= scale * x <= 1; on the chip a graded spike
    of payload round(scale * x * 255). "events": frame t of x (T, *shape), scale * x an integer, 0 to 255: its payload.
    "rate": spikes, spread evenly over the T time steps, whose mean is scale * x rounded to 1/T.
    """

    shape: Shape
    scale: float = 1.0
    coding: Coding = "direct"


@dataclass(frozen=True, eq=False)
class Conv2d(Node):
    """y = W * sum_pool(x) + b, cross-correlation as in torch.

    weight (out, in/groups, kh, kw), bias (out,). `pool`: x is summed over pool windows first (the sources of one window
    share one axon on the chip); (1, 1) is a plain convolution. `members`: so are that many consecutive channels, the
    members of one neuron. Features (n,) are an image (n, 1, 1). An identity shortcut is `one_to_one` of weight 1.
    """

    weight: Array
    bias: Array
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    pool: Pair = (1, 1)
    members: int = 1
    delay_steps: int | None = None


@dataclass(frozen=True, eq=False)
class Linear(Node):
    """y = W flatten(sum_pool(x)) + b; weight (out, in), bias (out,), flattened in C order; the rest as in Conv2d."""

    weight: Array
    bias: Array
    pool: Pair = (1, 1)
    members: int = 1
    delay_steps: int | None = None


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
        u[t] = leak * v[t-1] + I[t]                           v[0] = v0
        k[t] = number of j with u[t] >= thresholds[j]         (fire "gt": >)
        y[t] = payload[k-1], 0 where k = 0
        v[t] = u[t] - subtract[k-1] ("soft") | 0 where k > 0 ("hard") | u[t] ("none")

    thresholds, subtract (levels,) or (levels, channels), payload (levels,); thresholds strictly increasing.
    mixing (T, T) or None, T the network's timesteps: LM-HT's global input (T-GIM, arXiv 2402.00411): the population
    waits for the last step it needs. A leak above 1 (LM-HT again) amplifies; only programmable neurons have it.
    What the lowering to binary spikes sets: `members` consecutive channels stand for one neuron of the trained network,
    whose level is the number of them that fire; of the micro-steps of a time step the leak acts in the first, and the
    population fires in the first `open_steps` only (None: in all).
    `depth`: how many chip steps this population runs behind the input; None before the delays are aligned.
    """

    thresholds: Array
    payload: Array
    subtract: Array
    leak: float
    reset: Reset
    fire: Fire
    v0: float = 0.0
    mixing: Array | None = None
    members: int = 1
    open_steps: int | None = None
    depth: int | None = None


def waits(mixing: NDArray[Any] | None) -> int:
    """Steps a population must wait for input that its mixing (T, T) needs: the largest j - t with mixing[t, j] != 0."""
    if mixing is None or not mixing.any():
        return 0
    t, j = np.nonzero(mixing)
    return max(0, int((j - t).max()))


@dataclass(frozen=True, eq=False)
class Readout(Node):
    """Output = scale * sum over t of leak^(T-t) x[t] / sum of leak^(T-t), x the sum of its inputs; leak 1: the mean.

    t counts time steps; the micro-steps of one add up.

    The predicted class is the largest entry. Fed by synapses it is a population that sums and never fires; fed by one
    neuron population it counts that one's spikes.
    """

    scale: float = 1.0
    leak: float = 1.0
    depth: int | None = None


Synapses = Conv2d | Linear
SYNAPSES = (Conv2d, Linear)
FOLDED = (Input, Conv2d, Linear, MultiThresholdLIF, Readout)
"""Node types left once every norm and pool is folded."""

LEAK_BELOW = 2.0
"""LM-HT's leak lies in (0.5, 1.5); every other system's in (0, 1]."""

N = TypeVar("N", bound=Node)


@dataclass(frozen=True, eq=False)
class Network:
    """Nodes in topological order and the number of steps a sample takes. State starts at v0 for every sample.

    `timesteps` counts the chip's steps; `microsteps` of them, one after the other, make one time step of the trained
    network (1 but for lowerings that spread a time step out).
    The one way back: synapses that read the population they end in (lateral synapses) stand after it. What they carry
    from step t acts in step t + 1 of the same sample.
    """

    nodes: tuple[Node, ...]
    timesteps: int
    microsteps: int = 1

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def shapes(self) -> Mapping[str, Shape]:
        """Output shape of every node. Raises CompileError naming the first layer whose shapes do not fit."""
        shapes: dict[str, Shape] = {}
        for node in self.nodes:
            shapes[node.name] = infer_shape(node, [shapes[name] for name in node.inputs if name in shapes])
        for name in (lateral for neuron in self.neurons for lateral in self.laterals(neuron)):
            if (target := shapes[self.by_name[name].inputs[0]]) != shapes[name]:
                raise CompileError(name, f"gives shape {shapes[name]} to its population of shape {target}")
        return shapes

    def laterals(self, node: Node) -> tuple[str, ...]:
        """The inputs of a population that are lateral: synapses that read it itself."""
        return tuple(name for name in node.inputs if node.name in self.by_name[name].inputs)

    @property
    def input(self) -> Input:
        return next(self.of_type(Input))

    @property
    def readout(self) -> Readout:
        return next(self.of_type(Readout))

    @property
    def neurons(self) -> tuple[MultiThresholdLIF, ...]:
        return tuple(self.of_type(MultiThresholdLIF))

    def of_type(self, kind: type[N]) -> Iterator[N]:
        return (node for node in self.nodes if isinstance(node, kind))

    def users(self, name: str) -> tuple[Node, ...]:
        """The nodes that read `name`."""
        return tuple(node for node in self.nodes if name in node.inputs)

    def replacing(self, changed: Mapping[str, Node]) -> "Network":
        """The network with some nodes exchanged for others of the same name."""
        return replace(self, nodes=tuple(changed.get(node.name, node) for node in self.nodes))

    def bypassing(self, name: str) -> "Network":
        """The network without the one-input node `name`: those that read it read its source."""
        source = self.by_name[name].inputs[0]
        kept = (node for node in self.nodes if node.name != name)
        return replace(
            self,
            nodes=tuple(
                replace(node, inputs=tuple(source if i == name else i for i in node.inputs))
                if name in node.inputs
                else node
                for node in kept
            ),
        )


def infer_shape(node: Node, inputs: list[Shape]) -> Shape:
    """Output shape of one node from those of its inputs; raises CompileError naming the node."""
    if isinstance(node, Input):
        return node.shape
    if len(set(inputs)) != 1:
        raise CompileError(
            node.name, f"adds inputs of shapes {', '.join(map(str, inputs))}", "inputs that add up need one shape"
        )
    shape = inputs[0]
    match node:
        case Conv2d():
            shape = _conv_shape(node, _summed(node, shape))
        case Linear():
            shape = _linear_shape(node, _summed(node, shape))
        case AvgPool2d():
            shape = _pooled(node, shape, node.kernel)
        case Flatten():
            shape = (int(np.prod(shape)),)
        case BatchNorm() if len(node.gamma) != shape[0]:
            raise CompileError(node.name, f"normalises {len(node.gamma)} channels, its input has {shape[0]}")
        case MultiThresholdLIF() if node.thresholds.ndim == 2 and node.thresholds.shape[1] != shape[0]:
            raise CompileError(
                node.name, f"has thresholds for {node.thresholds.shape[1]} channels, its input {shape} has {shape[0]}"
            )
    return shape


def one_to_one(name: str, source: str, weight: Array, pool: Pair = (1, 1)) -> Conv2d:
    """y = weight * sum_pool(x), weight (channels,): every source drives the neuron at its own place only."""
    channels = len(weight)
    kernels = np.reshape(weight, (channels, 1, 1, 1))
    return Conv2d(name, (source,), kernels, np.zeros(channels), groups=channels, pool=pool)


def _summed(node: Synapses, shape: Shape) -> Shape:
    """The input shape of synapses once the members of a neuron are added up."""
    if shape[0] % node.members:
        raise CompileError(node.name, f"adds up {node.members} channels each of its input {shape}")
    return (shape[0] // node.members, *shape[1:])


def _pooled(node: Node, shape: Shape, kernel: Pair) -> Shape:
    if len(shape) != 3:
        raise CompileError(node.name, f"pools an input of shape {shape}", "pooling needs (channels, height, width)")
    pooled = (shape[0], shape[1] // kernel[0], shape[2] // kernel[1])
    if 0 in pooled:
        raise CompileError(node.name, f"a pool window of {kernel} is larger than its input {shape}")
    return pooled


def _conv_shape(node: Conv2d, shape: Shape) -> Shape:
    if len(shape) == 1 and node.weight.shape[2:] == node.pool == node.stride == (1, 1) and node.padding == (0, 0):
        return _conv_shape(node, (*shape, 1, 1))[:1]
    channels, *space = _pooled(node, shape, node.pool)
    out, fan_in, *kernel = node.weight.shape
    if channels != fan_in * node.groups:
        raise CompileError(node.name, f"takes {fan_in * node.groups} channels, its input {shape} has {channels}")
    size = [
        (n + 2 * pad - dilate * (k - 1) - 1) // step + 1
        for n, k, step, pad, dilate in zip(space, kernel, node.stride, node.padding, node.dilation, strict=True)
    ]
    if min(size) < 1:
        raise CompileError(node.name, f"a kernel of {tuple(kernel)} is larger than its padded input {shape}")
    return (out, *size)


def _linear_shape(node: Linear, shape: Shape) -> Shape:
    features = int(np.prod(shape if node.pool == (1, 1) else _pooled(node, shape, node.pool)))
    if features != node.weight.shape[1]:
        raise CompileError(node.name, f"takes {node.weight.shape[1]} features, its input {shape} gives {features}")
    return (node.weight.shape[0],)


def verify(network: Network, allowed: tuple[type[Node], ...] | None = None) -> None:
    """Checks that a network means something; raises CompileError naming the node.

    One Input first and one Readout last; unique names; inputs defined before use; node types within `allowed`; finite
    parameters; leak in (0, 2); increasing positive thresholds; positive variances; shapes that fit; T >= 1.
    """
    if network.timesteps < 1 or network.microsteps < 1 or network.timesteps % network.microsteps:
        steps = f"{network.timesteps} time steps in groups of {network.microsteps}"
        raise CompileError("network", steps, "needs at least 1, in whole groups")
    kinds = [type(node) for node in network.nodes]
    if kinds.count(Input) != 1 or kinds.count(Readout) != 1 or kinds[0] is not Input or kinds[-1] is not Readout:
        raise CompileError("network", "must begin with its one input and end with its one readout")
    seen: set[str] = set()
    for node in network.nodes:
        if node.name in seen:
            raise CompileError(node.name, "two layers have this name")
        if missing := [
            name for name in node.inputs if name not in seen and not _is_lateral(network.by_name.get(name), node)
        ]:
            raise CompileError(node.name, f"reads {missing[0]!r}, which is not before it")
        if allowed is not None and not isinstance(node, allowed):
            raise CompileError(
                node.name, f"a {node.kind} is left at this stage", f"allowed: {', '.join(t.__name__ for t in allowed)}"
            )
        _verify_node(node)
        _verify_mixing(node, network.timesteps)
        seen.add(node.name)
    _ = network.shapes


def _is_lateral(synapses: Node | None, node: Node) -> bool:
    return isinstance(node, MultiThresholdLIF) and isinstance(synapses, SYNAPSES) and synapses.inputs == (node.name,)


def _verify_node(node: Node) -> None:
    for field in fields(node):
        value = getattr(node, field.name)
        if isinstance(value, np.ndarray | float) and not np.isfinite(value).all():
            raise CompileError(node.name, f"{field.name} holds NaN or infinite values", "train or load the model again")
    if not node.inputs and not isinstance(node, Input):
        raise CompileError(node.name, "has no input")
    if len(set(node.inputs)) < len(node.inputs):
        raise CompileError(
            node.name, f"adds the same input twice: {', '.join(node.inputs)}", "double its weights instead"
        )
    if isinstance(node, Readout) and not 0 < node.leak <= 1:
        raise CompileError(node.name, f"leak is {node.leak}", "a readout's leak must lie in (0, 1]")
    if len(node.inputs) > 1 and not isinstance(node, MultiThresholdLIF | Readout):
        raise CompileError(
            node.name, f"a {node.kind} has {len(node.inputs)} inputs, needs 1", "currents add up in a neuron"
        )
    if isinstance(node, Conv2d | Linear) and node.bias.shape != node.weight.shape[:1]:
        raise CompileError(node.name, f"bias has shape {node.bias.shape}, weight {node.weight.shape}")
    if isinstance(node, BatchNorm) and (node.var + node.eps <= 0).any():
        raise CompileError(node.name, "has a variance that is not positive", "train or load the model again")
    if isinstance(node, MultiThresholdLIF):
        _verify_neuron(node)


def _verify_mixing(node: Node, timesteps: int) -> None:
    mixing = node.mixing if isinstance(node, MultiThresholdLIF) else None
    if mixing is not None and mixing.shape != (timesteps, timesteps):
        raise CompileError(
            node.name,
            f"mixes {mixing.shape} steps, the network has T = {timesteps}",
            "a T-GIM is T x T, of the network's T",
        )


def _verify_neuron(node: MultiThresholdLIF) -> None:
    if not 0 < node.leak < LEAK_BELOW:
        raise CompileError(node.name, f"leak is {node.leak}", f"a leak must lie in (0, {LEAK_BELOW:g})")
    if not len(node.thresholds) or (node.thresholds[0] <= 0).any() or (np.diff(node.thresholds, axis=0) <= 0).any():
        raise CompileError(
            node.name, f"thresholds are {node.thresholds.tolist()}", "they must be positive and increasing"
        )
    if node.thresholds.shape != node.subtract.shape or len(node.thresholds) != len(node.payload):
        raise CompileError(node.name, "thresholds, payload and subtract differ in length")


def format_network(network: Network) -> str:
    """One line a node: name, kind, inputs, output shape, parameters (large arrays by shape)."""
    lines = [f"network T={network.timesteps}"]
    for node in network.nodes:
        values = {f.name: getattr(node, f.name) for f in fields(node) if f.name not in ("name", "inputs", "shape")}
        parameters = (f"{name}={_short(value)}" for name, value in values.items() if value is not None)
        shape = "x".join(map(str, network.shapes[node.name]))
        lines.append(
            f"  {node.name}: {node.kind}({', '.join(node.inputs)}) -> {shape}  {' '.join(parameters)}".rstrip()
        )
    return "\n".join(lines) + "\n"


def _short(value: object) -> str:
    if isinstance(value, np.ndarray):
        return (
            f"[{' '.join(f'{v:g}' for v in value)}]"
            if value.ndim == 1 and value.size <= 8
            else f"<{'x'.join(map(str, value.shape))}>"
        )
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
