"""The report as tables for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from snncompile.mapping.partition import RESOURCES

MOST_CORES = 64
"""Cores listed one by one."""

SHORT = {"neurons": "neurons", "synapse_words": "synapse words", "axons_in": "axons in", "axons_out": "axons out"}


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Layers, cores and the estimate."""
    console.print(_layer_table(report))
    if report.get("lowerings"):
        console.print(_lowering_table(report["lowerings"]))
    console.print(_core_table(report))
    mapping, estimate = report["mapping"], report["estimate"]
    console.print(
        f"{report['neurons']:,} neurons on {report['cores_used']} of {report['cores_available']} cores, "
        f"{_chips(report)}{mapping['routers_used']} routers; T = {_steps(report)}, depth {report['depth_steps']} steps"
    )
    for remedy in report.get("remedies", ()):
        cost = f"{remedy['neurons']:,} neurons and {remedy['steps']} steps more"
        problem = f"{remedy['used']:,} {remedy['resource'].replace('_', ' ')} (limit {remedy['limit']:,})"
        console.print(f"{remedy['layer']} needed {problem}: {remedy['done']} ({cost})", soft_wrap=True)
    console.print(f"input: {report['input']['kind']}; {report['input']['computed']}")
    console.print(_placement_table(mapping))
    if "energy_pj" in estimate:
        console.print(_estimate_line(estimate))
    for note in estimate["provenance"]:
        console.print(f"  - {note}", style="dim")


def _chips(report: Mapping[str, Any]) -> str:
    if report["chips_available"] == 1:
        return ""
    return f"{report['chips_used']} of {report['chips_available']} chips, "


def _steps(report: Mapping[str, Any]) -> str:
    if report["microsteps"] == 1:
        return str(report["timesteps"])
    return f"{report['timesteps']} ({report['microsteps']} micro-steps each time step)"


def _estimate_line(estimate: Mapping[str, Any]) -> str:
    energy = estimate["energy_pj"]
    low, nominal, high = (energy[key] / 1e6 for key in ("low", "nominal", "high"))
    return (
        f"estimate per inference: {nominal:.1f} uJ (low {low:.1f}, high {high:.1f}), "
        f"latency {estimate['latency_us']:.1f} us, "
        f"{estimate['synops']:,.0f} synops, {estimate['packets']:,.0f} packets"
    )


def _layer_table(report: Mapping[str, Any]) -> Table:
    table = Table(title=f"layers on {report['target']}", title_justify="left")
    table.add_column("layer", overflow="fold")
    for column in ("neurons", "synapses", "weight bits", "state bits", "depth", "cores"):
        table.add_column(column, justify="right", overflow="fold")
    table.add_column("lowering", overflow="fold")
    table.add_column("exactness", overflow="fold")
    for layer in report["layers"]:
        table.add_row(
            layer["name"],
            _neurons(layer),
            f"{layer['synapses']:,}",
            "-" if layer["weight_bits"] is None else str(layer["weight_bits"]),
            f"{layer['state_bits']} of {layer['state_bits_available']}",
            str(layer["depth_steps"]),
            str(layer["cores"]),
            layer["lowering"],
            layer["exactness"],
        )
    return table


def _placement_table(mapping: Mapping[str, Any]) -> Table:
    table = Table(title="placement, beside cores in rows and at random", title_justify="left")
    table.add_column("")
    for column in ("ours", "row-major", "random"):
        table.add_column(column, justify="right")
    placements = (mapping, mapping["baselines"]["row_major"], mapping["baselines"]["random"])
    table.add_row("hops per packet", *(f"{of['hops_per_packet']:.2f}" for of in placements))
    table.add_row("busiest link, packets per inference", *(f"{of['max_link_load']:,.0f}" for of in placements))
    if mapping["step_us"] is not None:
        table.add_row("estimated step us, cores alone", *(f"{of['step_us']:.3f}" for of in placements))
        until = (of["link_ns_until_bound"] for of in placements)
        table.add_row("links bound from ns a packet", *("-" if ns is None else f"{ns:.1f}" for ns in until))
    return table


def _lowering_table(lowerings: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="lowerings of multi-threshold neurons on this chip (--lowering)", title_justify="left")
    table.add_column("lowering")
    for column in ("neurons", "synapses", "steps", "cores", "uJ", "latency us"):
        table.add_column(column, justify="right")
    table.add_column("exactness", overflow="fold")
    for entry in lowerings:
        name = f"{entry['lowering']} (chosen)" if entry["chosen"] else entry["lowering"]
        if not entry["possible"]:
            table.add_row(name, *("-",) * 6, entry["why"])
            continue
        counts = (entry["neurons"], entry["synapses"], entry["timesteps"], entry["cores"])
        energy, latency = f"{entry['energy_pj']['nominal'] / 1e6:.1f}", f"{entry['latency_us']:.0f}"
        table.add_row(name, *(f"{count:,}" for count in counts), energy, latency, "; ".join(entry["exactness"]))
    return table


def _neurons(layer: Mapping[str, Any]) -> str:
    members = layer["members"]
    return f"{layer['neurons']:,}" if members == 1 else f"{layer['neurons_trained']:,} x {members}"


def _core_table(report: Mapping[str, Any]) -> Table:
    cores, title = report["cores"], "cores (used of limit)"
    if len(cores) > MOST_CORES:
        cores, title = _fullest(cores), "the fullest core of every layer (used of limit); --json lists all"
    table = Table(title=title, title_justify="left")
    table.add_column("core", justify="right", overflow="fold")
    if report["chips_used"] > 1:
        table.add_column("chip", justify="right", overflow="fold")
    table.add_column("router", overflow="fold")
    table.add_column("layer", overflow="fold")
    for resource in RESOURCES:
        table.add_column(SHORT[resource], justify="right", overflow="fold")
    for core in cores:
        used = (f"{core[r]} / {core[f'{r}_limit']}  {100 * core[r] / core[f'{r}_limit']:3.0f} %" for r in RESOURCES)
        chip = [str(core["chip"])] if report["chips_used"] > 1 else []
        layers = ", ".join(part["name"] for part in core["layers"])
        table.add_row(str(core["core"]), *chip, f"({core['x']},{core['y']})", layers, *used)
    return table


def _fullest(cores: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of every layer the core that uses most of any one limit."""
    found: dict[str, Mapping[str, Any]] = {}
    for core in cores:
        layers = ", ".join(part["name"] for part in core["layers"])
        if layers not in found or _fill(core) > _fill(found[layers]):
            found[layers] = core
    return list(found.values())


def _fill(core: Mapping[str, Any]) -> float:
    return max(core[resource] / core[f"{resource}_limit"] for resource in RESOURCES)
