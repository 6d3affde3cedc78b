"""What each type of torch layer is in NIR. Layers are read by their attributes, of exact types only."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import nir
import numpy as np
import torch
from torch import nn

from snncompile.errors import CompileError
from snncompile.frontend.nir_nodes import LARGEST_LEVELS, BatchNormGraph, MultiThresholdLIFGraph
from snncompile.frontend.untrusted import Fields
from snncompile.network import Array, Shape
from snncompile.nn import (
    LMHT,
    GroupNeuron,
    LeakyReadout,
    MeanReadout,
    MultiThresholdLIF,
    StbpLIF,
    TdBatchNorm1d,
    TdBatchNorm2d,
)


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
    threshold = fields.number("threshold")
    spike_value = fields.number("spike_value", default=threshold)  # modules pickled before it existed lack it
    if spike_value <= 0 < threshold:
        raise fields.refuse("spike_value", spike_value, "a positive number")
    levels = np.arange(1, fields.integer("levels", 1, LARGEST_LEVELS) + 1, dtype=np.float64)
    return MultiThresholdLIFGraph(
        shape,
        thresholds=threshold * levels,
        payload=spike_value * levels,
        subtract=threshold * levels,
        leak=fields.number("leak"),
        reset=reset,
        fire=fire,
        v0=fields.number("v0"),
    )


def _stbp(layer: Layer, shape: Shape) -> nir.NIRNode:
    """Whatever its attributes say, it computes a reset to zero of one level."""
    layer.fields.integer("levels", 1, 1)
    layer.fields.choice("reset", ("hard",))
    return _neuron(layer, shape)


def _lm_ht(layer: Layer, shape: Shape) -> nir.NIRNode:
    """omega = 2*sigmoid(mixing)/T and leak = sigmoid(raw_leak) + 0.5 of arXiv 2402.00411, by torch's sigmoid."""
    fields = layer.fields
    timesteps = fields.integer("timesteps", 1)
    raw = layer.needed("_parameters", "mixing", 2)
    if raw.shape != (timesteps, timesteps):
        raise CompileError(layer.where, f"mixing has shape {raw.shape}", f"needed: {(timesteps, timesteps)}")
    raw_leak = layer.needed("_parameters", "raw_leak", 0)
    levels = np.arange(1, fields.integer("levels", 1, LARGEST_LEVELS) + 1, dtype=np.float64)
    thresholds = fields.number("threshold") * levels
    return MultiThresholdLIFGraph(
        shape,
        thresholds=thresholds,
        payload=thresholds,
        subtract=thresholds,
        leak=torch.sigmoid(torch.from_numpy(raw_leak)).item() + 0.5,
        reset="soft",
        fire="ge",
        v0=fields.number("v0"),
        mixing=(2 * torch.sigmoid(torch.from_numpy(raw)) / timesteps).numpy(),
    )


def _leaky_readout(layer: Layer) -> dict[str, Any]:
    leak = layer.fields.number("leak")
    if not 0 < leak <= 1:
        raise layer.fields.refuse("leak", leak, "a number in (0, 1]")
    return {"leak": leak, "readout": "leaky", "scale": 1.0}


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
    GroupNeuron: Rule("group_neuron", "sequence", _neuron),
    StbpLIF: Rule("stbp_lif", "sequence", _stbp),
    LMHT: Rule("lm_ht", "sequence", _lm_ht),
}

READOUTS: dict[type[nn.Module], Callable[[Layer], dict[str, Any]]] = {
    MeanReadout: lambda layer: {"readout": "mean", "scale": 1.0},
    LeakyReadout: _leaky_readout,
}
"""The metadata of the Output each last layer becomes, in the order it is read back from a file."""
