"""Networks that compute the same and ask less of a core: inputs added up in parts, spikes passed on, neurons doubled.

Every remedy is a new integer network in which each population of the old one sends what it sent, only later: delays are
realigned, and the widths of what is new are proven. A sum of integers does not depend on how it is cut, a relay sends
what it hears, and a copy has its original's inputs; so there is nothing to lose.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from snncompile.chip import Numerics
from snncompile.errors import CompileError
from snncompile.network import Fire, Shape
from snncompile.quant_network import IntArray, Population, QuantNetwork, QuantSynapses, pooled_shape
from snncompile.quantization.state_bounds import prove
from snncompile.quantization.verify_integers import SUM_BITS_MAX

ONE_BITS = 2
"""Signed width of the weight 1."""


def realign(network: QuantNetwork) -> QuantNetwork:
    """Depths by the longest path from the input, and the delays that follow (`passes.align_delays`).

    depth = 1 + the largest depth among the sources, and as many steps more as the population waits to mix steps;
    delay_steps = depth - waits - depth of the source, of lateral synapses 1.
    """
    depth = {network.input_name: 0}
    populations: list[Population] = []
    delays: dict[str, int] = {}
    for population in network.populations:
        forward = [s for s in network.inputs_of(population) if s.source != population.name]
        arrival = 1 + max(depth[s.source] for s in forward)
        depth[population.name] = arrival + population.waits
        populations.append(replace(population, depth=depth[population.name]))
        delays |= {s.name: arrival - depth[s.source] for s in forward}
    synapses = tuple(replace(s, delay_steps=delays.get(s.name, 1)) for s in network.synapses)
    return replace(network, synapses=synapses, populations=tuple(populations))


def split_inputs(network: QuantNetwork, synapses_name: str, parts: int) -> QuantNetwork:
    """A layer of synapses W s << e as a sum of `parts`, each over a range of source channels, each added up elsewhere.

    For part i of the channels: synapses NAME_part<i> of its columns of W end in NAME_part<i>_sum, a population of the
    target's shape that sends its sum; NAME_part<i>_sum_out, one to one with weight 1 and exponent e, carry it to the
    target. A core of the target then has `parts` axons a neuron instead of one for every source. Parts of equal size,
    up to one channel (the members of a neuron stay together); of sparse synapses parts without any are left out.

    Needs a chip of graded spikes that hold the sums (`check_payloads`). Raises CompileError naming the layer: no such
    one, lateral, or in groups (each target reads its group only), written by the host, more parts than channels, or a
    sum beyond 32 bits.
    """
    synapses, target = _to_split(network, synapses_name)
    shape = network.read_shape(synapses)
    channels = shape[0] // synapses.members
    if not 2 <= parts <= channels:
        raise CompileError(synapses_name, f"cannot be split into {parts} parts", f"it reads {channels} channels")
    edges = np.arange(parts + 1) * channels // parts
    ranges = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    pieces = [_part(synapses, i, shape, *ends) for i, ends in enumerate(ranges)]
    pieces = [piece for piece in pieces if piece.weight.size]
    adders = [_adder(_fresh(network, f"{piece.name}_sum"), target.shape, (piece.name,)) for piece in pieces]
    ones = [_one_to_one(f"{adder.name}_out", adder.name, target.shape, synapses.exponent) for adder in adders]
    joined = replace(target, synapses=_exchanged(target.synapses, synapses_name, [s.name for s in ones]))
    kept = [s for s in network.synapses if s.name != synapses_name]
    return _proven(network, [*kept, *pieces, *ones], {target.name: [*adders, joined]}, adders)


def relay(network: QuantNetwork, source: str, targets: Sequence[str], numerics: Numerics) -> QuantNetwork:
    """The source's spikes reach `targets` through a population SOURCE_relay, one step later; it reaches fewer cores.

    On a chip of graded spikes the relay sends its sum, of synapses one to one with weight 1. Where spikes are binary it
    is a neuron with a hard reset: u = w << e where the source fired, 0 where not, above its threshold and not below it;
    so it fires when the source does, and its state is always 0.

    Raises CompileError: no such source or target, one that the source does not reach from outside (lateral synapses
    must take one step), the host's currents, or a binary chip without a hard reset.
    """
    sent = _sent_to(network, source, targets)
    name, shape = _fresh(network, f"{source}_relay"), network.shape_of(source)
    if numerics.graded_spikes:
        synapses = _one_to_one(f"{name}_in", source, shape)
        relaying = _adder(name, shape, (synapses.name,))
    else:
        synapses, relaying = _repeater(network, source, name, numerics)
    kept = [replace(s, source=name) if s.name in sent else s for s in network.synapses]
    first = next(p for p in network.populations if sent & set(p.synapses))
    return _proven(network, [*kept, synapses], {first.name: [relaying, first]}, [relaying])


def duplicate(network: QuantNetwork, population: str, target_groups: Sequence[Sequence[str]]) -> QuantNetwork:
    """Copies NAME_copy<i> of a population with copies of all its synapses, each for one group of its targets.

    The population itself serves the first group, what it sends itself included; each copy is lateral to itself.
    Raises CompileError: no such population, fewer than two groups, or groups that do not hold every target once.
    """
    if population not in network.populations_by_name:
        raise CompileError(population, "is no population that can be doubled")
    reached = [network.target_of(s).name for s in network.outputs_of(population)]
    served = [name for group in target_groups for name in group]
    if sorted(served) != sorted(set(reached) - {population}) or len(target_groups) < 2 or not all(target_groups):
        raise CompileError(
            population,
            f"targets {'; '.join(', '.join(group) for group in target_groups)} for {len(target_groups)} copies",
            f"every one of {', '.join(sorted(set(reached) - {population}))} must be in one of two groups or more",
        )
    original = network.populations_by_name[population]
    synapses = {s.name: s for s in network.synapses}
    copies: list[Population] = []
    for group in target_groups[1:]:
        copy = _fresh(network, f"{population}_copy", [p.name for p in copies])
        for s in network.inputs_of(original):
            own = copy if s.source == population else s.source
            of = s.part_of if original.sums else s.part_of or s.name
            synapses[f"{copy}_{s.name}"] = replace(s, name=f"{copy}_{s.name}", source=own, part_of=of)
        copies.append(replace(original, name=copy, synapses=tuple(f"{copy}_{name}" for name in original.synapses)))
        for s in network.outputs_of(population):
            if network.target_of(s).name in group:
                synapses[s.name] = replace(s, source=copy)
    return _proven(network, list(synapses.values()), {population: [original, *copies]}, copies)


def check_payloads(network: QuantNetwork, numerics: Numerics) -> None:
    """Raises CompileError naming a population whose sums the chip's graded spikes do not hold, sign included."""
    for population in network.populations:
        if population.sums and not numerics.graded_spikes:
            raise CompileError(population.name, "sends sums", "the chip's spikes are binary")
        if population.sums and population.input_bits > numerics.payload_bits:
            raise CompileError(
                population.name,
                f"sends sums of {population.input_bits} bits",
                f"the chip's graded spikes have {numerics.payload_bits}; more parts, or fewer weight bits, need fewer",
            )


def unsplit(network: QuantNetwork, synapses: Iterable[QuantSynapses]) -> list[QuantSynapses]:
    """The synapses that say the same without populations that send sums.

    Parts in place of what carries their sum; what reads a relay reads the relay's source.
    """
    found: list[QuantSynapses] = []
    for s in synapses:
        source = network.populations_by_name.get(s.source)
        inputs = network.inputs_of(source) if source is not None and source.sums else ()
        if _is_one_to_one(s) and inputs and all(p.part_of for p in inputs):
            found += unsplit(network, [replace(p, exponent=p.exponent + s.exponent) for p in inputs])
        elif len(inputs) == 1 and _is_one_to_one(inputs[0]) and inputs[0].exponent == 0:
            found += unsplit(network, [replace(s, source=inputs[0].source)])
        else:
            found.append(s)
    return found


def _to_split(network: QuantNetwork, name: str) -> tuple[QuantSynapses, Population]:
    """The layer of synapses and its target; refuses what has no parts."""
    if name not in network.synapses_by_name:
        raise CompileError(name, "is no layer of synapses")
    synapses = network.synapses_by_name[name]
    target = network.target_of(synapses)
    if synapses.source == target.name:
        raise CompileError(name, "is lateral and must take one step", "split the synapses that come from elsewhere")
    if synapses.source == network.input_name and network.input_kind == "currents":
        raise CompileError(name, "carries currents that the host writes", "they take no axons")
    if synapses.groups > 1:
        raise CompileError(name, f"reads its source in {synapses.groups} groups", "cut its output channels instead")
    return synapses, target


def _part(synapses: QuantSynapses, number: int, shape: Shape, first: int, end: int) -> QuantSynapses:
    """The synapses from channels first..end-1, counted after members add up, of what they read."""
    name, of = f"{synapses.name}_part{number}", synapses.part_of or synapses.name
    part = replace(synapses, name=name, exponent=0, part_of=of)
    pooled = pooled_shape(shape, synapses.pool, synapses.members)
    positions = int(np.prod(pooled[1:]))
    if synapses.kind == "sparse":
        row, column = synapses.listed
        here = (column >= first * positions) & (column < end * positions)
        return replace(part, weight=synapses.weight[here], row=row[here], column=column[here])
    before = synapses.reads[0] if synapses.reads else 0
    reads = (before + first * synapses.members, before + end * synapses.members)
    if synapses.kind == "conv":
        return replace(part, weight=synapses.weight[:, first:end], reads=reads)
    weight = synapses.weight[:, first * positions : end * positions]
    return replace(part, weight=weight, reads=reads)


def _adder(name: str, shape: Shape, synapses: tuple[str, ...]) -> Population:
    """A population that sends its sum; depth and widths still to come."""
    zeros, none = np.zeros(shape[0], np.int64), np.zeros((0, shape[0]), np.int64)
    return Population(
        name=name,
        shape=shape,
        synapses=synapses,
        bias=zeros,
        v0=zeros,
        thresholds=none,
        payload=none[:, 0],
        subtract=none,
        decay=zeros,
        reset="hard",
        fire="ge",
        depth=0,
        input_bits=0,
        state_bits=0,
        sends="sum",
    )


def _repeater(network: QuantNetwork, source: str, name: str, numerics: Numerics) -> tuple[QuantSynapses, Population]:
    """A neuron that fires when its source does, on a chip of binary spikes, and its synapses."""
    if "hard" not in numerics.resets:
        raise CompileError(name, "needs a hard reset", f"the chip has: {', '.join(numerics.resets)}")
    shape, grid = network.shape_of(source), numerics.threshold_shift
    fire: Fire = "ge" if "ge" in numerics.fire else "gt"
    shift = grid + (fire == "gt")  # u = 2^shift >= 2^grid, or twice it > 2^grid
    exponent = shift if numerics.exponent_max is None else min(shift, numerics.exponent_max)
    weight = 1 << (shift - exponent)
    bits = min(b for b in numerics.weight_bits if b >= 1 + weight.bit_length())
    synapses = _one_to_one(f"{name}_in", source, shape, exponent, weight, bits)
    of = network.populations_by_name.get(source)
    threshold = np.full((1, shape[0]), 1 << grid)
    repeater = replace(
        _adder(name, shape, (synapses.name,)),
        thresholds=threshold,
        subtract=threshold,
        payload=np.ones(1, np.int64),
        fire=fire,
        members=1 if of is None else of.members,
        open_steps=(1 if network.microsteps > 1 else None) if of is None else of.open_steps,
        sends="levels",
    )
    return synapses, repeater


def _one_to_one(
    name: str, source: str, shape: Shape, exponent: int = 0, weight: int = 1, weight_bits: int = ONE_BITS
) -> QuantSynapses:
    kernel: IntArray = np.full((shape[0], 1, 1, 1), weight)
    return QuantSynapses(name, source, "conv", kernel, weight_bits, exponent, groups=shape[0])


def _is_one_to_one(synapses: QuantSynapses) -> bool:
    """Whether the synapses carry every source to the neuron at its own place, by weight 1."""
    plain = synapses.kind == "conv" and synapses.pool == synapses.stride == (1, 1) and synapses.members == 1
    alone = synapses.weight.shape == (synapses.groups, 1, 1, 1) and synapses.padding == (0, 0)
    return plain and alone and bool((synapses.weight == 1).all())


def _sent_to(network: QuantNetwork, source: str, targets: Sequence[str]) -> set[str]:
    """Names of the synapses from a source to some of its targets."""
    known = {network.input_name} | set(network.populations_by_name)
    if source not in known:
        raise CompileError(source, "is no population")
    if source == network.input_name and network.input_kind == "currents":
        raise CompileError(source, "gives currents that the host writes", "they are no spikes to be passed on")
    reached = {network.target_of(s).name: s for s in network.outputs_of(source) if network.target_of(s).name != source}
    if unreached := [name for name in targets if name not in reached]:
        raise CompileError(source, f"sends nothing to {unreached[0]}", f"it reaches {', '.join(reached) or 'none'}")
    if not targets:
        raise CompileError(source, "has no target to be relayed to")
    return {s.name for s in network.outputs_of(source) if network.target_of(s).name in targets}


def _exchanged(names: tuple[str, ...], old: str, new: list[str]) -> tuple[str, ...]:
    return tuple(n for name in names for n in (new if name == old else [name]))


def _fresh(network: QuantNetwork, name: str, more: Sequence[str] = ()) -> str:
    """The name, or with the first number that no node has yet."""
    taken = {*network.populations_by_name, *network.synapses_by_name, network.input_name, *more}
    return next(n for n in (name, *(f"{name}{i}" for i in range(2, len(taken) + 3))) if n not in taken)


def _proven(
    network: QuantNetwork,
    synapses: list[QuantSynapses],
    exchanged: dict[str, list[Population]],
    new: list[Population],
) -> QuantNetwork:
    """The network with these synapses, some populations exchanged; realigned, the widths of the new ones proven."""
    populations = [p for old in network.populations for p in exchanged.get(old.name, [old])]
    aligned = realign(replace(network, synapses=tuple(synapses), populations=tuple(populations)))
    for name in [population.name for population in new]:
        population = aligned.populations_by_name[name]
        bounds = prove(aligned, population)
        if population.sums and bounds.input_bits > SUM_BITS_MAX:
            raise CompileError(name, f"would send sums of {bounds.input_bits} bits", f"at most {SUM_BITS_MAX}")
        proven = replace(population, input_bits=bounds.input_bits, state_bits=bounds.state_bits)
        known = tuple(proven if p.name == name else p for p in aligned.populations)
        aligned = replace(aligned, populations=known)
    return aligned
