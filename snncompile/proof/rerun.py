"""One population run again, with one thing changed: what `counterfactual` and `faults` draw their causes from.

A recipe holds all that a population's spikes depend on, in units of its integer state, as float64: integers below 2^53
are exact in it, and so are trained values next to them. Unchanged, a recipe computes what `reference.run_integer` does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from snncompile import reference
from snncompile.network import Array, Conv2d, Fire, Linear, Reset, Sparse, Synapses
from snncompile.quant_network import DECAY_ONE, MIX_SHIFT, IntArray, Population, QuantNetwork, QuantSynapses

Rounding = Literal["toward zero", "down", "nearest", "none"]
Lateral = Callable[[Sequence[Array], Array], Array]
"""The current that what was sent in the steps so far brings; and what silence is."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """What one population's run depends on; N samples, T steps of the chip.

        I[t] = arriving[t] + bias               mixing: floor(sum_j mixing[t, j] * (arriving[j] + bias))
        i[t] = rounding(current_leak * i[t-1]) + I[t] + lateral of what was sent before
        h[t] = rounding(adapt_leak * h[t-1]) + adapt_step * k[t-1]
        u[t] = rounding(leak * v[t-1]) + i[t] + drive             v[0] = start; leak in a time step's first micro-step
        k[t] = number of j with u[t] >= thresholds[j] + h[t]      (fire "gt": >), 0 from micro-step open_steps on
        v[t] = u[t] - subtract[k-1] ("soft") | 0 where k > 0 ("hard") | u[t] ("none"), no less than floor

    and so on as in `quant_network`. arriving (T, N, *shape); leaks, bias, drive, floor and adapt_* (channels,), None
    for those that are not there; thresholds, subtract (levels, channels); payload (levels,); start (channels,) or
    (N, *shape). sums: it sends u, and v = 0. state_bits: u and v are clamped to this signed width; with wraps they wrap
    around.
    """

    arriving: Array
    bias: Array
    start: Array
    thresholds: Array
    subtract: Array
    payload: Array
    leak: Array
    rounding: Rounding
    fire: Fire
    reset: Reset
    mixing: Array | None
    mixing_floor: bool
    microsteps: int
    open_steps: int | None
    lateral: Lateral | None
    state_bits: int | None = None
    wraps: bool = False
    sums: bool = False
    current_leak: Array | None = None
    drive: Array | None = None
    floor: Array | None = None
    adapt_leak: Array | None = None
    adapt_step: Array | None = None
    adapt_start: Array | None = None
    adapt_resets: bool = False

    def changed(self, changes: Mapping[str, Any]) -> "Recipe":
        return replace(self, **changes)


@dataclass(frozen=True, eq=False)
class Steps:
    """u before firing and level k (T, N, *shape); v after the last step (N, *shape)."""

    u: Array
    k: IntArray
    v: Array


def run(recipe: Recipe) -> Steps:
    """All steps of a recipe."""
    currents = recipe.arriving + per_channel(recipe.bias, recipe.arriving[0])
    if recipe.mixing is not None:
        currents = np.tensordot(recipe.mixing, currents, 1)
        currents = np.floor(currents) if recipe.mixing_floor else currents
    start = recipe.start if recipe.start.ndim == currents.ndim - 1 else per_channel(recipe.start, currents[0])
    state, silence = _Moving(recipe, currents[0], start), np.zeros(currents.shape[1:])
    table = np.concatenate([[0.0], recipe.payload])
    us, ks = [], []
    sent: list[Array] = []
    for t, current in enumerate(currents):
        arriving = current if recipe.lateral is None else current + recipe.lateral(sent, silence)
        u = _fitted(state.membrane(arriving, decays=t % recipe.microsteps == 0), recipe)
        if recipe.sums:
            k = u.astype(np.int64)
        else:
            k = state.fire(u, recipe.open_steps is None or t % recipe.microsteps < recipe.open_steps)
            sent.append(table[k])
        us.append(u)
        ks.append(k)
    return Steps(np.stack(us), np.stack(ks), state.v)


class _Moving:
    """The states of a recipe between two steps, (N, *shape) each."""

    def __init__(self, recipe: Recipe, like: Array, start: Array) -> None:
        self.recipe, silence = recipe, np.zeros(like.shape)
        given = (recipe.leak, recipe.current_leak, recipe.drive, recipe.floor)
        self.leak, self.current_leak, self.drive, self.floor = (self._each(values, like) for values in given)
        adaptation = (recipe.adapt_leak, recipe.adapt_step, recipe.adapt_start)
        self.adapt_leak, self.adapt_step, self.h = (self._each(values, like) for values in adaptation)
        self.v, self.i, self.k = silence + (0 if recipe.sums else start), silence, np.zeros(like.shape, np.int64)

    @staticmethod
    def _each(values: Array | None, like: Array) -> Array:
        return np.zeros(1) if values is None else per_channel(values, like)

    def membrane(self, arriving: Array, decays: bool) -> Array:
        """u before firing on the input I, lateral currents in it."""
        recipe = self.recipe
        self.i = rounded(self.current_leak * self.i, recipe.rounding) + arriving
        u = (rounded(self.leak * self.v, recipe.rounding) if decays else self.v) + self.i + self.drive
        self.h = rounded(self.adapt_leak * self.h, recipe.rounding) + self.adapt_step * self.k
        return u - np.where(self.k > 0, self.h, 0.0) if recipe.adapt_resets else u

    def fire(self, u: Array, is_open: bool) -> IntArray:
        """Levels k of u, after which the state is reset."""
        recipe, k = self.recipe, np.zeros(u.shape, np.int64)
        reached = np.greater_equal if recipe.fire == "ge" else np.greater
        for threshold in recipe.thresholds if is_open else ():
            k += reached(u, per_channel(threshold, u) + self.h)
        after = _after_reset(u, k, recipe)
        self.v = _fitted(after if recipe.floor is None else np.maximum(after, self.floor), recipe)
        self.k = k
        return k


def rounded(v: Array, rounding: Rounding) -> Array:
    """v as a decay leaves it; `nearest` rounds halves away from zero."""
    match rounding:
        case "toward zero":
            return np.trunc(v)
        case "down":
            return np.floor(v)
        case "nearest":
            return np.sign(v) * np.floor(np.abs(v) + 0.5)
    return v


def _after_reset(u: Array, k: IntArray, recipe: Recipe) -> Array:
    if recipe.reset == "none":
        return u
    if recipe.reset == "hard":
        return np.where(k > 0, 0.0, u)
    removed = np.zeros(u.shape)
    for level, values in enumerate(recipe.subtract, 1):
        removed = np.where(k == level, per_channel(values, u), removed)
    return u - removed


def _fitted(state: Array, recipe: Recipe) -> Array:
    if recipe.state_bits is None:
        return state
    half = 2.0 ** (recipe.state_bits - 1)
    return np.mod(state + half, 2 * half) - half if recipe.wraps else np.clip(state, -half, half - 1)


def per_channel(values: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
    """(channels,) shaped to broadcast over like (N, channels, ...)."""
    return np.reshape(values, (-1, *(1,) * (like.ndim - 2)))


def integer_recipe(network: QuantNetwork, population: Population, sent: Mapping[str, NDArray[np.generic]]) -> Recipe:
    """The population as the integer network has it, on what its sources send: payloads (T, N, *source shape)."""
    forward = [as_node(network, s) for s in reference.forward_inputs(network, population)]
    own = [as_node(network, s) for s in reference.laterals(network, population)]
    return Recipe(
        arriving=arriving(forward, sent),
        bias=population.bias.astype(np.float64),
        start=population.v0.astype(np.float64),
        thresholds=population.thresholds.astype(np.float64),
        subtract=population.subtract.astype(np.float64),
        payload=population.payload.astype(np.float64),
        leak=(DECAY_ONE - population.decay) / DECAY_ONE,
        rounding="toward zero" if population.rounds else "none",  # no decay leaves integers alone, and fractions too
        fire=population.fire,
        reset=population.reset,
        mixing=None if population.mixing is None else population.mixing / float(1 << MIX_SHIFT),
        mixing_floor=True,
        microsteps=network.microsteps,
        open_steps=population.open_steps,
        lateral=lateral_of(own),
        sums=population.sums,
        current_leak=_kept(population.current_decay),
        drive=_floats(population.drive),
        floor=_floats(population.floor),
        adapt_leak=_kept(population.adapt_decay),
        adapt_step=_floats(population.adapt_step),
        adapt_start=_floats(population.adapt_start),
        adapt_resets=population.adapt_resets,
    )


def _floats(values: IntArray | None) -> Array | None:
    return None if values is None else values.astype(np.float64)


def _kept(decay: IntArray | None) -> Array | None:
    return None if decay is None else (DECAY_ONE - decay) / DECAY_ONE


def as_node(network: QuantNetwork, synapses: QuantSynapses) -> Synapses:
    """The same synapses with weights (W << exponent) in float64 and no bias; 0 from channels that they do not read."""
    weight = synapses.weight.astype(np.float64) * 2.0**synapses.exponent
    if synapses.reads is not None:
        weight = _widened(network, synapses, weight)
    kinds: dict[str, type[Synapses]] = {"conv": Conv2d, "linear": Linear, "sparse": Sparse}
    named = {f.name for f in fields(kinds[synapses.kind])}
    geometry = {f.name: getattr(synapses, f.name) for f in fields(synapses) if f.name in named}
    geometry |= {"inputs": (synapses.source,), "weight": weight, "bias": np.zeros(synapses.channels)}
    return kinds[synapses.kind](**geometry)


def _widened(network: QuantNetwork, synapses: QuantSynapses, weight: Array) -> Array:
    """Weights from the channels that dense synapses read as weights from all channels of their source."""
    assert synapses.reads is not None
    first, end = synapses.reads
    members, channels = synapses.members, network.shape_of(synapses.source)[0]
    by_channel = weight.reshape(len(weight), (end - first) // members, *(weight.shape[2:] or (-1,)))
    whole = np.zeros((len(weight), channels // members, *by_channel.shape[2:]))
    whole[:, first // members : end // members] = by_channel
    return whole if synapses.kind == "conv" else whole.reshape(len(weight), -1)


def part_of(network: QuantNetwork, node: Synapses, synapses: QuantSynapses) -> Synapses:
    """A trained layer of synapses without what the integer ones, a part of it, do not have."""
    if isinstance(node, Sparse):
        row, column = synapses.listed
        width = int(node.column.max()) + 1
        here = np.isin(node.row * width + node.column, row * width + column)
        return replace(node, weight=node.weight[here], row=node.row[here], column=node.column[here])
    if synapses.reads is None:
        return node
    there = _widened(network, synapses, np.ones(synapses.weight.shape))
    return replace(node, weight=node.weight * there)


def arriving(synapses: list[Synapses], sent: Mapping[str, NDArray[np.generic]]) -> Array:
    """Summed currents (T, N, *shape) of synapses on what their sources send (T, N, *source shape)."""
    summed = [_over_steps(node, np.asarray(sent[node.inputs[0]], np.float64)) for node in synapses]
    total: Array = np.sum(summed, axis=0)
    return total


def lateral_of(synapses: list[Synapses]) -> Lateral | None:
    if not synapses:
        return None

    def current(sent: Sequence[Array], silence: Array) -> Array:
        total: Array = np.zeros(silence.shape)
        for node in synapses:
            if len(sent) > node.lag:
                total = total + reference.stateless(node, sent[-1 - node.lag])
        return total

    return current


def _over_steps(node: Synapses, x: Array) -> Array:
    x = reference.lagged(x, node.lag)
    flat = reference.stateless(node, x.reshape(-1, *x.shape[2:]))
    return flat.reshape(*x.shape[:2], *flat.shape[1:])
