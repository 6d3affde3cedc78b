"""Counts and energy by layer, by core and by chip step: sums of the same counts that `cost.py` prices as a whole.

A layer is a population. It is charged what its cores do (neurons, updates, spikes, packets they send, synapses they
read) and the links that its packets take. A core is charged the same but for links, which belong to no core; a chip
step is charged all that happens in it. So over layers and over chip steps everything adds up to the total, over cores
everything but the links. Packets from the host cost no generation and no links, as in `cost.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snncompile.chip import Chip
from snncompile.program import Program

from .cost import EVENTS, CoreTimes, Counts, Traffic, energy_pj, energy_report
from .counting import Part

HOPS = ("hop_east_west", "hop_north_south", "hop_chip_border")
ON_CORES = tuple(name for name in EVENTS if name not in HOPS)

Hops = Mapping[str, Counts]
"""Links that the packets of each population take in its logical steps, (N*T, 3) in the order of HOPS."""


def hops_of(program: Program, batches: Sequence[Mapping[str, Part]]) -> Hops:
    """Links by population of all batches."""
    found = {p.name: [batch[p.name].hops for batch in batches] for p in program.network.populations}
    return {name: np.concatenate([part for part in parts if part is not None]) for name, parts in found.items()}


def counts_by_layer(program: Program, traffic: Traffic, hops: Hops) -> dict[str, dict[str, float]]:
    """Mean events per inference of every population, by the cause they are charged to."""
    samples = traffic.samples
    found = {}
    for population in program.network.populations:
        tiles = program.core_graph.tiles_of(population.name)
        reached = [r.synops for r in traffic.receptions if r.first_tile == tiles.start]
        counts = {
            "synop": sum(float(synops.sum()) for synops in reached) / samples,
            "neuron": float(traffic.neurons[tiles].sum()) * traffic.timesteps,
            "update": float(traffic.updated[:, :, tiles].sum()) / samples,
            "spike": float(traffic.fired[:, :, tiles].sum()) / samples,
            "packet": float(traffic.packets_out[:, :, tiles].sum()) / samples,
        }
        links = hops[population.name].sum(axis=0) / samples
        found[population.name] = counts | dict(zip(HOPS, links.tolist(), strict=True))
    return found


def energy_by_layer(program: Program, traffic: Traffic, hops: Hops) -> dict[str, dict[str, Any]]:
    """{low, nominal, high, by_cause} in pJ per inference of every population.

    low and high: in the cost sets that are cheapest and dearest for the whole program, so that layers add up to its
    band. by_cause: in the nominal set, None where it has no number, which then is in no sum.
    """
    chip = program.chip
    by_layer = counts_by_layer(program, traffic, hops)
    whole = {name: sum(counts[name] for counts in by_layer.values()) for name in EVENTS}
    totals = {name: entry["total"] for name, entry in energy_report(whole, chip)["cost_sets"].items()}
    bounds = {"low": min(totals, key=totals.__getitem__), "nominal": chip.nominal_energy.name}
    bounds["high"] = max(totals, key=totals.__getitem__)
    found: dict[str, dict[str, Any]] = {}
    for name, counts in by_layer.items():
        sets = energy_report(counts, chip)["cost_sets"]
        found[name] = {bound: sets[costs]["total"] for bound, costs in bounds.items()}
        found[name]["by_cause"] = sets[bounds["nominal"]]["by_cause"]
    return found


def counts_by_core(traffic: Traffic, cores: int) -> dict[str, Counts]:
    """Mean events per inference on every core (cores,): ON_CORES, and packets received."""

    def summed(per_tile: NDArray[Any], tiles: NDArray[np.int64]) -> Counts:
        return np.bincount(tiles, per_tile, cores).astype(np.float64)

    found = {
        "neuron": summed(traffic.neurons * traffic.timesteps, traffic.core),
        "update": summed(traffic.updated.sum((0, 1)) / traffic.samples, traffic.core),
        "spike": summed(traffic.fired.sum((0, 1)) / traffic.samples, traffic.core),
        "packet": summed(traffic.packets_out.sum((0, 1)) / traffic.samples, traffic.core),
        "synop": np.zeros(cores),
        "packet_in": np.zeros(cores),
    }
    for r in traffic.receptions:
        on = traffic.core[r.first_tile : r.first_tile + r.packets.shape[2]]
        found["packet_in"] += summed(r.packets.sum((0, 1)) / traffic.samples, on)
        found["synop"] += summed(r.synops.sum((0, 1)) / traffic.samples, on)
    return found


def counts_by_step(program: Program, traffic: Traffic, hops: Hops) -> dict[str, Counts]:
    """Events in every chip step (N*T + depth,): EVENTS, and packets received, those of the host among them."""
    logical = traffic.samples * traffic.timesteps
    found = {name: np.zeros(logical + int(traffic.depth.max())) for name in (*EVENTS, "packet_in")}
    for depth in np.unique(traffic.depth).tolist():
        tiles, steps = traffic.depth == depth, slice(depth, depth + logical)
        found["neuron"][steps] += traffic.neurons[tiles].sum()
        for name, counts in (("update", traffic.updated), ("spike", traffic.fired), ("packet", traffic.packets_out)):
            found[name][steps] += (counts.reshape(logical, -1) @ tiles.astype(np.float64)).ravel()
    for r in traffic.receptions:
        found["packet_in"][r.depth : r.depth + logical] += r.packets.reshape(logical, -1).sum(1)
        found["synop"][r.depth : r.depth + logical] += r.synops.reshape(logical, -1).sum(1)
    for population in program.network.populations:
        for name, links in zip(HOPS, hops[population.name].T, strict=True):
            found[name][population.depth : population.depth + logical] += links
    return found


def arrays_of(
    program: Program, traffic: Traffic, hops: Hops, busy: CoreTimes, steps: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """What `run --save` adds. Per core: mean per inference, busy times as a share of all samples; per step: as it is.

    energy_sets (sets,): names of the cost sets, of the rows of core_energy_pj (sets, cores) and step_energy_pj
    (sets, steps); what a set does not publish is in neither. Links are in the latter alone.
    steps: further arrays per chip step, by name.
    """
    chip, cores = program.chip, program.core_graph.core_count
    by_core, by_step = counts_by_core(traffic, cores), counts_by_step(program, traffic, hops)
    longest = busy.longest
    placement = program.placement
    return {
        "energy_sets": np.array([costs.name for costs in chip.energy]),
        "core_chip": placement.chip,
        "core_x": placement.x,
        "core_y": placement.y,
        "core_slot": placement.slot,
        "core_energy_pj": _priced({name: by_core[name] for name in ON_CORES}, chip),
        "core_generation_ns": longest.core_generation / traffic.samples,
        "core_reception_ns": longest.core_reception / traffic.samples,
        "core_busy_ns": longest.core_busy / traffic.samples,
        "core_packets_out": by_core["packet"],
        "core_packets_in": by_core["packet_in"],
        "core_synops": by_core["synop"],
        "step_energy_pj": _priced({name: by_step[name] for name in EVENTS}, chip),
        "step_generation_ns": longest.generation,
        "step_reception_ns": longest.reception,
        "step_busiest_core": longest.core,
        "step_packets_out": by_step["packet"],
        "step_packets_in": by_step["packet_in"],
        "step_synops": by_step["synop"],
        **steps,
    }


STEP_LINES = ("step_ns", "step_generation_ns", "step_reception_ns", "step_busiest_core", "step_routed")


def lines_of(program: Program, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """What the report shows of `arrays_of`, as lists: by_core {energy_pj, busy_ns} of every core per inference, the
    energy in the nominal cost set and without links; by_step {ns, generation_ns, ...} of every chip step.
    """
    nominal = [costs.name for costs in program.chip.energy].index(program.chip.nominal_energy.name)
    by_core = {"energy_pj": arrays["core_energy_pj"][nominal], "busy_ns": arrays["core_busy_ns"]}
    return {
        "by_core": {name: values.tolist() for name, values in by_core.items()},
        "by_step": {name.removeprefix("step_"): arrays[name].tolist() for name in STEP_LINES},
    }


def _priced(counts: Mapping[str, Counts], chip: Chip) -> Counts:
    """(sets, n) energy in pJ of events (n,) by name; without those that a set has no number for."""
    ones = dict.fromkeys(EVENTS, 1.0)
    prices = [energy_pj(ones, costs) for costs in chip.energy]
    some = next(iter(counts.values()))
    return np.array([sum((n * (p[name] or 0.0) for name, n in counts.items()), np.zeros_like(some)) for p in prices])
