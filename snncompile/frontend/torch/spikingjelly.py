"""The layers of spikingjelly 0.0.0.0.14 and 2.0.0 (`spikingjelly.activation_based`).

    IF     h[t] = v[t-1] + x[t]
    LIF    h[t] = v[t-1] + (x[t] - (v[t-1] - v_reset)) / tau            decay_input; else x[t] is not divided by tau
    PLIF   the same with 1/tau = sigmoid(w)

A spike where h >= v_threshold; then v = v_reset, or h - v_threshold where v_reset is None (its leak goes to 0 then).
v starts at v_reset, or 0. step_mode "m" takes [T, B, ...], "s" one step.
Source: neuron.py, layer.py (0.0.0.0.14); neuron/, layer/, functional/neuron.py (2.0.0), read and run.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import nir
import numpy as np
import torch

from snncompile.errors import CompileError
from snncompile.frontend.torch.graph import GraphBuilder, Parts, Population
from snncompile.frontend.torch.layers import (
    Layer,
    Neurons,
    Place,
    Rule,
    Stateless,
    adaptive_pool,
    avg_pool,
    batch_norm,
    connected,
    conv1d,
    conv2d,
    flatten,
    linear,
    linear_node,
    max_pool,
    total_shape,
    unchanged,
)
from snncompile.frontend.torch.neurons import Leaky, tensor_of
from snncompile.frontend.torch.values import Lead
from snncompile.network import Reset, Shape

PACKAGE = "spikingjelly.activation_based."
PRODUCER = "spikingjelly"
MOST_VOTES = 2**13
"""Features a voting layer may read: its weights are a matrix."""


def step_mode(layer: Layer) -> str:
    return layer.fields.choice("_step_mode", ("s", "m"), default="s")


def lead(layer: Layer) -> Lead:
    return "TB" if step_mode(layer) == "m" else "step"


def place(layer: Layer) -> Place:
    return "sequence" if step_mode(layer) == "m" else "step"


def _if(layer: Layer, shape: Shape) -> Population:
    return _population("if", layer, 1.0, 1.0)


def _lif(layer: Layer, shape: Shape) -> Population:
    tau = layer.fields.number("tau")
    if not tau >= 1:
        raise layer.fields.refuse("tau", tau, "a number of time steps, at least 1")
    return _population("lif", layer, 1 - 1 / tau, 1 / tau)


def _plif(layer: Layer, shape: Shape) -> Population:
    layer.needed("_parameters", "w", 0)
    w = tensor_of(layer, "w")
    per_step = float(torch.sigmoid(w)) if w is not None else 0.0
    return _population("plif", layer, 1 - per_step, per_step)


def _population(slug: str, layer: Layer, leak: float, gain: float) -> Population:
    fields, values = layer.fields, vars(layer.module)
    surrogate = layer.inner("surrogate_function")
    if vars(surrogate.module).get("spiking") is not True:
        raise CompileError(surrogate.where, "does not spike", "needed: spiking=True")
    soft = "v_reset" in values and values["v_reset"] is None
    v_reset = 0.0 if soft else fields.number("v_reset")
    reset: Reset = "soft" if soft else "hard"
    decays = slug == "if" or values.get("decay_input") is True
    neuron = Leaky(
        threshold=fields.number("v_threshold"),
        leak=leak,
        gain=gain if decays else 1.0,
        reset=reset,
        fire="ge",
        v_reset=v_reset,
        v_leak=v_reset,
        v0=v_reset,
    )
    how = "v -= v_threshold" if soft else f"v = {v_reset:g}"
    note = (
        f"fires at v >= v_threshold, then {how}; the input {'decays' if decays and slug != 'if' else 'is taken whole'}"
    )
    return Population(slug, neuron.parameters(layer.where), layer.kind, PRODUCER, note)


SIMPLE: dict[str, Callable[[Layer, Shape], Population]] = {
    **{f"{PACKAGE}{at}.IFNode": _if for at in ("neuron", "neuron.integrate_and_fire")},
    **{f"{PACKAGE}{at}.LIFNode": _lif for at in ("neuron", "neuron.lif")},
    **{f"{PACKAGE}{at}.ParametricLIFNode": _plif for at in ("neuron", "neuron.plif")},
}


def _recurrent(layer: Layer, shape: Shape) -> Population:
    """y[t] = neurons(rc([x[t], y[t-1]])): the last columns of rc are recurrent weights."""
    inner = layer.inner("sub_module")
    made = SIMPLE.get(f"{type(inner.module).__module__}.{inner.kind}")
    if made is None:
        raise CompileError(inner.where, "is not a layer of neurons that may be recurrent", "needed: IF, LIF or PLIF")
    if step_mode(inner) != "s":
        raise CompileError(inner.where, "its step_mode is m", "needed: s")
    weight, size = linear_node(layer.inner("rc")).weight, shape[0]
    if weight.shape[1] <= size:
        raise CompileError(layer.where, f"has weights {weight.shape} for {size} neurons")
    lateral = nir.Affine(weight=weight[:, -size:], bias=np.zeros(len(weight)))
    return replace(made(inner, shape), lateral=("recurrent", lateral))


def _recurrent_input(layer: Layer) -> nir.Affine:
    node = linear_node(layer.inner("rc"))
    fan_in = node.weight.shape[1] - len(node.weight)
    return nir.Affine(weight=node.weight[:, : max(fan_in, 0)], bias=node.bias)


def _voting(graph: GraphBuilder, layer: Layer, parts: Parts) -> Parts:
    """The mean of every group of voting_size features."""
    shape, size = total_shape(parts), layer.fields.integer("voting_size", 1)
    if len(shape) != 1 or not size <= shape[0] <= MOST_VOTES:
        raise CompileError(layer.where, f"votes by {size} on an input of shape {shape}", "needed: (features,)")
    weight = np.kron(np.eye(shape[0] // size), np.full((1, size), 1 / size))
    weight = np.pad(weight, ((0, 0), (0, shape[0] - weight.shape[1])))
    return connected(graph, layer.where, "voting", parts, nir.Affine(weight=weight, bias=np.zeros(len(weight))))


def _layers(files: tuple[str, ...], applied: dict[str, Any]) -> dict[str, Rule]:
    return {f"{PACKAGE}{at}.{kind}": Stateless(place, apply) for at in files for kind, apply in applied.items()}


def _any(files: tuple[str, ...], *kinds: str) -> dict[str, Rule]:
    return {f"{PACKAGE}{at}.{kind}": Stateless("any", unchanged) for at in files for kind in kinds}


_WRAPPED = {
    "Conv1d": conv1d,
    "Conv2d": conv2d,
    "MaxPool2d": max_pool,
    "AvgPool2d": avg_pool,
    "AdaptiveAvgPool2d": adaptive_pool,
    "Flatten": flatten,
    "Linear": linear,
}
_NORMS = {"BatchNorm1d": batch_norm(1, 3), "BatchNorm2d": batch_norm(3)}
_TDBN = {"ThresholdDependentBatchNorm1d": batch_norm(1), "ThresholdDependentBatchNorm2d": batch_norm(3)}

RULES: dict[str, Rule] = {
    **{name: Neurons(lead, made) for name, made in SIMPLE.items()},
    **{
        f"{PACKAGE}{at}.LinearRecurrentContainer": Neurons(lead, _recurrent, weights=_recurrent_input)
        for at in ("layer", "layer.container")
    },
    **_layers(("layer", "layer.stateless_wrapper"), _WRAPPED),
    **_layers(("layer", "layer.bn"), _NORMS),
    **{f"{PACKAGE}{at}.{k}": Stateless("sequence", a) for at in ("layer", "layer.bn") for k, a in _TDBN.items()},
    **_layers(("layer", "layer.misc"), {"VotingLayer": _voting}),
    **_any(("layer", "layer.dropout"), "Dropout", "Dropout2d"),
}
CONTAINERS = tuple(
    f"{PACKAGE}{at}.{kind}"
    for at in ("layer", "layer.container")
    for kind in ("SeqToANNContainer", "MultiStepContainer", "StepModeContainer")
)
HELD = (f"{PACKAGE}surrogate.",)
"""What else a saved module holds: surrogate gradients, which are not read but for `spiking`."""
