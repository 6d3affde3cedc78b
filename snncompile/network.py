"""The float network: frozen nodes in topological order, from reading a model up to quantisation.

A node names its inputs; two synapse nodes that end in one neuron node add up. Shapes leave out time and batch:
images (C, H, W), features (n,). `verify` checks a whole network and is run after every pass.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from snncompile.errors import CompileError
from snncompile.network_nodes import (
    FOLDED,
    INPUT_PAYLOAD_MAX,
    LEAK_BELOW,
    NO_MEMORY,
    SYNAPSES,
    Array,
    AvgPool2d,
    BatchNorm,
    Coding,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MultiThresholdLIF,
    Node,
    Pair,
    Readout,
    Shape,
    Sparse,
    Synapses,
    Weighted,
    frozen,
    in_order,
    one_to_one,
    scaled,
    sparse,
    waits,
)
from snncompile.semantics import Fire, Reset

__all__ = [
    "FOLDED",
    "INPUT_PAYLOAD_MAX",
    "LEAK_BELOW",
    "NO_MEMORY",
    "SYNAPSES",
    "Array",
    "AvgPool2d",
    "BatchNorm",
    "Coding",
    "Conv2d",
    "Fire",
    "Flatten",
    "Input",
    "Linear",
    "MultiThresholdLIF",
    "Network",
    "Node",
    "Pair",
    "Readout",
    "Reset",
    "Shape",
    "Sparse",
    "Synapses",
    "Weighted",
    "format_network",
    "frozen",
    "in_order",
    "infer_shape",
    "one_to_one",
    "scaled",
    "sparse",
    "verify",
    "waits",
]

N = TypeVar("N", bound=Node)


@dataclass(frozen=True, eq=False)
class Network:
    """Nodes in topological order and the number of steps a sample takes. State starts at v0 for every sample.

    `timesteps` counts the chip's steps; `microsteps` of them, one after the other, make one time step of the trained
    network (1 but for lowerings that spread a time step out).
    The one way back: synapses that read the population they end in (lateral synapses: recurrence, or what the lowering
    makes) stand after it. What they carry from step t acts in step t + 1 of the same sample, past any mixing of steps;
    their bias acts in every step.
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

    @cached_property
    def of_resets(self) -> frozenset[str]:
        """Names of the lateral synapses that the lowering made of soft resets; all others are trained weights."""
        return frozenset(node.name for node in self.of_type(Conv2d) if node.of_reset)

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
        case Sparse():
            shape = _sparse_shape(node, _summed(node, shape))
        case AvgPool2d():
            shape = _pooled(node, shape, node.kernel)
        case Flatten():
            shape = (int(np.prod(shape)),)
        case BatchNorm() if len(node.gamma) != shape[0]:
            raise CompileError(node.name, f"normalises {len(node.gamma)} channels, its input has {shape[0]}")
        case MultiThresholdLIF():
            for field, channels in _per_channel_sizes(node).items():
                if channels != shape[0]:
                    raise CompileError(
                        node.name, f"has {field} for {channels} channels, its input {shape} has {shape[0]}"
                    )
    return shape


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


def _sparse_shape(node: Sparse, shape: Shape) -> Shape:
    features = int(np.prod(shape if node.pool == (1, 1) else _pooled(node, shape, node.pool)))
    if len(node.column) and (largest := int(node.column.max())) >= features:
        raise CompileError(node.name, f"reads feature {largest}, its input {shape} gives {features}")
    return (node.features,)


def verify(network: Network, allowed: tuple[type[Node], ...] | None = None) -> None:
    """Checks that a network means something; raises CompileError naming the node.

    One Input first and one Readout last; unique names; inputs defined before use; node types within `allowed`; finite
    parameters; leak in (0, 2); increasing positive thresholds; positive variances; shapes that fit; T >= 1; the
    synapses of a sparse layer sorted, none twice; no population that reads itself alone.
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
            later = missing[0] in network.by_name
            hint = "a population may read itself; feedback over several populations is not supported" if later else ""
            raise CompileError(node.name, f"reads {missing[0]!r}, which is not before it", hint)
        if allowed is not None and not isinstance(node, allowed):
            raise CompileError(
                node.name, f"a {node.kind} is left at this stage", f"allowed: {', '.join(t.__name__ for t in allowed)}"
            )
        _verify_node(node)
        _verify_mixing(node, network.timesteps)
        _verify_laterals(network, node)
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
    if len(node.inputs) > 1 and not isinstance(node, MultiThresholdLIF | Readout):
        raise CompileError(
            node.name, f"a {node.kind} has {len(node.inputs)} inputs, needs 1", "currents add up in a neuron"
        )
    if isinstance(node, SYNAPSES) and node.lag < 0:
        raise CompileError(node.name, f"lag is {node.lag}", "a delay is 0 steps or more")
    if isinstance(node, Sparse):
        _verify_sparse(node)
    elif isinstance(node, Weighted) and node.bias.shape != node.weight.shape[:1]:
        raise CompileError(node.name, f"bias has shape {node.bias.shape}, weight {node.weight.shape}")
    if isinstance(node, BatchNorm) and (node.var + node.eps <= 0).any():
        raise CompileError(node.name, "has a variance that is not positive", "train or load the model again")
    if isinstance(node, MultiThresholdLIF):
        _verify_neuron(node)
    elif isinstance(node, Input | Readout):
        _verify_end(node)


def _verify_end(node: Input | Readout) -> None:
    if isinstance(node, Input):
        if not 1 <= node.largest <= INPUT_PAYLOAD_MAX:
            raise CompileError(node.name, f"sends events up to {node.largest}", f"allowed: 1 to {INPUT_PAYLOAD_MAX}")
        return
    if not 0 < node.leak <= 1:
        raise CompileError(node.name, f"leak is {node.leak}", "a readout's leak must lie in (0, 1]")
    if not 0 <= (node.current_leak or 0.0) < 1:
        raise CompileError(node.name, f"current_leak is {node.current_leak}", "it must lie in [0, 1)")


def _verify_sparse(node: Sparse) -> None:
    if not len(node.weight) == len(node.row) == len(node.column) or node.weight.ndim != 1:
        sizes = ", ".join(str(values.shape) for values in (node.weight, node.row, node.column))
        raise CompileError(node.name, f"has weights, rows and columns of shapes {sizes}", "one of each a synapse")
    if not len(node.weight):
        raise CompileError(node.name, "has no synapses")
    if min(node.row.min(), node.column.min()) < 0 or node.row.max() >= node.features:
        targets, sources = (f"{index.min()} to {index.max()}" for index in (node.row, node.column))
        problem = f"has synapses to targets {targets} and from sources {sources}, and {node.features} targets"
        raise CompileError(node.name, problem)
    rows, columns = np.diff(node.row), np.diff(node.column)
    if (twice := (rows == 0) & (columns == 0)).any():
        i = int(twice.argmax())
        raise CompileError(
            node.name, f"has two synapses from {node.column[i]} to {node.row[i]}", "add their weights up to one"
        )
    if ((rows < 0) | ((rows == 0) & (columns < 0))).any():
        raise CompileError(node.name, "lists its synapses in no order", "sort them by row, then column: network.sparse")


def _verify_mixing(node: Node, timesteps: int) -> None:
    mixing = node.mixing if isinstance(node, MultiThresholdLIF) else None
    if mixing is not None and mixing.shape != (timesteps, timesteps):
        raise CompileError(
            node.name,
            f"mixes {mixing.shape} steps, the network has T = {timesteps}",
            "a T-GIM is T x T, of the network's T",
        )


def _verify_laterals(network: Network, node: Node) -> None:
    if not isinstance(node, MultiThresholdLIF):
        return
    laterals = network.laterals(node)
    if laterals and len(laterals) == len(node.inputs):
        raise CompileError(node.name, f"reads nothing but itself ({', '.join(laterals)})", "connect it to the input")
    for synapses in (network.by_name[name] for name in laterals if node.mixing is not None):
        if isinstance(synapses, Weighted) and synapses.bias.any():
            raise CompileError(
                synapses.name,
                f"has a bias, and {node.name} mixes the steps of its other inputs",
                "give the bias to the synapses that come from another layer",
            )


def _verify_neuron(node: MultiThresholdLIF) -> None:
    leak = np.asarray(node.leak)
    if (leak <= 0).any() or (leak >= LEAK_BELOW).any():
        raise CompileError(node.name, f"leak is {_short(node.leak)}", f"a leak must lie in (0, {LEAK_BELOW:g})")
    if not len(node.thresholds) or (node.thresholds[0] <= 0).any() or (np.diff(node.thresholds, axis=0) <= 0).any():
        raise CompileError(
            node.name, f"thresholds are {node.thresholds.tolist()}", "they must be positive and increasing"
        )
    if node.thresholds.shape != node.subtract.shape or len(node.thresholds) != len(node.payload):
        raise CompileError(node.name, "thresholds, payload and subtract differ in length")
    if node.unit is not None and node.unit <= 0:
        raise CompileError(node.name, f"unit is {node.unit:g}", "it must be positive")
    for field in ("current_leak", "adapt_leak"):
        value = getattr(node, field)
        if value is not None and ((np.asarray(value) < 0).any() or (np.asarray(value) >= 1).any()):
            raise CompileError(node.name, f"{field} is {_short(value)}", "it must lie in [0, 1)")
    if node.floor is not None and (np.asarray(node.floor) > np.minimum(0.0, node.v0)).any():
        raise CompileError(node.name, f"floor is {_short(node.floor)}", "it must not lie above v0 and the reset")
    if node.adapt_leak is not None and (
        (np.asarray(node.adapt_step) < 0).any() or (np.asarray(node.adapt_start) < 0).any()
    ):
        raise CompileError(node.name, "its threshold adapts downward", "adapt_step and adapt_start must be 0 or more")
    if node.adapt_resets and (node.adapt_leak is None or node.reset != "soft"):
        raise CompileError(
            node.name, "its reset takes off an adaptation it has not", "needs adapt_leak and a soft reset"
        )


def _per_channel_sizes(node: MultiThresholdLIF) -> dict[str, int]:
    """Channels that each parameter of the population is given for."""
    sizes = {name: len(getattr(node, name)) for name in node.by_channel}
    return sizes | ({"thresholds": node.thresholds.shape[1]} if node.thresholds.ndim == 2 else {})


def format_network(network: Network) -> str:
    """One line a node: name, kind, inputs, output shape, parameters (large arrays by shape)."""
    lines = [f"network T={network.timesteps}"]
    for node in network.nodes:
        values = {f.name: getattr(node, f.name) for f in fields(node) if f.name not in ("name", "inputs", "shape")}
        told = {name: value for name, value in values.items() if not _is_usual(name, value)}
        parameters = (f"{name}={_short(value)}" for name, value in told.items())
        shape = "x".join(map(str, network.shapes[node.name]))
        lines.append(
            f"  {node.name}: {node.kind}({', '.join(node.inputs)}) -> {shape}  {' '.join(parameters)}".rstrip()
        )
    return "\n".join(lines) + "\n"


def _is_usual(name: str, value: object) -> bool:
    if name in ("lag", "adapt_step", "adapt_start"):
        return not np.count_nonzero(np.asarray(value))
    if name == "largest":
        return value == INPUT_PAYLOAD_MAX
    return value is None or value is False


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
