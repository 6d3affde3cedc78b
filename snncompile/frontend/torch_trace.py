"""A torch module -> NIR graph, by reading the attributes of its layers; nothing of the module is called.

The layers are walked in the order nn.Sequential runs them. Only exact types are known: a subclass may compute something
else, and a layer with hooks does.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import nir
import numpy as np
import torch
from torch import nn

from snncompile.errors import CompileError
from snncompile.frontend.nir_nodes import LARGEST_LEVELS, BatchNormGraph, MultiThresholdLIFGraph, numbered
from snncompile.frontend.to_network import convert, output_shape
from snncompile.frontend.untrusted import Fields, input_shape_of, shown
from snncompile.network import Array, Shape
from snncompile.nn import DirectCoding, MeanReadout, MultiThresholdLIF, PerStep, TdBatchNorm1d, TdBatchNorm2d

MOST_LAYERS = 10_000
DEEPEST = 64
REMOVED = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@dataclass(frozen=True)
class Layer:
    """One layer of the walk. `where` is its dotted path and type, for errors: `4.1 (MaxPool2d)`."""

    where: str
    module: nn.Module
    per_step: bool

    @property
    def fields(self) -> Fields:
        return Fields(self.where, vars(self.module))

    def array(self, group: Literal["_parameters", "_buffers"], key: str, ndim: int) -> Array | None:
        """A tensor as finite float64, None where it is absent."""
        tensors = vars(self.module).get(group)
        tensor = tensors.get(key) if isinstance(tensors, dict) else None
        if tensor is None:
            return None
        if (
            type(tensor) not in (torch.Tensor, nn.Parameter)
            or tensor.layout != torch.strided
            or not tensor.is_floating_point()
        ):
            raise CompileError(self.where, f"{key} is not a plain tensor of floating-point numbers")
        if tensor.device.type != "cpu" or tensor.nelement() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CompileError(self.where, f"{key} holds no values of its own", "save the module's tensors on the CPU")
        values = tensor.detach().to(torch.float64).numpy()
        return Fields(self.where, {key: values}).array(key, ndim)

    def needed(self, group: Literal["_parameters", "_buffers"], key: str, ndim: int) -> Array:
        array = self.array(group, key, ndim)
        if array is None:
            raise CompileError(self.where, f"has no {key}")
        return array


@dataclass(frozen=True)
class Rule:
    """How one type of layer becomes a NIR node, what the node is called, and where the layer may stand.

    "step": within PerStep, on one step's data; "sequence": outside, on all T steps; "any": the same in both.
    """

    slug: str
    place: Literal["step", "sequence", "any"]
    node: Callable[[Layer, Shape], nir.NIRNode]


def trace(module: nn.Module, input_shape: tuple[int, ...] | None = None) -> nir.NIRGraph:
    """The graph of a module in evaluation mode.

    Needs nested nn.Sequential and PerStep that run DirectCoding, then layers of `RULES`, then MeanReadout.
    `input_shape`, (C, H, W) or (features,), overrides DirectCoding.input_shape.
    Gives nodes `00_input`, `01_conv2d`, ... in float64, their types filled in; identities and dropout are removed.
    Refuses (CompileError naming the layer by its path): everything else.
    """
    layers = [layer for layer in _walk(module) if type(layer.module) not in REMOVED]
    coding = _only(layers, DirectCoding, 0, "first")
    _only(layers, MeanReadout, -1, "last")
    shape = _input_shape(coding, input_shape)
    slugs, nodes = ["input"], [_input(coding, shape)]
    for layer in layers[1:-1]:
        rule = _rule(layer)
        node = _made(rule, layer, shape)
        result = output_shape(convert(layer.where, ("",), node), [shape])
        if not isinstance(node, nir.NIRGraph):
            node.input_type, node.output_type = {"input": np.array(shape)}, {"output": np.array(result)}
        shape = result
        slugs.append(rule.slug)
        nodes.append(node)
    slugs.append("output")
    nodes.append(nir.Output(np.array(shape), metadata={"readout": "mean", "scale": 1.0}))
    names = numbered(slugs)
    edges = list(pairwise(names))
    # types are filled in above: nir's own inference fails on grouped convolution and on kernels that are not square
    return nir.NIRGraph(dict(zip(names, nodes, strict=True)), edges, metadata={}, type_check=False)


def _walk(module: nn.Module) -> Iterator[Layer]:
    """The layers in execution order, containers opened."""
    stack: list[tuple[str, object, bool, int]] = [("", module, False, 0)]
    visited = 0
    while stack:
        path, found, per_step, depth = stack.pop()
        where = f"{path or 'model'} ({type(found).__name__})"
        visited += 1
        if not isinstance(found, nn.Module):
            raise CompileError(where, "is not a layer")
        if visited > MOST_LAYERS or depth > DEEPEST:
            raise CompileError(
                "model", f"has more than {MOST_LAYERS} layers, or containers nested deeper than {DEEPEST}"
            )
        _check_hooks(where, found)
        if type(found) not in (nn.Sequential, PerStep):
            yield Layer(where, found, per_step)
            continue
        if type(found) is PerStep and per_step:
            raise CompileError(where, "is a PerStep within a PerStep", "use nn.Sequential for the inner one")
        children = vars(found).get("_modules")
        if not isinstance(children, dict):
            raise CompileError(where, "has no list of layers")
        inner = per_step or type(found) is PerStep
        named = [(f"{path}.{shown(name, 40)}".lstrip("."), child, inner, depth + 1) for name, child in children.items()]
        stack += reversed(named)


def _check_hooks(where: str, module: nn.Module) -> None:
    if any(vars(module).get(hooks) for hooks in ("_forward_hooks", "_forward_pre_hooks")):
        raise CompileError(where, "has forward hooks, which may change what it computes", "remove them before saving")


def _only(layers: list[Layer], kind: type[nn.Module], position: int, word: str) -> Layer:
    """The one layer of a kind, which must stand first or last."""
    name = kind.__name__
    found = [layer for layer in layers if type(layer.module) is kind]
    if not found:
        known = (*RULES, DirectCoding, MeanReadout)
        if strange := [layer for layer in layers if type(layer.module) not in known]:
            raise _unsupported(strange[0])
        raise CompileError("model", f"has no {name}", f"snncompile.nn.{name} is the {word} layer of a network")
    if layers[position] is not found[0] or len(found) > 1 or found[0].per_step:
        raise CompileError(found[-1].where, f"a network has one {name}, {word} and outside PerStep")
    return found[0]


def _rule(layer: Layer) -> Rule:
    rule = RULES.get(type(layer.module))
    if rule is None:
        raise _unsupported(layer)
    if rule.place == "step" and not layer.per_step:
        raise CompileError(
            layer.where,
            "stands outside PerStep, where it would take the time steps for the batch",
            "wrap it: PerStep(...)",
        )
    if rule.place == "sequence" and layer.per_step:
        raise CompileError(
            layer.where, "stands within PerStep, where it cannot see the time steps", "take it out of PerStep"
        )
    return rule


def _unsupported(layer: Layer) -> CompileError:
    kind = type(layer.module).__name__
    advice = next((what for part, what in ADVICE if part in kind), "replace it by supported layers")
    supported = sorted(
        {known.__name__ for known in (*RULES, *REMOVED, DirectCoding, MeanReadout, nn.Sequential, PerStep)}
    )
    return CompileError(layer.where, "this layer is not supported", f"{advice}; supported: {', '.join(supported)}")


ADVICE = (
    ("MaxPool", "use nn.AvgPool2d"),
    ("AdaptiveAvgPool", "use nn.AvgPool2d"),
    ("Norm", "use TdBatchNorm1d or TdBatchNorm2d"),
    ("ReLU", "use snncompile.nn.MultiThresholdLIF"),
    ("LIF", "use snncompile.nn.MultiThresholdLIF"),
)


def _made(rule: Rule, layer: Layer, shape: Shape) -> nir.NIRNode:
    try:
        return rule.node(layer, shape)
    except ValueError as error:  # an operation of nir_nodes that cannot be
        raise CompileError(layer.where, str(error)) from None


def _input_shape(coding: Layer, asked: tuple[int, ...] | None) -> Shape:
    said = vars(coding.module).get("input_shape")
    if asked is None and said is None:
        raise CompileError(coding.where, "says no input shape", "say it: --input-shape 1,28,28")
    return input_shape_of(coding.where, said if asked is None else asked)


def _input(coding: Layer, shape: Shape) -> nir.NIRNode:
    timesteps, scale = coding.fields.integer("timesteps", 1), coding.fields.number("scale")
    return nir.Input(np.array(shape), metadata={"coding": "direct", "scale": scale, "timesteps": timesteps})


def _conv2d(layer: Layer, shape: Shape) -> nir.NIRNode:
    fields = layer.fields
    fields.choice("padding_mode", ("zeros",), default="zeros")
    weight = layer.needed("_parameters", "weight", 4)
    bias = layer.array("_parameters", "bias", 1)
    named = isinstance(vars(layer.module).get("padding"), str)
    return nir.Conv2d(
        input_shape=np.array(shape[1:]) if len(shape) == 3 else None,
        weight=weight,
        stride=np.array(fields.pair("stride", 1)),
        padding=fields.choice("padding", ("same", "valid")) if named else np.array(fields.pair("padding", 0)),
        dilation=np.array(fields.pair("dilation", 1)),
        groups=fields.integer("groups", 1),
        bias=np.zeros(len(weight)) if bias is None else bias,
    )


def _linear(layer: Layer, shape: Shape) -> nir.NIRNode:
    weight = layer.needed("_parameters", "weight", 2)
    bias = layer.array("_parameters", "bias", 1)
    return nir.Affine(weight=weight, bias=np.zeros(len(weight)) if bias is None else bias)


def _avg_pool(layer: Layer, shape: Shape) -> nir.NIRNode:
    fields = layer.fields
    kernel, stride, padding = fields.pair("kernel_size", 1), fields.pair("stride", 1), fields.pair("padding", 0)
    more = "".join(f", {key}" for key in ("ceil_mode", "divisor_override") if vars(layer.module).get(key))
    if stride != kernel or padding != (0, 0) or more:
        given = f"kernel {kernel}, stride {stride}, padding {padding}{more}"
        raise CompileError(layer.where, f"average pooling with {given}", "needed: nn.AvgPool2d(n), with nothing else")
    return nir.AvgPool2d(kernel_size=np.array(kernel), stride=np.array(stride), padding=np.array(padding))


def _flatten(layer: Layer, shape: Shape) -> nir.NIRNode:
    if (layer.fields.integer("start_dim", -64), layer.fields.integer("end_dim", -64)) != (1, -1):
        raise CompileError(
            layer.where, "does not flatten one step's data to features", "needed: nn.Flatten(), axes 1 to -1"
        )
    return nir.Flatten(np.array(shape), start_dim=0, end_dim=-1)


def _batch_norm(axes: int) -> Callable[[Layer, Shape], nir.NIRNode]:
    def node(layer: Layer, shape: Shape) -> nir.NIRNode:
        if len(shape) != axes:
            raise CompileError(layer.where, f"its input has shape {shape}", f"needed: {axes} axes")
        mean, var = layer.array("_buffers", "running_mean", 1), layer.array("_buffers", "running_var", 1)
        if mean is None or var is None:
            raise CompileError(layer.where, "has no running statistics", "train it with track_running_stats=True")
        gamma, beta = layer.array("_parameters", "weight", 1), layer.array("_parameters", "bias", 1)
        gamma = np.ones(len(mean)) if gamma is None else gamma
        beta = np.zeros(len(mean)) if beta is None else beta
        eps = layer.fields.number("eps")
        return BatchNormGraph(shape, gamma=gamma, beta=beta, mean=mean, var=var, eps=eps)

    return node


def _neuron(layer: Layer, shape: Shape) -> nir.NIRNode:
    fields = layer.fields
    reset: Any = fields.choice("reset", ("soft", "hard", "none"))
    fire: Any = fields.choice("fire", ("ge", "gt"))
    thresholds = fields.number("threshold") * np.arange(
        1, fields.integer("levels", 1, LARGEST_LEVELS) + 1, dtype=np.float64
    )
    return MultiThresholdLIFGraph(
        shape,
        thresholds=thresholds,
        payload=thresholds,
        subtract=thresholds,
        leak=fields.number("leak"),
        reset=reset,
        fire=fire,
        v0=fields.number("v0"),
    )


RULES: dict[type[nn.Module], Rule] = {
    nn.Conv2d: Rule("conv2d", "step", _conv2d),
    nn.Linear: Rule("linear", "any", _linear),
    nn.AvgPool2d: Rule("avg_pool", "step", _avg_pool),
    nn.Flatten: Rule("flatten", "step", _flatten),
    nn.BatchNorm1d: Rule("batch_norm", "step", _batch_norm(1)),
    nn.BatchNorm2d: Rule("batch_norm", "step", _batch_norm(3)),
    TdBatchNorm1d: Rule("batch_norm", "sequence", _batch_norm(1)),
    TdBatchNorm2d: Rule("batch_norm", "sequence", _batch_norm(3)),
    MultiThresholdLIF: Rule("mtlif", "sequence", _neuron),
}
