"""Time and energy from counts per core and step.

Time (event-timed; Loihi has no clock), SANA-FE's validated model (Boyle et al., IEEE TCAD 44(8) 2025):

    t_step = max over cores of max(generation, reception) + barrier(routers in use)
    generation = time_neuron * neurons + time_update * updated + time_spike * fired + time_packet_out * packets out
    reception  = time_packet_in * packets in + time_synop * synapses reached

Energy: the sum over events of count * energy per event, per cost set; a cost a set does not publish is left out of its
sum and named. Packets are counted once per (firing neuron, target core); those the host sends are received but neither
generated nor routed on the mesh, since where they enter is not published. Neurons count once for each compartment they
take. What a packet costs over the border of a chip, and how long a barrier over several chips takes, is not published:
the energy of those links is null, and times hold the barrier of one chip only, so they are lower bounds.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snncompile.chip import Chip, EnergySet

Counts = NDArray[np.float64]

BUSY_VALUES = 500_000
"""Times of cores in chip steps that are looked at in one go (about 50 bytes each), which bounds memory."""


@dataclass(frozen=True, eq=False)
class Reception:
    """What one layer of synapses delivers to the tiles first_tile, first_tile + 1, ... : (N, T, tiles) each.

    `depth` is the source's: packets are received, and their synapses read, in the chip step they are sent in.
    """

    depth: int
    first_tile: int
    packets: Counts
    synops: Counts


@dataclass(frozen=True, eq=False)
class Traffic:
    """Counts of N samples, per tile (N, T, tiles) in the logical step of the tile's population; hops (N, T).

    core, neurons, depth (tiles,): the core each tile is on, the compartments mapped to it, and how many chip steps it
    runs behind the input. updated: compartments of updated neurons. hops_chip_border: links from chip to chip, in none
    of the other hops.
    """

    core: NDArray[np.int64]
    neurons: NDArray[np.int64]
    depth: NDArray[np.int64]
    updated: Counts
    fired: Counts
    packets_out: Counts
    receptions: tuple[Reception, ...]
    hops_east_west: Counts
    hops_north_south: Counts
    hops_chip_border: Counts

    @property
    def samples(self) -> int:
        return len(self.updated)

    @property
    def timesteps(self) -> int:
        return self.updated.shape[1]

    @property
    def synops(self) -> float:
        """Synaptic operations of all samples: one per synapse reached by a spike, graded or not."""
        return sum(float(reception.synops.sum()) for reception in self.receptions)


EVENTS = ("synop", "neuron", "update", "spike", "packet", "hop_east_west", "hop_north_south", "hop_chip_border")


def event_counts(traffic: Traffic) -> dict[str, float]:
    """Mean events per inference, by the cause they are charged to."""
    neuron_steps = float(traffic.neurons.sum()) * traffic.timesteps
    totals = {
        "update": traffic.updated,
        "spike": traffic.fired,
        "packet": traffic.packets_out,
        "hop_east_west": traffic.hops_east_west,
        "hop_north_south": traffic.hops_north_south,
        "hop_chip_border": traffic.hops_chip_border,
    }
    per_inference = {name: float(values.sum()) / traffic.samples for name, values in totals.items()}
    return {"synop": traffic.synops / traffic.samples, "neuron": neuron_steps, **per_inference}


def energy_pj(counts: dict[str, float], costs: EnergySet) -> dict[str, float | None]:
    """Energy per inference by cause; None where the set has no number for it. No link over a border costs nothing."""
    per_event = {name: getattr(costs, f"energy_{name}_pj", None) for name in EVENTS}
    if not counts["hop_chip_border"]:
        per_event["hop_chip_border"] = 0.0
    return {name: None if cost is None else counts[name] * cost for name, cost in per_event.items()}


def energy_report(counts: dict[str, float], chip: Chip) -> dict[str, Any]:
    """{low, nominal, high} over the cost sets in pJ per inference, and every set by cause with what it leaves out."""
    sets: dict[str, Any] = {}
    for costs in chip.energy:
        by_cause = energy_pj(counts, costs)
        known = [value for value in by_cause.values() if value is not None]
        sets[costs.name] = {
            "total": sum(known),
            "by_cause": by_cause,
            "not_published": [name for name, value in by_cause.items() if value is None],
            "inherited": costs.inherited,
        }
    totals = [entry["total"] for entry in sets.values()]
    nominal = sets[chip.nominal_energy.name]
    return {
        "low": min(totals),
        "nominal": nominal["total"],
        "high": max(totals),
        "by_cause": nominal["by_cause"],
        "cost_sets": sets,
    }


def step_times_ns(traffic: Traffic, chip: Chip, routers: int, busy: "CoreTimes | None" = None) -> NDArray[np.float64]:
    """Duration of every chip step, (N*T + depth,): each tile works on the logical step its depth puts it at.

    busy: the times of the cores, where they are at hand.
    """
    longest = (busy or CoreTimes(traffic, chip)).longest
    return np.maximum(longest.generation, longest.reception) + chip.time.barrier_ns(routers)


@dataclass(frozen=True, eq=False)
class Longest:
    """Of every chip step (steps,): the longest time in ns that a core generates, that one receives, and a core that is
    busy longest with either. Of every core (cores,), over all steps: ns that it generates, receives, is busy.
    """

    generation: Counts
    reception: Counts
    core: NDArray[np.int64]
    core_generation: Counts
    core_reception: Counts
    core_busy: Counts


@dataclass(frozen=True, eq=False)
class CoreTimes:
    """How long every core generates and receives in every chip step, in ns; computed for some steps at a time."""

    traffic: Traffic
    chip: Chip

    @property
    def steps(self) -> int:
        """Chip steps, N*T + depth."""
        return self.traffic.samples * self.traffic.timesteps + int(self.traffic.depth.max())

    @property
    def cores(self) -> int:
        return int(self.traffic.core.max()) + 1

    def of(self, first: int, stop: int) -> tuple[Counts, Counts]:
        """Generation and reception of the steps first to stop - 1, (stop - first, cores) each."""
        traffic, time = self.traffic, self.chip.time
        generated, received = np.zeros((2, stop - first, self.cores))
        for depth in np.unique(traffic.depth).tolist():
            tiles = np.flatnonzero(traffic.depth == depth)
            rows, logical = steps_of(depth, first, stop, traffic)
            busy = time.time_neuron_ns * traffic.neurons[tiles]
            busy = busy + time.time_update_ns * logical_steps(traffic.updated)[logical, tiles]
            busy += time.time_spike_ns * logical_steps(traffic.fired)[logical, tiles]
            busy += time.time_packet_out_ns * logical_steps(traffic.packets_out)[logical, tiles]
            _add_columns(generated[rows], traffic.core[tiles], busy)
        for r in traffic.receptions:
            rows, logical = steps_of(r.depth, first, stop, traffic)
            taken = time.time_packet_in_ns * logical_steps(r.packets)[logical]
            taken += time.time_synop_ns * logical_steps(r.synops)[logical]
            _add_columns(received[rows], traffic.core[r.first_tile + np.arange(taken.shape[1])], taken)
        return generated, received

    @cached_property
    def longest(self) -> Longest:
        """Sums and maxima, `BUSY_VALUES` times looked at in one go."""
        at_once = max(1, BUSY_VALUES // self.cores)
        by_step: list[tuple[Counts, Counts, NDArray[np.int64]]] = []
        by_core = np.zeros((3, self.cores))
        for first in range(0, self.steps, at_once):
            generation, reception = self.of(first, min(first + at_once, self.steps))
            busy = np.maximum(generation, reception)
            by_step.append((generation.max(1), reception.max(1), busy.argmax(1)))
            by_core += [generation.sum(0), reception.sum(0), busy.sum(0)]
        generation, reception, core = (np.concatenate(column) for column in zip(*by_step, strict=True))
        return Longest(generation, reception, core, *by_core)


def logical_steps(counts: Counts) -> Counts:
    """(N, T, n) -> (N*T, n)."""
    return counts.reshape(-1, counts.shape[2])


def steps_of(depth: int, first: int, stop: int, traffic: Traffic) -> tuple[slice, slice]:
    """Of the chip steps first to stop - 1 those in which something of that depth works, and its logical steps then."""
    logical = traffic.samples * traffic.timesteps
    low, high = (min(max(step - depth, 0), logical) for step in (first, stop))
    return slice(low + depth - first, high + depth - first), slice(low, high)


def _add_columns(total: Counts, columns: NDArray[np.int64], values: Counts) -> None:
    """total[:, columns] += values, for columns that may repeat."""
    if len(np.unique(columns)) == len(columns):
        total[:, columns] += values
    else:
        np.add.at(total.T, columns, values.T)


def latency_us(step_ns: NDArray[np.float64], traffic: Traffic) -> float:
    """Mean time from the first step of a sample's input to its last at the deepest population, others in flight."""
    steps = traffic.timesteps + int(traffic.depth.max())
    ends = np.concatenate([[0.0], np.cumsum(step_ns)])
    starts = np.arange(traffic.samples) * traffic.timesteps
    return float((ends[starts + steps] - ends[starts]).mean()) / 1e3


def time_report(
    traffic: Traffic, chip: Chip, routers: int, step_ns: NDArray[np.float64] | None = None
) -> dict[str, Any]:
    """Latency, throughput and mean step time of N samples that follow each other every T steps.

    step_ns: duration of every chip step; None: event-timed.
    """
    if step_ns is None:
        step_ns = step_times_ns(traffic, chip, routers)
    total_us = float(step_ns.sum()) / 1e3
    return {
        "latency_us": latency_us(step_ns, traffic),
        "step_us_mean": total_us / len(step_ns),
        "inferences_per_s": traffic.samples / total_us * 1e6,
        "barrier_ns": chip.time.barrier_ns(routers),
    }
