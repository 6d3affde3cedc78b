"""Numbers and bars as text."""

from collections.abc import Sequence
from itertools import pairwise

BARS = "▁▂▃▄▅▆▇█"
PLAIN_BARS = ".:-=+*#%@"


def number(value: float | int | None, digits: int = 4) -> str:
    """A number for people, or the word unknown."""
    if value is None:
        return "unknown"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def sparkline(values: Sequence[float], most: float, width: int = 64, bars: str = BARS) -> str:
    """A character for each value, or for the largest of each of `width` runs of them, from 0 to `most`."""
    runs = min(width, len(values))
    edges = [len(values) * i // runs for i in range(runs + 1)] if runs else [0]
    tops = [max(values[start:end]) for start, end in pairwise(edges)]
    last = len(bars) - 1
    return "".join(bars[min(last, max(0, round(last * top / most)))] if most > 0 else bars[0] for top in tops)
