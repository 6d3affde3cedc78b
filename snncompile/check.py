"""Will it fit: every misfit of a network in one report, and what to change, each change tried, the best first."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from snncompile.chip import AnyChip, Chip, ChipLimits, LayerChip, Numerics, chip_names, load_any, load_chip
from snncompile.errors import CompileError
from snncompile.lowering import resolve
from snncompile.mapping.connectivity import chip_inputs, chip_synapses, connectivity
from snncompile.mapping.fit import fit
from snncompile.mapping.layer_cores import LayersDoNotFit, assign_layers
from snncompile.mapping.partition import CoreGraph, DoesNotFit
from snncompile.mapping.tile_search import RESOURCES, Misfit, limits_of
from snncompile.network import Network
from snncompile.pipeline import lower
from snncompile.program import InputCoding
from snncompile.quant_network import QuantNetwork
from snncompile.quantization.quantize import quantize

WIDE_STATE = 48
STAND_IN = "weights are random stand-ins: what depends on their values (state widths, zeros among them) is a guess"


@dataclass(frozen=True)
class Asked:
    """How the network would be compiled."""

    weight_bits: int = 8
    lowering: str = "auto"
    input_coding: InputCoding = "direct"


@dataclass(frozen=True)
class Fix:
    """A change, tried: whether all of the network fits with it, the cores it then takes, and what it costs."""

    change: str
    cost: str
    cores: int
    chips: int


def check(network: Network, chip: AnyChip, asked: Asked, stand_in: bool = False) -> dict[str, Any]:
    """Whether a trained (or imagined) network fits a chip: the content of `snncompile check --json`.

    Keys: target, fits, cores_used (null where it does not fit), cores_available, chips_available, layers, misfits
    (layer, resource, used, limit, excess, text), remedies (what compiling does by itself), fixes (change, cost, cores,
    chips; best first), notes. Only the limits of the chip decide; a network whose numbers it cannot hold raises
    CompileError, as compiling it does.
    """
    notes = [STAND_IN] if stand_in else []
    if chip.check_only is not None:
        notes.append(f"{chip.name} cannot be compiled for: {chip.check_only}")
    quantized = integers(network, chip, asked)
    if isinstance(chip, LayerChip):
        return {"target": chip.name, **_on_layer_cores(quantized, chip), "notes": notes}
    try:
        done, found = fit(quantized, chip), None
    except DoesNotFit as error:
        done, found = None, error
    fixes = [] if found is None else sorted(_fixes(network, quantized, chip, asked, found), key=_rank)
    mapped = quantized if done is None else done.network
    return {
        "target": chip.name,
        "fits": found is None,
        "cores_used": None if done is None else done.graph.core_count,
        "cores_available": chip.mesh.cores,
        "chips_available": chip.mesh.chips,
        "layers": _layers(mapped, chip, None if done is None else done.graph, {} if found is None else found.cores),
        "misfits": [] if found is None else [_plain_misfit(misfit) for misfit in found.misfits],
        "remedies": [] if done is None else [asdict(remedy) for remedy in done.remedies],
        "fixes": [asdict(fix) for fix in fixes],
        "notes": notes,
    }


def _on_layer_cores(network: QuantNetwork, chip: LayerChip) -> dict[str, Any]:
    try:
        assigned, found = assign_layers(network, chip), None
    except LayersDoNotFit as error:
        assigned, found = None, error
    core_of = {} if assigned is None else assigned.core_of
    layers = [
        {
            "name": p.name,
            "shape": list(p.shape),
            "neurons": p.size,
            "synapses": sum(connectivity(network, s).synapses for s in chip_inputs(network, p)),
            "weight_bits": max((s.weight_bits for s in chip_inputs(network, p)), default=None),
            "state_bits": p.state_bits,
            "cores": 1 if assigned is not None else None,
            "core": core_of.get(p.name),
        }
        for p in network.populations
    ]
    return {
        "fits": found is None,
        "cores_used": None if assigned is None else len(core_of),
        "cores_available": len(chip.layer_core.cores),
        "chips_available": 1,
        "layers": layers,
        "misfits": [] if found is None else [_plain_misfit(misfit) for misfit in found.misfits],
        "remedies": [],
        "fixes": [],
    }


def integers(network: Network, chip: AnyChip, asked: Asked) -> QuantNetwork:
    """The network as the chip would hold it; as Loihi 2 or (binary spikes) 1 would, where only limits are known."""
    numerics = numerics_of(chip)
    lowered = lower(network, numerics, resolve(asked.lowering, numerics), asked.input_coding)
    return quantize(lowered, numerics, bits_on(chip, asked.weight_bits))[0]


def numerics_of(chip: AnyChip) -> Numerics:
    """The chip's integers; of one that can only be checked against, those of a Loihi with its weights and resets.

    The width of a state is not judged then.
    """
    if isinstance(chip.numerics, Numerics):
        return chip.numerics
    like = load_chip("loihi1" if chip.numerics.payload_bits == 0 else "loihi2").numerics
    known = {key: getattr(chip.numerics, key) for key in ("weight_bits", "resets", "compartments")}
    return like.model_copy(update={**known, "state_bits": WIDE_STATE})


def bits_on(chip: AnyChip, weight_bits: int) -> int:
    """The bits asked for, or where a chip that can only be checked against lacks them, the next it has."""
    if isinstance(chip, Chip):
        return weight_bits
    return min((b for b in chip.numerics.weight_bits if b >= weight_bits), default=max(chip.numerics.weight_bits))


def _rank(fix: Fix) -> tuple[int, int]:
    return fix.chips, fix.cores


def _plain_misfit(misfit: Misfit) -> dict[str, Any]:
    return {**asdict(misfit), "excess": misfit.used - misfit.limit, "text": misfit_text(misfit)}


def misfit_text(misfit: Misfit) -> str:
    """`512 axons in (limit 256)`."""
    return f"{misfit.used:,} {misfit.resource.replace('_', ' ')} (limit {misfit.limit:,})"


def _layers(
    network: QuantNetwork, chip: ChipLimits, graph: CoreGraph | None, cores: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Of each population its size, its cores, and the fullest core it is on as (used, limit) of every resource."""
    rows, limits = [], limits_of(chip)
    for population in network.populations:
        incoming = chip_inputs(network, population)
        row: dict[str, Any] = {
            "name": population.name,
            "shape": list(population.shape),
            "neurons": population.size,
            "synapses": sum(connectivity(network, s).synapses for s in incoming),
            "weight_bits": max((s.weight_bits for s in incoming), default=None),
            "state_bits": population.state_bits,
            "cores": cores.get(population.name)
            if graph is None
            else len(set(graph.cores_of(population.name).tolist())),
        }
        if graph is not None:
            on = graph.cores_of(population.name)
            row["fullest"] = {r: [int(graph.usage[r][on].max()), limits.get(r)] for r in RESOURCES}
        rows.append(row)
    return rows


def _fixes(
    network: Network, quantized: QuantNetwork, chip: ChipLimits, asked: Asked, found: DoesNotFit
) -> Iterator[Fix]:
    """Every change that makes the whole network fit."""
    layers = {misfit.layer for misfit in found.misfits} - {"network"}
    if isinstance(chip, Chip):
        yield from _fewer_bits(quantized, chip, layers)
    if found.chips_needed is not None:
        needed = next(m.used for m in found.misfits if m.resource == "cores")
        chips = found.chips_needed
        yield Fix(f"--chips {chips}", "a board with more chips", needed, chips)
    yield from _other_chips(network, chip, asked)


def _fewer_bits(quantized: QuantNetwork, chip: ChipLimits, layers: set[str]) -> Iterator[Fix]:
    """Fewer weight bits for the layers that do not fit; for all of them where cores are what is missing."""
    of_interest = [
        s for s in chip_synapses(quantized) if not layers or {s.name, s.source, quantized.target_of(s).name} & layers
    ]
    widest = max((s.weight_bits for s in of_interest), default=0)
    for bits in sorted((b for b in chip.numerics.weight_bits if b < widest), reverse=True):
        names = {s.name for s in of_interest}
        narrowed = tuple(
            replace(s, weight_bits=min(bits, s.weight_bits), weight=s.weight >> max(0, s.weight_bits - bits))
            if s.name in names
            else s
            for s in quantized.synapses
        )
        graph = fitted(replace(quantized, synapses=narrowed), chip)
        if graph is not None:
            where = "all layers" if not layers else ", ".join(sorted(layers))
            yield Fix(
                f"--weight-bits {bits} ({where})",
                "coarser weights: measure the accuracy",
                graph.core_count,
                _chips(chip, graph),
            )
            return


def _other_chips(network: Network, chip: ChipLimits, asked: Asked) -> Iterator[Fix]:
    for name in chip_names():
        limits = load_any(name)
        if name == chip.name or not limits.silicon or isinstance(limits, LayerChip):
            continue
        try:
            graph = fitted(integers(network, limits, asked), limits)
        except CompileError:
            continue  # a chip that cannot compute this network
        if graph is not None:
            yield Fix(
                f"--target {name}-sim", f"another chip: {limits.description}", graph.core_count, _chips(limits, graph)
            )


def fitted(network: QuantNetwork, chip: ChipLimits) -> CoreGraph | None:
    """The cores of a network, or None where it does not fit."""
    try:
        return fit(network, chip).graph
    except DoesNotFit:
        return None


def _chips(chip: ChipLimits, graph: CoreGraph) -> int:
    return -(-graph.core_count // chip.mesh.cores_per_chip)
