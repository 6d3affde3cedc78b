"""Levels of the trained network's neurons, from the spikes of what the chip runs in their place; and their rates."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from snncompile.backend import Activity
from snncompile.quant_network import IntArray, Population, QuantNetwork

LevelRates = Mapping[str, NDArray[np.float64]]
"""Per population of the trained network (levels, *shape): how often a neuron reaches level j or more in a time step.

Of the input (1, *shape): how often a value is not zero.
"""

DEFAULT_SPIKE_RATE = 0.15
"""Assumed fraction of neurons that fire in a step where none was measured: multi-threshold networks trained with tdBN
on Fashion-MNIST and MNIST showed 0.11 to 0.25."""

DEFAULT_LEVEL_RATIO = 1 / 3
"""Assumed: of the neurons that reach a level, the fraction that reaches the next. The same networks had mean levels of
0.13 to 0.46, 1.2 to 1.8 times the rate, which this ratio gives in a geometric series (ours)."""

DEFAULT_INPUT_RATE = 0.5
"""Assumed fraction of input values that are not zero; 0.50 of Fashion-MNIST's test pixels are not."""

DEFAULT_BASIS = (
    "assumed rates: 0.15 of neurons a step, a third of them a level higher, 0.5 of inputs; --calibrate measures them"
)


def levels_of(payloads: NDArray[np.generic], table: NDArray[np.generic]) -> IntArray:
    """Level k of every payload: the entry of the table (levels,) it is nearest to, 0 for silence."""
    values = np.concatenate([np.zeros(1), np.asarray(table, np.float64)])
    middles = (values[1:] + values[:-1]) / 2
    return np.searchsorted(middles, np.asarray(payloads, np.float64), side="right")


def fired_levels(population: Population, payloads: NDArray[np.generic]) -> IntArray:
    """Level k that each neuron of a population fired, for what it sent; of a population that sends its sum that sum."""
    return np.asarray(payloads, np.int64) if population.sums else levels_of(payloads, population.payload)


def as_trained(levels: IntArray, members: int, microsteps: int) -> IntArray:
    """Levels (T, N, C, ...) of the trained neurons from levels (T * microsteps, N, C * members, ...): they add up."""
    steps, samples, channels, *space = levels.shape
    grouped = levels.reshape(steps // microsteps, microsteps, samples, channels // members, members, *space)
    summed: IntArray = grouped.sum(axis=(1, 4))
    return summed


def level_count(population: Population) -> int:
    """Levels of the trained neurons behind a population."""
    return max(len(population.thresholds), population.members, population.open_steps or 1)


def default_levels(network: QuantNetwork) -> LevelRates:
    """The stated assumption for every neuron; a sum is taken to be other than 0 in every step, which is the most."""
    rates: dict[str, NDArray[np.float64]] = {network.input_name: np.full((1, *network.input_shape), DEFAULT_INPUT_RATE)}
    for population in network.populations:
        channels, *space = population.shape
        reached = DEFAULT_SPIKE_RATE * DEFAULT_LEVEL_RATIO ** np.arange(level_count(population))
        reached = np.ones(1) if population.sums else reached
        shape = (channels // population.members, *space)
        rates[population.name] = reached.reshape(-1, *(1,) * len(shape)) * np.full(shape, float(population.spiking))
    return rates


def measured_levels(network: QuantNetwork, payloads: IntArray, recorded: Mapping[str, IntArray]) -> LevelRates:
    """Means over samples and time steps of input payloads (N, [T,] *shape) and of recorded ones (T, N, *shape)."""
    frames = payloads.reshape(-1, *network.input_shape)
    rates = dict(default_levels(network))
    rates[network.input_name] = (frames != 0).mean(axis=0)[None]
    for name, steps in recorded.items():
        population = network.populations_by_name[name]
        k = as_trained(np.abs(fired_levels(population, steps)), population.members, network.microsteps)
        rates[name] = np.stack([(k >= j).mean(axis=(0, 1)) for j in range(1, level_count(population) + 1)])
    return rates


def activity_of(network: QuantNetwork, levels: LevelRates) -> Activity:
    """Spikes per neuron and chip step of a network's populations; of the input, non-zero values per time step."""
    rates = {network.input_name: levels[network.input_name][0]}
    for population in network.populations:
        reached = levels[population.name]
        if population.members > 1:
            rates[population.name] = np.moveaxis(reached[: population.members], 0, 1).reshape(population.shape)
        elif network.microsteps > 1:
            rates[population.name] = reached.sum(0) / network.microsteps
        else:
            rates[population.name] = reached[0]
    return rates
