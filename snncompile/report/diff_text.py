"""What `snncompile diff` prints."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from snncompile.report.tables import table_of
from snncompile.report.text import number

Result = Mapping[str, Any]

COLUMNS = ("cores", "weight_bits", "state_bits", "neurons", "synapses", "energy_uj")


def print_diff(result: Result, console: Console) -> None:
    """Totals, the layers that differ, notes, gates. result: of `diff.compare`."""
    plain = not console.is_terminal
    for side in ("a", "b"):
        _say(console, f"{side}: {result[side]['program']} ({result[side]['target']})")
    console.print(totals_table(result, plain))
    changed = layer_table(result, plain)
    if changed.row_count:
        console.print(changed)
    same = len(result["layers"]) - changed.row_count
    if same:
        _say(console, f"{same} {'other ' * bool(changed.row_count)}layers are alike")
    for note in result["notes"]:
        _say(console, f"note: {note}")
    for gate in result["gates"]:
        _say(console, gate_line(gate))


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def totals_table(result: Result, plain: bool) -> Table:
    table = table_of(f"costs per inference: {result['basis']}", plain)
    table.add_column("", overflow="fold")
    for column in ("a", "b", "change", "%"):
        table.add_column(column, justify="right")
    for entry in result["totals"]:
        relative = "" if entry["relative"] is None else f"{100 * entry['relative']:+.1f}"
        table.add_row(entry["name"], number(entry["a"]), number(entry["b"]), _signed(entry["change"]), relative)
    return table


def layer_table(result: Result, plain: bool) -> Table:
    """Layers of which anything differs: one value where both have it, else both."""
    table = table_of("layers that differ", plain)
    table.add_column("layer", overflow="fold")
    for column in COLUMNS:
        table.add_column({"energy_uj": "uJ, estimate"}.get(column, column.replace("_", " ")), justify="right")
    for layer in result["layers"]:
        keys = (*COLUMNS, "lowering", "exactness")
        if layer["in"] != "both" or any(layer[key]["a"] != layer[key]["b"] for key in keys):
            only = "" if layer["in"] == "both" else f" (only {layer['in']})"
            table.add_row(f"{layer['name']}{only}", *(_both(layer[key], layer["in"]) for key in COLUMNS))
    return table


def _both(values: Mapping[str, Any], where: str) -> str:
    if where != "both":
        return number(values[where])
    one, two = number(values["a"]), number(values["b"])
    return one if one == two else f"{one} -> {two}"


def _signed(change: float | None) -> str:
    if change is None:
        return "unknown"
    return f"+{number(change)}" if change > 0 else number(change)


def gate_line(gate: Mapping[str, Any]) -> str:
    """`max energy increase 5 %: +3.1 %, holds`."""
    energy = gate["name"] == "max_energy_increase"
    scale, unit = (100, "%") if energy else (1, "points")
    value = "unknown" if gate["value"] is None else f"{scale * gate['value']:+.4g} {unit}"
    verdict = "holds" if gate["holds"] else "DOES NOT HOLD"
    return f"{gate['name'].replace('_', ' ')} {scale * gate['limit']:g} {unit}: {value}, {verdict}"
