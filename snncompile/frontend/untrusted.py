"""Values from files of unknown origin, read by type: nothing is called, converted by guess or printed raw."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from snncompile.errors import CompileError
from snncompile.network import Array, Pair, Shape

LARGEST_INTEGER = 2**31 - 1
LARGEST_SHAPE = 2**28
"""Most values one layer may put out; bounds what a few bytes of a hostile file can make us allocate."""


def shown(value: object, limit: int = 80) -> str:
    """`value` as one printable line of at most `limit` characters."""
    text = str(value)[: limit + 1]
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= limit else text[: limit - 3] + "..."


def check_size(where: str, shape: Shape) -> Shape:
    """`shape`, refused when it holds more than LARGEST_SHAPE values."""
    if math.prod(shape) > LARGEST_SHAPE:
        raise CompileError(where, f"puts out {math.prod(shape)} values", f"a layer may put out {LARGEST_SHAPE}")
    return shape


def input_shape_of(where: str, value: object) -> Shape:
    """`value` as (C, H, W) or (features,)."""
    if not isinstance(value, Sequence) or len(value) not in (1, 3) or not all(_is_integer(n) and n >= 1 for n in value):
        raise CompileError(
            where, f"the input shape is {shown(value)}", "needed: (channels, height, width) or (features,)"
        )
    return check_size(where, tuple(int(n) for n in value))


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


@dataclass(frozen=True)
class Fields:
    """The named values of one layer; each method gives one of them or raises CompileError with `where` and the name.

    Values are Python's or numpy's. `default` stands for an absent value; without it an absent value is refused.
    """

    where: str
    values: Mapping[str, Any]

    def get(self, key: str, default: object = None) -> Any:
        value = self.values.get(key, default)
        if value is None:
            raise CompileError(
                self.where, f"lacks {key!r}", f"it has {shown(', '.join(map(str, self.values))) or 'nothing'}"
            )
        return value.tolist() if isinstance(value, np.ndarray | np.generic) and value.ndim <= 1 else value

    def refuse(self, key: str, value: object, needed: str) -> CompileError:
        return CompileError(self.where, f"{key} is {shown(value)}", f"needed: {needed}")

    def integer(self, key: str, low: int, high: int = LARGEST_INTEGER, default: int | None = None) -> int:
        value = self.get(key, default)
        if not _is_integer(value) or not low <= value <= high:
            raise self.refuse(key, value, f"an integer from {low} to {high}")
        return int(value)

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= np.finfo(np.float64).max:
            raise self.refuse(key, value, "a finite number")
        return float(value)

    def choice(self, key: str, allowed: Sequence[str], default: str | None = None) -> str:
        value = self.get(key, default)
        if not isinstance(value, str) or value not in allowed:
            raise self.refuse(key, value, " or ".join(map(repr, allowed)))
        return value

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str):
            raise self.refuse(key, value, "a text")
        return value

    def pair(self, key: str, low: int, default: int | None = None) -> Pair:
        """One integer for both axes, or two."""
        value = self.get(key, default)
        both = [value, value] if _is_integer(value) else value
        if not isinstance(both, list | tuple) or len(both) != 2 or not all(_is_integer(n) for n in both):
            raise self.refuse(key, value, "one or two integers")
        if not all(low <= n <= LARGEST_INTEGER for n in both):
            raise self.refuse(key, value, f"integers from {low} to {LARGEST_INTEGER}")
        return int(both[0]), int(both[1])

    def shape(self, key: str) -> Shape:
        value = self.get(key)
        if not isinstance(value, list | tuple) or not value or not all(_is_integer(n) and n >= 1 for n in value):
            raise self.refuse(key, value, "a shape, positive integers")
        return check_size(self.where, tuple(int(n) for n in value))

    def array(self, key: str, ndim: int | None = None) -> Array:
        """A finite real array of `ndim` axes, as float64."""
        self.get(key)
        value = np.asarray(self.values[key])
        if value.dtype.kind not in "fiu":
            raise CompileError(self.where, f"{key} holds no real numbers")
        if ndim is not None and value.ndim != ndim:
            raise CompileError(self.where, f"{key} has shape {value.shape}", f"needed: {ndim} axes")
        if not np.isfinite(value).all():
            raise CompileError(self.where, f"{key} holds NaN or infinite values", "train or export the model again")
        return np.asarray(value, np.float64)
