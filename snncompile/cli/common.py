"""What several commands share: options, reading, and printing."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from snncompile.backend import Progress
    from snncompile.data import Samples
    from snncompile.program import Program

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Machine-readable result on standard output, nothing else there."
)
data_option = click.option(
    "--data", required=True, type=click.Path(path_type=Path), help=".npz with x and y, or a folder of IDX files."
)
limit_option = click.option("--limit", type=int, help="Use only the first N samples.")
directory_argument = click.argument("directory", type=click.Path(path_type=Path))


def read(directory: Path) -> "Program":
    from snncompile.sealed import read_program

    return read_program(directory)


def samples_of(data: Path, limit: int | None) -> "Samples":
    from snncompile.data import load_samples

    return load_samples(data).first(limit)


def console_of(stderr: bool = False) -> "Console":
    from rich.console import Console

    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=160)


@contextmanager
def progress_bar(title: str) -> "Iterator[Progress]":
    """A progress bar on standard error; nothing where that is no terminal."""
    from rich.progress import Progress as Bar

    console = console_of(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))
