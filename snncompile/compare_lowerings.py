"""What each lowering would cost on the chip, beside the one that was chosen."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from snncompile.backend import load_backend
from snncompile.errors import CompileError
from snncompile.levels import LevelRates, activity_of, default_levels
from snncompile.lowering import MODES, Mode, resolve
from snncompile.mapping.connectivity import chip_synapses, connectivity
from snncompile.network import Network
from snncompile.pipeline import lowering_of, lowering_passes, place_program, run_passes
from snncompile.program import Program

LARGEST = 300_000
"""Neurons above which the lowerings that were not chosen are not tried: a look aside must not double the time."""


def compare_lowerings(
    folded: Network, program: Program, levels: LevelRates, cost: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Every lowering on this chip: class and cost at the same activity, or why it cannot be; the chosen one marked.

    cost: the chosen one's. A network without multi-threshold neurons has nothing to choose: an empty list.
    """
    if max((len(neuron.thresholds) for neuron in folded.neurons), default=1) == 1:
        return []
    return [_lowering_entry(folded, program, mode, levels, cost) for mode in MODES if mode != "auto"]


def _lowering_entry(
    folded: Network, program: Program, mode: Mode, levels: LevelRates, cost: Mapping[str, Any]
) -> dict[str, Any]:
    entry: dict[str, Any] = {"lowering": mode, "chosen": mode == program.provenance.lowering_mode}
    if entry["chosen"]:
        return {**entry, **_figures(program, cost)}
    if program.neurons > LARGEST:
        return {**entry, "possible": None, "why": f"not tried: more than {LARGEST:,} neurons"}
    try:
        other = _placed(folded, program, mode)
    except CompileError as error:
        return {**entry, "possible": False, "why": str(error)}
    added = {**default_levels(other.network), **levels}  # it may need remedies that the chosen one does not
    return {**entry, **_figures(other, load_backend("sim").estimate(other, activity_of(other.network, added)) or {})}


def _placed(folded: Network, program: Program, mode: Mode) -> Program:
    chip, made = program.chip, program.provenance
    lowered = run_passes(folded, lowering_passes(chip.numerics, resolve(mode, chip.numerics), made.input_coding))
    made = replace(made, lowering_mode=mode, lowering=lowering_of(folded, chip.numerics, mode))
    return place_program(program.target, chip, lowered, made)


def _figures(program: Program, cost: Mapping[str, Any]) -> dict[str, Any]:
    network = program.network
    return {
        "possible": True,
        "exactness": sorted({population["exactness"] for population in program.provenance.lowering.values()}),
        "neurons": program.neurons,
        "synapses": sum(connectivity(network, s).synapses for s in chip_synapses(network)),
        "timesteps": network.timesteps,
        "depth_steps": network.depth,
        "cores": program.core_graph.core_count,
        "energy_pj": {bound: cost["energy_pj"][bound] for bound in ("low", "nominal", "high")},
        "latency_us": cost["latency_us"],
    }
