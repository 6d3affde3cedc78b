"""Cores for a network; where a layer asks more of one core than it has, a remedy that computes the same."""

from dataclasses import dataclass

import numpy as np

from snncompile.chip import Chip, ChipLimits
from snncompile.errors import CompileError
from snncompile.mapping.connectivity import chip_inputs, chip_synapses, connectivity
from snncompile.mapping.partition import CoreGraph, DoesNotFit, partition, row_words
from snncompile.mapping.remedies import check_payloads, relay, split_inputs
from snncompile.mapping.tile_search import Misfit
from snncompile.quant_network import Population, QuantNetwork, QuantSynapses

MOST_REMEDIES = 64
MOST_PARTS = 256
SPLIT = ("axons_in", "synapse_words")
RELAYED = ("axons_out", "axons_out_per_neuron")


@dataclass(frozen=True)
class Remedy:
    """What was done for a misfit, and what it costs: populations and neurons more, steps deeper."""

    layer: str
    resource: str
    used: int
    limit: int
    done: str
    neurons: int
    steps: int


@dataclass(frozen=True, eq=False)
class Fitted:
    """A network that fits, its cores, and the remedies that made it fit, in order."""

    network: QuantNetwork
    graph: CoreGraph
    remedies: tuple[Remedy, ...]


def fit(network: QuantNetwork, chip: ChipLimits, share_cores: bool = False) -> Fitted:
    """Partition; for every layer of which one neuron alone takes too much of a core, a remedy, until all fits.

    Inputs beyond a core's axons or synapse memory are added up in parts (`remedies.split_inputs`, chips of graded
    spikes), in as many as take fewest cores; so are those of dense layers where the chip has too few cores and parts
    save some. Spikes that reach more cores than they may go to some targets over a relay (`remedies.relay`).
    share_cores: small layers share one (`partition`). Raises DoesNotFit as `partition` does, for the network as it
    came, where no remedy helps.
    """
    found: list[Remedy] = []
    current, first = network, None
    while True:
        try:
            return Fitted(current, partition(current, chip, share_cores), tuple(found))
        except DoesNotFit as error:
            first = first or error
            last, changed = error, None
            if isinstance(chip, Chip) and len(found) < MOST_REMEDIES:
                changed = _mended(current, error, chip)
        if changed is None:
            raise last if any(m.resource == "cores" for m in last.misfits) else first
        current, done = changed
        found.append(done)


def _mended(network: QuantNetwork, error: DoesNotFit, chip: Chip) -> tuple[QuantNetwork, Remedy] | None:
    """The network with a remedy for the first misfit that has one."""
    for misfit in error.misfits:
        if misfit.resource == "cores":
            return _fewer_cores(network, misfit, chip)
        population = network.populations_by_name.get(misfit.layer)
        if population is None:
            continue
        try:
            changed = _changed(network, population, misfit, chip)
        except CompileError:
            continue
        if changed is not None:
            (mended, done), before = changed, network
            neurons = sum(p.size for p in mended.populations) - sum(p.size for p in before.populations)
            steps = mended.depth - before.depth
            return mended, Remedy(misfit.layer, misfit.resource, misfit.used, misfit.limit, done, neurons, steps)
    return None


def _changed(
    network: QuantNetwork, population: Population, misfit: Misfit, chip: Chip
) -> tuple[QuantNetwork, str] | None:
    if misfit.resource in SPLIT and chip.numerics.graded_spikes:
        synapses = _widest(network, population)
        if synapses is None:
            return None
        least = max(2, -(-misfit.used // misfit.limit))
        parts = least
        if synapses.kind == "linear":
            parts = min(_parts(network, synapses, chip, least), key=lambda p: _dense_cores(network, synapses, chip, p))
        return _split(network, synapses, parts, chip)
    if misfit.resource in RELAYED:
        targets = [network.target_of(s).name for s in network.outputs_of(population.name)]
        others = [name for name in dict.fromkeys(targets) if name != population.name]
        if len(others) > 1:
            half = others[len(others) // 2 :]
            mended = relay(network, population.name, half, chip.numerics)
            return mended, f"spikes to {', '.join(half)} go over a relay"
    return None


def _split(network: QuantNetwork, synapses: QuantSynapses, parts: int, chip: Chip) -> tuple[QuantNetwork, str]:
    mended = split_inputs(network, synapses.name, parts)
    check_payloads(mended, chip.numerics)
    return mended, f"input of {synapses.name} added up in {parts} parts"


def _fewer_cores(network: QuantNetwork, misfit: Misfit, chip: Chip) -> tuple[QuantNetwork, Remedy] | None:
    """Parts for the dense layer that saves most cores by them, by our estimate (`_dense_cores`)."""
    saved: dict[tuple[str, int], float] = {}
    for synapses in chip_synapses(network):
        lateral = synapses.source == network.target_of(synapses).name
        if synapses.kind == "linear" and not lateral and synapses.part_of is None and chip.numerics.graded_spikes:
            alone = _dense_cores(network, synapses, chip, 1)
            for parts in _parts(network, synapses, chip, 2):
                saved[synapses.name, parts] = alone - _dense_cores(network, synapses, chip, parts)
    if not saved or max(saved.values()) < 1:
        return None
    name, parts = max(saved, key=lambda key: saved[key])
    synapses = network.synapses_by_name[name]
    try:
        mended, done = _split(network, synapses, parts, chip)
    except CompileError:
        return None
    neurons = sum(p.size for p in mended.populations) - sum(p.size for p in network.populations)
    layer = network.target_of(synapses).name
    return mended, Remedy(layer, "cores", misfit.used, misfit.limit, done, neurons, mended.depth - network.depth)


def _parts(network: QuantNetwork, synapses: QuantSynapses, chip: Chip, least: int) -> list[int]:
    """Numbers of parts worth trying: from the least, half as many again each time."""
    channels = network.read_shape(synapses)[0] // synapses.members
    tried = [least]
    while tried[-1] * 3 // 2 + 1 <= min(channels, MOST_PARTS):
        tried.append(tried[-1] * 3 // 2 + 1)
    return [parts for parts in tried if parts <= channels] or [least]


def _dense_cores(network: QuantNetwork, synapses: QuantSynapses, chip: Chip, parts: int) -> float:
    """Estimated cores of a dense layer in so many parts, and of its source, whose neurons reach all cores of one part.

    A part of a axons on a core of n neurons takes a * row_words(n) words; the target has one axon a part and neuron.
    """
    core, outputs = chip.core, len(synapses.weight)
    axons = -(-synapses.weight.shape[1] // parts)
    sizes = np.arange(1, min(outputs, core.neurons) + 1)
    words = axons * row_words(sizes, synapses.weight_bits, chip)
    fits = (words <= core.synapse_words) & (axons <= core.axons_in)
    if not fits.any():
        return float("inf")
    reached = -(-outputs // int(sizes[fits].max()))
    source = network.populations_by_name.get(synapses.source)
    sending = 0.0 if source is None else source.size * reached / core.axons_out
    joining = 0.0 if parts == 1 else parts * outputs / core.axons_in
    return parts * reached + sending + joining


def _widest(network: QuantNetwork, population: Population) -> QuantSynapses | None:
    """The synapses with the most sources for one neuron, of those that can be split."""
    allowed = [s for s in chip_inputs(network, population) if s.source != population.name and s.groups == 1]
    if not allowed:
        return None
    return max(allowed, key=lambda s: connectivity(network, s).synapses)
