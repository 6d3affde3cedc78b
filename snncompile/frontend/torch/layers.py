"""What each layer of torch.nn and snncompile.nn is. Layers are read by their attributes, by exact type; none is called.

A type is known by its full name, `torch.nn.modules.conv.Conv2d`, so that layers of packages that are not installed are
read the same way (`checkpoint`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import nir
import numpy as np
import torch
from torch import nn

from snncompile.errors import CompileError
from snncompile.frontend.nir.nodes import LARGEST_LEVELS, BatchNormGraph
from snncompile.frontend.nir.to_network import convert, output_shape
from snncompile.frontend.torch.graph import GraphBuilder, Parts, Population, Synapse, Window, pooled_shape
from snncompile.frontend.torch.values import Lead
from snncompile.frontend.untrusted import Fields
from snncompile.network import Array, Shape

Place = Literal["step", "sequence", "any"]
"""What a layer takes: "step": one axis of samples; "sequence": [T, B, ...]; "any": whatever there is."""


def full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


@dataclass(frozen=True)
class Layer:
    """One layer of the walk. `where` is its dotted path and type, for errors: `4.1 (MaxPool2d)`."""

    where: str
    module: nn.Module

    @property
    def kind(self) -> str:
        return type(self.module).__name__

    @property
    def fields(self) -> Fields:
        return Fields(self.where, vars(self.module))

    def array(self, group: Literal["_parameters", "_buffers"], key: str, ndim: int | None) -> Array | None:
        """A tensor as finite float64, None where it is absent."""
        tensors = vars(self.module).get(group)
        tensor = tensors.get(key) if isinstance(tensors, dict) else None
        return None if tensor is None else self.values(key, tensor, ndim)

    def values(self, key: str, tensor: object, ndim: int | None = None) -> Array:
        if (
            type(tensor) not in (torch.Tensor, nn.Parameter)
            or not isinstance(tensor, torch.Tensor)
            or tensor.layout != torch.strided
            or not tensor.is_floating_point()
        ):
            raise CompileError(self.where, f"{key} is not a plain tensor of floating-point numbers")
        if tensor.device.type != "cpu" or tensor.nelement() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CompileError(self.where, f"{key} holds no values of its own", "save the module's tensors on the CPU")
        values = tensor.detach().to(torch.float64).numpy()
        return Fields(self.where, {key: values}).array(key, ndim)

    def needed(self, group: Literal["_parameters", "_buffers"], key: str, ndim: int | None) -> Array:
        array = self.array(group, key, ndim)
        if array is None:
            raise CompileError(self.where, f"has no {key}")
        return array

    def inner(self, key: str) -> "Layer":
        """A layer within this one."""
        children = vars(self.module).get("_modules")
        child = children.get(key) if isinstance(children, dict) else None
        if not isinstance(child, nn.Module):
            raise CompileError(self.where, f"has no layer {key}")
        return Layer(f"{self.where.partition(' (')[0]}.{key} ({type(child).__name__})", child)


@dataclass(frozen=True)
class Stateless:
    """A layer without state: where it may stand, and what it makes of parts."""

    place: Place | Callable[[Layer], Place]
    apply: Callable[[GraphBuilder, Layer, Parts], Parts]


@dataclass(frozen=True)
class Neurons:
    """A layer of neurons: the axes it takes, what it is (made, for a shape), and what goes in and out beside spikes.

    takes: its arguments after the input; returns: all of a call's values, or None where that is the spikes alone; each
    is "spikes" or "state". kept: the module keeps its state from call to call, so that a state not handed on is there.
    """

    lead: Callable[[Layer], Lead]
    made: Callable[[Layer, Shape], Population]
    takes: tuple[str, ...] = ()
    returns: Callable[[Layer], tuple[str, ...] | None] = lambda layer: None
    kept: bool = True
    weights: Callable[[Layer], Synapse] | None = None


@dataclass(frozen=True)
class Integrators:
    """A layer of leaky integrators that never fire; made(layer): leak, gain and current_leak of `values.Potential`."""

    lead: Callable[[Layer], Lead]
    made: Callable[[Layer], tuple[float, float, float | None]]
    takes: tuple[str, ...] = ()
    returns: Callable[[Layer], tuple[str, ...] | None] = lambda layer: None
    kept: bool = True
    weights: Callable[[Layer], Synapse] | None = None


Rule = Stateless | Neurons | Integrators


def total_shape(parts: Parts) -> Shape:
    """Of concatenated parts."""
    return (sum(part.shape[0] for part in parts), *parts[0].shape[1:])


def connected(graph: GraphBuilder, where: str, slug: str, parts: Parts, node: Synapse) -> Parts:
    """Parts through synapses, checked to fit."""
    shape = output_shape(convert(where, ("",), node), [total_shape(parts)])
    return graph.synapses(where, slug, parts, node, shape)


def conv2d(graph: GraphBuilder, layer: Layer, parts: Parts) -> Parts:
    return connected(graph, layer.where, "conv2d", parts, conv_node(layer, total_shape(parts)))


def conv_node(layer: Layer, shape: Shape) -> nir.Conv2d:
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


def conv1d(graph: GraphBuilder, layer: Layer, parts: Parts) -> Parts:
    """As a Conv2d of height 1."""
    fields, shape = layer.fields, total_shape(parts)
    fields.choice("padding_mode", ("zeros",), default="zeros")
    weight = layer.needed("_parameters", "weight", 3)[:, :, None]
    bias = layer.array("_parameters", "bias", 1)
    named = vars(layer.module).get("padding")
    padding: Any = named if isinstance(named, str) else np.array((0, _one(fields, "padding", 0)))
    node = nir.Conv2d(
        input_shape=np.array(shape[1:]) if len(shape) == 3 else None,
        weight=weight,
        stride=np.array((1, _one(fields, "stride", 1))),
        padding=padding,
        dilation=np.array((1, _one(fields, "dilation", 1))),
        groups=fields.integer("groups", 1),
        bias=np.zeros(len(weight)) if bias is None else bias,
    )
    return connected(graph, layer.where, "conv1d", parts, node)


def _one(fields: Fields, key: str, low: int) -> int:
    """An integer, alone or in a tuple of one."""
    value = fields.get(key)
    alone = value[0] if isinstance(value, tuple | list) and len(value) == 1 else value
    return Fields(fields.where, {key: alone}).integer(key, low)


def linear(graph: GraphBuilder, layer: Layer, parts: Parts) -> Parts:
    return connected(graph, layer.where, "linear", parts, linear_node(layer))


def linear_node(layer: Layer) -> nir.Affine:
    weight = layer.needed("_parameters", "weight", 2)
    bias = layer.array("_parameters", "bias", 1)
    return nir.Affine(weight=weight, bias=np.zeros(len(weight)) if bias is None else bias)


def window_of(layer: Layer, *unusual: str) -> Window:
    """The window of a pooling layer; raises CompileError for the options named in `unusual` and for ceil_mode."""
    fields = layer.fields
    kernel = fields.pair("kernel_size", 1)
    stride = kernel if vars(layer.module).get("stride") is None else fields.pair("stride", 1)
    window = Window(kernel, stride, fields.pair("padding", 0, default=0))
    options = ((key, vars(layer.module).get(key)) for key in ("ceil_mode", *unusual))
    if more := [key for key, value in options if value is not None and value is not False]:
        given = f"kernel {kernel}, stride {stride}, padding {window.padding}, {', '.join(more)}"
        raise CompileError(layer.where, f"pooling with {given}", "needed: kernel_size, stride and padding alone")
    return window


def avg_pool(graph: GraphBuilder, layer: Layer, parts: Parts) -> Parts:
    padded = vars(layer.module).get("count_include_pad") is False
    window = window_of(layer, "divisor_override")
    if padded and window.padding != (0, 0):
        raise CompileError(layer.where, "leaves the padding out of the mean", "count_include_pad=True is supported")
    return average(graph, layer.where, parts, window)


def average(graph: GraphBuilder, where: str, parts: Parts, window: Window) -> Parts:
    def node(shape: Shape) -> tuple[nir.NIRNode, Shape]:
        pooled = pooled_shape(where, shape, window)
        arrays = {"kernel_size": window.kernel, "stride": window.stride, "padding": window.padding}
        return nir.AvgPool2d(**{key: np.array(value) for key, value in arrays.items()}), pooled

    if window.padding != (0, 0) and any(term.offset is not None for part in parts for term in part.terms):
        raise CompileError(where, "pools normalised values with zeros padded around them", "norm after the pooling")
    return graph.each(parts, "avg_pool", node)


def adaptive_pool(graph: GraphBuilder, layer: Layer, parts: Parts) -> Parts:
    return adaptive_average(graph, layer.where, parts, vars(layer.module).get("output_size"))


def adaptive_average(graph: GraphBuilder, where: str, parts: Parts, size: object) -> Parts:
    """Average pooling to a number of rows and columns that divides the input's."""
    sizes = size if isinstance(size, tuple | list) else (size, size)
    shape = total_shape(parts)
    if len(shape) != 3 or len(sizes) != 2 or not all(s is None or (isinstance(s, int) and s > 0) for s in sizes):
        raise CompileError(where, f"pools {shape} to {sizes}", "needed: (channels, height, width) to two sizes")
    wanted = tuple(n if s is None else s for n, s in zip(shape[1:], sizes, strict=True))
    if shape[1] % wanted[0] or shape[2] % wanted[1]:
        raise CompileError(where, f"pools {shape[1:]} to {wanted}", "the windows must be of one size: divide evenly")
    kernel = (shape[1] // wanted[0], shape[2] // wanted[1])
    return average(graph, where, parts, Window(kernel, kernel))


def sum_pool(graph: GraphBuilder, layer: Layer, parts: Parts) -> Parts:
    window = window_of(layer)
    return graph.scaled(average(graph, layer.where, parts, window), float(window.kernel[0] * window.kernel[1]))


def max_pool(graph: GraphBuilder, layer: Layer, parts: Parts) -> Parts:
    if layer.fields.pair("dilation", 1, default=1) != (1, 1):
        raise CompileError(layer.where, "max pooling with dilation", "needed: dilation 1")
    return graph.max_pool(layer.where, parts, window_of(layer, "return_indices"))


def flatten(graph: GraphBuilder, layer: Layer, parts: Parts) -> Parts:
    if (layer.fields.integer("start_dim", -64), layer.fields.integer("end_dim", -64)) != (1, -1):
        raise CompileError(
            layer.where, "does not flatten one step's data to features", "needed: nn.Flatten(), axes 1 to -1"
        )
    return graph.flatten(parts)


def batch_norm(*axes: int) -> Callable[[GraphBuilder, Layer, Parts], Parts]:
    def apply(graph: GraphBuilder, layer: Layer, parts: Parts) -> Parts:
        shape = total_shape(parts)
        if len(shape) not in axes:
            raise CompileError(layer.where, f"its input has shape {shape}", f"needed: {axes[0]} axes")
        mean, var = layer.array("_buffers", "running_mean", 1), layer.array("_buffers", "running_var", 1)
        if mean is None or var is None:
            raise CompileError(layer.where, "has no running statistics", "train it with track_running_stats=True")
        gamma, beta = layer.array("_parameters", "weight", 1), layer.array("_parameters", "bias", 1)
        given = {
            "gamma": np.ones(len(mean)) if gamma is None else gamma,
            "beta": np.zeros(len(mean)) if beta is None else beta,
            "mean": mean,
            "var": var,
        }
        eps = layer.fields.number("eps")
        try:
            BatchNormGraph(shape, **given, eps=eps)
        except ValueError as error:
            raise CompileError(layer.where, str(error)) from None

        def node(piece: slice, first: bool, piece_shape: Shape) -> BatchNormGraph:
            arrays = {key: value[piece] for key, value in given.items()}
            if not first:  # of a sum, one term has the mean and beta of all
                arrays |= {"beta": np.zeros(piece_shape[0]), "mean": np.zeros(piece_shape[0])}
            return BatchNormGraph(piece_shape, **arrays, eps=eps)

        return graph.batch_norm(layer.where, parts, node)

    return apply


def unchanged(graph: GraphBuilder, layer: Layer, parts: Parts) -> Parts:
    return parts


def _neuron(slug: str) -> Callable[[Layer, Shape], Population]:
    def made(layer: Layer, shape: Shape) -> Population:
        fields = layer.fields
        reset: Any = fields.choice("reset", ("soft", "hard", "none"))
        fire: Any = fields.choice("fire", ("ge", "gt"))
        threshold = fields.number("threshold")
        spike_value = fields.number("spike_value", default=threshold)  # modules pickled before it existed lack it
        if spike_value <= 0 < threshold:
            raise fields.refuse("spike_value", spike_value, "a positive number")
        levels = np.arange(1, fields.integer("levels", 1, LARGEST_LEVELS) + 1, dtype=np.float64)
        parameters = {
            "thresholds": threshold * levels,
            "payload": spike_value * levels,
            "subtract": threshold * levels,
            "leak": fields.number("leak"),
            "reset": reset,
            "fire": fire,
            "v0": fields.number("v0"),
        }
        return Population(slug, parameters, layer.kind, "snncompile")

    return made


def _stbp(layer: Layer, shape: Shape) -> Population:
    """Whatever its attributes say, it computes a reset to zero of one level."""
    layer.fields.integer("levels", 1, 1)
    layer.fields.choice("reset", ("hard",))
    return _neuron("stbp_lif")(layer, shape)


def _lm_ht(layer: Layer, shape: Shape) -> Population:
    """omega = 2*sigmoid(mixing)/T and leak = sigmoid(raw_leak) + 0.5 of arXiv 2402.00411, by torch's sigmoid."""
    fields = layer.fields
    timesteps = fields.integer("timesteps", 1)
    raw = layer.needed("_parameters", "mixing", 2)
    if raw.shape != (timesteps, timesteps):
        raise CompileError(layer.where, f"mixing has shape {raw.shape}", f"needed: {(timesteps, timesteps)}")
    raw_leak = layer.needed("_parameters", "raw_leak", 0)
    levels = np.arange(1, fields.integer("levels", 1, LARGEST_LEVELS) + 1, dtype=np.float64)
    thresholds = fields.number("threshold") * levels
    parameters = {
        "thresholds": thresholds,
        "payload": thresholds,
        "subtract": thresholds,
        "leak": torch.sigmoid(torch.from_numpy(raw_leak)).item() + 0.5,
        "reset": "soft",
        "fire": "ge",
        "v0": fields.number("v0"),
        "mixing": (2 * torch.sigmoid(torch.from_numpy(raw)) / timesteps).numpy(),
    }
    return Population("lm_ht", parameters, layer.kind, "snncompile")


def _all_steps(layer: Layer) -> Lead:
    return "TB"


def _of_torch(place: Place, apply: Callable[[GraphBuilder, Layer, Parts], Parts], *kinds: str) -> dict[str, Rule]:
    return {f"torch.nn.modules.{kind}": Stateless(place, apply) for kind in kinds}


def _of_snncompile(kind: str, rule: Rule) -> dict[str, Rule]:
    return {f"snncompile.nn.{kind}": rule}


REMOVED = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout")

RULES: dict[str, Rule] = {
    **_of_torch("any", unchanged, "linear.Identity", *(f"dropout.{kind}" for kind in REMOVED)),
    **_of_torch("step", conv2d, "conv.Conv2d"),
    **_of_torch("step", conv1d, "conv.Conv1d"),
    **_of_torch("any", linear, "linear.Linear"),
    **_of_torch("step", avg_pool, "pooling.AvgPool2d"),
    **_of_torch("step", adaptive_pool, "pooling.AdaptiveAvgPool2d"),
    **_of_torch("step", max_pool, "pooling.MaxPool2d"),
    **_of_torch("step", flatten, "flatten.Flatten"),
    **_of_torch("step", batch_norm(1, 3), "batchnorm.BatchNorm1d"),
    **_of_torch("step", batch_norm(3), "batchnorm.BatchNorm2d"),
    **_of_snncompile("tdbn.TdBatchNorm1d", Stateless("sequence", batch_norm(1))),
    **_of_snncompile("tdbn.TdBatchNorm2d", Stateless("sequence", batch_norm(3))),
    **_of_snncompile("mtlif.MultiThresholdLIF", Neurons(_all_steps, _neuron("mtlif"), kept=False)),
    **_of_snncompile("group_neuron.GroupNeuron", Neurons(_all_steps, _neuron("group_neuron"), kept=False)),
    **_of_snncompile("stbp.StbpLIF", Neurons(_all_steps, _stbp, kept=False)),
    **_of_snncompile("lm_ht.LMHT", Neurons(_all_steps, _lm_ht, kept=False)),
}
