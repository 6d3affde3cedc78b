"""`snncompile check`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snncompile.cli.common import complete_target, console_of, json_option, print_json, quiet_option
from snncompile.cli.compiling import chips_option, input_coding_option, input_shape_option, lowering_option
from snncompile.cli.reading import popped_reading, reading_options
from snncompile.errors import CompileError

if TYPE_CHECKING:
    from rich.console import Console

    from snncompile.frontend.reading import Reading
    from snncompile.network import Network
    from snncompile.program import InputCoding

MOST_FIXES = 6


@click.command()
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option(
    "--target",
    required=True,
    shell_complete=complete_target,
    help="What to check against; `snncompile targets` lists them.",
)
@chips_option
@click.option(
    "--shapes", type=click.Path(path_type=Path), help="A .yaml of layers instead of MODEL: before anything is trained."
)
@click.option("--weight-bits", type=int, default=8, show_default=True, help="Bits of a weight.")
@lowering_option
@input_coding_option
@input_shape_option
@reading_options
@quiet_option
@json_option
@click.pass_context
def check(
    ctx: click.Context,
    /,
    model: Path | None,
    target: str,
    chips: str | None,
    shapes: Path | None,
    weight_bits: int,
    lowering: str,
    input_coding: "InputCoding",
    input_shape: tuple[int, ...] | None,
    as_json: bool,
    **said: Any,
) -> None:
    """Says whether MODEL (or a network of the given shapes) fits a target, what does not, and what to change.

    Exit code 0: it fits; 1: it does not.
    """
    from snncompile.check import Asked
    from snncompile.check import check as checked
    from snncompile.chip import Chip, load_any_target, on_board

    if (model is None) == (shapes is None):
        raise click.UsageError("give either MODEL or --shapes FILE")
    chip = load_any_target(target)
    if chips is not None:
        if not isinstance(chip, Chip):
            raise CompileError("--chips", f"{chip.name} comes as one chip", "leave --chips away")
        chip = on_board(chip, chips)
    result = checked(
        _network(model, shapes, input_shape, popped_reading(said)),
        chip,
        Asked(weight_bits, lowering, input_coding),
        shapes is not None,
    )
    if as_json:
        print_json(result)
    else:
        _print(result, console_of())
    if not result["fits"]:
        ctx.exit(1)


def _network(
    model: Path | None, shapes: Path | None, input_shape: tuple[int, ...] | None, reading: "Reading"
) -> "Network":
    if shapes is not None:
        from snncompile.frontend.shapes import read_shapes

        return read_shapes(shapes)
    from snncompile.frontend import load_model
    from snncompile.frontend.nir.to_network import to_network
    from snncompile.pipeline import run_passes

    assert model is not None
    if not model.exists():
        raise CompileError(str(model), "no such file", "give a .pt saved whole with torch.save, or a .nir file")
    return run_passes(to_network(load_model(model, input_shape, reading)))


def _print(result: dict[str, Any], console: "Console") -> None:
    from snncompile.report.tables import table_of

    table = table_of(f"{result['target']}: {_verdict(result)}", not console.is_terminal)
    table.add_column("layer", overflow="fold")
    for column in ("neurons", "synapses", "weight bits", "cores"):
        table.add_column(column, justify="right")
    table.add_column("fullest core, % of its limits", overflow="fold")
    for layer in result["layers"]:
        counts = (layer["weight_bits"], layer["cores"])
        shown = ["-" if value is None else str(value) for value in counts]
        table.add_row(layer["name"], f"{layer['neurons']:,}", f"{layer['synapses']:,}", *shown, _fullest(layer))
    console.print(table)
    for misfit in result["misfits"]:
        console.print(f"does not fit: {misfit['layer']}: {misfit['text']}", highlight=False, soft_wrap=True)
    for remedy in result["remedies"]:
        cost = f"{remedy['neurons']:,} neurons and {remedy['steps']} steps more"
        console.print(f"done for {remedy['layer']}: {remedy['done']} ({cost})", highlight=False, soft_wrap=True)
    for number, fix in enumerate(result["fixes"][:MOST_FIXES], 1):
        size = f"{fix['cores']:,} cores, {fix['chips']} chip{'s' * (fix['chips'] > 1)}"
        console.print(f"fix {number}: {fix['change']}: {size}; {fix['cost']}", highlight=False, soft_wrap=True)
    if result["misfits"] and not result["fixes"]:
        console.print("no single change that was tried makes it fit: a smaller layer is needed", soft_wrap=True)
    for note in result["notes"]:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)


def _verdict(result: dict[str, Any]) -> str:
    available = f"{result['cores_available']:,} cores"
    if result["chips_available"] > 1:
        available += f" on {result['chips_available']:,} chips"
    return f"fits, {result['cores_used']:,} of {available}" if result["fits"] else f"does not fit ({available})"


def _fullest(layer: dict[str, Any]) -> str:
    used = layer.get("fullest", {})
    return ", ".join(
        f"{name.replace('_', ' ')} {100 * value / limit:.0f}" for name, (value, limit) in used.items() if limit
    )
