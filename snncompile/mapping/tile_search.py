"""Searches the even cuts of one population for the cheapest that fits, given how its targets are cut."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from snncompile.chip import ChipLimits
from snncompile.mapping.accounting import list_formats
from snncompile.mapping.connectivity import chip_inputs, chip_synapses, shape3
from snncompile.mapping.loads import Bound, Candidates, Load, Words, is_shared, load_of, without_sharing
from snncompile.mapping.reach import UNIT, AxisReach, ChannelReach, ListedReach, listed_reach, reaches, sent_along
from snncompile.mapping.tiles import Grid, Splits, outer
from snncompile.quant_network import IntArray, Population, QuantNetwork, QuantSynapses

RESOURCES = ("neurons", "synapse_words", "axons_in", "axons_out")

CHUNK = 1024
"""Cuts that are judged at once, in the order of their price."""

SHARED_TOGETHER = 3
"""Convolutions into one population up to which every choice of which share lists is tried."""

FEW = 64
"""Cuts in the first chunk: often one of the first fits."""


@dataclass(frozen=True)
class Misfit:
    """A layer that fits no core, however it is cut: of `resource` it takes `used` at least, of which `limit` exist.

    resource: one of `RESOURCES`; "words_per_axon" the longest list; "axons_out_per_neuron" the cores that one neuron
    reaches; "synapse_formats", "delay_extra_steps", "weight_field_bits", "delay_field_bits"; "cores" of the network.
    """

    layer: str
    resource: str
    used: int
    limit: int

    def __str__(self) -> str:
        if self.resource in RESOURCES:
            return f"{self.used} {self.resource.replace('_', ' ')} (limit {self.limit})"
        return f"{self.used} {NAMES[self.resource]} (limit {self.limit})"


NAMES = {
    "words_per_axon": "words an axon",
    "axons_out_per_neuron": "cores that a neuron reaches",
    "synapse_formats": "synapse formats",
    "delay_extra_steps": "steps of delay beyond one",
    "weight_field_bits": "bits a weight",
    "delay_field_bits": "bits a delay",
    "cores": "cores",
}


@dataclass(frozen=True, eq=False)
class Usage:
    """What every tile of a cut takes: resource -> (tiles,); longest list; by layer of synapses the format's number."""

    resources: dict[str, IntArray]
    words_per_axon: IntArray
    forms: dict[str, IntArray]


@dataclass(frozen=True, eq=False)
class Loads:
    """The load of every layer of synapses on the chip, and the misfits that no cut can mend."""

    by_name: dict[str, Load]
    misfits: tuple[Misfit, ...]

    @classmethod
    def of(cls, network: QuantNetwork, chip: ChipLimits, shared: Collection[str] | None = None) -> "Loads":
        """shared: layers whose positions share lists; None: all with several positions."""
        loads: dict[str, Load] = {}
        misfits: list[Misfit] = []
        for synapses in chip_synapses(network):
            layer = network.target_of(synapses).name
            reach = _reach(network, synapses)
            found = _field_misfits(synapses, layer, chip)
            misfits += found
            forms = () if found or chip.synapse_memory is None else list_formats(synapses, chip.synapse_memory)
            share = len(reach[1].axon_of_source) * len(reach[2].axon_of_source) > 1
            share = share if shared is None else synapses.name in shared
            loads[synapses.name] = load_of(synapses, reach, chip.synapse_memory if forms else None, forms, share)
        limit = chip.core.synapse_formats_max
        for population in network.populations:
            formats = len(chip_inputs(network, population))
            if limit is not None and formats > limit:
                misfits.append(Misfit(population.name, "synapse_formats", formats, limit))
        return cls(loads, tuple(misfits))


def _reach(network: QuantNetwork, synapses: QuantSynapses) -> tuple[ChannelReach, AxisReach, AxisReach]:
    return (listed_reach(network, synapses), UNIT, UNIT) if synapses.kind == "sparse" else reaches(network, synapses)


def _field_misfits(synapses: QuantSynapses, layer: str, chip: ChipLimits) -> list[Misfit]:
    """Of delays and of fields too narrow for weights and delays."""
    found = []
    longest, extra = chip.core.delay_extra_steps_max, synapses.extra_steps
    if longest is not None and extra > longest:
        found.append(Misfit(layer, "delay_extra_steps", extra, longest))
    memory = chip.synapse_memory
    if memory is None:
        return found
    if memory.weight_field_bits is not None and synapses.weight_bits > max(memory.weight_field_bits):
        found.append(Misfit(layer, "weight_field_bits", synapses.weight_bits, max(memory.weight_field_bits)))
    if memory.delay_bits is not None and extra.bit_length() > max(memory.delay_bits) and not found:
        found.append(Misfit(layer, "delay_field_bits", extra.bit_length(), max(memory.delay_bits)))
    return found


def compartments(population: Population, chip: ChipLimits) -> int:
    """Compartments that one neuron takes on the chip: by its reset; 1 where it never fires."""
    return int(getattr(chip.numerics.compartments, population.reset)) if population.spiking else 1


def limits_of(chip: ChipLimits) -> dict[str, int]:
    """Limit of every resource that has one, of a core."""
    known = {resource: getattr(chip.core, resource) for resource in RESOURCES}
    return {resource: limit for resource, limit in known.items() if limit is not None}


@dataclass(frozen=True, eq=False)
class Cut:
    """How a population is cut, the price that was least (cores, packets, own cores), and all loads with that cut."""

    grid: Grid
    price: tuple[int, ...]
    loads: Mapping[str, Load]


@dataclass(frozen=True, eq=False)
class Layer:
    """One population to be cut, given how the populations it sends to are cut (those that fit no core are left out)."""

    network: QuantNetwork
    population: Population
    chip: ChipLimits
    loads: Mapping[str, Load]
    consumers: Mapping[str, Grid]
    sent: dict[str, list[IntArray]] = field(default_factory=dict)
    """Kept from one choice of shared lists to the next: `_sent_axes` by layer of synapses."""

    @cached_property
    def _inputs(self) -> list[Load]:
        return [self.loads[s.name] for s in chip_inputs(self.network, self.population)]

    @cached_property
    def splits(self) -> tuple[Splits, Splits, Splits]:
        """The cuts that are tried."""
        c, y, x = (Splits.even(size) for size in shape3(self.population.shape))
        listed = [len(load.reach[0].listed.target) for load in self._inputs if isinstance(load.reach[0], ListedReach)]
        return c.thinned(max(listed, default=0)), y, x

    @property
    def compartments(self) -> int:
        return compartments(self.population, self.chip)

    def best(self) -> "Cut | None":
        """The cheapest cut that fits, or None; of those with and without shared lists for each convolution."""
        shared = [name for s in self.population.synapses if (name := s) in self.loads and is_shared(self.loads[name])]
        choices: Iterable[tuple[bool, ...]] = product((True, False), repeat=len(shared))
        if len(shared) > SHARED_TOGETHER:
            choices = [(True,) * len(shared), (False,) * len(shared)]
        found = [
            self._sharing([n for n, s in zip(shared, chosen, strict=True) if not s]).cheapest() for chosen in choices
        ]
        return min((cut for cut in found if cut is not None), key=lambda cut: cut.price, default=None)

    def _sharing(self, not_shared: Collection[str]) -> "Layer":
        """The same with lists of their own for some convolutions."""
        own = {name: without_sharing(self.loads[name]) for name in not_shared}
        return replace(self, loads={**self.loads, **own}) if own else self

    def cheapest(self) -> "Cut | None":
        """The cheapest cut that fits, or None.

        Cuts are judged in the order of their price. Upper bounds that are within the limits prove that a cut fits,
        lower bounds beyond them that it does not; what lies between is counted tile by tile.
        """
        for cuts in self._by_price():
            certain, possible = self._fits(cuts, "upper"), self._fits(cuts, "lower")
            for number in np.flatnonzero(certain | possible).tolist():
                grid = self._grid(cuts, number)
                if certain[number] or self._is_within(self.usage(grid)):
                    return Cut(grid, tuple(cuts.price[number].tolist()), self.loads)
        return None

    def _grid(self, cuts: Candidates, number: int) -> Grid:
        c, y, x = (splits.edges(int(option[number])) for splits, option in zip(self.splits, cuts.options, strict=True))
        return Grid(c, y, x)

    def _by_price(self) -> Iterator[Candidates]:
        """Cuts whose neurons fit, cheapest first: own cores and those of the sources; then packets; then own cores."""
        neurons = self.compartments * outer(*(splits.tile_sizes for splits in self.splits))
        options = np.nonzero(neurons <= self.chip.core.neurons)
        tiles = outer(*(splits.counts for splits in self.splits))[options]
        upstream, packets = (counts[options] for counts in self._upstream())
        price, left, size = tiles + upstream, np.arange(len(tiles)), FEW
        while len(left):
            bound = np.partition(price[left], min(size, len(left)) - 1)[min(size, len(left)) - 1]
            now, left = left[price[left] <= bound], left[price[left] > bound]
            order = now[np.lexsort((tiles[now], packets[now], price[now]))]
            for part in np.array_split(order, -(-len(order) // CHUNK)):
                c, y, x = (option[part] for option in options)
                prices = np.stack([price[part], packets[part], tiles[part]], axis=1)
                yield Candidates(self.splits, (c, y, x), self.compartments, prices)
            size = CHUNK

    def _upstream(self) -> tuple[IntArray, IntArray]:
        """For every cut: the fewest cores its sources can do with, and packets if all of them fire once."""
        core = self.chip.core
        cores = np.zeros([len(splits.counts) for splits in self.splits], np.int64)
        packets = np.zeros_like(cores)
        for load in self._inputs:
            sent = load.packets(self.splits)
            packets += sent
            name = load.synapses.source
            if name not in (self.network.input_name, self.population.name):
                source = self.network.populations_by_name[name]
                needed = np.full_like(cores, -(-source.size * compartments(source, self.chip) // core.neurons))
                if core.axons_out is not None:
                    needed = np.maximum(needed, -(-sent * self._slots(load) // core.axons_out))
                cores += needed
        return cores, packets

    def _slots(self, load: Load) -> int:
        """Output axon slots of one (neuron, target core) pair."""
        return self.chip.core.axon_slots_shared if is_shared(load) else 1

    def _fits(self, cuts: Candidates, bound: Bound) -> NDArray[np.bool_]:
        """Whether the bounds of the cuts are within the limits."""
        used, longest = self._bounds(cuts, bound)
        fits = np.ones(len(cuts.options[0]), np.bool_)
        for resource, limit in limits_of(self.chip).items():
            fits &= used[resource] <= limit
        words = self._words_per_axon_max
        return fits if words is None else fits & (longest <= words)

    @property
    def _words_per_axon_max(self) -> int | None:
        return None if self.chip.synapse_memory is None else self.chip.synapse_memory.words_per_axon_max

    def _bounds(self, cuts: Candidates, bound: Bound) -> tuple[dict[str, IntArray], IntArray]:
        """(candidates,) of every resource, and of the longest list."""
        zero = np.zeros(len(cuts.options[0]), np.int64)
        words = [load.words(cuts, bound) for load in self._inputs]
        used = {
            "neurons": cuts.occupied(bound),
            "synapse_words": sum((w.total for w in words), zero),
            "axons_in": sum((load.axons(cuts, bound) for load in self._inputs), zero),
            "axons_out": sum((self._sent(load, cuts, bound) for load in self._outputs()), zero),
        }
        return used, np.max([zero, *(w.longest for w in words)], axis=0)

    def _outputs(self) -> list[Load]:
        """Loads of the layers that the population sends through, whose targets are cut, and of its lateral ones."""
        name = self.population.name
        sent = [self.loads[s.name] for s in self.network.outputs_of(name) if s.name in self.loads]
        targets = {load.synapses.name: self.network.target_of(load.synapses).name for load in sent}
        return [load for load in sent if targets[load.synapses.name] in {name, *self.consumers}]

    def _is_lateral(self, load: Load) -> bool:
        return load.synapses.name in self.population.synapses

    def _sent(self, load: Load, cuts: Candidates, bound: Bound) -> IntArray:
        """(candidates,) output axon slots of the fullest, or of the middle tile."""
        if isinstance(load.reach[0], ListedReach) and not self._is_flat:
            counts = self._targets_of(load, None)
            if bound == "upper":
                return counts.max() * cuts.product([s.stop - s.start for s in self.splits], bound)
            return _box_sums(counts, cuts)
        if load.synapses.name not in self.sent:
            self.sent[load.synapses.name] = self._sent_axes(load)
        axes = self.sent[load.synapses.name]
        return self._slots(load) * cuts.product(axes, bound)

    def _sent_axes(self, load: Load) -> list[IntArray]:
        """Along each axis (tiles of all options,): pairs of a source in a tile and a tile of its target."""
        if self._is_lateral(load):
            return [sent_along(reach, splits) for reach, splits in zip(load.reach, self.splits, strict=True)]
        target = self.consumers[self.network.target_of(load.synapses).name]
        return [
            splits.sums(reach.targets_per_source(edges))
            for reach, splits, edges in zip(load.reach, self.splits, target.axes, strict=True)
        ]

    @property
    def _is_flat(self) -> bool:
        return shape3(self.population.shape)[1:] == (1, 1)

    def _targets_of(self, load: Load, own: Grid | None) -> IntArray:
        """(C, H, W) output axon slots of every neuron; own: how the population is cut, for lateral synapses."""
        grid = own if self._is_lateral(load) else self.consumers[self.network.target_of(load.synapses).name]
        assert grid is not None
        counts = [reach.targets_per_source(edges) for reach, edges in zip(load.reach, grid.axes, strict=True)]
        shape = shape3(self.population.shape)
        product = counts[0] if isinstance(load.reach[0], ListedReach) else outer(*counts)
        return self._slots(load) * product.reshape(shape)

    def _sent_of(self, load: Load, grid: Grid) -> IntArray:
        """(tiles,) output axon slots of every tile."""
        if isinstance(load.reach[0], ListedReach):
            counts = self._targets_of(load, grid)
            for axis, edges in enumerate(grid.axes):
                counts = np.add.reduceat(counts, edges[:-1], axis=axis)
            return counts.ravel()
        target = grid if self._is_lateral(load) else self.consumers[self.network.target_of(load.synapses).name]
        per_axis = (
            cut.sums(reach.targets_per_source(edges))
            for reach, cut, edges in zip(load.reach, grid.cuts, target.axes, strict=True)
        )
        return self._slots(load) * outer(*per_axis).ravel()

    def usage(self, grid: Grid, others: IntArray | int = 0) -> Usage:
        """What each tile of a cut takes, exactly. others: compartments of other populations on the core of each."""
        neurons = self.compartments * grid.sizes
        words: dict[str, Words] = {load.synapses.name: load.words_of(grid, neurons + others) for load in self._inputs}
        zero = np.zeros(grid.tiles, np.int64)
        resources = {
            "neurons": neurons,
            "synapse_words": sum((w.total for w in words.values()), zero),
            "axons_in": sum((load.axons_of(grid) for load in self._inputs), zero),
            "axons_out": sum((self._sent_of(load, grid) for load in self._outputs()), zero),
        }
        longest = np.max([zero, *(w.longest for w in words.values())], axis=0)
        return Usage(resources, longest, {name: w.form for name, w in words.items()})

    def _is_within(self, usage: Usage) -> bool:
        return not self.excess(usage)

    def excess(self, usage: Usage) -> list[Misfit]:
        """Every limit that some tile exceeds, with the most that one takes."""
        name = self.population.name
        used = {resource: int(usage.resources[resource].max()) for resource in RESOURCES}
        found = [Misfit(name, r, used[r], limit) for r, limit in limits_of(self.chip).items() if used[r] > limit]
        longest, words = self._words_per_axon_max, int(usage.words_per_axon.max())
        return (
            found if longest is None or words <= longest else [*found, Misfit(name, "words_per_axon", words, longest)]
        )

    def misfits(self) -> list[Misfit]:
        """What a single neuron needs beyond a core."""
        return self.excess(self.usage(Grid(*(np.arange(n + 1) for n in shape3(self.population.shape)))))

    def reached(self) -> Misfit | None:
        """Where one neuron reaches more cores than the chip lets it."""
        limit = self.chip.core.axons_out_per_neuron_max
        outputs = [load for load in self._outputs() if not self._is_lateral(load)]
        if limit is None or not outputs:
            return None
        most = int(sum(self._targets_of(load, None) for load in outputs).max())  # type: ignore[union-attr]
        return Misfit(self.population.name, "axons_out_per_neuron", most, limit) if most > limit else None


def _box_sums(values: IntArray, cuts: Candidates) -> IntArray:
    """(candidates,) sums of values (C, H, W) over the middle tile of every cut."""
    summed = np.zeros([n + 1 for n in values.shape], np.int64)
    summed[1:, 1:, 1:] = values.cumsum(0).cumsum(1).cumsum(2)
    ends = [
        (splits.start[splits.middle][option], splits.stop[splits.middle][option])
        for splits, option in zip(cuts.splits, cuts.options, strict=True)
    ]
    total = np.zeros(len(cuts.options[0]), np.int64)
    for i, j, k in np.ndindex(2, 2, 2):
        total += (-1) ** (3 - i - j - k) * summed[ends[0][i], ends[1][j], ends[2][k]]
    return total
