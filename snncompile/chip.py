"""Chips as data: `hw_models/*.yaml` under one schema, units in the keys, a source for every number.

Unknown is null, never 0. Unknown and misspelt keys are refused. See hw_models/README.md.
"""

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from snncompile.errors import CompileError, nearest
from snncompile.network import Fire, Reset

Count = Annotated[int, Field(gt=0)]
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
    """What one core holds. axons_out: (neuron, target core) pairs."""

    neurons: Count
    synapse_words: Count
    axons_in: Count
    axons_out: Count


class SynapseMemory(Record):
    """How synapses fill words.

    Linear: per input axon ceil((n*(index_bits + weight_bits) + prefix_bits*ceil(n/entry_synapses_max)) / word_bits)
    words for n synapses, at most words_per_axon_max of them (null: no such limit is known). Convolution: the kernel
    once a core, ceil(weights * weight_bits / word_bits).
    """

    word_bits: Count
    entry_synapses_max: Count
    entry_prefix_bits: int
    index_bits: int
    words_per_axon_max: Count | None


class Compartments(Record):
    """Compartments one spiking neuron takes on the chip, by its reset. A neuron that never fires takes one."""

    hard: Count
    soft: Count
    none: Count


class Numerics(Record):
    """Integers of the chip.

    fraction_bits_max: most fractional bits a state gets below one weight unit. leak_above_one, step_mixing: whether a
    neuron can amplify its state, and store the inputs of several steps and mix them (both need programmable neurons).
    A threshold, and what a soft reset subtracts, is a mantissa of threshold_mantissa_bits (unsigned) times
    2^threshold_shift; a bias is one of bias_mantissa_bits (signed) times 2^e, e at most bias_exponent_max and one for
    a population. Null: any integer of the state's width. exponent_max: the most a weight may be shifted left.
    """

    weight_bits: tuple[Count, ...]
    state_bits: Count
    decay_bits: Literal[12]
    fraction_bits_max: int
    graded_spikes: bool
    payload_bits: int
    leak_above_one: bool
    step_mixing: bool
    resets: tuple[Reset, ...]
    fire: tuple[Fire, ...]
    compartments: Compartments
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


class StaticPower(Record):
    """Power of one chip that does nothing, in mW; null where unknown."""

    low_mw: Amount | None
    high_mw: Amount | None


class Source(Record):
    """Where the numbers under `covers` (dotted keys) come from."""

    covers: tuple[str, ...]
    source: str
    basis: Literal[
        "published", "measured", "vendor_printout", "simulated", "fitted", "scaled_estimate", "ours", "invented"
    ]
    confidence: Literal["high", "medium", "low"]


class Chip(Record):
    """One chip model."""

    name: str
    vendor: str
    description: str
    silicon: bool
    mesh: Mesh
    core: CoreLimits
    synapse_memory: SynapseMemory
    numerics: Numerics
    time: EventTime
    energy: tuple[EnergySet, ...]
    static_power: StaticPower
    sources: tuple[Source, ...]

    @model_validator(mode="after")
    def _every_number_has_a_source(self) -> "Chip":
        covered = [key for source in self.sources for key in source.covers]
        for path in _numbers(self.model_dump(exclude={"sources"}), ()):
            dotted = ".".join(path)
            if not any(dotted == key or dotted.startswith(f"{key}.") for key in covered):
                raise ValueError(f"{dotted} has no source")
        if sum(energy.nominal for energy in self.energy) != 1:
            raise ValueError("exactly one energy set must be nominal")
        if 1 not in self.time.time_barrier_ns_by_routers:
            raise ValueError("time.time_barrier_ns_by_routers needs an entry for 1 router")
        return self

    @property
    def nominal_energy(self) -> EnergySet:
        return next(energy for energy in self.energy if energy.nominal)


def _numbers(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Dotted paths of all numbers; an energy set is named by its name."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _numbers(item, (*path, item["name"] if isinstance(item, dict) else str(i)))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


SIM_SUFFIX = "-sim"


def target_names() -> tuple[str, ...]:
    """Every target that can be compiled for."""
    return tuple(f"{name}{SIM_SUFFIX}" for name in chip_names())


def chip_names() -> tuple[str, ...]:
    folder = files("snncompile.hw_models")
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def load_target(target: str) -> Chip:
    """The chip of `<chip>-sim`. Raises CompileError: unknown, or a chip without `-sim` (silicon is not reached)."""
    if target in target_names():
        return load_chip(target.removesuffix(SIM_SUFFIX))
    if target in chip_names():
        raise CompileError(
            "--target",
            f"{target!r} is kept for the silicon, which snncompile cannot reach",
            f"use {target}{SIM_SUFFIX}",
        )
    raise CompileError("--target", f"no target {target!r}", nearest(target, target_names()))


@cache
def load_chip(name: str) -> Chip:
    """The chip model `hw_models/<name>.yaml`."""
    return parse_chip((files("snncompile.hw_models") / f"{name}.yaml").read_text(), f"{name}.yaml")


def parse_chip(text: str, where: str) -> Chip:
    """A chip from YAML text; raises CompileError naming file and key."""
    try:
        return Chip.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise CompileError(where, f"not YAML ({str(error).splitlines()[0]})") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'chip'}: {e['msg']}" for e in error.errors())
        raise CompileError(where, problems, "the schema is in hw_models/README.md") from error
