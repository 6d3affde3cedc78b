"""`snncompile verify`."""

from pathlib import Path

import click

from snncompile.cli.common import (
    console_of,
    data_option,
    directory_argument,
    json_option,
    limit_option,
    print_json,
    progress_bar,
    quiet_option,
    read,
    samples_of,
)


@click.command()
@directory_argument
@data_option
@limit_option
@click.option("--stages", help="Comma-separated, of float, folded, lowered, integer, simulator, lava. [default: all]")
@click.option(
    "--require-equal",
    multiple=True,
    metavar="STAGE",
    help="Exit 1 unless every stage up to STAGE equals the one before in every spike and output. Repeatable.",
)
@click.option("--dump", type=click.Path(path_type=Path), help="Write levels and membranes of all stages to this .npz.")
@quiet_option
@json_option
@click.pass_context
def verify(
    ctx: click.Context,
    directory: Path,
    data: Path,
    limit: int | None,
    stages: str | None,
    require_equal: tuple[str, ...],
    dump: Path | None,
    as_json: bool,
) -> None:
    """Compares float, folded, lowered, integer, simulator and Lava spike by spike; exit 1 if the last three differ."""
    from snncompile.proof.verify import STAGES, verify_program
    from snncompile.sealed import seal_of

    program, samples = read(directory), samples_of(data, limit)
    chosen, note = _stages(stages, STAGES)
    with progress_bar("verify") as progress:
        result = verify_program(
            directory, program, samples.x, samples.y, chosen, progress, require_equal=require_equal, dump=dump
        )
    result["program"] = seal_of(directory)
    if note:
        result["note"] = note
    if as_json:
        print_json(result)
    else:
        from snncompile.report.verification import print_verification

        print_verification(result, console_of())
    if result["equal"] is False or not all(result["require_equal"].values()):
        ctx.exit(1)


def _stages(stages: str | None, known: tuple[str, ...]) -> tuple[tuple[str, ...], str | None]:
    """The stages to run; Lava is left out, with a word, where it is not installed and was not asked for."""
    from importlib.util import find_spec

    if stages is not None:
        return tuple(stage.strip() for stage in stages.split(",")), None
    if find_spec("lava") is None:
        return tuple(s for s in known if s != "lava"), "lava-nc is not installed: that stage was left out"
    return known, None
