"""`snncompile report`."""

from pathlib import Path

import click

from snncompile.cli.common import console_of, directory_argument, json_option, print_json


@click.command()
@directory_argument
@json_option
def report(directory: Path, as_json: bool) -> None:
    """Per-layer and per-core use of the chip, and the estimated cost with its sources."""
    from snncompile.sealed import read_report

    content = read_report(directory)
    if as_json:
        return print_json(content)
    from snncompile.report.terminal import print_report

    print_report(content, console_of())
    return None
