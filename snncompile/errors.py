"""What a user is told when a model, a file or an option cannot be used."""

from collections.abc import Sequence
from difflib import get_close_matches


class CompileError(Exception):
    """A mistake in the user's model, data or options: where it is, what is wrong, what to do.

    Printed as one line `where: problem; hint`. The command line ends with exit code 1.
    """

    def __init__(self, where: str, problem: str, hint: str = "") -> None:
        self.where, self.problem, self.hint = where, problem, hint
        super().__init__(f"{where}: {problem}" + (f"; {hint}" if hint else ""))


class InternalError(Exception):
    """A bug of snncompile: a stage gave something its own `verify()` refuses."""


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint that names the nearest known spelling, and all known ones: `did you mean 'x'? known: x, y`."""
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}known: {', '.join(sorted(known))}"
