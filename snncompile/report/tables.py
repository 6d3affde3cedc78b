"""Tables of the full report for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from snncompile.mapping.partition import RESOURCES
from snncompile.report.text import number

MOST_CORES = 64
"""Cores listed one by one."""

SHORT = {"neurons": "neurons", "synapse_words": "synapse words", "axons_in": "axons in", "axons_out": "axons out"}


def table_of(title: str, plain: bool = False) -> Table:
    """An empty table; plain: without lines, for text that is piped on."""
    style = None if plain else box.HEAVY_HEAD
    return Table(title=title, title_justify="left", box=style, pad_edge=not plain, title_style="bold")


def layer_table(report: Mapping[str, Any], plain: bool = False, most: int | None = None) -> Table:
    """most: rows; of more layers those on most cores, in the network's order."""
    table = table_of(f"layers on {report['target']}", plain)
    table.add_column("layer", overflow="fold")
    for column in ("neurons", "synapses", "weight bits", "state bits", "depth", "cores", "uJ"):
        table.add_column(column, justify="right", overflow="fold")
    table.add_column("lowering", overflow="fold")
    table.add_column("exactness", overflow="fold")
    for layer in largest_layers(report, most):
        table.add_row(
            layer["name"],
            _neurons(layer),
            f"{layer['synapses']:,}",
            "-" if layer["weight_bits"] is None else str(layer["weight_bits"]),
            f"{layer['state_bits']} of {layer['state_bits_available']}",
            str(layer["depth_steps"]),
            str(layer["cores"]),
            _energy(report, layer["name"]),
            layer["lowering"],
            layer["exactness"],
        )
    return table


def largest_layers(report: Mapping[str, Any], most: int | None) -> list[Mapping[str, Any]]:
    layers = list(report["layers"])
    if most is None or len(layers) <= most:
        return layers
    chosen = sorted(layers, key=lambda layer: -layer["cores"])[:most]
    return [layer for layer in layers if any(layer is one for one in chosen)]


def _energy(report: Mapping[str, Any], layer: str) -> str:
    known = report["estimate"].get("energy_by_layer_pj", {})
    return number(known[layer]["nominal"] / 1e6) if layer in known else "unknown"


def placement_table(mapping: Mapping[str, Any], plain: bool = False) -> Table:
    table = table_of("placement, beside cores in rows and at random", plain)
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


def lowering_table(lowerings: Sequence[Mapping[str, Any]], plain: bool = False) -> Table:
    table = table_of("lowerings of multi-threshold neurons on this chip (--lowering)", plain)
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


def core_table(report: Mapping[str, Any], plain: bool = False) -> Table:
    cores, title = report["cores"], "cores (used of limit)"
    if len(cores) > MOST_CORES:
        cores, title = fullest_cores(cores), "the fullest core of every layer (used of limit); --json lists all"
    table = table_of(title, plain)
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


def fullest_cores(cores: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of every layer the core that uses most of any one limit."""
    found: dict[str, Mapping[str, Any]] = {}
    for core in cores:
        layers = ", ".join(part["name"] for part in core["layers"])
        if layers not in found or _fill(core) > _fill(found[layers]):
            found[layers] = core
    return list(found.values())


def _fill(core: Mapping[str, Any]) -> float:
    return max(core[resource] / core[f"{resource}_limit"] for resource in RESOURCES)
