"""One population run again, with one thing changed: what `counterfactual` and `faults` draw their causes from.

A recipe holds all that a population's spikes depend on, in units of its integer state, as float64: integers below 2^53
are exact in it, and so are trained values next to them. Unchanged, a recipe computes what `reference.run_integer` does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from snncompile import reference
from snncompile.network import Array, Conv2d, Fire, Linear, Reset, Sparse, Synapses
from snncompile.quant_network import DECAY_ONE, MIX_SHIFT, IntArray, Population, QuantNetwork, QuantSynapses

Rounding = Literal["toward zero", "down", "nearest", "none"]
Lateral = Callable[[Array], Array]


@dataclass(frozen=True, eq=False)
class Recipe:
    """What one population's run depends on; N samples, T steps of the chip.

        I[t] = arriving[t] + bias               mixing: floor(sum_j mixing[t, j] * (arriving[j] + bias))
        u[t] = rounding(leak * v[t-1]) + I[t] + lateral(y[t-1])    v[0] = start; leak in a time step's first micro-step
        k[t] = number of j with u[t] >= thresholds[j]             (fire "gt": >), 0 from micro-step open_steps on
        v[t] = u[t] - subtract[k-1] ("soft") | 0 where k > 0 ("hard") | u[t] ("none")

    arriving (T, N, *shape); bias (channels,); thresholds, subtract (levels, channels); payload (levels,); start
    (channels,) or (N, *shape). sums: it sends u, and v = 0. state_bits: u and v are clamped to this signed width; with
    wraps they wrap around.
    """

    arriving: Array
    bias: Array
    start: Array
    thresholds: Array
    subtract: Array
    payload: Array
    leak: float
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
    v = recipe.start if recipe.start.ndim == currents.ndim - 1 else per_channel(recipe.start, currents[0])
    v, y = np.zeros(currents.shape[1:]) + v, np.zeros(currents.shape[1:])
    table = np.concatenate([[0.0], recipe.payload])
    us, ks = [], []
    for t, current in enumerate(currents):
        micro = t % recipe.microsteps
        u = (rounded(recipe.leak * v, recipe.rounding) if micro == 0 else v) + current
        if recipe.lateral is not None and t > 0:
            u = u + recipe.lateral(y)
        u = _fitted(u, recipe)
        k = np.zeros(u.shape, np.int64)
        if recipe.open_steps is None or micro < recipe.open_steps:
            reached = np.greater_equal if recipe.fire == "ge" else np.greater
            for threshold in recipe.thresholds:
                k += reached(u, per_channel(threshold, u))
        if recipe.sums:
            v, k = np.zeros(u.shape), u.astype(np.int64)
        else:
            v, y = _fitted(_after_reset(u, k, recipe), recipe), table[k]
        us.append(u)
        ks.append(k)
    return Steps(np.stack(us), np.stack(ks), v)


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
        rounding="toward zero" if population.decay else "none",  # no decay leaves integers alone, and fractions too
        fire=population.fire,
        reset=population.reset,
        mixing=None if population.mixing is None else population.mixing / float(1 << MIX_SHIFT),
        mixing_floor=True,
        microsteps=network.microsteps,
        open_steps=population.open_steps,
        lateral=lateral_of(own),
        sums=population.sums,
    )


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
    return lambda y: np.sum([reference.stateless(node, y) for node in synapses], axis=0)


def _over_steps(node: Synapses, x: Array) -> Array:
    flat = reference.stateless(node, x.reshape(-1, *x.shape[2:]))
    return flat.reshape(*x.shape[:2], *flat.shape[1:])
