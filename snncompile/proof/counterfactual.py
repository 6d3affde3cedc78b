"""Why the integers of a population fired differently from the trained numbers: one thing made exact at a time."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from snncompile import reference
from snncompile.mapping.remedies import unsplit
from snncompile.network import INPUT_PAYLOAD_MAX, SYNAPSES, Array, MultiThresholdLIF, Network, Synapses
from snncompile.program import Program
from snncompile.proof.rerun import Recipe, arriving, as_node, integer_recipe, lateral_of, part_of, per_channel, run
from snncompile.quant_network import IntArray, Population, QuantSynapses

FIRE = "fire rule (`>` and `>=` exchanged)"
CLIPPING = "clipping of weights"
INPUT = "input coding"
WEIGHTS = "rounding of weights"
BIAS = "rounding of the bias"
THRESHOLD = "rounding of the threshold"
ADAPTATION = "rounding of the adaptation"
START = "rounding of v0"
LEAK = "leak rounded to 12 bits"
TRUNCATION = "decay truncation (toward zero)"
MIXING = "rounding of the mixing of steps"

CODINGS = {
    "pixels": "pixels rounded to 8 bits",
    "currents": "input currents computed and rounded by the host",
    "rate": "rate-coded spikes",
    "events": "events",
}


@dataclass(frozen=True, eq=False)
class Exactly:
    """One population of an integer network beside its node of the lowered float network, on one sample.

    sent: payloads of its sources in the integer network (T, 1, *shape); values: what the float network's input sends
    (T, 1, *shape).
    """

    program: Program
    lowered: Network
    layer: str
    sent: Mapping[str, IntArray]
    values: Array

    @property
    def population(self) -> Population:
        return self.program.network.populations_by_name[self.layer]

    @property
    def node(self) -> MultiThresholdLIF:
        node = self.lowered.by_name[self.layer]
        assert isinstance(node, MultiThresholdLIF)
        return node

    @cached_property
    def unit(self) -> Array:
        """(channels,) value of one unit of the state."""
        return self.program.host.state[self.layer]

    @cached_property
    def recipe(self) -> Recipe:
        return integer_recipe(self.program.network, self.population, self.sent)

    @cached_property
    def integer_membranes(self) -> Array:
        """u of the integers, (T, 1, *shape)."""
        return run(self.recipe).u

    def causes(self, at: tuple[int, ...], wanted: IntArray) -> tuple[str, list[str]]:
        """The cause of a difference at (step, 0, channel, ...), and all single changes that mend it.

        wanted (T, 1, *shape): levels of the lowered float network. Changes mend when the neuron fires as wanted in
        every step up to the one that differs. Where no single one does: a smallest set that does together.
        """
        possible = self.possible(at)
        mended = [name for name in possible if self._mends({name}, at, wanted)]
        if mended:
            return self._named(mended[0]), mended
        needed = [name for name in possible if name not in (FIRE, CLIPPING)]  # the exact threshold and weights do both
        if not self._mends(needed, at, wanted):
            return "not explained by rounding: the integers are not those of the trained network", []
        for name in tuple(needed):
            if self._mends(rest := [other for other in needed if other != name], at, wanted):
                needed = rest
        return f"several of: {', '.join(map(self._named, needed))}", []

    def _named(self, cause: str) -> str:
        return f"{INPUT} ({CODINGS[self.program.host.encoder.kind]})" if cause == INPUT else cause

    def _mends(self, changes: Collection[str], at: tuple[int, ...], wanted: IntArray) -> bool:
        k, neuron = run(self.with_exact(changes)).k, cast(Any, (..., *at[1:]))
        one, two = (levels[: at[0] + 1][neuron] for levels in (k, wanted))
        return bool((one == two).all())

    def possible(self, at: tuple[int, ...]) -> list[str]:
        """The changes that are one here, the narrowest first."""
        node = self.node
        given = {
            FIRE: self._exchanged(at),
            CLIPPING: any(self._cut(s).any() for s in self.program.network.inputs_of(self.population)),
            INPUT: self._by_host or self._coded is not None,
            BIAS: not self._by_host,
            LEAK: any((self._leaks[name] != getattr(self.recipe, name)).any() for name in self._leaks),
            TRUNCATION: any((leak != 1).any() for leak in self._leaks.values()),
            MIXING: node.mixing is not None,
            ADAPTATION: node.adapt_leak is not None,
        }
        order = (FIRE, CLIPPING, INPUT, WEIGHTS, BIAS, THRESHOLD, ADAPTATION, START, LEAK, TRUNCATION, MIXING)
        return [name for name in order if given.get(name, True)]

    def with_exact(self, changes: Collection[str]) -> Recipe:
        """The recipe with these parts as trained."""
        node, unit = self.node, self.unit
        found: dict[str, Any] = {}
        if {CLIPPING, INPUT, WEIGHTS} & set(changes):
            found["arriving"] = self._arriving(changes)
        if {CLIPPING, WEIGHTS} & set(changes):
            found["lateral"] = lateral_of([self._node(s, changes) for s in self._synapses(lateral=True)])
        if FIRE in changes or THRESHOLD in changes:
            found["fire"] = node.fire
        if THRESHOLD in changes:
            found["thresholds"] = _by_channel(node.thresholds, unit) / unit
            found["subtract"] = _by_channel(node.subtract, unit) / unit
        found |= {"bias": self._bias() / unit} | self._given("drive") if BIAS in changes else {}
        found |= {"start": node.v0 / unit} | self._given("floor") if START in changes else {}
        found |= self._given("adapt_step", "adapt_start") if ADAPTATION in changes else {}
        found |= self._leaks if LEAK in changes else {}
        found |= {"rounding": "none"} if TRUNCATION in changes else {}
        found |= {"mixing": node.mixing, "mixing_floor": False} if MIXING in changes else {}
        return replace(self.recipe, **found)

    @cached_property
    def _leaks(self) -> dict[str, Array]:
        """The leaks of the states that there are, by channel."""
        given = {name: getattr(self.node, name) for name in ("leak", "current_leak", "adapt_leak")}
        like = np.zeros(self.unit.shape)
        return {name: like + leak for name, leak in given.items() if leak is not None}

    def _given(self, *names: str) -> dict[str, Array]:
        """Constants as trained, in units of the state; none that the recipe does not have."""
        there = (name for name in names if getattr(self.recipe, name) is not None)
        return {name: np.asarray(getattr(self.node, name)) / self.unit for name in there}

    def _exchanged(self, at: tuple[int, ...]) -> bool:
        """Whether the state lies on a threshold, compared by the other rule and not moved by one for that."""
        if self.population.fire == self.node.fire:
            return False
        thetas = self.population.thresholds[:, at[2]]
        trained = _by_channel(self.node.thresholds, self.unit)[:, at[2]] / self.unit[at[2]]
        on = thetas == self.integer_membranes[at]
        return bool((on & (np.abs(thetas - trained) <= 0.5)).any())

    def _arriving(self, changes: Collection[str]) -> Array:
        """What arrives (T, 1, *shape) with weights and input as trained where `changes` say so."""
        name, parts, sent = self.program.network.input_name, [], dict[str, NDArray[np.generic]](self.sent)
        if INPUT in changes and self._coded is not None:
            sent[name] = self._coded
        for synapses in self._synapses(lateral=False):
            if synapses.source == name and self._by_host and INPUT in changes:
                parts.append(self._current())
            else:
                parts.append(arriving([self._node(synapses, changes)], sent))
        total: Array = np.sum(parts, axis=0)
        return total

    def _node(self, synapses: QuantSynapses, changes: Collection[str]) -> Synapses:
        node, trained = as_node(self.program.network, synapses), self._trained(synapses)
        if trained is not None and WEIGHTS in changes:
            return trained
        if trained is not None and CLIPPING in changes:
            return replace(node, weight=np.where(self._cut(synapses), trained.weight, node.weight))
        return node

    @property
    def _by_host(self) -> bool:
        """Whether the host computes this population's input current, bias and all."""
        network = self.program.network
        reads = [s.source for s in network.inputs_of(self.population)]
        return network.input_kind == "currents" and network.input_name in reads

    def _synapses(self, lateral: bool) -> list[QuantSynapses]:
        network = self.program.network
        if lateral:
            return reference.laterals(network, self.population)
        return unsplit(network, reference.forward_inputs(network, self.population))

    def _trained(self, synapses: QuantSynapses) -> Synapses | None:
        """The float synapses in units of the state; None for those that stand for the host's current."""
        node = self.lowered.by_name.get(synapses.part_of or synapses.name)
        if not isinstance(node, SYNAPSES):
            return None
        node = replace(part_of(self.program.network, node, synapses), inputs=(synapses.source,))
        pixels = synapses.source == self.lowered.input.name and self.program.host.encoder.kind == "pixels"
        unit = node.per_weight(self.unit) * (INPUT_PAYLOAD_MAX if pixels else 1)
        return replace(node, weight=node.weight / unit, bias=np.zeros(len(node.bias)))

    def _bias(self) -> Array:
        """(channels,) of all synapses, in the network's units."""
        nodes = [self.lowered.by_name[name] for name in self.node.inputs]
        return np.sum([np.zeros(len(self.unit)), *(n.bias for n in nodes if isinstance(n, SYNAPSES))], axis=0)

    def _cut(self, synapses: QuantSynapses) -> NDArray[np.bool_]:
        """Which weights lie at the end of their range and are larger as trained."""
        trained = self._trained(synapses)
        if trained is None:
            return np.zeros(1, np.bool_)
        weight = np.abs(as_node(self.program.network, synapses).weight) / 2.0**synapses.exponent
        largest = 2 ** (synapses.weight_bits - 1) - 1
        return (weight >= largest) & (np.abs(trained.weight) / 2.0**synapses.exponent > weight + 0.5)

    @cached_property
    def _coded(self) -> Array | None:
        """What the float network's input sends, in units of payloads; None where payloads carry it exactly."""
        name = self.program.network.input_name
        if self._by_host or name not in {s.source for s in self._synapses(lateral=False)}:
            return None
        exact: Array = self.values * (INPUT_PAYLOAD_MAX if self.program.host.encoder.kind == "pixels" else 1)
        return None if np.allclose(exact, self.sent[name], rtol=0, atol=1e-9) else exact

    def _current(self) -> Array:
        """The input current that the host computes, bias and all, not rounded."""
        name, nodes = self.lowered.input.name, [self.lowered.by_name[n] for n in self.node.inputs]
        plain = [replace(n, bias=np.zeros(len(n.bias))) for n in nodes if isinstance(n, SYNAPSES) and name in n.inputs]
        current = arriving(plain, {name: self.values})
        in_units: Array = (current + per_channel(self._bias(), current[0])) / per_channel(self.unit, current[0])
        return in_units


def _by_channel(values: Array, unit: Array) -> Array:
    """(levels,) or (levels, channels) as (levels, channels)."""
    return np.broadcast_to(values[:, None] if values.ndim == 1 else values, (len(values), len(unit)))
