"""The layers of sinabs 3.1.3.

    i[t] = alpha_syn * (i[t-1] + x[t]), or x[t] without tau_syn
    v[t] = alpha_mem * v[t-1] + (1 - alpha_mem if norm_input else 1) * i[t]
    n[t] = MultiSpike: floor(v / threshold) where v > 0; SingleSpike: 1 where v >= threshold; MaxSpike: at most so many
    v -= n * threshold (or subtract_value), MembraneReset: v = 0 where n > 0; then v = max(v, min_v_mem)

alpha = exp(-1/tau), 1 for IAF. Layers take [B, T, ...], those named Squeeze [B*T, ...]. Recurrent layers add
rec_connect of the spikes of the step before to x. ExpLeak gives v itself.
Source: layers/lif.py, iaf.py, exp_leak.py, pool2d.py, functional/lif.py, activation/, read and run.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from snncompile.contract import Verdict
from snncompile.errors import CompileError
from snncompile.frontend.torch.graph import Population, Synapse
from snncompile.frontend.torch.layers import (
    Integrators,
    Layer,
    Neurons,
    Rule,
    Stateless,
    conv_node,
    full_name,
    linear_node,
    sum_pool,
)
from snncompile.frontend.torch.neurons import Leaky, Number, by_channel, parameter, tensor_of
from snncompile.frontend.torch.values import Lead
from snncompile.frontend.untrusted import Fields
from snncompile.network import Array, Reset, Shape

PACKAGE = "sinabs."
PRODUCER = "sinabs"
LEVELS = 16
"""Spikes of one time step that a population with MultiSpike sends; more of them stay in its membrane."""


def _whole(layer: Layer) -> Lead:
    return "BT"


def _squeezed(layer: Layer) -> Lead:
    return "(BT)"


def _decay(layer: Layer, which: Literal["mem", "syn"], shape: Shape) -> Number | None:
    """alpha = exp(-1/tau) as sinabs computes it, in the precision of tau; None where there is no tau."""
    alpha, tau = tensor_of(layer, f"alpha_{which}"), tensor_of(layer, f"tau_{which}")
    if vars(layer.module).get("train_alphas") is True and alpha is not None:
        return by_channel(layer.where, f"alpha_{which}", layer.values("alpha", alpha), shape)
    if tau is None:
        return None
    layer.values(f"tau_{which}", tau)
    return by_channel(layer.where, f"tau_{which}", torch.exp(-1.0 / tau).double().numpy(), shape)


def _levels(layer: Layer) -> tuple[int, Verdict, str]:
    function = vars(layer.module).get("spike_fn")
    kind = full_name(function if isinstance(function, type) else type(function))
    if kind == "sinabs.activation.spike_generation.SingleSpike":
        return 1, "faithful", "SingleSpike"
    if kind == "sinabs.activation.spike_generation.MaxSpike":
        most = Fields(layer.where, vars(function)).integer("max_num_spikes_per_bin", 1, 255)
        return most, "faithful", f"MaxSpike({most})"
    if kind == "sinabs.activation.spike_generation.MultiSpike":
        return LEVELS, "approximate", f"MultiSpike: of more than {LEVELS} spikes a step the rest stays in the membrane"
    raise CompileError(layer.where, f"its spike_fn is {kind}", "needed: SingleSpike, MultiSpike or MaxSpike")


def _reset(layer: Layer) -> tuple[Reset, float | None]:
    function = vars(layer.module).get("reset_fn")
    kind, values = full_name(type(function)), getattr(function, "__dict__", {})
    if kind == "sinabs.activation.reset_mechanism.MembraneSubtract":
        subtract = values.get("subtract_value")
        return "soft", None if subtract is None else Fields(layer.where, values).number("subtract_value")
    if kind == "sinabs.activation.reset_mechanism.MembraneReset":
        if values.get("reset_value", 0.0) != 0:
            raise CompileError(layer.where, "resets to a value other than 0", "sinabs adds it to silent neurons, too")
        return "hard", None
    raise CompileError(layer.where, f"its reset_fn is {kind}", "needed: MembraneSubtract or MembraneReset")


def _neurons(slug: str) -> Callable[[Layer, Shape], Population]:
    def made(layer: Layer, shape: Shape) -> Population:
        leak = 1.0 if slug == "iaf" else _decay(layer, "mem", shape)
        if leak is None:
            raise CompileError(layer.where, "has no tau_mem")
        current = _decay(layer, "syn", shape)
        gain: Any = 1.0 if current is None else current
        if vars(layer.module).get("norm_input") is True and slug != "iaf":
            gain = gain * (1 - np.asarray(leak))
        levels, verdict, spikes = _levels(layer)
        reset, subtract = _reset(layer)
        has_floor = tensor_of(layer, "min_v_mem") is not None
        neuron = Leaky(
            threshold=parameter(layer, "spike_threshold", shape),
            leak=leak,
            gain=gain,
            reset=reset,
            fire="ge",
            subtract=subtract,
            levels=levels,
            current_leak=current,
            floor=parameter(layer, "min_v_mem", shape) if has_floor else None,
        )
        note = f"{spikes}, fires at v >= threshold, {'subtracts' if reset == 'soft' else 'resets to 0'}"
        return Population(slug, neuron.parameters(layer.where), layer.kind, PRODUCER, note, verdict)

    return made


def _recurrent(slug: str) -> Callable[[Layer, Shape], Population]:
    def made(layer: Layer, shape: Shape) -> Population:
        population = _neurons(slug)(layer, shape)
        synapse = _synapse(layer.inner("rec_connect"), shape)
        parameters = _without_first_bias(layer, population.parameters, synapse.bias)
        return replace(population, parameters=parameters, lateral=("recurrent", synapse))

    return made


def _without_first_bias(layer: Layer, parameters: dict[str, Any], bias: Array) -> dict[str, Any]:
    """In sinabs the bias of recurrent weights acts from the second step on: the start makes up for the first."""
    if not bias.any():
        return parameters
    v0 = np.asarray(parameters["v0"]) - bias / np.asarray(parameters["leak"])
    floor = parameters["floor"]
    if parameters["current_leak"] is not None or (floor is not None and (v0 < floor).any()):
        problem = "the bias of its rec_connect does not act in the first step, next to a tau_syn or min_v_mem"
        raise CompileError(layer.where, problem, "use rec_connect=nn.Linear(..., bias=False)")
    return {**parameters, "v0": v0}


def _synapse(layer: Layer, shape: Shape) -> Synapse:
    kinds: dict[str, Callable[[], Synapse]] = {
        "torch.nn.modules.linear.Linear": lambda: linear_node(layer),
        "torch.nn.modules.conv.Conv2d": lambda: conv_node(layer, shape),
    }
    made = kinds.get(full_name(type(layer.module)))
    if made is None:
        raise CompileError(layer.where, "is not a recurrent connection", "needed: nn.Linear or nn.Conv2d alone")
    return made()


def _exp_leak(layer: Layer) -> tuple[float, float, None]:
    if tensor_of(layer, "min_v_mem") is not None:
        raise CompileError(layer.where, "has a min_v_mem", "a readout has no lower bound")
    leak = _decay(layer, "mem", (1,))
    if not isinstance(leak, float):
        raise CompileError(layer.where, "has no tau_mem, or one for every neuron", "a readout has one")
    return leak, 1 - leak if vars(layer.module).get("norm_input") is True else 1.0, None


RULES: dict[str, Rule] = {
    "sinabs.layers.iaf.IAF": Neurons(_whole, _neurons("iaf")),
    "sinabs.layers.iaf.IAFSqueeze": Neurons(_squeezed, _neurons("iaf")),
    "sinabs.layers.iaf.IAFRecurrent": Neurons(_whole, _recurrent("iaf")),
    "sinabs.layers.lif.LIF": Neurons(_whole, _neurons("lif")),
    "sinabs.layers.lif.LIFSqueeze": Neurons(_squeezed, _neurons("lif")),
    "sinabs.layers.lif.LIFRecurrent": Neurons(_whole, _recurrent("lif")),
    "sinabs.layers.exp_leak.ExpLeak": Integrators(_whole, _exp_leak),
    "sinabs.layers.exp_leak.ExpLeakSqueeze": Integrators(_squeezed, _exp_leak),
    "sinabs.layers.pool2d.SumPool2d": Stateless("step", sum_pool),
}
CONTAINERS = ("sinabs.layers.reshape.Repeat", "sinabs.network.Network")
RESHAPING = {"sinabs.layers.reshape.FlattenTime": "(BT)", "sinabs.layers.reshape.UnflattenTime": "BT"}
HELD = ("sinabs.activation.", "sinabs.synopcounter.")
"""What else a saved module holds: how neurons spike and reset, by name and values."""
