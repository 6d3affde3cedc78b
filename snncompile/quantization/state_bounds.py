"""Interval arithmetic that proves how many bits the state of a population needs."""

from dataclasses import dataclass

import numpy as np

from snncompile.network import Reset
from snncompile.quant_network import (
    DECAY_ONE,
    MIX_SHIFT,
    IntArray,
    Population,
    QuantNetwork,
    QuantSynapses,
    pooled_shape,
)


@dataclass(frozen=True, eq=False)
class Bounds:
    """Per channel: least and largest summed input, and state (u and v of all T steps); the widths that hold them."""

    input_low: IntArray
    input_high: IntArray
    state_low: IntArray
    state_high: IntArray

    @property
    def input_bits(self) -> int:
        return signed_bits(self.input_low, self.input_high)

    @property
    def state_bits(self) -> int:
        return signed_bits(self.state_low, self.state_high)


def signed_bits(low: IntArray, high: IntArray) -> int:
    """Bits of the narrowest two's-complement integer that holds every value of low..high."""
    return 1 + max(int(high.max()).bit_length(), int(-1 - low.min()).bit_length() if low.min() < 0 else 0)


def decay(v: IntArray, rate: int) -> IntArray:
    """sign(v) * ((|v| * (4096 - rate)) >> 12): toward zero, as Loihi."""
    return np.sign(v) * ((np.abs(v) * (DECAY_ONE - rate)) >> 12)


def input_interval(synapses: QuantSynapses, payload_max: int, signed: bool = False) -> tuple[IntArray, IntArray]:
    """Least and largest (W s) << exponent per output channel, over all s of 0..payload_max (signed: from -payload_max).

    Sums of the negative and of the positive weights: reached exactly by a position that sees the whole kernel.
    """
    largest = payload_max * synapses.pool[0] * synapses.pool[1] * synapses.members
    low, high = (sums * largest << synapses.exponent for sums in synapses.row_sums)
    return (low - high, high - low) if signed else (low, high)


def interval_of_sums(
    network: QuantNetwork, synapses: QuantSynapses, low: IntArray, high: IntArray
) -> tuple[IntArray, IntArray]:
    """Least and largest (W s) << exponent per output channel, for s of low..high, one interval a source channel.

    low <= 0 <= high (channels of the source,), so that a position which sees a part of the kernel stays within.
    """
    members, windows = synapses.members, synapses.pool[0] * synapses.pool[1]
    reads = slice(*(synapses.reads or (0, len(low))))
    low, high = (ends[reads].reshape(-1, members).sum(1) * windows for ends in (low, high))
    if synapses.kind == "sparse":
        row, column = synapses.listed
        pooled = pooled_shape(network.read_shape(synapses), synapses.pool, members)
        channel = column // int(np.prod(pooled[1:]))
        ends = (synapses.weight * low[channel], synapses.weight * high[channel])
        least, largest = np.zeros((2, synapses.channels), np.int64)
        np.add.at(least, row, np.minimum(*ends))
        np.add.at(largest, row, np.maximum(*ends))
    else:
        groups = synapses.groups
        weight = synapses.weight.reshape(groups, synapses.channels // groups, len(low) // groups, -1)
        ends = (weight * low.reshape(groups, 1, -1, 1), weight * high.reshape(groups, 1, -1, 1))
        least, largest = np.minimum(*ends).sum((2, 3)).ravel(), np.maximum(*ends).sum((2, 3)).ravel()
    return least << synapses.exponent, largest << synapses.exponent


def prove(network: QuantNetwork, population: Population) -> Bounds:
    """Bounds that hold for every input and all T steps of a sample, per channel, for the actual integers.

    Sums are passed on with the interval of each channel in each step, so that adding up in parts costs no bit.
    u lies in [decay(v_low) + a_low + bias, decay(v_high) + a_high + bias]; a soft reset at level j takes u in
    [threshold_j, threshold_{j+1}) to u - subtract_j, so v_high is the largest such end. Interval arithmetic; no float.
    """
    arriving = [_arriving(network, population, t) for t in range(network.timesteps)]
    if population.sums:
        low = np.min([low for low, _ in arriving], axis=0)
        high = np.max([high for _, high in arriving], axis=0)
        return Bounds(low, high, low, high)
    biased = [(low + population.bias, high + population.bias) for low, high in arriving]
    lateral = _lateral(network, population)
    v_low, v_high = population.v0, population.v0
    state_low, state_high = v_low, v_high
    if population.mixing is not None:  # the stored inputs are states, too
        state_low = np.min([v_low, *(low for low, _ in biased)], axis=0)
        state_high = np.max([v_high, *(high for _, high in biased)], axis=0)
    for t in range(network.timesteps):
        micro = t % network.microsteps
        current_low, current_high = _mixed(population, biased, t)
        if t > 0:
            current_low, current_high = current_low + lateral[0], current_high + lateral[1]
        rate = population.decay if micro == 0 else 0
        u_low, u_high = decay(v_low, rate) + current_low, decay(v_high, rate) + current_high
        state_low, state_high = np.minimum(state_low, u_low), np.maximum(state_high, u_high)
        reset: Reset = population.reset if population.is_open(micro) else "none"
        v_low, v_high = _after_reset(population, u_low, u_high, reset)
        state_low, state_high = np.minimum(state_low, v_low), np.maximum(state_high, v_high)
    low = np.min([bounds[0] for bounds in arriving], axis=0) + np.minimum(lateral[0], 0)
    high = np.max([bounds[1] for bounds in arriving], axis=0) + np.maximum(lateral[1], 0)
    return Bounds(low, high, state_low, state_high)


def _arriving(network: QuantNetwork, population: Population, step: int) -> tuple[IntArray, IntArray]:
    """The interval of a[step], lateral synapses apart; a source that cannot send in this micro-step gives 0."""
    low = high = np.zeros_like(population.bias)
    micro = step % network.microsteps
    for synapses in network.inputs_of(population):
        is_input = synapses.source == network.input_name
        if synapses.source == population.name:
            continue
        if not (micro == 0 if is_input else network.populations_by_name[synapses.source].is_open(micro)):
            continue
        if not is_input and (source := network.populations_by_name[synapses.source]).sums:
            added = interval_of_sums(network, synapses, *_arriving(network, source, step))
            low, high = low + added[0], high + added[1]
            continue
        signed = is_input and network.input_kind == "currents"
        added = input_interval(synapses, network.payload_max_of(synapses.source), signed)
        low, high = low + added[0], high + added[1]
    return low, high


def _lateral(network: QuantNetwork, population: Population) -> tuple[IntArray, IntArray]:
    """The interval of what a population sends itself, from the second step of a sample on."""
    low = high = np.zeros_like(population.bias)
    for synapses in network.inputs_of(population):
        if synapses.source == population.name:
            added = input_interval(synapses, population.payload_max)
            low, high = low + added[0], high + added[1]
    return low, high


def _mixed(population: Population, biased: list[tuple[IntArray, IntArray]], step: int) -> tuple[IntArray, IntArray]:
    """The interval of I[step] from those of a + bias in every step."""
    if population.mixing is None:
        return biased[step]
    low = high = np.zeros_like(population.bias)
    for weight, (least, largest) in zip(population.mixing[step], biased, strict=True):
        ends = (weight * least, weight * largest)
        low, high = low + np.minimum(*ends), high + np.maximum(*ends)
    return low >> MIX_SHIFT, high >> MIX_SHIFT


def _after_reset(population: Population, u_low: IntArray, u_high: IntArray, reset: Reset) -> tuple[IntArray, IntArray]:
    """The interval of v once u in [u_low, u_high] has fired; an interval a level cannot reach is left out."""
    if reset == "none" or not population.spiking:
        return u_low, u_high
    strict = int(population.fire == "gt")
    first = population.thresholds + strict
    last = np.vstack([first[1:] - 1, np.full_like(u_high, np.iinfo(np.int64).max)])
    subtract = population.subtract if reset == "soft" else None
    v_low, v_high = u_low.copy(), np.minimum(u_high, first[0] - 1)
    silent = u_low < first[0]
    v_low = np.where(silent, v_low, np.iinfo(np.int64).max)
    v_high = np.where(silent, v_high, np.iinfo(np.int64).min)
    for j in range(len(first)):
        reached = (u_high >= first[j]) & (u_low <= last[j])
        a, b = np.maximum(u_low, first[j]), np.minimum(u_high, last[j])
        a, b = (a - subtract[j], b - subtract[j]) if subtract is not None else (a * 0, b * 0)
        v_low = np.where(reached, np.minimum(v_low, a), v_low)
        v_high = np.where(reached, np.maximum(v_high, b), v_high)
    return v_low, v_high
