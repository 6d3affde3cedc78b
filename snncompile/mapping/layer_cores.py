"""A network on a chip whose cores hold one layer each (`chip.LayerChip`): which layer goes on which core.

A layer is a population with its synapses and the pool after it, which the chip computes where the spikes leave:

    kernel words = c_in * 2^(ceil(log2(kx * ky)) + ceil(log2 f))       kernel (f, c_in, ky, kx)
    neuron words = f * 2^(ceil(log2 fy) + ceil(log2 fx))               map (f, fy, fx)

Source: sinabs dynapcnn_layer.memory_summary (synsense/sinabs@904eb89). A linear layer is a convolution whose kernel
is the whole (pooled) map of its source, zeros around it where the map is not square. A population whose neurons cannot
spike sums on the host's side; it takes a core all the same.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from snncompile.chip import CoreMemory, LayerChip
from snncompile.errors import CompileError
from snncompile.mapping.connectivity import chip_inputs, shape3
from snncompile.mapping.tile_search import Misfit
from snncompile.quant_network import Population, QuantNetwork, QuantSynapses

MEMORIES = ("kernel_words", "neuron_words", "bias_words")


@dataclass(frozen=True)
class LayerNeeds:
    """What one layer takes of a core; the memories by their keys in `chip.CoreMemory`."""

    layer: str
    words: Mapping[str, int]

    def fits(self, core: CoreMemory) -> bool:
        return all(self.words[memory] <= getattr(core, memory) for memory in MEMORIES)


@dataclass(frozen=True)
class LayerAssignment:
    """core_of: the core of every layer, by its name; needs: what each takes."""

    core_of: Mapping[str, int]
    needs: tuple[LayerNeeds, ...]


class LayersDoNotFit(CompileError):  # noqa: N818 (a finding, named as it reads)
    """A network that does not fit a layer-per-core chip: every misfit of all layers.

    Where each layer fits some core, but not all of them at once, the one misfit is of the "cores" of the network.
    """

    def __init__(self, chip: LayerChip, misfits: Iterable[Misfit], problem: str, hint: str) -> None:
        super().__init__(f"--target {chip.name}", problem, hint)
        self.misfits = tuple(misfits)


def assign_layers(network: QuantNetwork, chip: LayerChip) -> LayerAssignment:
    """Every layer on a core of its own: a matching of layers and cores, of those the one with least memory to spare.

    Raises LayersDoNotFit: with everything about every layer that no core takes; or that they do not all find a core.
    """
    needs = tuple(_needs(network, population) for population in network.populations)
    misfits = [m for p in network.populations for m in _shape_misfits(network, p, chip)]
    misfits += [m for need in needs for m in _memory_misfits(need, chip)]
    if misfits:
        found = "; ".join(f"{m.layer}: {m.resource.replace('_', ' ')} {m.used}, limit {m.limit}" for m in misfits)
        raise LayersDoNotFit(chip, misfits, found, "smaller layers, or a chip that takes layers in parts")
    cores = chip.layer_core.cores
    fits = np.array([[need.fits(core) for core in cores] for need in needs])
    spare = np.array([[sum(getattr(core, m) for m in MEMORIES) for core in cores] for _ in needs], np.float64)
    layers, chosen = linear_sum_assignment(np.where(fits, spare, spare.sum() + 1))
    if len(layers) < len(needs) or not fits[layers, chosen].all():
        placed = int(fits[layers, chosen].sum())
        one = Misfit("network", "cores", len(needs), len(cores) if len(needs) > len(cores) else placed)
        problem = f"{len(needs)} layers, of which at most {placed} find a core that holds them, of {len(cores)} cores"
        raise LayersDoNotFit(chip, [one], problem, "fewer or smaller layers")
    core_of = {need.layer: int(core) for need, core in zip(needs, chosen, strict=True)}
    return LayerAssignment(core_of, needs)


def _needs(network: QuantNetwork, population: Population) -> LayerNeeds:
    features, height, width = shape3(population.shape)
    kernels = sum(_kernel_words(network, s, features) for s in chip_inputs(network, population))
    neurons = features << (_log2(height) + _log2(width))
    return LayerNeeds(
        population.name,
        {"kernel_words": kernels, "neuron_words": neurons, "bias_words": features if population.bias.any() else 0},
    )


def _kernel_words(network: QuantNetwork, synapses: QuantSynapses, features: int) -> int:
    c_in, height, width = _kernel(network, synapses)
    return c_in << (_log2(height * width) + _log2(features))


def _kernel(network: QuantNetwork, synapses: QuantSynapses) -> tuple[int, int, int]:
    """Input channels, height and width of the kernel that a layer of synapses is there."""
    if synapses.kind == "conv":
        _, _, height, width = synapses.weight.shape
        return shape3(network.read_shape(synapses))[0] // synapses.members, height, width
    channels, height, width = shape3(network.read_shape(synapses))
    height, width = height // synapses.pool[0], width // synapses.pool[1]
    return channels // synapses.members, max(height, width), max(height, width)


def _log2(value: int) -> int:
    """ceil(log2 value)"""
    return (value - 1).bit_length()


def _memory_misfits(needs: LayerNeeds, chip: LayerChip) -> list[Misfit]:
    """Memories that exceed those of all cores; of a layer that fits none for two at once, the one nearest to fit."""
    cores = chip.layer_core.cores
    if any(needs.fits(core) for core in cores):
        return []
    most = {memory: max(getattr(core, memory) for core in cores) for memory in MEMORIES}
    over = [Misfit(needs.layer, m, needs.words[m], most[m]) for m in MEMORIES if needs.words[m] > most[m]]
    if over:
        return over
    nearest = min(cores, key=lambda core: sum(max(0, needs.words[m] - getattr(core, m)) for m in MEMORIES))
    limits = {m: getattr(nearest, m) for m in MEMORIES}
    return [Misfit(needs.layer, m, needs.words[m], limits[m]) for m in MEMORIES if needs.words[m] > limits[m]]


def _shape_misfits(network: QuantNetwork, population: Population, chip: LayerChip) -> list[Misfit]:
    """Of maps, channels, kernels, padding, pools, strides and fan-out beyond the chip."""
    core, name = chip.layer_core, population.name
    features, height, width = shape3(population.shape)
    sent = len([s for s in network.outputs_of(name) if s.name not in population.synapses])
    limits = [
        ("output_size", max(height, width), core.output_size_max),
        ("channels", features, core.channels_max),
        ("targets", sent, core.targets_max),
    ]
    for synapses in chip_inputs(network, population):
        c_in, tall, wide = _kernel(network, synapses)
        limits += [
            ("input_size", max(shape3(network.shape_of(synapses.source))[1:]), core.input_size_max),
            ("channels", c_in, core.channels_max),
            ("kernel_size", max(tall, wide), core.kernel_size_max),
            ("padding", max(synapses.padding), core.padding_max),
        ]
        if core.square_kernel_only and tall != wide:
            limits.append(("kernel_height", tall, wide) if tall > wide else ("kernel_width", wide, tall))
        limits += [("stride", s, _allowed(s, core.strides)) for s in synapses.stride if s not in core.strides]
        limits += [("pool", p, _allowed(p, core.pools)) for p in synapses.pool if p not in core.pools]
        limits += [("lateral_synapses", 1, 0)] if synapses.source == name else []
        limits += [("groups", synapses.groups, 1)] if synapses.groups > 1 else []
        limits += [("sparse_synapses", 1, 0)] if synapses.kind == "sparse" else []
    found = [Misfit(name, resource, used, limit) for resource, used, limit in limits if used > limit]
    return list(dict.fromkeys(found))


def _allowed(value: int, widths: tuple[int, ...]) -> int:
    """The largest of the widths that is below a value."""
    return max((width for width in widths if width < value), default=0)
