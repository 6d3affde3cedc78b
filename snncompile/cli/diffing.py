"""`snncompile diff`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snncompile.cli.common import (
    console_of,
    json_option,
    limit_option,
    print_json,
    progress_bar,
    quiet_option,
    samples_of,
)
from snncompile.errors import CompileError

if TYPE_CHECKING:
    from snncompile.data import Samples
    from snncompile.report.diff import Side


def parse_percent(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """`5%` or `5` as 0.05."""
    if value is None:
        return None
    try:
        return float(value.strip().removesuffix("%")) / 100
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a percentage, for example 5%") from error


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Run both on these samples: accuracy, energy, latency.")
@limit_option
@click.option(
    "--max-energy-increase",
    callback=parse_percent,
    metavar="PERCENT",
    help="Exit 1 where B's nominal energy is more than so much above A's, for example 5%.",
)
@click.option(
    "--max-accuracy-drop", type=float, metavar="POINTS", help="Exit 1 where B loses more points. Needs --data."
)
@quiet_option
@json_option
@click.pass_context
def diff(
    ctx: click.Context,
    a: Path,
    b: Path,
    data: Path | None,
    limit: int | None,
    max_energy_increase: float | None,
    max_accuracy_drop: float | None,
    as_json: bool,
) -> None:
    """Compares two sealed programs: cores, bits, energy, latency and accuracy, in all and layer by layer.

    Without --data, energy and latency are the estimates of the two reports. Exit code 1: a gate does not hold; what
    is unknown holds no gate.
    """
    from snncompile.report.diff import Gates, compare

    if data is None and (max_accuracy_drop is not None or limit is not None):
        name = "--limit" if max_accuracy_drop is None else "--max-accuracy-drop"
        raise click.UsageError(f"{name} needs --data")
    samples = None if data is None else samples_of(data, limit)
    if max_accuracy_drop is not None and samples is not None and samples.y is None:
        raise CompileError(str(data), "has no labels y, and --max-accuracy-drop needs them", "save them as y (N,)")
    result = compare(_side(a, samples), _side(b, samples), Gates(max_energy_increase, max_accuracy_drop))
    if as_json:
        print_json(result)
    else:
        from snncompile.report.diff_text import print_diff

        print_diff(result, console_of())
    if not result["holds"]:
        ctx.exit(1)


def _side(directory: Path, samples: "Samples | None") -> "Side":
    from snncompile.report.diff import Side
    from snncompile.sealed import read_report

    return Side(str(directory), read_report(directory), None if samples is None else _ran(directory, samples))


def _ran(directory: Path, samples: "Samples") -> dict[str, Any]:
    from snncompile.backend import RunOptions
    from snncompile.cli.common import read
    from snncompile.inference import infer, summary_of

    program = read(directory)
    payloads = program.encode(samples.x, samples.source)
    with progress_bar(str(directory)) as progress:
        return summary_of(infer("sim", program, directory, payloads, progress, RunOptions("auto"), None), samples)
