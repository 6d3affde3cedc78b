"""`python -m snncompile` and the command `snncompile`."""

import os
import sys
import traceback
from pathlib import Path

from snncompile.cli import cli
from snncompile.errors import CompileError


def main() -> None:
    """Runs the command line: exit 0 done, 1 cannot be compiled or check failed, 2 wrong usage.

    A user's mistake is one line. A bug of snncompile is one, too, with its place; SNNCOMPILE_DEBUG=1 shows the trace.
    """
    try:
        cli.main(prog_name="snncompile")
    except CompileError as error:
        print(f"error: {error}".replace("\n", " "), file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        if os.environ.get("SNNCOMPILE_DEBUG"):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        message = f"internal error: {type(error).__name__} at {where}: {error}".replace("\n", " ")
        print(f"{message}; this is a bug of snncompile, SNNCOMPILE_DEBUG=1 shows the trace", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
