"""The neurons of snntorch 1.0.0.

    Leaky       mem[t] = beta mem[t-1] + x[t] - reset[t] threshold            beta clipped to [0, 1]
    Synaptic    syn[t] = alpha syn[t-1] + x[t], then Leaky of syn[t]
    RLeaky, RSynaptic: x[t] + recurrent(spk[t-1]) in place of x[t], or x[t] + V spk[t-1]
    Lapicque    mem[t] = (1 - dt/RC) mem[t-1] + (dt/C) x[t] - ...

A spike (of graded_spikes_factor) where mem > threshold. reset[t] is 1 where mem[t-1] > threshold: with reset_delay,
the usual, the reset acts one step after the spike, as a soft reset by threshold/beta does right after it. "zero" sets
mem to 0 before step t, but in RLeaky, Synaptic, RSynaptic and Lapicque it drops all of step t, which no neuron of ours
does. Without reset_delay a soft reset is one right after the spike while mem stays below 2 threshold; above, snntorch
puts the reset of the next step off, so that "subtract" is approximate there.
Source: _neurons/leaky.py, synaptic.py, rleaky.py, rsynaptic.py, lapicque.py, neurons.py, read and run.
"""

from collections.abc import Callable
from dataclasses import replace

import nir
import numpy as np

from snncompile.contract import Verdict
from snncompile.errors import CompileError
from snncompile.frontend.torch.graph import Population, Synapse
from snncompile.frontend.torch.layers import Layer, Neurons, Rule, conv_node, linear_node
from snncompile.frontend.torch.neurons import Leaky, Number, parameter, refuse_set, tensor_of
from snncompile.frontend.torch.values import Lead
from snncompile.network import Reset, Shape

PACKAGE = "snntorch."
PRODUCER = "snntorch"
RESETS: tuple[Reset, ...] = ("soft", "hard", "none")
STATE_FUNCTIONS = ("_base_sub", "_base_zero", "_base_int")


def _one_step(layer: Layer) -> Lead:
    return "step"


def _reset(layer: Layer) -> Reset:
    """By reset_mechanism_val; raises CompileError where the function chosen when the layer was made is another."""
    value = tensor_of(layer, "reset_mechanism_val")
    if value is None or value.numel() != 1 or int(value) not in (0, 1, 2):
        raise CompileError(layer.where, "has no reset_mechanism_val from 0 to 2")
    function = getattr(vars(layer.module).get("state_function"), "__name__", "")
    if function != STATE_FUNCTIONS[int(value)]:
        problem = f"was made for the reset {function}, its reset_mechanism_val says {STATE_FUNCTIONS[int(value)]}"
        raise CompileError(layer.where, problem, "make the module with the reset of the checkpoint")
    return RESETS[int(value)]


def _clipped(layer: Layer, key: str, shape: Shape) -> Number:
    return np.clip(parameter(layer, key, shape), 0.0, 1.0)


def _neurons(slug: str) -> Callable[[Layer, Shape], Population]:
    def made(layer: Layer, shape: Shape) -> Population:
        refuse_set(layer, ("state_quant", "inhibition"))
        reset, delayed = _reset(layer), vars(layer.module).get("reset_delay", True) is True
        leak, gain = _clipped(layer, "beta", shape), 1.0
        if slug == "lapicque":
            leak, gain = _lapicque(layer)
        threshold = parameter(layer, "threshold", shape)
        if reset == "hard" and delayed and slug != "leaky":
            problem = 'with reset_mechanism "zero" and reset_delay it drops the input of the step after a spike'
            raise CompileError(layer.where, problem, 'use reset_delay=False, or reset_mechanism "subtract"')
        if not delayed and slug == "rsynaptic":
            raise CompileError(layer.where, "has reset_delay=False, which snntorch 1.0.0 does not carry out")
        subtract: Number = threshold
        if reset == "soft" and delayed:
            if not (np.asarray(leak) > 0).all():
                raise CompileError(layer.where, "has beta = 0 and a reset by subtraction", "train it with beta above 0")
            subtract = np.asarray(threshold) / np.asarray(leak)
        neuron = Leaky(
            threshold=threshold,
            leak=leak,
            gain=gain,
            reset=reset,
            fire="gt",
            subtract=subtract,
            payload=_payload(layer),
            current_leak=_clipped(layer, "alpha", shape) if "synaptic" in slug else None,
        )
        verdict: Verdict = "approximate" if reset == "soft" and not delayed else "faithful"
        return Population(slug, neuron.parameters(layer.where), layer.kind, PRODUCER, _note(reset, delayed), verdict)

    return made


def _note(reset: Reset, delayed: bool) -> str:
    how = {"soft": "subtracts the threshold", "hard": "sets mem to 0", "none": "no reset"}[reset]
    when = "" if reset == "none" else " one step later" if delayed else " at once"
    more = "; where mem exceeds 2 threshold, snntorch resets otherwise" if reset == "soft" and not delayed else ""
    return f"fires at mem > threshold, {how}{when}{more}"


def _payload(layer: Layer) -> float:
    factor = tensor_of(layer, "graded_spikes_factor")
    if factor is None:
        return 1.0
    if factor.numel() != 1 or not float(factor) > 0:
        raise CompileError(layer.where, "graded_spikes_factor is not one positive number")
    return float(factor)


def _lapicque(layer: Layer) -> tuple[float, float]:
    """What a step keeps of mem and takes of the input, from R, C and time_step."""
    r, c, step = (np.asarray(parameter(layer, key, (1,)), np.float64) for key in ("R", "C", "time_step"))
    return float(1 - step / (r * c)), float(step / c)


def _recurrent(slug: str) -> Callable[[Layer, Shape], Population]:
    def made(layer: Layer, shape: Shape) -> Population:
        synapse = _synapse(layer.inner("recurrent"), shape)
        return replace(_neurons(slug)(layer, shape), lateral=("recurrent", synapse))

    return made


def _synapse(layer: Layer, shape: Shape) -> Synapse:
    if layer.kind == "Linear":
        return linear_node(layer)
    if layer.kind == "Conv2d":
        return conv_node(layer, shape)
    if layer.kind != "RecurrentOneToOne":
        raise CompileError(layer.where, "is not a recurrent connection of snntorch")
    weight = np.broadcast_to(np.asarray(parameter(layer, "V", shape)), shape[:1])
    if len(shape) == 1:
        return nir.Affine(weight=np.diag(weight), bias=np.zeros(shape[0]))
    one = np.ones(2, np.int64)
    kernels, size = weight.reshape(-1, 1, 1, 1).copy(), np.array(shape[1:])
    return nir.Conv2d(size, kernels, one, 0 * one, one, shape[0], np.zeros(shape[0]))


def _returns(*values: str) -> Callable[[Layer], tuple[str, ...] | None]:
    def returned(layer: Layer) -> tuple[str, ...] | None:
        flags = vars(layer.module)
        return values if flags.get("output") or not flags.get("init_hidden") else None

    return returned


RULES: dict[str, Rule] = {
    "snntorch._neurons.leaky.Leaky": Neurons(_one_step, _neurons("leaky"), ("state",), _returns("spikes", "state")),
    "snntorch._neurons.lapicque.Lapicque": Neurons(
        _one_step, _neurons("lapicque"), ("state",), _returns("spikes", "state")
    ),
    "snntorch._neurons.synaptic.Synaptic": Neurons(
        _one_step, _neurons("synaptic"), ("state", "state"), _returns("spikes", "state", "state")
    ),
    "snntorch._neurons.rleaky.RLeaky": Neurons(
        _one_step, _recurrent("rleaky"), ("spikes", "state"), _returns("spikes", "state")
    ),
    "snntorch._neurons.rsynaptic.RSynaptic": Neurons(
        _one_step, _recurrent("rsynaptic"), ("spikes", "state", "state"), _returns("spikes", "state", "state")
    ),
}
