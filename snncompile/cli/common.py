"""What several commands share: options, reading, and printing."""

import json
from collections.abc import Callable, Iterator
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
QUIET = "snncompile.quiet"


def _set_quiet(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    ctx.meta[QUIET] = value


quiet_option = click.option(
    "--quiet",
    "-q",
    is_flag=True,
    expose_value=False,
    callback=_set_quiet,
    help="Print nothing but errors (and what --json prints); the exit code tells.",
)


def complete_target(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of targets, for the shell."""
    from snncompile.chip import SIM_SUFFIX, chip_names

    return [name for chip in chip_names() if (name := f"{chip}{SIM_SUFFIX}").startswith(incomplete)]


target_option = click.option(
    "--target",
    required=True,
    shell_complete=complete_target,
    help="What to compile for; `snncompile targets` lists them.",
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

    context = click.get_current_context(silent=True)
    quiet = context is not None and bool(context.meta.get(QUIET))
    console = Console(stderr=stderr, quiet=quiet)
    return console if console.is_terminal else Console(stderr=stderr, width=160, quiet=quiet)


def told_on(console: "Console") -> "Callable[[int, int, str, float | None], None]":
    """Prints `step 4/10 passes ... 0.8 s`, each part when it is known; nothing where the console is no terminal."""

    def tell(number: int, total: int, name: str, seconds: float | None) -> None:
        if console.is_terminal and seconds is None:
            console.print(f"step {number}/{total} {name} ... ", style="dim", end="", highlight=False)
        elif console.is_terminal:
            console.print(f"{seconds:.1f} s", style="dim", highlight=False)

    return tell


@contextmanager
def progress_bar(title: str) -> "Iterator[Progress]":
    """A progress bar on standard error; nothing where that is no terminal."""
    from rich.progress import Progress as Bar

    console = console_of(stderr=True)
    with Bar(console=console, transient=True, disable=console.quiet or not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))
