"""Cuts every population into boxes that fit a core: (channel, row, column) tile search under the core's limits."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from snncompile.chip import ChipLimits, chips_needed
from snncompile.errors import CompileError, InternalError
from snncompile.mapping.accounting import ListFormat, index_bits, list_words
from snncompile.mapping.connectivity import chip_inputs, shape3
from snncompile.mapping.loads import is_shared
from snncompile.mapping.tile_search import NAMES, RESOURCES, Layer, Loads, Misfit, Usage, compartments, limits_of
from snncompile.mapping.tiles import Box, Grid
from snncompile.quant_network import IntArray, QuantNetwork

__all__ = [
    "NAMES",
    "RESOURCES",
    "Box",
    "Core",
    "CoreGraph",
    "DoesNotFit",
    "Grid",
    "Misfit",
    "Slice",
    "compartments",
    "partition",
    "row_words",
    "verify",
]


@dataclass(frozen=True)
class Slice:
    """A box of one population."""

    population: str
    box: Box


@dataclass(frozen=True, eq=False)
class Core:
    """What one core holds and how much of each limit it takes."""

    slices: tuple[Slice, ...]
    usage: dict[str, int]


@dataclass(frozen=True, eq=False)
class CoreGraph:
    """Logical cores, and the tiles on them, numbered population after population in the order of `Grid.boxes`.

    core_of (tiles,): the core of each tile; tiles of several populations may share one. usage: of each of `RESOURCES`
    what every core takes (cores,). formats: by layer of synapses, the tiles whose lists are in each format. shared:
    convolutions whose positions share lists.
    """

    grids: dict[str, Grid]
    core_of: IntArray
    usage: dict[str, IntArray]
    formats: dict[str, dict[str, int]]
    shared: tuple[str, ...] = ()

    @property
    def core_count(self) -> int:
        return len(self.usage["neurons"])

    @cached_property
    def cores(self) -> tuple[Core, ...]:
        """The cores one by one, for what is printed."""
        slices: list[list[Slice]] = [[] for _ in range(self.core_count)]
        boxes = (Slice(name, box) for name, grid in self.grids.items() for box in grid.boxes())
        for part, core in zip(boxes, self.core_of.tolist(), strict=True):
            slices[core].append(part)
        usage = zip(*(self.usage[resource].tolist() for resource in RESOURCES), strict=True)
        return tuple(
            Core(tuple(parts), dict(zip(RESOURCES, used, strict=True)))
            for parts, used in zip(slices, usage, strict=True)
        )

    @cached_property
    def _start(self) -> dict[str, int]:
        ends = np.cumsum([grid.tiles for grid in self.grids.values()])
        return {name: int(end) - grid.tiles for (name, grid), end in zip(self.grids.items(), ends, strict=True)}

    def tiles_of(self, population: str) -> slice:
        """Tile numbers of a population."""
        return slice(self._start[population], self._start[population] + self.grids[population].tiles)

    def cores_of(self, population: str) -> IntArray:
        """Core number of every tile of a population."""
        return self.core_of[self.tiles_of(population)]


MOST_LAYERS_TOLD = 20
"""Layers named in an error about too few cores: those with most."""


class DoesNotFit(CompileError):  # noqa: N818 (a finding, named as it reads)
    """A network that does not fit a chip: every misfit of all layers.

    cores: by layer, of those that can be cut; chips_needed: where cores are all that is missing, the chips that have
    enough, else None.
    """

    def __init__(
        self,
        chip: ChipLimits,
        misfits: Iterable[Misfit],
        problem: str,
        hint: str,
        cores: Mapping[str, int],
        chips: int | None = None,
    ) -> None:
        super().__init__(f"--target {chip.name}", problem, hint)
        self.misfits = tuple(misfits)
        self.cores, self.chips_needed = dict(cores), chips


def partition(network: QuantNetwork, chip: ChipLimits, share_cores: bool = False) -> CoreGraph:
    """Exhaustive search over the even tilings of each layer, from the last layer to the first.

    Output axons depend on how the next layers are cut, so those are cut first; and since a cut also decides how many
    cores each neuron of the layer before must reach, its price is its own cores plus the fewest the sources can then
    do with. Ties: fewest packets per firing source, then fewest cores of its own.
    A population with lateral synapses sends to itself: its own cut decides its output axons, too. Input currents that
    the host writes take neither axons nor memory.
    share_cores: consecutive populations of one tile each go on one core as long as all they take together fits
    (`core.neuron_groups_max`); fewer cores, but a core's work adds up, so a step never gets shorter.
    Raises DoesNotFit with the misfits of all layers, or the number of cores needed and available.
    """
    loads = Loads.of(network, chip)
    grids: dict[str, Grid] = {}
    misfits: list[Misfit] = []
    for population in reversed(network.populations):
        layer = Layer(network, population, chip, loads.by_name, grids)
        cut = layer.best()
        reached = layer.reached()
        misfits += [] if reached is None else [reached]
        if cut is None:
            misfits += reversed(layer.misfits())
        else:
            grids[population.name], loads = cut.grid, replace(loads, by_name=dict(cut.loads))
    ordered = {
        population.name: grids[population.name] for population in network.populations if population.name in grids
    }
    tiles = {name: grid.tiles for name, grid in ordered.items()}
    _refuse(chip, [*loads.misfits, *reversed(misfits)], tiles)
    usages = _usages(network, chip, loads, ordered)
    graph = _graph(ordered, np.arange(sum(tiles.values())), usages, loads)
    if share_cores:
        graph = _shared(network, chip, loads, graph, usages)
    _check_cores(chip, graph, tiles)
    return graph


def _refuse(chip: ChipLimits, misfits: list[Misfit], tiles: Mapping[str, int]) -> None:
    if not misfits:
        return
    by_layer: dict[str, list[Misfit]] = {}
    for misfit in misfits:
        by_layer.setdefault(misfit.layer, []).append(misfit)
    problem = "; ".join(
        f"{layer} needs for one neuron alone {', '.join(map(str, found))}" for layer, found in by_layer.items()
    )
    raise DoesNotFit(chip, misfits, problem, "a smaller layer, fewer weight bits or a larger chip fits", tiles)


def _check_cores(chip: ChipLimits, graph: CoreGraph, tiles: Mapping[str, int]) -> None:
    mesh, needed = chip.mesh, graph.core_count
    if needed <= mesh.cores:
        return
    shown = sorted(tiles, key=lambda name: -tiles[name])[:MOST_LAYERS_TOLD]
    per_layer = ", ".join(f"{name} {count}" for name, count in tiles.items() if name in shown)
    per_layer += f", {len(tiles) - len(shown)} more layers" if len(tiles) > len(shown) else ""
    one = f"the chip has {mesh.cores}"
    board = f"the board has {mesh.cores}, {mesh.chips} chips of {mesh.cores_per_chip}"
    chips = chips_needed(needed, chip)
    raise DoesNotFit(
        chip,
        [Misfit("network", "cores", needed, mesh.cores)],
        f"{needed} cores needed, {one if mesh.chips == 1 else board} ({per_layer})",
        f"{chips} chips have enough: --chips {chips}",
        tiles,
        chips,
    )


def _usages(network: QuantNetwork, chip: ChipLimits, loads: Loads, grids: dict[str, Grid]) -> dict[str, Usage]:
    populations = network.populations_by_name
    return {
        name: Layer(network, populations[name], chip, loads.by_name, grids).usage(grid) for name, grid in grids.items()
    }


def _graph(grids: dict[str, Grid], core_of: IntArray, usages: Mapping[str, Usage], loads: Loads) -> CoreGraph:
    """The graph of tiles on cores; usage of tiles on one core adds up."""
    usage = {
        resource: np.bincount(core_of, np.concatenate([used.resources[resource] for used in usages.values()])).astype(
            np.int64
        )
        for resource in RESOURCES
    }
    formats: dict[str, dict[str, int]] = {}
    for used in usages.values():
        for name, form in used.forms.items():
            names = loads.by_name[name].form_names
            formats[name] = {known: n for i, known in enumerate(names) if (n := int((form == i).sum()))}
    return CoreGraph(grids, core_of, usage, formats, tuple(n for n, load in loads.by_name.items() if is_shared(load)))


def _shared(
    network: QuantNetwork, chip: ChipLimits, loads: Loads, graph: CoreGraph, usages: dict[str, Usage]
) -> CoreGraph:
    """Consecutive populations of one tile each on one core, while it holds them."""
    most = chip.core.neuron_groups_max or 1
    usages, core_of, open_group = dict(usages), np.zeros_like(graph.core_of), list[str]()
    cores = 0
    for name, grid in graph.grids.items():
        joined = [*open_group, name]
        together = None
        if grid.tiles == 1 and 1 < len(joined) <= most:
            together = _together(network, chip, loads, graph.grids, joined)
        if together is None:
            open_group = [name] if grid.tiles == 1 else []
            cores += grid.tiles
        else:
            open_group = joined
            usages.update(together)
        core_of[graph.tiles_of(name)] = np.arange(cores - grid.tiles, cores)
    return _graph(graph.grids, core_of, usages, loads)


def _together(
    network: QuantNetwork, chip: ChipLimits, loads: Loads, grids: dict[str, Grid], names: list[str]
) -> dict[str, Usage] | None:
    """What populations take on one core that they share (indices number the compartments of all); None: too much."""
    populations = [network.populations_by_name[name] for name in names]
    occupied = {p.name: p.size * compartments(p, chip) for p in populations}
    layers = {p.name: Layer(network, p, chip, loads.by_name, grids) for p in populations}
    total = sum(occupied.values())
    usages = {name: layer.usage(grids[name], total - occupied[name]) for name, layer in layers.items()}
    for resource, limit in limits_of(chip).items():
        if sum(int(used.resources[resource].sum()) for used in usages.values()) > limit:
            return None
    formats = sum(len(chip_inputs(network, p)) for p in populations)
    if chip.core.synapse_formats_max is not None and formats > chip.core.synapse_formats_max:
        return None
    return None if any(layer.excess(usages[name]) for name, layer in layers.items()) else usages


def verify(graph: CoreGraph, network: QuantNetwork, chip: ChipLimits) -> None:
    """Every neuron on exactly one core, no limit exceeded, what cores take counted anew.

    Raises InternalError: `partition` made it.
    """
    for population in network.populations:
        for size, edges in zip(shape3(population.shape), graph.grids[population.name].axes, strict=True):
            if edges[0] != 0 or edges[-1] != size or (np.diff(edges) <= 0).any():
                raise InternalError(f"{population.name}: tiles do not hold every neuron once")
    tiles = sum(grid.tiles for grid in graph.grids.values())
    used = np.bincount(graph.core_of, minlength=graph.core_count) if len(graph.core_of) else np.zeros(0)
    if len(graph.core_of) != tiles or len(used) != graph.core_count or not used.all():
        raise InternalError(f"{len(graph.core_of)} tiles of {tiles} on {graph.core_count} cores, or a core without any")
    _verify_usage(graph, network, chip)


def _verify_usage(graph: CoreGraph, network: QuantNetwork, chip: ChipLimits) -> None:
    loads = Loads.of(network, chip, graph.shared)
    counted = {resource: np.zeros(graph.core_count, np.int64) for resource in RESOURCES}
    on_core = np.bincount(graph.core_of, minlength=graph.core_count)
    groups = chip.core.neuron_groups_max or 1
    if on_core.max() > groups:
        raise InternalError(f"core {on_core.argmax()}: {on_core.max()} populations, limit {groups}")
    occupied = {p.name: compartments(p, chip) * graph.grids[p.name].sizes for p in network.populations}
    total = np.zeros(graph.core_count, np.int64)
    for name, neurons in occupied.items():
        np.add.at(total, graph.cores_of(name), neurons)
    for population in network.populations:
        cores = graph.cores_of(population.name)
        layer = Layer(network, population, chip, loads.by_name, graph.grids)
        usage = layer.usage(graph.grids[population.name], total[cores] - occupied[population.name])
        for resource in RESOURCES:
            np.add.at(counted[resource], cores, usage.resources[resource])
        for misfit in layer.excess(usage):
            raise InternalError(f"{population.name}: {misfit}")
    limits = limits_of(chip)
    for resource in RESOURCES:
        wrong = np.flatnonzero(counted[resource] != graph.usage[resource])
        if len(wrong):
            core = int(wrong[0])
            raise InternalError(
                f"core {core}: {resource} {graph.usage[resource][core]}, counted {counted[resource][core]}"
            )
        if resource in limits and counted[resource].max() > limits[resource]:
            core = int(counted[resource].argmax())
            raise InternalError(f"core {core}: {resource} {counted[resource][core]}, limit {limits[resource]}")


def row_words(synapses_per_axon: IntArray, weight_bits: int, chip: ChipLimits, delay_bits: int = 0) -> IntArray:
    """Words of one input axon's list without gaps on a core in full use, in the cheapest format; 0 for no synapse."""
    memory = chip.synapse_memory
    assert memory is not None
    index = index_bits(np.array(chip.core.neurons), memory)
    forms = [
        ListFormat(form.name, form.index == "each", weight_bits, delay_bits, skip)
        for form in memory.formats
        for skip in form.skip_bits or (0,)
    ]
    return np.min([list_words(np.asarray(synapses_per_axon), form, index, memory) for form in forms], axis=0)
