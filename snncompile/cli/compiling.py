"""`snncompile MODEL ...`: compiles."""

from pathlib import Path
from typing import Any

import click

from snncompile.cli.common import console_of, json_option, print_json, quiet_option, target_option, told_on
from snncompile.cli.reading import popped_reading, reading_options
from snncompile.errors import CompileError


def parse_shape(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        shape = tuple(int(n) for n in value.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise click.BadParameter(f"{value!r} is not C,H,W or a number of features, for example 1,28,28")
    return shape


def parse_bits(ctx: click.Context, parameter: click.Parameter, value: str) -> "int | str":
    if value == "auto" or value.isdigit():
        return value if value == "auto" else int(value)
    raise click.BadParameter(f"{value!r} is neither a number nor auto")


lowering_option = click.option(
    "--lowering",
    default="auto",
    show_default=True,
    help="How multi-threshold neurons become the chip's: auto, graded, r1, burst, uniform.",
)
input_coding_option = click.option(
    "--input-coding",
    type=click.Choice(["direct", "rate"]),
    default="direct",
    show_default=True,
    help="rate: an analog image as binary spikes.",
)
chips_option = click.option(
    "--chips", help="A board of so many chips: 8, 4x2, or the name of a board (`targets NAME`)."
)
input_shape_option = click.option("--input-shape", callback=parse_shape, help="C,H,W where the model does not say it.")


@click.command("compile")
@click.argument("model", type=click.Path(path_type=Path))
@target_option
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for the program. [default: build/MODEL]")
@click.option(
    "--weight-bits", callback=parse_bits, default="8", show_default=True, help="Bits of a weight, or auto (see below)."
)
@click.option("--rounding", default="max", show_default=True, help="max, percentile, mse, activation or gptq.")
@click.option(
    "--max-accuracy-drop", type=float, default=0.5, show_default=True, help="Points that --weight-bits auto may lose."
)
@lowering_option
@input_coding_option
@input_shape_option
@reading_options
@click.option("--calibrate", type=click.Path(path_type=Path), help="Data (never the test set) for rates and rounding.")
@chips_option
@click.option("--share-cores", is_flag=True, help="Small layers share a core: fewer cores, never a shorter step.")
@click.option("--effort", type=int, default=1, show_default=True, help="Search for a placement: 0 (none) to 3.")
@click.option("--pin", "pins", multiple=True, metavar="LAYER=CHIP:CORE", help="Put a layer's cores there. Repeatable.")
@quiet_option
@json_option
def compile_command(
    model: Path,
    target: str,
    output: Path | None,
    calibrate: Path | None,
    pins: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Compiles MODEL (.pt saved whole, or .nir) and says what it costs.

    --weight-bits auto chooses each layer's bits so that the chip has least to do, within the accuracy drop measured on
    half of the --calibrate data. The roundings activation and gptq need --calibrate as well.
    """
    from snncompile.compiler import Options, compile_file
    from snncompile.data import load_samples
    from snncompile.mapping.pins import parse_pin
    from snncompile.pipeline import StepLog

    if not model.exists():
        raise CompileError(str(model), "no such file", "give a .pt saved whole with torch.save, or a .nir file")
    compiled = compile_file(
        model,
        target,
        output or Path("build") / model.stem,
        Options(reading=popped_reading(options), **options, pins=dict(parse_pin(pin) for pin in pins)),
        None if calibrate is None else load_samples(calibrate),
        StepLog(told_on(console_of(stderr=True))),
    )
    if as_json:
        return print_json(compiled.report)
    from snncompile.contract import contract_lines
    from snncompile.report.terminal import print_report

    console = console_of()
    print_report(compiled.report, console)
    for line in contract_lines(compiled.report["contract"]):
        console.print(line, style="dim", soft_wrap=True, highlight=False, markup=False)
    seconds = sum(step["seconds"] for step in compiled.report["steps"])
    console.print(f"wrote {compiled.directory} in {seconds:.1f} s", soft_wrap=True)
    return None
