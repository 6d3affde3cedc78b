"""Which populations Lava's own Processes compute exactly, and why the others are not among them."""

import numpy as np

from snncompile.quant_network import Population, QuantNetwork, QuantSynapses
from snncompile.quantization.state_bounds import prove

SHIFT = 6
"""Bits by which a stock neuron shifts its input and its threshold up."""

STATE_LIMIT = 1 << 23
"""A stock state of 24 bits lies above -2^23 and below 2^23."""

VTH_MAX, BIAS_MIN, BIAS_MAX, BIAS_EXPONENT_MAX = (1 << 17) - 1, -4096, 4095, 7
"""Fields of lava-nc 0.10.0's LIF (proc/lif/models.py): vth 17 bits, bias mantissa 13 bits, exponent 3 bits."""

DECAY_MAX = 4095
"""dv of 12 bits; du is one less than the decay of the current."""


def fused_because(network: QuantNetwork, population: Population) -> str:
    """Why a population stays in one fused Process in the stock style, in words; empty where stock is exact.

    Stock: the Processes Dense, Conv or Sparse and LIFReset of lava-nc 0.10.0 in fixed point (emitted/stock.py).
    """
    reasons = [*_neurons(network, population), *_numbers(population)]
    for synapses in network.inputs_of(population):
        reasons += [f"{synapses.name}: {reason}" for reason in _connection(network, synapses)]
    return "; ".join(reasons or _width(network, population))


def _neurons(network: QuantNetwork, population: Population) -> list[str]:
    """What a stock LIF cannot do at all."""
    micro = network.microsteps > 1 and (population.decay.any() or population.open_steps is not None)
    hard = population.reset == "hard"
    levels = len(population.thresholds)
    found = {
        "it sends its sum": population.sums,
        f"{levels} thresholds": levels > 1,
        "its payload is not 1": levels == 1 and population.payload.tolist() != [1],
        f"reset {population.reset}": levels > 0 and not hard,
        "it mixes steps": population.mixing is not None,
        "it starts at v0, LIFReset at 0": bool(population.v0.any()),
        "micro-steps without decay or without spikes": bool(micro),
        "a floor": population.floor is not None,
        "an adaptive threshold": population.adapt_decay is not None,
        "its current integrates the bias": population.current_decay is not None and bool(population.bias.any()),
    }
    return [reason for reason, there in found.items() if there]


def _numbers(population: Population) -> list[str]:
    """What the fields of a stock LIF do not hold."""
    found = []
    if population.decay.min() < 0 or population.decay.max() > DECAY_MAX:
        found.append(f"a decay outside 0 to {DECAY_MAX}")
    current = population.current_decay
    if current is not None and (current.min() < 1 or current.max() > DECAY_MAX + 1):
        found.append(f"a decay of its current outside 1 to {DECAY_MAX + 1}")
    bias = population.bias + (0 if population.drive is None else population.drive)
    exponent = next(e for e in range(BIAS_EXPONENT_MAX, -1, -1) if not (bias & ((1 << e) - 1)).any())
    mantissa = bias >> exponent
    if mantissa.min() < BIAS_MIN or mantissa.max() > BIAS_MAX:
        found.append("a bias of more than 13 bits and an exponent")
    return found + _threshold(population, bias)


def _width(network: QuantNetwork, population: Population) -> list[str]:
    """A stock LIF wraps and clips what leaves its 24 bits; proven of every input and state."""
    bounds = prove(network, population)
    least = min(bounds.input_low.min(), bounds.state_low.min())
    most = max(bounds.input_high.max(), bounds.state_high.max())
    return ["a state of more than 24 bits"] if least <= -STATE_LIMIT or most >= STATE_LIMIT else []


def _threshold(population: Population, bias: np.ndarray) -> list[str]:
    """v > vth << 6 must part the states as the threshold does: it is a multiple of 64, or all states are."""
    if len(population.thresholds) != 1:
        return []
    strict = population.thresholds[0] - (population.fire == "ge")
    steps = population.rounds or bool((bias & ((1 << SHIFT) - 1)).any())
    if steps and (strict & ((1 << SHIFT) - 1)).any():
        return ["a threshold that is no multiple of 64 (above it, or one less than it where u >= threshold fires)"]
    vth = strict >> SHIFT
    return ["a threshold of more than 17 bits times 64, or below 0"] if vth.min() < 0 or vth.max() > VTH_MAX else []


def _connection(network: QuantNetwork, synapses: QuantSynapses) -> list[str]:
    """What a stock Dense, Conv or Sparse does not carry."""
    lateral = network.target_of(synapses).name == synapses.source
    height, width = (*network.shape_of(synapses.source), 1, 1)[1:3]
    pooled = synapses.pool != (1, 1)
    left_over = pooled and (height % synapses.pool[0] or width % synapses.pool[1])
    small = int(synapses.weight.min(initial=0)) >= -128 and int(synapses.weight.max(initial=0)) <= 127
    found = {
        "what it sends itself must not cross from one sample into the next": lateral,
        "a lag": synapses.lag > 0,
        f"a delay of {synapses.delay_steps} steps": synapses.delay_steps > 1 and not lateral,
        f"exponent {synapses.exponent}, stock input is shifted by 6": synapses.exponent < SHIFT,
        "weights of more than 8 bits": not small,
        "it reads a part of its source": synapses.reads is not None,
        "sparse synapses of summed members or windows": synapses.kind == "sparse"
        and (pooled or synapses.members > 1),
        "rows or columns that fill no pool window": synapses.kind == "conv" and bool(left_over),
    }  # fmt: skip
    return [reason for reason, there in found.items() if there]
