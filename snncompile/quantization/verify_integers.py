"""Checks that an integer network means something, and that its proven widths hold."""

import numpy as np

from snncompile.errors import InternalError
from snncompile.quant_network import DECAY_ONE, Population, QuantNetwork, QuantSynapses
from snncompile.quantization.state_bounds import prove


def verify_integers(network: QuantNetwork) -> None:
    """Checks an integer network; raises InternalError (the compiler made it).

    Weights within weight_bits; order and names; shapes of per-channel arrays; thresholds increasing; delays that match
    depths; sparse synapses sorted, none twice; populations that send sums have no other parameters; the proven widths
    hold (`state_bounds.prove` run again).
    """
    known = {network.input_name: 0}
    for population in network.populations:
        known[population.name] = population.depth
        if population.mixing is not None and population.mixing.shape != (network.timesteps, network.timesteps):
            raise InternalError(f"{population.name}: mixes {population.mixing.shape} of {network.timesteps} steps")
        for synapses in network.inputs_of(population):
            _verify_synapses(synapses, known.get(synapses.source), population)
        channels = population.shape[0]
        for name in ("bias", "v0"):
            if getattr(population, name).shape != (channels,):
                raise InternalError(f"{population.name}: {name} has shape {getattr(population, name).shape}")
        _verify_dynamics(population, network.microsteps)
        if population.sums:
            _verify_sums(network, population)
        if (np.diff(population.thresholds, axis=0) <= 0).any() or (population.thresholds <= 0).any():
            raise InternalError(f"{population.name}: thresholds are not positive and increasing")
        if not population.sums and population.spiking and (population.payload <= 0).any():
            raise InternalError(f"{population.name}: a spike without payload")
        bounds = prove(network, population)
        if bounds.state_bits > population.state_bits or bounds.input_bits > population.input_bits:
            raise InternalError(
                f"{population.name}: {bounds.state_bits} state bits needed, {population.state_bits} declared"
            )


def _verify_dynamics(population: Population, microsteps: int) -> None:
    """Decays in range, arrays of a value a channel, the parts of an adaptation together, no micro-steps with them."""
    adaptation = (population.adapt_decay, population.adapt_step, population.adapt_start)
    constants = (population.decay, population.current_decay, population.drive, population.floor, *adaptation)
    for values in constants:
        if values is not None and values.shape != population.shape[:1]:
            raise InternalError(f"{population.name}: {values.shape} constants for {population.shape[0]} channels")
    if np.abs(population.decay).max() > DECAY_ONE:
        raise InternalError(f"{population.name}: decay {population.decay.max()} is beyond {DECAY_ONE}")
    for rate in (population.current_decay, population.adapt_decay):
        if rate is not None and (rate.min() < 0 or rate.max() > DECAY_ONE):
            raise InternalError(f"{population.name}: a decay of {rate.min()}..{rate.max()} is not one")
    if len({values is None for values in adaptation}) > 1 or (population.adapt_resets and adaptation[0] is None):
        raise InternalError(f"{population.name}: an adaptation in part")
    states = (population.current_decay, population.floor, population.adapt_decay)
    if microsteps > 1 and any(values is not None for values in states):
        raise InternalError(f"{population.name}: micro-steps, and a current, a floor or an adaptation")


SUM_BITS_MAX = 32
"""Widest payload that the backends carry."""


def _verify_sums(network: QuantNetwork, population: Population) -> None:
    """A population that sends its sum has nothing else, is not the readout, and its payload has a type."""
    constants = (population.bias, population.v0, population.thresholds, population.payload, population.subtract)
    plain = population.mixing is None and population.open_steps is None and population.reset == "hard"
    plain = plain and population.plain
    if any(values.any() for values in constants) or len(population.thresholds) or population.decay.any() or not plain:
        raise InternalError(f"{population.name}: sends its sum, and has constants, thresholds, a decay or no reset")
    if population is network.readout or any(s.source == population.name for s in network.inputs_of(population)):
        raise InternalError(f"{population.name}: sends its sum to itself or to the host")
    if population.input_bits > SUM_BITS_MAX:
        raise InternalError(f"{population.name}: sends sums of {population.input_bits} bits, at most {SUM_BITS_MAX}")


def _verify_listed(synapses: QuantSynapses) -> None:
    row, column = synapses.listed
    step = np.diff(row) * (int(column.max(initial=0)) + 1) + np.diff(column)
    if not len(synapses.weight) or len(row) != len(column) or len(row) != len(synapses.weight):
        raise InternalError(f"{synapses.name}: {len(synapses.weight)} weights, {len(row)} rows, {len(column)} columns")
    if (step <= 0).any() or min(row.min(), column.min()) < 0 or row.max() >= synapses.channels:
        raise InternalError(f"{synapses.name}: synapses out of order, twice or out of range")


def _verify_synapses(synapses: QuantSynapses, source_depth: int | None, target: Population) -> None:
    if source_depth is None:
        raise InternalError(f"{synapses.name}: reads {synapses.source!r}, which is not before it")
    if synapses.channels != target.shape[0]:
        raise InternalError(f"{synapses.name}: weights for {synapses.channels} channels, not {target.shape[0]}")
    if synapses.kind == "sparse":
        _verify_listed(synapses)
    arrives = target.depth + 1 if synapses.source == target.name else target.depth - target.waits
    if synapses.lag < 0:
        raise InternalError(f"{synapses.name}: lag {synapses.lag}")
    if synapses.delay_steps < 1 or source_depth + synapses.delay_steps != arrives:
        raise InternalError(f"{synapses.name}: delay {synapses.delay_steps} from depth {source_depth} to {arrives}")
    limit = 1 << (synapses.weight_bits - 1)
    if synapses.weight.min() < -limit or synapses.weight.max() >= limit:
        raise InternalError(f"{synapses.name}: a weight needs more than {synapses.weight_bits} bits")
