"""The neurons of norse 1.1.0, by Euler's method with their dt (1 ms unless said).

    i[t] = (1 - dt tau_syn_inv) i[t-1] + x[t]                       LIFBox: i = x
    v[t] = v[t-1] + dt tau_mem_inv (v_leak - v[t-1] + i[t])         v starts at v_leak

A spike where v > v_th, then v = v_reset; LIFBox resets by its reset_method. In LIFRecurrent, x[t] is
input_weights x[t] + recurrent_weights z[t-1]. LI gives v itself.
Source: functional/lif.py, lif_box.py, leaky_integrator.py, module/snn.py, read and run.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import nir
import numpy as np
import torch

from snncompile.errors import CompileError
from snncompile.frontend.torch.graph import Population
from snncompile.frontend.torch.layers import Integrators, Layer, Neurons, Rule
from snncompile.frontend.torch.neurons import Leaky, Number, by_channel
from snncompile.frontend.torch.values import Lead
from snncompile.frontend.untrusted import Fields
from snncompile.network import NO_MEMORY, Reset, Shape

PACKAGE = "norse."
PRODUCER = "norse"
STATE = ("spikes", "state")
RESETS: dict[str, Reset] = {"reset_value": "hard", "reset_subtract": "soft"}


def _one_step(layer: Layer) -> Lead:
    return "step"


def _all_steps(layer: Layer) -> Lead:
    return "TB"


def _returned(layer: Layer) -> tuple[str, ...]:
    if vars(layer.module).get("record_states") is True:
        raise CompileError(layer.where, "has record_states set", "this option is not supported")
    return STATE


def _parameter(layer: Layer, key: str, shape: Shape) -> Number:
    """An entry of its parameters p, a named tuple, by channel."""
    found = getattr(vars(layer.module).get("p"), key, None)
    if isinstance(found, torch.Tensor):
        return by_channel(layer.where, key, layer.values(key, found.detach().double()), shape)
    return Fields(layer.where, {key: found}).number(key)


def _per_step(layer: Layer, key: str, shape: Shape) -> Number:
    """dt times an inverse time constant, in the precision of that, as norse has it."""
    found, dt = getattr(vars(layer.module).get("p"), key, None), layer.fields.number("dt")
    if isinstance(found, torch.Tensor) and found.is_floating_point():
        return by_channel(layer.where, key, layer.values(key, dt * found.detach()), shape)
    return dt * np.asarray(_parameter(layer, key, shape))


def _neurons(slug: str) -> Callable[[Layer, Shape], Population]:
    def made(layer: Layer, shape: Shape) -> Population:
        per_step: Any = _per_step(layer, "tau_mem_inv", shape)
        v_leak, reset = _parameter(layer, "v_leak", shape), "hard"
        current = None if slug == "lif_box" else 1 - np.asarray(_per_step(layer, "tau_syn_inv", shape))
        if current is not None and not ((current >= 0) & (current < 1)).all():
            raise CompileError(layer.where, "its synaptic time constant is shorter than a time step")
        if slug == "lif_box":
            method = getattr(getattr(vars(layer.module).get("p"), "reset_method", None), "__name__", "")
            if method not in RESETS:
                raise CompileError(layer.where, f"its reset_method is {method!r}", f"needed: {', '.join(RESETS)}")
            reset = RESETS[method]
        elif getattr(vars(layer.module).get("p"), "method", "") == "adjoint":
            raise CompileError(layer.where, "its method is adjoint", "train with it, deploy with another method")
        neuron = Leaky(
            threshold=_parameter(layer, "v_th", shape),
            leak=1 - per_step,
            gain=per_step,
            reset=RESETS["reset_value"] if reset == "hard" else "soft",
            fire="gt",
            v_reset=_parameter(layer, "v_reset", shape),
            v_leak=v_leak,
            v0=v_leak,
            current_leak=None if current is None else float(current) if current.ndim == 0 else current,
        )
        note = f"Euler steps of dt = {layer.fields.number('dt'):g} s, fires at v > v_th"
        return Population(slug, neuron.parameters(layer.where), layer.kind, PRODUCER, note)

    return made


def _recurrent(layer: Layer, shape: Shape) -> Population:
    weight = layer.needed("_parameters", "recurrent_weights", 2)
    lateral = nir.Affine(weight=weight, bias=np.zeros(len(weight)))
    return replace(_neurons("lif")(layer, shape), lateral=("recurrent", lateral))


def _input_weights(layer: Layer) -> nir.Affine:
    weight = layer.needed("_parameters", "input_weights", 2)
    return nir.Affine(weight=weight, bias=np.zeros(len(weight)))


def _integrator(layer: Layer) -> tuple[float, float, float | None]:
    """leak, gain and the leak of the synaptic current, None where that follows its input at once."""
    current = 1 - float(np.asarray(_per_step(layer, "tau_syn_inv", (1,))))
    per_step = float(np.asarray(_per_step(layer, "tau_mem_inv", (1,))))
    if np.any(_parameter(layer, "v_leak", (1,))):
        raise CompileError(layer.where, "has a v_leak other than 0", "a readout starts at 0 and goes back to it")
    if not 0 <= current < 1:
        raise CompileError(layer.where, "its synaptic time constant is shorter than a time step")
    return max(1 - per_step, NO_MEMORY), per_step, current if current > 1e-6 else None


CELLS = ("lif.LIFCell", "lif.LIF", "lif.LIFRecurrentCell", "lif.LIFRecurrent", "lif_box.LIFBoxCell")
RULES: dict[str, Rule] = {
    "norse.torch.module.lif.LIFCell": Neurons(_one_step, _neurons("lif"), ("state",), _returned, kept=False),
    "norse.torch.module.lif.LIF": Neurons(_all_steps, _neurons("lif"), ("state",), _returned, kept=False),
    "norse.torch.module.lif.LIFRecurrentCell": Neurons(
        _one_step, _recurrent, ("state",), _returned, kept=False, weights=_input_weights
    ),
    "norse.torch.module.lif.LIFRecurrent": Neurons(
        _all_steps, _recurrent, ("state",), _returned, kept=False, weights=_input_weights
    ),
    "norse.torch.module.lif_box.LIFBoxCell": Neurons(_one_step, _neurons("lif_box"), ("state",), _returned, kept=False),
    "norse.torch.module.leaky_integrator.LICell": Integrators(
        _one_step, _integrator, ("state",), _returned, kept=False
    ),
    "norse.torch.module.leaky_integrator.LI": Integrators(_all_steps, _integrator, ("state",), _returned, kept=False),
    "norse.torch.module.leaky_integrator.LILinearCell": Integrators(
        _one_step, _integrator, ("state",), _returned, kept=False, weights=_input_weights
    ),
}
