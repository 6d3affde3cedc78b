"""`snncompile report`."""

from pathlib import Path

import click

from snncompile.cli.common import console_of, directory_argument, json_option, print_json


@click.command()
@directory_argument
@click.option("--html", is_flag=True, help="Write the whole report as one HTML file that opens offline.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Its name. [default: DIRECTORY/report.html]")
@click.option("--run", "run_file", type=click.Path(path_type=Path), help="Show a run, too: what `run --save` wrote.")
@click.option(
    "--verification", type=click.Path(path_type=Path), help="Show a verification, too: what `verify --json` printed."
)
@click.option("--full", is_flag=True, help="Every layer and core, other lowerings, and all notes.")
@json_option
def report(
    directory: Path,
    html: bool,
    output: Path | None,
    run_file: Path | None,
    verification: Path | None,
    full: bool,
    as_json: bool,
) -> None:
    """What the program in DIRECTORY takes of the chip, and what it costs, with sources."""
    from snncompile.sealed import read_report

    given = [name for name, value in (("-o", output), ("--run", run_file), ("--verification", verification)) if value]
    if given and not html:
        raise click.UsageError(f"{given[0]} goes with --html")
    content = read_report(directory)
    if html:
        path = output or directory / "report.html"
        _write_html(directory, content, path, run_file, verification)
        return print_json({"html": str(path)}) if as_json else console_of().print(f"wrote {path}", soft_wrap=True)
    if as_json:
        return print_json(content)
    from snncompile.report.terminal import print_report

    print_report(content, console_of(), full)
    return None


def _write_html(
    directory: Path, content: "dict[str, object]", path: Path, run: Path | None, proof: Path | None
) -> None:
    from snncompile.cli.common import read
    from snncompile.report.page import html_page, write_page
    from snncompile.report.recorded import read_run, read_verification
    from snncompile.sealed import seal_of

    program, seal = read(directory), seal_of(directory)
    recorded = None if run is None else read_run(run, seal)
    verification = None if proof is None else read_verification(proof, seal)
    write_page(path, html_page(content, program, recorded, verification))
