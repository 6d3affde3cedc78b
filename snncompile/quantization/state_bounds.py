"""Interval arithmetic that proves how many bits the state of a population needs."""

from collections.abc import Sequence
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

Ends = tuple[IntArray, IntArray]
"""Least and largest value of every channel (channels,)."""


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


def decay(v: IntArray, rate: int | IntArray) -> IntArray:
    """sign(v) * ((|v| * (4096 - rate)) >> 12): toward zero, as Loihi."""
    keep: IntArray = np.asarray(DECAY_ONE - rate, np.int64)
    return np.sign(v) * ((np.abs(v) * keep) >> 12)


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
    u lies in [decay(v_low) + i_low + drive, decay(v_high) + i_high + drive], less the adaptation; a soft reset at level
    j takes u in [threshold_j, threshold_{j+1}) to u - subtract_j, so v_high is the largest such end. The state is all
    that is kept: u, v, the synaptic current, stored input, adapted thresholds. Interval arithmetic; no float.
    """
    steady = _steady(network)
    arriving = [_arriving(network, population, t) for t in range(steady + 1)]
    arriving += arriving[-1:] * (network.timesteps - len(arriving))
    if population.sums:
        low = np.min([low for low, _ in arriving], axis=0)
        high = np.max([high for _, high in arriving], axis=0)
        return Bounds(low, high, low, high)
    biased = [(low + population.bias, high + population.bias) for low, high in arriving]
    seen = _Seen(population.v0)
    if population.mixing is not None:  # the stored inputs are states, too
        for ends in biased:
            seen.add(*ends)
    zero = np.zeros_like(population.bias)
    v = (population.v0, population.v0)
    i = (zero, zero)
    h = (zero, zero) if population.adapt_start is None else (population.adapt_start, population.adapt_start)
    laterals = (zero, zero)
    before: tuple[IntArray, ...] = ()
    for t in range(network.timesteps):
        if t > steady + 1 and population.mixing is None and _same((*v, *i, *h), before):
            break  # every later step is this one
        before = (*v, *i, *h)
        micro = t % network.microsteps
        laterals = _lateral(network, population, t)
        current = _plus(_mixed(population, biased, t), laterals)
        rate = 0 if population.current_decay is None else population.current_decay
        i = current if population.current_decay is None else _plus(_decayed(i, rate), current)
        u = _plus(_decayed(v, population.decay if micro == 0 else 0), i)
        u = u if population.drive is None else _plus(u, (population.drive, population.drive))
        if population.adapt_decay is not None and population.adapt_step is not None:
            most = population.adapt_step * (len(population.thresholds) if t > 0 else 0)
            h = _plus(_decayed(h, population.adapt_decay), (zero, most))
            u = (u[0] - h[1], u[1]) if population.adapt_resets and t > 0 else u
            seen.add(h[0], h[1] + population.thresholds.max(axis=0, initial=0))
        reset: Reset = population.reset if population.is_open(micro) else "none"
        v = _after_reset(population, u, h, reset)
        if population.floor is not None:
            v = (np.maximum(v[0], population.floor), np.maximum(v[1], population.floor))
        for ends in (i, u, v):
            seen.add(*ends)
    low = np.min([bounds[0] for bounds in arriving], axis=0) + np.minimum(laterals[0], 0)
    high = np.max([bounds[1] for bounds in arriving], axis=0) + np.maximum(laterals[1], 0)
    return Bounds(low, high, seen.low, seen.high)


def _steady(network: QuantNetwork) -> int:
    """A step from which on every source sends within the same interval."""
    if network.microsteps > 1:
        return network.timesteps - 1
    return min(network.timesteps - 1, 1 + sum(synapses.lag for synapses in network.synapses))


def _same(one: Sequence[IntArray], other: Sequence[IntArray]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


class _Seen:
    """Least and largest value of every state so far (channels,)."""

    def __init__(self, start: IntArray) -> None:
        self.low = self.high = start

    def add(self, low: IntArray, high: IntArray) -> None:
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)


def _plus(one: Ends, other: Ends) -> Ends:
    return one[0] + other[0], one[1] + other[1]


def _decayed(ends: Ends, rate: int | IntArray) -> Ends:
    return decay(ends[0], rate), decay(ends[1], rate)


def _arriving(network: QuantNetwork, population: Population, step: int) -> Ends:
    """The interval of a[step], lateral synapses apart; a source that cannot send in this micro-step gives 0."""
    low = high = np.zeros_like(population.bias)
    for synapses in network.inputs_of(population):
        is_input, sent = synapses.source == network.input_name, step - synapses.lag
        if synapses.source == population.name or sent < 0:
            continue
        micro = sent % network.microsteps
        if not (micro == 0 if is_input else network.populations_by_name[synapses.source].is_open(micro)):
            continue
        if not is_input and (source := network.populations_by_name[synapses.source]).sums:
            added = interval_of_sums(network, synapses, *_arriving(network, source, sent))
            low, high = low + added[0], high + added[1]
            continue
        signed = is_input and network.input_kind == "currents"
        added = input_interval(synapses, network.payload_max_of(synapses.source), signed)
        low, high = low + added[0], high + added[1]
    return low, high


def _lateral(network: QuantNetwork, population: Population, step: int) -> Ends:
    """The interval of what a population sends itself."""
    low = high = np.zeros_like(population.bias)
    for synapses in network.inputs_of(population):
        if synapses.source == population.name and step > synapses.lag:
            added = input_interval(synapses, population.payload_max)
            low, high = low + added[0], high + added[1]
    return low, high


def _mixed(population: Population, biased: list[Ends], step: int) -> Ends:
    """The interval of I[step] from those of a + bias in every step."""
    if population.mixing is None:
        return biased[step]
    low = high = np.zeros_like(population.bias)
    for weight, (least, largest) in zip(population.mixing[step], biased, strict=True):
        ends = (weight * least, weight * largest)
        low, high = low + np.minimum(*ends), high + np.maximum(*ends)
    return low >> MIX_SHIFT, high >> MIX_SHIFT


def _after_reset(population: Population, u: Ends, adapted: Ends, reset: Reset) -> Ends:
    """The interval of v once u has fired at thresholds + `adapted`; an interval a level cannot reach is left out."""
    if reset == "none" or not population.spiking:
        return u
    u_low, u_high = u
    strict = int(population.fire == "gt")
    first = population.thresholds + strict + adapted[0]
    latest = population.thresholds + strict + adapted[1]
    last = np.vstack([latest[1:] - 1, np.full_like(u_high, np.iinfo(np.int64).max)])
    subtract = population.subtract if reset == "soft" else None
    v_low, v_high = u_low.copy(), np.minimum(u_high, latest[0] - 1)
    silent = u_low < latest[0]
    v_low = np.where(silent, v_low, np.iinfo(np.int64).max)
    v_high = np.where(silent, v_high, np.iinfo(np.int64).min)
    for j in range(len(first)):
        reached = (u_high >= first[j]) & (u_low <= last[j])
        a, b = np.maximum(u_low, first[j]), np.minimum(u_high, last[j])
        a, b = (a - subtract[j], b - subtract[j]) if subtract is not None else (a * 0, b * 0)
        v_low = np.where(reached, np.minimum(v_low, a), v_low)
        v_high = np.where(reached, np.maximum(v_high, b), v_high)
    return v_low, v_high
