"""The report as tables for people."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from snncompile.mapping.partition import RESOURCES

SHORT = {"neurons": "neurons", "synapse_words": "synapse words", "axons_in": "axons in", "axons_out": "axons out"}


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Layers, cores and the estimate."""
    console.print(_layer_table(report))
    console.print(_core_table(report))
    mapping, estimate = report["mapping"], report["estimate"]
    console.print(
        f"{report['neurons']:,} neurons on {report['cores_used']} of {report['cores_available']} cores, "
        f"{mapping['routers_used']} routers; T = {report['timesteps']}, depth {report['depth_steps']} steps"
    )
    console.print(
        f"hops per packet {mapping['hops_per_packet']:.2f} "
        f"(row-major {mapping['baselines']['row_major']['hops_per_packet']:.2f}, "
        f"random {mapping['baselines']['random']['hops_per_packet']:.2f}); "
        f"busiest link {mapping['max_link_load']:.0f} packets per inference"
    )
    if "energy_pj" in estimate:
        console.print(_estimate_line(estimate))
    for note in estimate["provenance"]:
        console.print(f"  - {note}", style="dim")


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
            f"{layer['neurons']:,}",
            f"{layer['synapses']:,}",
            str(layer["weight_bits"]),
            f"{layer['state_bits']} of {layer['state_bits_available']}",
            str(layer["depth_steps"]),
            str(layer["cores"]),
            layer["lowering"],
            layer["exactness"],
        )
    return table


def _core_table(report: Mapping[str, Any]) -> Table:
    table = Table(title="cores (used of limit)", title_justify="left")
    table.add_column("core", justify="right", overflow="fold")
    table.add_column("router", overflow="fold")
    table.add_column("layer", overflow="fold")
    for resource in RESOURCES:
        table.add_column(SHORT[resource], justify="right", overflow="fold")
    for core in report["cores"]:
        used = (f"{core[r]} / {core[f'{r}_limit']}  {100 * core[r] / core[f'{r}_limit']:3.0f} %" for r in RESOURCES)
        table.add_row(
            str(core["core"]), f"({core['x']},{core['y']})", ", ".join(part["name"] for part in core["layers"]), *used
        )
    return table
