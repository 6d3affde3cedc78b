"""`snncompile targets`."""

from typing import TYPE_CHECKING, Any

import click

from snncompile.cli.common import complete_target, console_of, json_option, print_json
from snncompile.report.constants import SECTIONS, constant_rows, energy_rows, source_rows

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from snncompile.chip import AnyChip


@click.command()
@click.argument("name", required=False, shell_complete=complete_target)
@json_option
def targets(name: str | None, as_json: bool) -> None:
    """Lists the targets; with NAME prints limits, numerics, costs and sources of one.

    NAME is a target, or the path of a chip file.
    """
    from snncompile.chip import SIM_SUFFIX, Chip, ChipLimits, chip_names, load_any, load_any_target

    if name is not None:
        found = load_any_target(name)
        return print_json(found.model_dump(mode="json")) if as_json else _print(found, console_of())
    chips = {f"{name}{SIM_SUFFIX}": load_any(name) for name in chip_names()}
    if as_json:
        return print_json({target: chip.description for target, chip in chips.items()})
    for target, chip in chips.items():
        cores = chip.mesh.cores if isinstance(chip, ChipLimits) else len(chip.layer_core.cores)
        only = "" if isinstance(chip, Chip) else " (check only)"
        click.echo(f"{target:<15} {cores:>5} cores  {chip.description}{only}")
    return None


def _print(chip: "AnyChip", console: "Console") -> None:
    """Everything a chip file says, in tables; every number with the source it comes from, by its number below."""
    from snncompile.chip import ChipLimits

    plain = chip.model_dump(mode="json")
    console.print(f"{chip.name}: {chip.description} ({chip.vendor})", markup=False, highlight=False, soft_wrap=True)
    if plain.get("check_only"):
        console.print(f"check only: {plain['check_only']}", markup=False, highlight=False, soft_wrap=True)
    if isinstance(chip, ChipLimits):
        name = f"{chip.board}: " if chip.board else ""
        board = f"board: {name}{chip.mesh.chips} chips as {chip.mesh.chips_across} x {chip.mesh.chips_down}"
        console.print(f"{board}, {chip.mesh.cores} cores", highlight=False)
    table: Table | None = None
    for section, title in SECTIONS.items():
        if section not in plain:
            continue
        if title or table is None:
            _flush(table, console)
            table = _table(title, console, "", "value", "basis", "confidence", "source")
        for row in constant_rows(chip, section, plain[section]):
            table.add_row(*row)
    _flush(table, console)
    if plain.get("energy"):
        console.print(_energy_table(chip, plain["energy"], console))
    console.print(_source_table(chip, console))


def _flush(table: "Table | None", console: "Console") -> None:
    if table is not None:
        console.print(table)


def _table(title: str, console: "Console", *columns: str) -> "Table":
    """A table; without lines where it is piped."""
    from rich import box
    from rich.table import Table

    style = box.ROUNDED if console.is_terminal else None
    table = Table(title=title, title_justify="left", box=style, pad_edge=console.is_terminal)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _energy_table(chip: "AnyChip", sets: list[dict[str, Any]], console: "Console") -> "Table":
    """One column for each cost set."""
    names = [f"{costs['name']}{' (nominal)' if costs['nominal'] else ''}" for costs in sets]
    table = _table("energy of an event, by cost set", console, "", *names)
    for row in energy_rows(chip, sets):
        table.add_row(*row)
    return table


def _source_table(chip: "AnyChip", console: "Console") -> "Table":
    table = _table("sources", console, "", "covers", "basis", "confidence", "source")
    for row in source_rows(chip):
        table.add_row(*row)
    return table
