"""How the neurons of a network are put on a chip, and what is claimed of that: decided before anything is changed.

graded    one neuron stays one, its level is the payload of a graded spike
r1        n levels become n binary neurons (members) on the same input, member j with threshold j. One step a sample,
          or no reset: nothing more. Soft reset: when member j fires, lateral synapses take leak * (r_j - r_{j-1}) off
          all members one step later, and no member resets itself: all hold the membrane of the one neuron
burst     a time step becomes n micro-steps: the neuron waits for all spikes of the step, then fires up to once a
          micro-step, each spike taking one threshold off
uniform   as burst, but the input of a step comes in n equal parts (arXiv 2402.00411, reparameterisation)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from snncompile.chip import Numerics
from snncompile.errors import CompileError, nearest
from snncompile.network import Array, MultiThresholdLIF, Network, Synapses, waits

Mode = Literal["auto", "graded", "r1", "burst", "uniform"]
MODES: tuple[Mode, ...] = get_args(Mode)

TOLERANCE = 1e-9
"""Relative; thresholds and what is subtracted count as equidistant within this."""


@dataclass(frozen=True)
class Lowered:
    """What becomes of one population: how, what is claimed of it, and into how many members."""

    lowering: str
    exactness: str
    members: int = 1


def resolve(mode: str, numerics: Numerics) -> Mode:
    """The lowering that a mode means on this chip. Raises CompileError: no such mode, or the chip cannot do it."""
    if mode not in MODES:
        raise CompileError("--lowering", f"no lowering {mode!r}", nearest(mode, MODES))
    if mode == "auto":
        return "graded" if numerics.graded_spikes else "r1"
    if mode == "graded" and not numerics.graded_spikes:
        raise CompileError("--lowering graded", "the chip's spikes are binary", "use --lowering auto or r1")
    if mode in ("burst", "uniform") and not numerics.step_mixing:
        raise CompileError(
            f"--lowering {mode}", "the chip's neurons cannot store the spikes of a step", "use --lowering auto or r1"
        )
    return next(known for known in MODES if known == mode)


def plan(network: Network, numerics: Numerics, mode: Mode) -> Mapping[str, Lowered]:
    """Of every population (readouts that sum, too) what becomes of it; `mode` is resolved.

    Needs: folded payloads. Raises CompileError naming the layer that the mode cannot lower, with what can.
    """
    planned = {neuron.name: _of_neuron(network, neuron, mode) for neuron in network.neurons}
    readout = network.readout
    if is_spread(network, mode) and readout.current_leak is not None:
        problem = f"has a synaptic current, and --lowering {mode} spreads a time step out"
        raise CompileError(readout.name, problem, "use --lowering auto")
    if not isinstance(network.by_name[readout.inputs[0]], MultiThresholdLIF):
        planned[readout.name] = Lowered("accumulate", "exact")
    elif planned[readout.inputs[0]].members > 1:
        raise CompileError(
            readout.inputs[0],
            "its graded spikes are counted by the host, who cannot weigh them where they are binary",
            "let a linear layer follow, or use a target with graded spikes",
        )
    return planned


def levels(neuron: MultiThresholdLIF) -> int:
    return len(neuron.thresholds)


def is_spread(network: Network, mode: Mode) -> bool:
    """Whether time steps become several micro-steps."""
    return mode in ("burst", "uniform") and max(map(levels, network.neurons), default=1) > 1


def _of_neuron(network: Network, neuron: MultiThresholdLIF, mode: Mode) -> Lowered:
    if is_spread(network, mode):
        return _spread(network, neuron, mode)
    stored = waits(neuron.mixing)
    store = "" if neuron.mixing is None else f", store and forward ({stored} steps)" if stored else ", streaming mixing"
    if levels(neuron) == 1 and neuron.payload[0] == 1:
        return Lowered(f"native{store}", "exact")
    if mode == "graded":
        return Lowered(f"graded{store}", "exact")
    n = levels(neuron)
    if more := neuron.beyond_lif:
        raise CompileError(
            neuron.name,
            f"has {n} thresholds and {', '.join(more)}: binary neurons cannot do that exactly",
            "train it with one threshold, or use a target with graded spikes",
        )
    if network.timesteps == 1:
        return Lowered(f"{n} binary members, one step{store}", "exact", n)
    if neuron.reset == "none":
        return Lowered(f"{n} binary members{store}", "exact", n)
    if neuron.reset == "soft":
        return Lowered(f"{n} binary members, lateral inhibition{store}", "exact", n)
    raise CompileError(
        neuron.name,
        f"has {n} thresholds and a hard reset, T = {network.timesteps}: binary neurons cannot do that exactly",
        'train with reset="soft" or T = 1, or use a target with graded spikes',
    )


def _spread(network: Network, neuron: MultiThresholdLIF, mode: Mode) -> Lowered:
    if laterals := network.laterals(neuron):
        raise CompileError(
            laterals[0],
            f"is recurrent, and --lowering {mode} spreads a time step out: what it carries would act within the step",
            "use --lowering r1",
        )
    if more := neuron.beyond_lif:
        raise CompileError(
            neuron.name,
            f"has {', '.join(more)}, and --lowering {mode} spreads a time step out",
            "use --lowering auto",
        )
    if levels(neuron) > 1 and not is_equidistant(neuron):
        raise CompileError(
            neuron.name,
            f"--lowering {mode} needs equidistant thresholds, payloads 1, 2, 3, ... and a soft reset by the threshold",
            "use --lowering r1",
        )
    if mode == "burst" or levels(neuron) == 1:
        return Lowered(mode, "exact")
    return Lowered(mode, _uniform_exactness(network, neuron))


def is_equidistant(neuron: MultiThresholdLIF) -> bool:
    """theta_j = j * theta, soft reset by j * theta, payload j."""
    j = np.arange(1, levels(neuron) + 1)
    theta = float(neuron.thresholds[0])
    tolerance = TOLERANCE * theta
    return bool(
        neuron.reset == "soft"
        and (np.abs(neuron.thresholds - j * theta) <= tolerance).all()
        and (np.abs(neuron.subtract - j * theta) <= tolerance).all()
        and (neuron.payload == j).all()
    )


def _uniform_exactness(network: Network, neuron: MultiThresholdLIF) -> str:
    """The conditions of `nn.lm_ht.single_threshold`, checked on the actual weights.

    A membrane left above threshold by a saturated step fires in an early part of the next step, before a negative
    current is all in; that cannot be where there is one step, no negative current, or no saturation.
    """
    low, high = current_interval(network, neuron)
    theta = float(neuron.thresholds[0])
    if not 0 <= neuron.v0 < theta:
        return "approximate: v0 is not in [0, threshold)"
    if network.timesteps == 1:
        return "exact (checked: one time step)"
    if (low >= 0).all():
        return "exact (checked: no current is negative)"
    if np.max(neuron.leak) <= 1 and (high < levels(neuron) * theta).all():
        return "exact (checked: every current is below the largest threshold)"
    return "approximate: a current may be negative after a saturated step"


def current_interval(network: Network, neuron: MultiThresholdLIF) -> tuple[Array, Array]:
    """Least and largest input current I (T, channels) over all inputs: interval arithmetic on the actual weights."""
    low = high = np.zeros(network.shapes[neuron.name][0])
    for synapses in (node for name in neuron.inputs if isinstance(node := network.by_name[name], Synapses)):
        weight = synapses.weight * (synapses.pool[0] * synapses.pool[1])
        weight = weight * _largest_payload(network, synapses.inputs[0])
        low = low + synapses.row_sums(np.minimum(weight, 0)) + synapses.bias
        high = high + synapses.row_sums(np.maximum(weight, 0)) + synapses.bias
    mixing = np.eye(network.timesteps) if neuron.mixing is None else neuron.mixing
    up, down = np.maximum(mixing, 0).sum(1)[:, None], np.minimum(mixing, 0).sum(1)[:, None]
    return up * low + down * high, up * high + down * low


def _largest_payload(network: Network, source: str) -> float:
    node = network.by_name[source]
    if isinstance(node, MultiThresholdLIF):
        return float(node.payload.max())
    return network.input.largest if network.input.coding == "events" else 1.0
