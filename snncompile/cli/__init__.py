"""The command line. `snncompile MODEL ...` without a verb compiles.

Nothing heavy is imported before a command needs it: `--help` loads neither torch, numba, nir nor lava.
"""

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from snncompile import __version__
from snncompile.cli.checking import check
from snncompile.cli.compiling import compile_command
from snncompile.cli.diffing import diff
from snncompile.cli.exporting import export
from snncompile.cli.reporting import report
from snncompile.cli.running import run
from snncompile.cli.targets import targets
from snncompile.cli.verifying import verify
from snncompile.errors import nearest


class DefaultToCompile(click.Group):
    """A first word that is no command is a model to compile."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        word = args[0] if args else ""
        if word and not word.startswith("-") and word not in self.commands:
            if "." not in Path(word).name and not Path(word).exists():
                raise click.UsageError(f"no command and no file {word!r}; {nearest(word, tuple(self.commands))}", ctx)
            args = ["compile", *args]
        elif word.startswith("-") and word not in ("-h", "--help", "--version"):
            args = ["compile", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands; where none begins so, files: a model to compile."""
        return super().shell_complete(ctx, incomplete) or [CompletionItem(incomplete, type="file")]


@click.group(cls=DefaultToCompile, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="snncompile")
def cli() -> None:
    """Compiles trained spiking neural networks to neuromorphic chips.

    snncompile MODEL --target loihi2-sim -o DIR compiles; run, verify and report take DIR, diff takes two.

    Completion in the shell: eval "$(_SNNCOMPILE_COMPLETE=bash_source snncompile)", or zsh_source, fish_source.
    """


for command in (compile_command, check, run, verify, report, diff, export, targets):
    cli.add_command(command)
