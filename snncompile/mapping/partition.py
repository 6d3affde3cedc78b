"""Cuts every population into boxes that fit a core: (channel, row, column) tile search under the core's limits."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from snncompile.chip import Chip
from snncompile.errors import CompileError, InternalError
from snncompile.mapping.connectivity import (
    Axis,
    Connectivity,
    block_sums,
    chip_inputs,
    chip_synapses,
    connectivity,
    shape3,
)
from snncompile.quant_network import IntArray, Population, QuantNetwork, QuantSynapses

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
RESOURCES = ("neurons", "synapse_words", "axons_in", "axons_out")


@dataclass(frozen=True, eq=False)
class Grid:
    """A population cut into len(channels)-1 x len(rows)-1 x len(columns)-1 boxes; arrays hold the edges, 0 first."""

    channels: IntArray
    rows: IntArray
    columns: IntArray

    @property
    def axes(self) -> tuple[IntArray, IntArray, IntArray]:
        return self.channels, self.rows, self.columns

    @property
    def splits(self) -> tuple[int, int, int]:
        return len(self.channels) - 1, len(self.rows) - 1, len(self.columns) - 1

    @property
    def tiles(self) -> int:
        return math.prod(self.splits)

    def boxes(self) -> Iterator[Box]:
        """Channel, row and column range of every tile, columns fastest."""
        for c in _ranges(self.channels):
            for y in _ranges(self.rows):
                for x in _ranges(self.columns):
                    yield c, y, x


def _ranges(edges: IntArray) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in pairwise(edges)]


@dataclass(frozen=True)
class Slice:
    """A box of one population."""

    population: str
    box: Box


@dataclass(frozen=True)
class Core:
    """What one core holds and how much of each limit it takes."""

    slices: tuple[Slice, ...]
    usage: dict[str, int] = field(hash=False)


@dataclass(frozen=True, eq=False)
class CoreGraph:
    """Logical cores, and the tiles on them, numbered population after population in the order of `Grid.boxes`.

    core_of (tiles,): the core of each tile; tiles of several populations may share one.
    """

    grids: dict[str, Grid]
    cores: tuple[Core, ...]
    core_of: IntArray

    def tiles_of(self, population: str) -> slice:
        """Tile numbers of a population."""
        start = 0
        for name, grid in self.grids.items():
            if name == population:
                return slice(start, start + grid.tiles)
            start += grid.tiles
        raise KeyError(population)

    def cores_of(self, population: str) -> IntArray:
        """Core number of every tile of a population."""
        return self.core_of[self.tiles_of(population)]


def partition(network: QuantNetwork, chip: Chip) -> CoreGraph:
    """Exhaustive search over the even tilings of each layer, from the last layer to the first.

    Output axons depend on how the next layers are cut, so those are cut first; and since a cut also decides how many
    cores each neuron of the layer before must reach, its price is its own cores plus the fewest the sources can then
    do with. Ties: fewest packets per firing source, then fewest cores of its own.
    A population with lateral synapses sends to itself: its own cut decides its output axons, too. Input currents that
    the host writes take neither axons nor memory.
    Raises CompileError that names every layer that fits no core (with resource, number and limit), or the number of
    cores needed, by layer, and the number that the chip or board has.
    """
    links = {s.name: connectivity(network, s) for s in network.synapses}
    grids: dict[str, Grid] = {}
    misfits: list[str] = []
    for population in reversed(network.populations):
        layer = _Layer(network, population, chip, links, grids)
        grid = layer.best()
        if grid is None:
            misfits.append(f"{population.name} {layer.misfit()}")
        else:
            grids[population.name] = grid
    if misfits:
        found = "; ".join(reversed(misfits))
        raise CompileError(f"--target {chip.name}", found, "a smaller layer, fewer weight bits or a larger chip fits")
    ordered = {population.name: grids[population.name] for population in network.populations}
    cores = tuple(_cores(network, chip, links, ordered))
    graph = CoreGraph(ordered, cores, np.arange(len(cores)))
    if len(graph.cores) > chip.mesh.cores:
        per_layer = ", ".join(f"{name} {grid.tiles}" for name, grid in ordered.items())
        raise CompileError(
            f"--target {chip.name}",
            f"{len(graph.cores)} cores needed, {_available(chip)} ({per_layer})",
            "use a larger chip",
        )
    return graph


def _available(chip: Chip) -> str:
    mesh = chip.mesh
    if mesh.chips == 1:
        return f"the chip has {mesh.cores}"
    return f"the board has {mesh.cores}, {mesh.chips} chips of {mesh.cores_per_chip}"


def verify(graph: CoreGraph, network: QuantNetwork, chip: Chip) -> None:
    """Every neuron on exactly one core, no limit exceeded. Raises InternalError: `partition` made it."""
    for population in network.populations:
        owners = np.zeros(shape3(population.shape), np.int64)
        for core in graph.cores:
            for part in core.slices:
                if part.population == population.name:
                    (c0, c1), (y0, y1), (x0, x1) = part.box
                    owners[c0:c1, y0:y1, x0:x1] += 1
        if (owners != 1).any():
            raise InternalError(f"{population.name}: {int((owners != 1).sum())} neurons are not on exactly one core")
    for number, core in enumerate(graph.cores):
        for resource in RESOURCES:
            if core.usage[resource] > getattr(chip.core, resource):
                limit = getattr(chip.core, resource)
                raise InternalError(f"core {number}: {resource} {core.usage[resource]}, limit {limit}")
    longest = chip.synapse_memory.words_per_axon_max
    for synapses in chip_synapses(network):
        cut = graph.grids[network.target_of(synapses).name].channels
        words = int(row_words(np.diff(cut), synapses.weight_bits, chip).max())
        if synapses.kind == "linear" and longest is not None and words > longest:
            raise InternalError(f"{synapses.name}: {words} words an axon, limit {longest}")


def compartments(population: Population, chip: Chip) -> int:
    """Compartments that one neuron takes on the chip: by its reset; 1 where it never fires."""
    return int(getattr(chip.numerics.compartments, population.reset)) if population.spiking else 1


def row_words(synapses_per_axon: IntArray, weight_bits: int, chip: Chip) -> IntArray:
    """Words of one input axon's list: ceil((n*(index + weight) + prefix*ceil(n/entry)) / word); 0 for no synapse."""
    memory = chip.synapse_memory
    entries = -(-synapses_per_axon // memory.entry_synapses_max)
    bits = synapses_per_axon * (memory.index_bits + weight_bits) + memory.entry_prefix_bits * entries
    return -(-bits // memory.word_bits)


@dataclass(frozen=True, eq=False)
class _Layer:
    """One population to be cut, given how the populations it sends to are cut (those that fit no core are left out).

    Every resource of a tile is a product of one number per axis, so the largest over a tiling is the product of the
    largest per axis, and all tilings are judged at once by broadcasting (channel, row, column) options.
    """

    network: QuantNetwork
    population: Population
    chip: Chip
    links: dict[str, Connectivity]
    consumers: dict[str, Grid]

    def best(self) -> Grid | None:
        """The cheapest tiling that fits, or None."""
        options = [_even_splits(n) for n in shape3(self.population.shape)]
        largest = self._largest(options)
        fits = np.all([largest[resource] <= getattr(self.chip.core, resource) for resource in RESOURCES], axis=0)
        fits &= self._lists_fit(np.array([np.diff(edges).max() for edges in options[0]]))[:, None, None]
        if not fits.any():
            return None
        tiles = _outer(*(np.array([len(edges) - 1 for edges in axis]) for axis in options))
        upstream, packets = self._upstream(options)
        order = np.lexsort((tiles[fits], packets[fits], (tiles + upstream)[fits]))
        c, y, x = np.argwhere(fits)[order[0]]
        return Grid(options[0][c], options[1][y], options[2][x])

    def _largest(self, options: list[list[IntArray]]) -> dict[str, IntArray]:
        """Largest use over the tiles, per tiling (channel, row, column options); exact for one layer of synapses."""
        sizes = [np.array([np.diff(edges).max() for edges in axis]) for axis in options]
        shape = tuple(len(axis) for axis in options)
        words, axons_in, axons_out = (np.zeros(shape, np.int64) for _ in range(3))
        for synapses in chip_inputs(self.network, self.population):
            reached = self._per_axis(
                self.links[synapses.name].axon_axes, options, lambda counts: (counts > 0).sum(0).max()
            )
            axons = _outer(*reached)
            axons_in += axons
            words += self._words(synapses, sizes[0], axons)
        for reached in self._targets_per_source():
            axons_out += _outer(
                *(
                    np.array([np.add.reduceat(r, edges[:-1]).max() for edges in axis])
                    for r, axis in zip(reached, options, strict=True)
                )
            )
        for link in self._lateral():
            axons_out += _outer(
                *(
                    np.array([np.add.reduceat(_targets(matrix, edges), edges[:-1]).max() for edges in axis])
                    for matrix, axis in zip(link.axes, options, strict=True)
                )
            )
        neurons = compartments(self.population, self.chip) * _outer(*sizes)
        return {"neurons": neurons, "synapse_words": words, "axons_in": axons_in, "axons_out": axons_out}

    def _lateral(self) -> list[Connectivity]:
        """Of the synapses from the population to itself, whose targets are cut as their sources are."""
        name = self.population.name
        return [self.links[s.name] for s in self.network.outputs_of(name) if s.name in self.population.synapses]

    def _lists_fit(self, channels: IntArray) -> NDArray[np.bool_]:
        """Whether an input axon's list to a tile of so many channels is as short as the chip wants; (options,)."""
        longest = self.chip.synapse_memory.words_per_axon_max
        return np.full(channels.shape, True) if longest is None else self._list_words(channels) <= longest

    def _list_words(self, channels: IntArray) -> IntArray:
        """Words of the longest list of one input axon that leads to a tile of so many channels (a kernel is none)."""
        dense = [s for s in chip_inputs(self.network, self.population) if s.kind == "linear"]
        return np.max([channels * 0, *(row_words(channels, s.weight_bits, self.chip) for s in dense)], axis=0)

    def _upstream(self, options: list[list[IntArray]]) -> tuple[IntArray, IntArray]:
        """For every tiling: the fewest cores its sources can do with, and packets if all of them fire once."""
        cores = np.zeros(tuple(len(axis) for axis in options), np.int64)
        packets = np.zeros_like(cores)
        for synapses in chip_inputs(self.network, self.population):
            sent = _outer(*self._per_axis(self.links[synapses.name].axes, options, lambda counts: (counts > 0).sum()))
            packets += sent
            if synapses.source not in (self.network.input_name, self.population.name):
                source = self.network.populations_by_name[synapses.source]
                neurons = source.size * compartments(source, self.chip)
                cores += np.maximum(-(-sent // self.chip.core.axons_out), -(-neurons // self.chip.core.neurons))
        return cores, packets

    @staticmethod
    def _per_axis(
        axes: tuple[Axis, Axis, Axis],
        options: list[list[IntArray]],
        measure: Callable[[IntArray], np.int64],
    ) -> list[IntArray]:
        """measure(synapse counts summed over each tile) for every option of every axis."""
        return [
            np.array([measure(block_sums(matrix, edges)) for edges in splits])
            for matrix, splits in zip(axes, options, strict=True)
        ]

    def _targets_per_source(self) -> Iterator[list[IntArray]]:
        """For every layer of synapses to others, per axis (source,): how many tile ranges an index reaches."""
        for synapses in self.network.outputs_of(self.population.name):
            target = self.network.target_of(synapses).name
            if target != self.population.name and target in self.consumers:
                axes = zip(self.links[synapses.name].axes, self.consumers[target].axes, strict=True)
                yield [_targets(matrix, edges) for matrix, edges in axes]

    def _words(self, synapses: QuantSynapses, channels: IntArray, axons: IntArray) -> IntArray:
        """Synapse words of tiles with `channels` (options,) channels and `axons` (options, ...) input axons."""
        if synapses.kind == "linear":
            return row_words(channels, synapses.weight_bits, self.chip)[:, None, None] * axons
        weights = channels * math.prod(synapses.weight.shape[1:])
        words = -(-weights * synapses.weight_bits // self.chip.synapse_memory.word_bits)
        return np.broadcast_to(words[:, None, None], axons.shape)

    def finest(self) -> Grid:
        return Grid(*(np.arange(n + 1) for n in shape3(self.population.shape)))

    def misfit(self) -> str:
        """What a single neuron needs beyond a core."""
        alone = {resource: int(values.max()) for resource, values in self.usage(self.finest()).items()}
        limits = {resource: getattr(self.chip.core, resource) for resource in RESOURCES}
        over = [f"{alone[r]} {r.replace('_', ' ')} (limit {limits[r]})" for r in RESOURCES if alone[r] > limits[r]]
        one = np.ones(1, np.int64)
        if not self._lists_fit(one).all():
            longest = self.chip.synapse_memory.words_per_axon_max
            over.append(f"{int(self._list_words(one).max())} words an axon (limit {longest})")
        return f"needs for one neuron alone {', '.join(over)}"

    def usage(self, grid: Grid) -> dict[str, IntArray]:
        """Each resource of every tile, (splits)."""
        used = {resource: np.zeros(grid.splits, np.int64) for resource in RESOURCES}
        used["neurons"] = compartments(self.population, self.chip) * _outer(*(np.diff(edges) for edges in grid.axes))
        for synapses in chip_inputs(self.network, self.population):
            counts = [
                block_sums(m, edges) for m, edges in zip(self.links[synapses.name].axon_axes, grid.axes, strict=True)
            ]
            axons = _outer(*((count > 0).sum(0) for count in counts))
            used["axons_in"] = used["axons_in"] + axons
            used["synapse_words"] = used["synapse_words"] + self._words(synapses, np.diff(grid.channels), axons)
        own = [[_targets(m, edges) for m, edges in zip(link.axes, grid.axes, strict=True)] for link in self._lateral()]
        for reached in (*self._targets_per_source(), *own):
            per_tile = (np.add.reduceat(r, edges[:-1]) for r, edges in zip(reached, grid.axes, strict=True))
            used["axons_out"] = used["axons_out"] + _outer(*per_tile)
        return used


def _targets(matrix: Axis, edges: IntArray) -> IntArray:
    """(source,): how many of the target's blocks an index reaches."""
    return (block_sums(matrix, edges) > 0).sum(1)


def _even_splits(size: int) -> list[IntArray]:
    """Edges of one even split for every distinct tile size, coarsest first."""
    tile_sizes = sorted({-(-size // parts) for parts in range(1, size + 1)}, reverse=True)
    return [np.minimum(np.arange(-(-size // tile) + 1) * tile, size) for tile in tile_sizes]


def _outer(c: IntArray, y: IntArray, x: IntArray) -> IntArray:
    return c[:, None, None] * y[None, :, None] * x[None, None, :]


def _cores(network: QuantNetwork, chip: Chip, links: dict[str, Connectivity], grids: dict[str, Grid]) -> Iterator[Core]:
    for population in network.populations:
        grid = grids[population.name]
        usage = {r: values.ravel() for r, values in _Layer(network, population, chip, links, grids).usage(grid).items()}
        for i, box in enumerate(grid.boxes()):
            yield Core((Slice(population.name, box),), {r: int(usage[r][i]) for r in RESOURCES})
