"""`snncompile targets`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from snncompile.cli.common import console_of, json_option, print_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from snncompile.chip import AnyChip

UNKNOWN = "unknown"
SECTIONS = {
    "mesh": "routers and boards",
    "boards": "",
    "core": "limits of a core",
    "layer_core": "limits of a core, which holds one layer",
    "synapse_memory": "how synapses fill memory",
    "numerics": "integers",
    "time": "time of an event",
    "max_affine": "",
    "router": "clocked mesh router",
    "static_power": "power of a chip that does nothing",
}
"""Tables in the order they are printed; what has no title continues the table before."""


@click.command()
@click.argument("name", required=False)
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
        console_of().print(
            f"{target:<15} {cores:>5} cores  {chip.description}{only}", highlight=False, markup=False, soft_wrap=True
        )
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
        for row in _rows(chip, section, plain[section]):
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


def _rows(chip: "AnyChip", section: str, value: Any) -> Iterator[tuple[str, ...]]:
    """key, value, basis, confidence and number of its source, for everything below a key."""
    for path, leaf in _leaves((section,), value):
        dotted = ".".join(path)
        source = chip.source_of(dotted)
        numbers = isinstance(leaf, int | float) and not isinstance(leaf, bool)
        listed = isinstance(leaf, list) and bool(leaf) and not isinstance(leaf[0], str)
        if source is None and listed:
            source = chip.source_of(f"{dotted}.0")
        known = source is not None and (numbers or listed)
        assert source is not None or not known
        about = (
            (source.basis, source.confidence, f"[{chip.sources.index(source) + 1}]") if known and source else ("",) * 3
        )
        yield (dotted, _shown(leaf), *about)


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Everything that is no table, by its path; records of a list go by their names or numbers."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves((*path, str(key)), item)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, item in enumerate(value):
            yield from _leaves((*path, str(item.get("name", number))), {k: v for k, v in item.items() if k != "name"})
    else:
        yield path, value


def _shown(value: Any) -> str:
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _energy_table(chip: "AnyChip", sets: list[dict[str, Any]], console: "Console") -> "Table":
    """One column for each cost set."""
    names = [f"{costs['name']}{' (nominal)' if costs['nominal'] else ''}" for costs in sets]
    table = _table("energy of an event, by cost set", console, "", *names)
    for key in (key for key in sets[0] if key not in ("name", "nominal")):
        table.add_row(key, *(_shown(costs[key]) for costs in sets))
    sources = [chip.source_of(f"energy.{costs['name']}") for costs in sets]
    table.add_row("source", *(f"[{chip.sources.index(s) + 1}] {s.basis}, {s.confidence}" if s else "" for s in sources))
    return table


def _source_table(chip: "AnyChip", console: "Console") -> "Table":
    table = _table("sources", console, "", "covers", "basis", "confidence", "source")
    for number, source in enumerate(chip.sources, 1):
        table.add_row(f"[{number}]", ", ".join(source.covers), source.basis, source.confidence, source.source)
    return table
