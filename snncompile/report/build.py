"""The content of report.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from snncompile.chip import ARRANGEMENT_BASIS, Chip
from snncompile.encoding import Kind
from snncompile.mapping.connectivity import chip_inputs, connectivity
from snncompile.mapping.partition import RESOURCES, compartments
from snncompile.mapping.routes import Flow
from snncompile.program import Program
from snncompile.quant_network import Population, QuantSynapses
from snncompile.report.mapping import links_report, mapping_report

INPUT_COMPUTED: dict[Kind, str] = {
    "pixels": "host rounds pixels to graded spikes, the same in every time step",
    "events": "host sends the frame of each time step as spikes",
    "rate": "host spreads spikes evenly over the time steps",
    "currents": "host computes W x + b of the first layer; writing it to the chip is not priced",
}


def build_report(program: Program, flow: Flow, cost: Mapping[str, Any], activity_basis: str) -> dict[str, Any]:
    """report.json without its steps. `flow`: packets per inference; `cost`: from the chip simulator."""
    return {
        "target": program.target,
        "chip": program.chip.name,
        "timesteps": program.network.timesteps,
        "microsteps": program.network.microsteps,
        "input": {"kind": program.host.encoder.kind, "computed": INPUT_COMPUTED[program.host.encoder.kind]},
        "depth_steps": program.network.depth,
        "neurons": program.neurons,
        "cores_used": program.core_graph.core_count,
        "cores_available": program.chip.mesh.cores,
        "chips_used": program.placement.chips_used,
        "chips_available": program.chip.mesh.chips,
        "board": _board(program.chip),
        "cores": _cores(program, cost),
        "layers": [_layer(program, population) for population in program.network.populations],
        "orders": {name: dict(saved) for name, saved in program.provenance.ordering.items()},
        "remedies": [dict(remedy) for remedy in program.provenance.remedies],
        "contract": [dict(node) for node in program.provenance.contract],
        "mapping": mapping_report(program, flow, cost),
        "links": links_report(program, flow),
        "estimate": _estimate(program, cost, activity_basis),
        "provenance": {
            "model_sha256": program.provenance.model_sha256,
            "versions": dict(program.provenance.versions),
            "passes": list(program.provenance.passes),
            "chip_sources": [source.model_dump(mode="json") for source in program.chip.sources],
        },
    }


def _board(chip: Chip) -> dict[str, Any]:
    """How the chips are arranged, and whose idea that is."""
    mesh = chip.mesh
    basis = ARRANGEMENT_BASIS if mesh.chips > 1 else None
    return {"name": chip.board, "chips_across": mesh.chips_across, "chips_down": mesh.chips_down, "basis": basis}


def _cores(program: Program, cost: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every core: where it is, what it holds; energy (without links) and busy time per inference, as estimated."""
    rows = []
    estimated = cost.get("by_core", {})
    for number, core in enumerate(program.core_graph.cores):
        where = {axis: int(getattr(program.placement, axis)[number]) for axis in ("chip", "x", "y", "slot")}
        row: dict[str, Any] = {"core": number, **where}
        for resource in RESOURCES:
            row[resource] = core.usage[resource]
            row[f"{resource}_limit"] = getattr(program.chip.core, resource)
        for name in ("energy_pj", "busy_ns"):
            row[name] = estimated[name][number] if name in estimated else None
        row["layers"] = [{"name": part.population, "box": [list(r) for r in part.box]} for part in core.slices]
        rows.append(row)
    return rows


def _layer(program: Program, population: Population) -> dict[str, Any]:
    network = program.network
    incoming, on_chip = network.inputs_of(population), chip_inputs(network, population)
    return {
        "name": population.name,
        "kind": "+".join(_kind(s, population, on_chip) for s in incoming),
        "shape": list(population.shape),
        "neurons": population.size,
        "neurons_trained": population.size // population.members,
        "members": population.members,
        "compartments_per_neuron": compartments(population, program.chip),
        "synapses": sum(connectivity(network, s).synapses for s in on_chip),
        "weights": sum(int(s.weight.size) for s in on_chip),
        "weight_bits": max((s.weight_bits for s in on_chip), default=None),
        "synapse_formats": {s.name: program.core_graph.formats[s.name] for s in on_chip},
        "state_bits": population.state_bits,
        "state_bits_available": program.chip.numerics.state_bits,
        "input_bits": population.input_bits,
        "fraction_bits": max(s.exponent for s in incoming),
        "levels": len(population.thresholds),
        "reset": population.reset,
        "decay": population.decay.tolist() if population.one_decay is None else population.one_decay,
        "states": _states(population),
        "depth_steps": population.depth,
        **program.provenance.lowering[population.name],
        "cores": program.core_graph.grids[population.name].tiles,
        "tiles": list(program.core_graph.grids[population.name].splits),
    }


def _states(population: Population) -> list[str]:
    """What a neuron keeps or compares beyond its membrane and threshold."""
    has = {
        "synaptic current": population.current_decay,
        "drive": population.drive,
        "floor": population.floor,
        "adaptive threshold": population.adapt_decay,
    }
    return [name for name, values in has.items() if values is not None]


def _kind(synapses: QuantSynapses, population: Population, on_chip: Sequence[QuantSynapses]) -> str:
    if synapses not in on_chip:
        return "currents"
    return "lateral" if synapses.source == population.name else synapses.kind


def _estimate(program: Program, cost: Mapping[str, Any], activity_basis: str) -> dict[str, Any]:
    inherited = [energy.name for energy in program.chip.energy if energy.inherited]
    notes = [
        f"activity: {activity_basis}; every neuron counted as updated in every step",
        "energy: modelled from counts, not measured; low and high are the cheapest and dearest cost set",
        "time: event-timed model; packets from the host are received, not routed: their entry point is not published",
    ]
    if inherited:
        notes.append(
            f"energy per event inherited from another chip (none is public for this one): {', '.join(inherited)}"
        )
    if program.chip.time.inherited:
        notes.append("times per event are scaled from another chip by the vendor's stated factors")
    if program.placement.chips_used > 1:
        notes.append(
            f"{program.placement.chips_used} chips: the barrier over chips and the energy of links between them are "
            "not published and left out, so latency and energy are lower bounds"
        )
    if program.network.input_kind == "currents":
        notes.append("input: the host's work, and its writing of input currents, are not in time and energy")
    kept = {key: value for key, value in cost.items() if key != "by_core"}  # stands with the cores
    return {**kept, "activity": activity_basis, "provenance": notes}
