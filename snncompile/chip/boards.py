"""A chip on another board than its default one."""

import math
import re

from snncompile.chip.schema import Chip, ChipLimits
from snncompile.errors import CompileError, nearest

ARRANGEMENT_BASIS = "how the chips of a board are arranged, and that their grids of routers join into one, is ours"


def on_board(chip: Chip, chips: str) -> Chip:
    """The chip on a board of `chips`: a number, `<across>x<down>`, or the name of one of the chip's boards.

    A number, or a board's, is laid out as the most square rectangle, the long side across (our assumption:
    `ARRANGEMENT_BASIS`). Raises CompileError: an unknown board, or what is neither number nor rectangle.
    """
    if chips in chip.boards:
        name: str | None = chips
        across, down = most_square(chip.boards[chips])
    elif match := re.fullmatch(r"(\d+)(?:x(\d+))?", chips):
        name = None
        across, down = (int(match[1]), int(match[2])) if match[2] else most_square(int(match[1]))
    else:
        hint = f"give a number of chips, for example 8 or 4x2; {nearest(chips, [*chip.boards])}"
        raise CompileError("--chips", f"{chip.name} has no board {chips!r}", hint)
    if across * down == 0:
        raise CompileError("--chips", f"{chips!r} is no chip at all", "give 1 or more")
    mesh = chip.mesh.model_copy(update={"chips_across": across, "chips_down": down})
    return chip.model_copy(update={"mesh": mesh, "board": name})


def most_square(chips: int) -> tuple[int, int]:
    """(across, down) with across * down = chips, as near to a square as can be, across >= down; (0, 0) for 0."""
    down = max((n for n in range(1, math.isqrt(chips) + 1) if chips % n == 0), default=0)
    return (chips // down, down) if down else (0, 0)


def chips_needed(cores: int, chip: ChipLimits) -> int:
    """Chips that so many cores take."""
    return -(-cores // chip.mesh.cores_per_chip)
