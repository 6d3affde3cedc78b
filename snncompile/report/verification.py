"""What `snncompile verify` prints: a row a pair and layer, the first differences with their causes, the verdicts."""

from typing import Any

from rich.console import Console
from rich.table import Table

from snncompile.report.tables import table_of

EXACT = ("integer", "simulator", "lava")


def print_verification(result: dict[str, Any], console: Console) -> None:
    """`result` as `verify.verify_program` gives it."""
    console.print(_table(result, not console.is_terminal))
    for pair in result["pairs"]:
        _print_pair(pair, result["samples"], console)
    for stage, accuracy in result["accuracy"].items():
        if accuracy is not None:
            console.print(f"accuracy {stage:<10} {100 * accuracy:.2f} %")
    if "note" in result:
        console.print(result["note"])
    if result["equal"] is not None:
        exact = " = ".join(stage for stage in result["stages"] if stage in EXACT)
        console.print(f"{exact}: {'equal on every spike' if result['equal'] else 'NOT EQUAL'}")
    for stage, holds in result["require_equal"].items():
        upto = " = ".join(result["stages"][: result["stages"].index(stage) + 1])
        console.print(f"required {upto}: {'equal on every spike' if holds else 'NOT EQUAL'}")


def _table(result: dict[str, Any], plain: bool) -> Table:
    table = table_of(f"{result['samples']} samples", plain)
    for column in ("pair", "layer", "spikes compared", "differing", "agreement", "rate drift"):
        table.add_column(column, justify="left" if column in ("pair", "layer") else "right")
    for pair in result["pairs"]:
        for layer, entry in pair["layers"].items():
            numbers = (
                f"{entry['spikes']:,}",
                f"{entry['differing']:,}",
                f"{100 * entry['agreement']:.4f} %",
                f"{entry['rate_drift']:.2e}",
            )
            table.add_row(f"{pair['a']} = {pair['b']}", layer, *numbers)
    return table


def _print_pair(pair: dict[str, Any], samples: int, console: Console) -> None:
    name = f"{pair['a']} / {pair['b']}"
    what = "readout states" if pair["a"] in EXACT else "predictions"
    console.print(f"{name}: {pair['outputs_differing']} of {samples} {what} differ")
    first = pair["first_difference"]
    if first is None:
        return
    place = f"layer {first['layer']}  neuron {', '.join(map(str, first['neuron']))}"
    place += f"  sample {first['sample']}  step {first['step']}"
    shown = {"layer", "neuron", "sample", "step", "cause", "evidence"}
    values = "  ".join(f"{key} {_number(value)}" for key, value in first.items() if key not in shown)
    console.print(f"first difference {name}: {place}", soft_wrap=True)
    console.print(f"    {values}", soft_wrap=True)
    console.print(f"    cause: {first['cause']}", soft_wrap=True)
    for line in first.get("evidence", ()):
        console.print(f"    {line}", soft_wrap=True, markup=False)


def _number(value: float | int) -> str:
    return f"{value:.6g}" if isinstance(value, float) else f"{value}"
