"""NIR graph -> Network: the one place that says what a NIR node means to us."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import nir
import numpy as np

from snncompile.errors import CompileError
from snncompile.frontend.graph_order import ordered, sources_of
from snncompile.frontend.nir_nodes import BatchNormGraph, MultiThresholdLIFGraph
from snncompile.frontend.untrusted import LARGEST_INTEGER, Fields, check_size, shown
from snncompile.network import (
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MultiThresholdLIF,
    Network,
    Node,
    Pair,
    Readout,
    Shape,
    infer_shape,
    one_to_one,
    verify,
)

Inputs = tuple[str, ...]
SUPPORTED = (
    "Input, Conv2d, Affine, Linear, AvgPool2d, Flatten, Scale, Output, multi-threshold LIF and batch norm of snncompile"
)


def to_network(graph: nir.NIRGraph) -> Network:
    """The float network of a graph, nodes named as in the graph.

    Needs one Input with metadata coding ("direct" or "events"), scale, timesteps; one Output with metadata scale and
    readout, "mean" or "leaky" with a leak in (0, 1]; between them the nodes of `SUPPORTED`, without cycles, every one
    on a way to the output. Edges that meet in a neuron or in the Output add up. A Scale has one value a channel and
    stands between spikes (of the input or a neuron, pooled or not) and a neuron or the Output.
    Gives a verified Network in float64.
    Refuses (CompileError naming the node): other nodes, and shapes that do not fit each other or those a node declares.
    """
    for name, node in sorted(graph.nodes.items()):
        _check_type(name, node)
    order, sources = ordered(graph), sources_of(graph)
    nodes = [convert(name, sources[name], graph.nodes[name]) for name in order]
    shapes: dict[str, Shape] = {}
    for node in nodes:
        if not node.inputs and not isinstance(node, Input):
            raise CompileError(node.name, "has no input", "every layer lies on a way from the input to the output")
        _check_declared(node.name, graph.nodes[node.name], [shapes[name] for name in node.inputs])
        given = [shapes[name] for name in node.inputs]
        is_scale = isinstance(graph.nodes[node.name], nir.Scale)  # of one axis or three, where a convolution has three
        shapes[node.name] = infer_shape(node, given) if is_scale else output_shape(node, given)
    metadata = Fields(order[0], graph.nodes[order[0]].metadata)
    network = Network(tuple(nodes), metadata.integer("timesteps", 1))
    _check_scales(network, [name for name, node in graph.nodes.items() if isinstance(node, nir.Scale)])
    verify(network)
    return network


def convert(name: str, inputs: Inputs, node: nir.NIRNode) -> Node:
    """The Network node a NIR node stands for; raises CompileError for values that cannot be."""
    return _CONVERSIONS[type(node)](name, inputs, node)


def output_shape(node: Node, inputs: Sequence[Shape]) -> Shape:
    """`network.infer_shape`, stricter about ranks: NIR never flattens on the way, and a layer's output is bounded."""
    axes = {Conv2d: 3, AvgPool2d: 3, Linear: 1}.get(type(node))
    for shape in inputs:
        if axes is not None and len(shape) != axes:
            needed = "(channels, height, width)" if axes == 3 else "(features,): flatten it first"
            raise CompileError(node.name, f"its input has shape {shape}", f"needed: {needed}")
    return check_size(node.name, infer_shape(node, list(inputs)))


def _check_type(name: str, node: nir.NIRNode) -> None:
    if type(node) in _CONVERSIONS:
        return
    if isinstance(node, nir.SumPool2d):
        raise CompileError(name, "sum pooling is not supported yet", "use AvgPool2d and scale the weights after it")
    what = "a nested graph of unknown meaning" if isinstance(node, nir.NIRGraph) else f"a NIR {type(node).__name__}"
    raise CompileError(name, f"{what} is not supported yet", f"supported: {SUPPORTED}")


def _check_declared(name: str, node: nir.NIRNode, inputs: Sequence[Shape]) -> None:
    """Some NIR nodes state their input shape as well: what they state must be what they get."""
    declared: tuple[Any, ...] | None = None
    if isinstance(node, nir.Flatten | nir.Output) and node.input_type["input"] is not None:
        declared = tuple(np.asarray(node.input_type["input"]).tolist())
    elif isinstance(node, nir.Conv2d) and node.input_shape is not None:
        channels = node.weight.shape[1] * int(node.groups)
        declared = (channels, *Fields(name, {"input_shape": node.input_shape}).pair("input_shape", 1))
    elif isinstance(node, MultiThresholdLIFGraph | BatchNormGraph):
        declared = node.shape
    elif isinstance(node, nir.Scale):
        declared = np.shape(node.scale)
    for shape in inputs:
        if declared is not None and declared != shape:
            raise CompileError(name, f"is made for an input of shape {shown(declared)}, gets {shape}")


def _input(name: str, inputs: Inputs, node: nir.Input) -> Input:
    metadata = Fields(name, node.metadata)
    coding: Any = metadata.choice("coding", ("direct", "events"))
    shape = Fields(name, {"shape": node.input_type["input"]}).shape("shape")
    return Input(name, inputs, shape, metadata.number("scale"), coding)


def _output(name: str, inputs: Inputs, node: nir.Output) -> Readout:
    metadata = Fields(name, node.metadata)
    leaky = metadata.choice("readout", ("mean", "leaky")) == "leaky"
    leak = metadata.number("leak") if leaky else 1.0
    if not 0 < leak <= 1:
        raise metadata.refuse("leak", leak, "a number in (0, 1]")
    return Readout(name, inputs, metadata.number("scale"), leak)


def _conv2d(name: str, inputs: Inputs, node: nir.Conv2d) -> Conv2d:
    values = Fields(name, vars(node))
    weight, bias = values.array("weight", 4), values.array("bias", 1)
    stride, dilation = values.pair("stride", 1), values.pair("dilation", 1)
    groups = values.integer("groups", 1)
    if len(weight) % groups:
        raise CompileError(name, f"{len(weight)} output channels do not divide into {groups} groups")
    padding = _padding(values, (weight.shape[2], weight.shape[3]), stride, dilation)
    return Conv2d(name, inputs, weight, bias, stride, padding, dilation, groups)


def _padding(values: Fields, kernel: Pair, stride: Pair, dilation: Pair) -> Pair:
    """Rows and columns of zeros on each side; "same" as torch defines it, where the sides are equal."""
    padding = values.get("padding")
    if not isinstance(padding, str):
        return values.pair("padding", 0)
    if values.choice("padding", ("same", "valid")) == "valid":
        return (0, 0)
    total = tuple(d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
    if stride != (1, 1) or total[0] % 2 or total[1] % 2:
        raise CompileError(
            values.where, f"padding 'same' with kernel {kernel} and stride {stride}", "say the padding as numbers"
        )
    return total[0] // 2, total[1] // 2


def _affine(name: str, inputs: Inputs, node: nir.Affine) -> Linear:
    values = Fields(name, vars(node))
    return Linear(name, inputs, values.array("weight", 2), values.array("bias", 1))


def _linear(name: str, inputs: Inputs, node: nir.Linear) -> Linear:
    weight = Fields(name, vars(node)).array("weight", 2)
    return Linear(name, inputs, weight, np.zeros(len(weight)))


def _avg_pool(name: str, inputs: Inputs, node: nir.AvgPool2d) -> AvgPool2d:
    values = Fields(name, vars(node))
    kernel = values.pair("kernel_size", 1)
    if values.pair("stride", 1) != kernel or values.pair("padding", 0) != (0, 0):
        given = f"kernel {kernel}, stride {values.pair('stride', 1)}, padding {values.pair('padding', 0)}"
        raise CompileError(name, f"average pooling with {given}", "needed: stride equal to the kernel, no padding")
    return AvgPool2d(name, inputs, kernel)


def _flatten(name: str, inputs: Inputs, node: nir.Flatten) -> Flatten:
    values = Fields(name, vars(node))
    start, end = (values.integer(key, -LARGEST_INTEGER) for key in ("start_dim", "end_dim"))
    shape = node.input_type["input"]
    last = (-1,) if shape is None else (-1, len(shape) - 1)
    if start != 0 or end not in last:
        raise CompileError(
            name,
            f"flattens axes {start} to {end}",
            "needed: all axes, start_dim=0 and end_dim=-1 (there is no batch axis)",
        )
    return Flatten(name, inputs)


def _neuron(name: str, inputs: Inputs, node: MultiThresholdLIFGraph) -> MultiThresholdLIF:
    return MultiThresholdLIF(
        name,
        inputs,
        node.thresholds,
        node.payload,
        node.subtract,
        node.leak,
        node.reset,
        node.fire,
        node.v0,
        node.mixing,
    )


def _scale(name: str, inputs: Inputs, node: nir.Scale) -> Conv2d:
    scale = Fields(name, vars(node)).array("scale")
    if not scale.size:
        raise CompileError(name, f"scale has shape {scale.shape}", "needed: a value for every neuron")
    channels = scale.reshape(len(scale) if scale.ndim else 1, -1)
    if (channels != channels[:, :1]).any():
        raise CompileError(name, "scales the neurons of one channel differently", "needed: one value a channel")
    return replace(one_to_one(name, "", channels[:, 0]), inputs=inputs)


def _check_scales(network: Network, names: Sequence[str]) -> None:
    """One-to-one synapses carry spikes into populations."""
    for node in (network.by_name[name] for name in names):
        source = network.by_name[node.inputs[0]]
        while isinstance(source, AvgPool2d):
            source = network.by_name[source.inputs[0]]
        if not isinstance(source, Input | MultiThresholdLIF):
            raise CompileError(node.name, f"scales {source.name} ({source.kind})", "a Scale is supported on spikes")
        for user in network.users(node.name):
            if not isinstance(user, MultiThresholdLIF | Readout):
                raise CompileError(node.name, f"is read by {user.name} ({user.kind})", "a neuron must follow a Scale")


def _batch_norm(name: str, inputs: Inputs, node: BatchNormGraph) -> BatchNorm:
    return BatchNorm(name, inputs, node.gamma, node.beta, node.mean, node.var, node.eps)


_CONVERSIONS: dict[type[nir.NIRNode], Callable[[str, Inputs, Any], Node]] = {
    nir.Input: _input,
    nir.Conv2d: _conv2d,
    nir.Affine: _affine,
    nir.Linear: _linear,
    nir.AvgPool2d: _avg_pool,
    nir.Flatten: _flatten,
    nir.Scale: _scale,
    MultiThresholdLIFGraph: _neuron,
    BatchNormGraph: _batch_norm,
    nir.Output: _output,
}
