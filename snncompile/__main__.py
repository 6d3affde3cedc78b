"""`python -m snncompile` and the command `snncompile`."""

import sys

from snncompile.cli import cli
from snncompile.errors import CompileError


def main() -> None:
    """Runs the command line: exit 0 done, 1 cannot be compiled or check failed, 2 wrong usage."""
    try:
        cli.main(prog_name="snncompile")
    except CompileError as error:
        print(f"error: {error}".replace("\n", " "), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
