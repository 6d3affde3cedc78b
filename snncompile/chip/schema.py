"""What a chip file may say: frozen records with units in the keys, null for unknown, a source for every number.

Three kinds: `Chip` can be compiled for; `ChipLimits` has cores on a mesh that a network can be compared with, but not
compiled for (`check_only` says why); `LayerChip` holds one layer a core, and is compared with, too.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from snncompile.semantics import Fire, Reset

Count = Annotated[int, Field(gt=0)]
Bits = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]


class Record(BaseModel):
    """Frozen; refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Mesh(Record):
    """Routers in a width x height grid with XY routing, `cores_per_router` cores each, on every chip of a board.

    The board holds chips_across x chips_down equal chips, whose grids join into one.
    """

    width: Count
    height: Count
    cores_per_router: Count
    chips_across: Count
    chips_down: Count

    @property
    def cores_per_chip(self) -> int:
        return self.width * self.height * self.cores_per_router

    @property
    def chips(self) -> int:
        return self.chips_across * self.chips_down

    @property
    def cores(self) -> int:
        """Of the whole board."""
        return self.cores_per_chip * self.chips


class CoreLimits(Record):
    """What one core holds; null: unknown, or no such limit.

    neurons: compartments (`Numerics.compartments` a neuron). axons_in: distinct synapse lists. axons_out: slots, one
    for each (neuron, target core) pair, or `axon_slots_shared` where the target's core keeps the lists of a
    convolution once for all positions. axons_out_per_neuron_max: cores that one neuron reaches. synapse_formats_max,
    neuron_groups_max: layers of synapses and populations on a core; null for the latter: populations do not share.
    delay_extra_steps_max: the most steps that a spike may take beyond the usual one.
    """

    neurons: Count
    synapse_words: Count | None
    axons_in: Count | None
    axons_out: Count | None
    axons_out_per_neuron_max: Count | None = None
    axon_slots_shared: Count = 1
    synapse_formats_max: Count | None = None
    neuron_groups_max: Count | None = None
    delay_extra_steps_max: Count | None = None


class KnownCoreLimits(CoreLimits):
    """Of a chip that can be compiled for: the four main limits are known."""

    synapse_words: Count
    axons_in: Count
    axons_out: Count


class SynapseFormat(Record):
    """One way to write a list of synapses, in entries (`SynapseMemory`).

    index: where the target's number stands. "each": with every synapse; "once": in front of the entry, whose synapses
    have consecutive targets; zero weights between them are stored, too ("dense"), or each synapse has `skip_bits` more
    that say how many targets it skips, at most 2^skip_bits - 1 (one of the widths listed; "run-length").
    """

    name: str
    index: Literal["each", "once"]
    skip_bits: tuple[Count, ...] = ()


class SynapseMemory(Record):
    """How the synapses of one input axon to one core fill words of `word_bits`.

    A list is cut into entries of at most `entry_synapses_max` synapses. Bits of an entry of n synapses:

        entry_prefix_bits + [index, if "once"] + n * (weight + delay + [index, if "each"; skip, if run-length])

    each entry rounded up to whole words (`rounding` "entry"), or the list as a whole ("list"). The index is the
    narrowest width of `index_bits` that numbers all compartments in use on the core, else the widest; weight: the
    narrowest of `weight_field_bits` (null: any) that holds the layer's weights, one bit less where all have one sign
    (`sign_bit_saved`); delay: the narrowest of `delay_bits` (null: any) for the layer's extra steps. For every layer
    and core the cheapest of `formats` is taken whose longest list is within `words_per_axon_max` (null: none known).

    convolution: "kernel" stores the kernel once a core, ceil(weights * (weight + delay) / word_bits); "shared_lists"
    one list for all source positions that meet the same part of the kernel; "lists" one for every source neuron.
    """

    word_bits: Count
    words_per_axon_max: Count | None
    entry_synapses_max: Count
    entry_prefix_bits: Bits
    rounding: Literal["entry", "list"]
    index_bits: tuple[Bits, ...]
    weight_field_bits: tuple[Count, ...] | None
    sign_bit_saved: bool
    delay_bits: tuple[Bits, ...] | None
    formats: tuple[SynapseFormat, ...] = Field(min_length=1)
    convolution: Literal["kernel", "shared_lists", "lists"]

    @model_validator(mode="after")
    def _lists_have_no_entries_apart(self) -> "SynapseMemory":
        if self.rounding == "list" and any(form.index == "once" for form in self.formats):
            raise ValueError("synapse_memory.formats with an index once an entry need rounding: entry")
        return self


class Compartments(Record):
    """Compartments one spiking neuron takes on the chip, by its reset. A neuron that never fires takes one."""

    hard: Count
    soft: Count
    none: Count


class CheckedNumerics(Record):
    """What of a chip's integers decides whether a network fits; null: unknown."""

    weight_bits: tuple[Count, ...]
    state_bits: Count | None
    payload_bits: Bits | None
    resets: tuple[Reset, ...]
    compartments: Compartments


class Numerics(CheckedNumerics):
    """Integers of a chip that can be compiled for.

    fraction_bits_max: most fractional bits a state gets below one weight unit. leak_above_one, step_mixing: whether a
    neuron can amplify its state, and store the inputs of several steps and mix them (both need programmable neurons).
    synaptic_current: whether a neuron has a current that decays, too; current_bias: whether a bias can go into it, and
    not only into the membrane. adaptive_threshold, state_floor: whether a threshold can rise with every spike, and a
    membrane have a lower bound. decays_max: different pairs of decays in a population; null: any.
    A threshold, and what a soft reset subtracts, is a mantissa of threshold_mantissa_bits (unsigned) times
    2^threshold_shift; a bias is one of bias_mantissa_bits (signed) times 2^e, e at most bias_exponent_max and one for
    a population. Null: any integer of the state's width. exponent_max: the most a weight may be shifted left.
    """

    state_bits: Count
    decay_bits: Literal[12]
    fraction_bits_max: int
    graded_spikes: bool
    payload_bits: Bits
    leak_above_one: bool
    step_mixing: bool
    synaptic_current: bool
    current_bias: bool
    adaptive_threshold: bool
    state_floor: bool
    decays_max: Count | None
    fire: tuple[Fire, ...]
    threshold_shift: int
    threshold_mantissa_bits: Count | None
    bias_mantissa_bits: Count | None
    bias_exponent_max: int | None
    exponent_max: Count | None


class EnergySet(Record):
    """Energy per event in pJ (model of `backends/chipsim/cost.py`); null: not published, left out and said so.

    neuron: every mapped neuron, every step; update: added when it is updated; spike: added when it fires;
    packet: per (firing neuron, target core); hop: per packet and router-to-router link.
    """

    name: str
    nominal: bool
    inherited: bool
    energy_synop_pj: Amount | None
    energy_neuron_pj: Amount | None
    energy_update_pj: Amount | None
    energy_spike_pj: Amount | None
    energy_packet_pj: Amount | None
    energy_hop_east_west_pj: Amount | None
    energy_hop_north_south_pj: Amount | None


class EventTime(Record):
    """Event-timed step model (SANA-FE, IEEE TCAD 2025); barrier: entry of the largest key <= routers in use."""

    inherited: bool
    time_neuron_ns: Amount
    time_update_ns: Amount
    time_spike_ns: Amount
    time_packet_out_ns: Amount
    time_packet_in_ns: Amount
    time_synop_ns: Amount
    time_barrier_ns_by_routers: dict[Count, Amount]

    def barrier_ns(self, routers: int) -> float:
        return self.time_barrier_ns_by_routers[max(k for k in self.time_barrier_ns_by_routers if k <= max(routers, 1))]


class MaxAffine(Record):
    """Step time of arXiv:2601.10035, Eq. 1, a maximum over cores, links and the barrier; null: coefficient not known.

        t_step >= max(dendrite ops * t, synaptic ops * t, synapse-memory reads * t, packets on the heaviest link * t,
                      barrier)

    Where any is null, steps are timed by `time` instead, and results say so.
    """

    time_dendrite_op_ns: Amount | None
    time_synop_ns: Amount | None
    time_synapse_read_ns: Amount | None
    time_link_packet_ns: Amount | None
    time_barrier_ns: Amount | None


class Router(Record):
    """Clocked mesh router for `run --timing cycle` (`backends/chipsim/router.py`); null as a whole: not published.

    One cycle lasts cycle_ns; a packet has packet_flits flits, a link takes one a cycle (over a border of chips one in
    border_flit_cycles). subnetworks: copies of the mesh. fifo_flits: depth of every input FIFO. hop_cycles_*: from
    router to router, empty; eject_cycles: from the last router to the core. receive_packets: that wait at a core
    besides the one it serves. generation_waits: a core whose packet cannot enter the mesh makes no further ones
    meanwhile.
    """

    cycle_ns: Annotated[float, Field(gt=0)]
    packet_flits: Count
    fifo_flits: Count
    subnetworks: Count
    hop_cycles_east_west: Count
    hop_cycles_north_south: Count
    eject_cycles: Count
    receive_packets: Count
    border_flit_cycles: Count | None
    generation_waits: bool


class StaticPower(Record):
    """Power of one chip that does nothing, in mW; null where unknown."""

    low_mw: Amount | None
    high_mw: Amount | None


class Source(Record):
    """Where the numbers under `covers` (dotted keys) come from; of several for a number the first is the one."""

    covers: tuple[str, ...]
    source: str
    basis: Literal[
        "published", "measured", "vendor_printout", "simulated", "fitted", "scaled_estimate", "ours", "invented"
    ]
    confidence: Literal["high", "medium", "low"]


class _Described(Record):
    """What every chip file says."""

    name: str
    vendor: str
    description: str
    silicon: bool
    static_power: StaticPower
    sources: tuple[Source, ...]

    @model_validator(mode="after")
    def _every_number_has_a_source(self) -> "_Described":
        covered = [key for source in self.sources for key in source.covers]
        known = [".".join(path) for path in number_paths(self.model_dump(exclude={"sources"}))]
        for dotted in known:
            if not any(within(dotted, key) for key in covered):
                raise ValueError(f"{dotted} has no source")
        for key in covered:
            if not any(within(dotted, key) for dotted in known):
                raise ValueError(f"sources cover {key}, where no number stands")
        return self

    def source_of(self, dotted: str) -> Source | None:
        """Where the number at a dotted key comes from; None: there is no number."""
        return next((s for s in self.sources if any(within(dotted, key) for key in s.covers)), None)


class ChipLimits(_Described):
    """Cores on a mesh that a network can be compared with. check_only: why it cannot be compiled for; None: it can.

    boards: chips of each board that was built, by its name; board: the one that `mesh` describes, if it has a name.
    """

    check_only: str | None = None
    mesh: Mesh
    boards: dict[str, Count]
    board: str | None
    core: CoreLimits
    synapse_memory: SynapseMemory | None
    numerics: CheckedNumerics
    time: EventTime | None
    max_affine: MaxAffine | None = None
    router: Router | None = None
    energy: tuple[EnergySet, ...]

    @model_validator(mode="after")
    def _is_consistent(self) -> "ChipLimits":
        if self.energy and sum(energy.nominal for energy in self.energy) != 1:
            raise ValueError("exactly one energy set must be nominal")
        if self.time is not None and 1 not in self.time.time_barrier_ns_by_routers:
            raise ValueError("time.time_barrier_ns_by_routers needs an entry for 1 router")
        if self.board is not None and self.boards.get(self.board) != self.mesh.chips:
            raise ValueError(f"board {self.board!r} must be in boards, with the {self.mesh.chips} chips of mesh")
        return self

    @property
    def nominal_energy(self) -> EnergySet:
        return next(energy for energy in self.energy if energy.nominal)


class Chip(ChipLimits):
    """A chip that can be compiled for."""

    core: KnownCoreLimits
    synapse_memory: SynapseMemory
    numerics: Numerics
    time: EventTime
    energy: tuple[EnergySet, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _can_be_compiled_for(self) -> "Chip":
        if self.check_only is not None:
            raise ValueError("check_only says that it cannot be compiled for")
        return self


class CoreMemory(Record):
    """What one core of a layer-per-core chip holds."""

    kernel_words: Count
    neuron_words: Count
    bias_words: Count


class LayerCore(Record):
    """Cores that hold one layer each: convolution, neurons, then a sum pool.

    A kernel of size kx * ky from c_in to f channels takes c_in * 2^(ceil(log2(kx ky)) + ceil(log2 f)) kernel words,
    f maps of fy x fx neurons take f * 2^(ceil(log2 fy) + ceil(log2 fx)) neuron words.
    """

    cores: tuple[CoreMemory, ...]
    kernel_word_bits: Count
    neuron_word_bits: Count
    input_size_max: Count
    output_size_max: Count
    channels_max: Count
    kernel_size_max: Count
    square_kernel_only: bool
    strides: tuple[Count, ...]
    padding_max: Count
    pools: tuple[Count, ...]
    targets_max: Count


class LayerChip(_Described):
    """A chip whose cores hold one layer each. check_only: why it cannot be compiled for."""

    check_only: str
    layer_core: LayerCore
    numerics: CheckedNumerics


AnyChip = ChipLimits | LayerChip


def within(dotted: str, key: str) -> bool:
    """Whether a dotted path is `key` or lies below it."""
    return dotted == key or dotted.startswith(f"{key}.")


def number_paths(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all numbers; a record in a list is named by its name, if it has one."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from number_paths(item, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from number_paths(item, (*path, str(item.get("name", i)) if isinstance(item, dict) else str(i)))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path
