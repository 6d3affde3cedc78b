"""What is wrong with a stage that does not compute the integer network: which single fault gives just its spikes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np

from snncompile import reference
from snncompile.network import Array
from snncompile.program import Program
from snncompile.proof.rerun import Recipe, Steps, arriving, as_node, integer_recipe, per_channel, run
from snncompile.quant_network import DECAY_ONE, IntArray, Population

UNKNOWN = "does not compute the integer network, and no single known fault gives its spikes"

Change = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Observed:
    """What a stage did in the layer at fault, over N samples one after the other in which it got the right inputs.

    sent: payloads of the layer's sources (T, N, *shape). result: levels that the stage fired (T, N, *shape), of a layer
    that never fires the last state (N, *shape). before: as `sent`, of the samples that ran before these (T, M, *shape).
    """

    sent: Mapping[str, IntArray]
    result: IntArray
    before: Mapping[str, IntArray]


@dataclass(frozen=True, eq=False)
class Suspect:
    """One population of the program, and what a stage made of it."""

    program: Program
    layer: str
    observed: Observed

    @property
    def population(self) -> Population:
        return self.program.network.populations_by_name[self.layer]

    @cached_property
    def recipe(self) -> Recipe:
        return integer_recipe(self.program.network, self.population, self.observed.sent)

    @cached_property
    def right(self) -> Steps:
        """What the integers give."""
        return run(self.recipe)

    def is_right(self) -> bool:
        return self._gives(self.right)

    def _result(self, steps: Steps) -> IntArray:
        return steps.k if self.population.spiking else steps.v.astype(np.int64)

    def _gives(self, steps: Steps) -> bool:
        return np.array_equal(self._result(steps), self.observed.result)

    def faults(self, at: tuple[int, ...]) -> list[str]:
        """Known faults, each of which alone gives every spike of the layer, the likeliest first.

        Where none does: one that gives those of the neuron (step, sample, channel, ...) in all samples, or `UNKNOWN`.
        """
        weak, neuron = UNKNOWN, cast(Any, (..., *at[2:]))
        found = [swapped] if (swapped := self._swapped_channels()) else []
        for name, change in self._known():
            steps = run(self.recipe.changed(change))
            if self._gives(steps):
                found.append(name)
            one, two = (k[neuron] for k in (self._result(steps), self.observed.result))
            if weak is UNKNOWN and (one == two).all():
                weak = f"{name}; in this neuron, not in all of the layer"
        return found or [weak]

    def _differing_channels(self) -> list[int]:
        right, wrong = self._result(self.right), self.observed.result
        axis = right.ndim - len(self.population.shape)
        others = tuple(i for i in range(right.ndim) if i != axis)
        return [int(c) for c in np.flatnonzero((right != wrong).any(axis=others))]

    def _swapped_channels(self) -> str | None:
        """The channels that carry one another's spikes; None unless that explains every difference."""
        axis = self.observed.result.ndim - len(self.population.shape)
        right, wrong = (np.moveaxis(k, axis, 0) for k in (self._result(self.right), self.observed.result))
        channels = self._differing_channels()
        sources: dict[int, int] = {}
        for channel in channels:
            free = [c for c in channels if c != channel and c not in sources.values()]
            same = [c for c in free if np.array_equal(right[c], wrong[channel])]
            if not same:
                return None
            sources[channel] = same[0]
        if len(channels) == 2:
            return f"channels {channels[0]} and {channels[1]} are swapped"
        pairs = ", ".join(f"{channel} sends what {source} should" for channel, source in sources.items())
        return f"channels are permuted: {pairs}" if channels else None

    def _known(self) -> Iterator[tuple[str, Change]]:
        recipe, population = self.recipe, self.population
        if population.spiking:
            yield self._fire_rule()
        if population.rounds and (population.decay != DECAY_ONE).any():
            yield "wrong decay rounding (down, must be toward zero)", {"rounding": "down"}
            yield "wrong decay rounding (to nearest, must be toward zero)", {"rounding": "nearest"}
            if population.decay.any():
                yield "no leak", {"leak": np.ones_like(recipe.leak)}
        if recipe.reset != "none":
            yield "missing reset after a spike", {"reset": "none"}
            other = "hard" if recipe.reset == "soft" else "soft"
            yield f"wrong reset ({other}, must be {recipe.reset})", {"reset": other}
        if (start := self._kept_states()) is not None:
            yield "missing reset between samples (the state of the sample before is kept)", {"start": start}
        yield from self._saturations()
        yield from self._inputs()

    def _fire_rule(self) -> tuple[str, Change]:
        sign, wrong = (">=", "gt") if self.recipe.fire == "ge" else (">", "ge")
        return f"fire rule ({'>' if wrong == 'gt' else '>='}, must be {sign})", {"fire": wrong}

    def _saturations(self) -> Iterator[tuple[str, Change]]:
        widths = {self.population.state_bits, self.program.chip.numerics.state_bits, 24, 16, 12, 8}
        peak = max(np.abs(self.right.u).max(), np.abs(self.right.v).max())
        for bits in sorted(widths, reverse=True):
            if peak >= 2 ** (bits - 1) - 1:
                yield f"saturation (states are clamped to {bits} bits)", {"state_bits": bits}
                yield f"overflow (states wrap around at {bits} bits)", {"state_bits": bits, "wraps": True}

    def _inputs(self) -> Iterator[tuple[str, Change]]:
        network, sent, recipe = self.program.network, self.observed.sent, self.recipe
        if len(swapped := self._differing_channels()) == 2:
            moved = recipe.arriving.copy()
            moved[:, :, swapped] = moved[:, :, swapped[::-1]]
            yield f"inputs of channels {swapped[0]} and {swapped[1]} are swapped", {"arriving": moved}
        if self.population.bias.any():
            yield "missing bias", {"bias": np.zeros_like(recipe.bias)}
        if self.population.v0.any():
            yield "missing start state v0", {"start": np.zeros_like(recipe.start)}
        if recipe.lateral is not None:
            yield "missing lateral synapses", {"lateral": None}
        if recipe.mixing is not None:
            yield "missing mixing of steps", {"mixing": None}
        if recipe.current_leak is not None:
            yield "missing synaptic current", {"current_leak": None}
        if recipe.adapt_leak is not None:
            yield "missing adaptation of the threshold", dict.fromkeys(("adapt_leak", "adapt_step", "adapt_start"))
        for name, what in (("drive", "constant drive"), ("floor", "lower bound of the state")):
            if getattr(recipe, name) is not None:
                yield f"missing {what}", {name: None}
        late = np.concatenate([np.zeros_like(recipe.arriving[:1]), recipe.arriving[:-1]])
        yield "inputs arrive one step late", {"arriving": late}
        early = np.concatenate([recipe.arriving[1:], np.zeros_like(recipe.arriving[:1])])
        yield "inputs arrive one step early", {"arriving": early}
        forward = reference.forward_inputs(network, self.population)
        for synapses in forward if len(forward) > 1 else ():
            rest = recipe.arriving - arriving([as_node(network, synapses)], sent)
            yield f"missing synapses {synapses.name}", {"arriving": rest}

    def _kept_states(self) -> Array | None:
        """State (N, *shape) at the start of every sample if none is reset between samples; None for a first sample."""
        before, now = self.observed.before, self.observed.sent
        starts, v = [], None
        joined = {name: np.concatenate([before[name], sent], axis=1) for name, sent in now.items()}
        samples = len(next(iter(joined.values()))[0])
        for n in range(samples):
            recipe = integer_recipe(
                self.program.network, self.population, {name: sent[:, n : n + 1] for name, sent in joined.items()}
            )
            v = np.zeros(recipe.arriving.shape[1:]) + per_channel(recipe.start, recipe.arriving[0]) if v is None else v
            starts.append(v)
            v = run(recipe.changed({"start": v})).v
        kept = np.concatenate(starts)[-self.observed.result.shape[-1 - len(self.population.shape)] :]
        return kept if samples > 1 else None
