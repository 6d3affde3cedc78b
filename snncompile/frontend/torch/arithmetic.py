"""Sums, differences and constant factors of network values, as tensors have them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from snncompile.errors import CompileError
from snncompile.frontend.torch.graph import Parts, affine
from snncompile.frontend.torch.layers import total_shape
from snncompile.frontend.torch.neurons import by_channel
from snncompile.frontend.torch.reader import Reader, told
from snncompile.frontend.torch.values import LayoutError, Part, Signal, Total
from snncompile.network import Array


def signal_of(where: str, value: Any) -> Signal:
    if not isinstance(value, Signal):
        raise CompileError(where, f"reads {told(value)}", "needed: the values of time steps")
    return value


def axes_of(signal: Signal) -> int:
    """Axes before those of the data."""
    return 2 if signal.lead in ("TB", "BT", "1B") else 1


def axis_of(value: Any, axis: Any) -> int:
    """An axis of the tensor, counted from the front."""
    count = 1 + len(value.signal.shape) if isinstance(value, Total) else axes_of(value) + len(value.shape)
    return int(axis) % count if isinstance(axis, int) else -1


def with_parts(reader: Reader, signal: Signal, key: tuple[Any, ...], make: Callable[[Parts], Parts]) -> Signal:
    parts = reader.graph.once((*key, signal.parts), lambda: make(signal.parts))
    return replace(signal, parts=parts, rows=signal.rows and len(total_shape(parts)) == 3)


def add(reader: Reader, where: str, a: Any, b: Any, alpha: float = 1) -> Any:
    if alpha != 1:
        b = multiply(reader, where, b, alpha)
    if is_constant(a):
        a, b = b, a
    if is_constant(b):
        return _offset(reader, where, a, b, 1.0)
    if isinstance(a, Total) or isinstance(b, Total):
        return _accumulated(where, a, b)
    a, b = signal_of(where, a), signal_of(where, b)
    if a.parts == b.parts and a.at is not None and b.at is not None and a.at != b.at:
        return Total(a, 1.0, frozenset((a.at, b.at)))
    check_same(where, a, b)
    parts = reader.graph.once(("add", a.parts, b.parts), lambda: reader.graph.added(where, a.parts, b.parts))
    return replace(a, parts=parts, at=b.at if a.at is None else a.at)


def check_same(where: str, *signals: Signal) -> None:
    """Raises CompileError unless values lie in the same axes, at the same time step."""
    leads, steps = {s.lead for s in signals}, {s.at for s in signals} - {None}
    if len(leads) > 1:
        raise LayoutError(where, "brings values together whose time steps lie in different axes")
    if len(steps) > 1:
        raise CompileError(
            where,
            f"brings time steps {' and '.join(map(str, sorted(map(int, filter(None, steps)))))} together",
            "what comes back one step later is read as recurrent layers (RLeaky, LIFRecurrentCell, ...) alone",
        )


def _accumulated(where: str, a: Any, b: Any) -> Total:
    total, other = (a, b) if isinstance(a, Total) else (b, a)
    steps = total.steps
    if isinstance(other, Signal) and steps is not None and total.factor == 1 and other.parts == total.signal.parts:
        if other.at is None or other.at in steps:
            raise CompileError(where, f"adds time step {other.at} twice")
        return replace(total, steps=steps | {other.at})
    raise CompileError(where, f"adds {told(other)} to a sum over time", "a sum over time takes one layer's steps")


def subtract(reader: Reader, where: str, a: Any, b: Any) -> Any:
    if is_constant(b):
        return _offset(reader, where, a, b, -1.0)
    if is_constant(a):
        return _offset(reader, where, multiply(reader, where, b, -1.0), a, 1.0)
    return add(reader, where, a, multiply(reader, where, b, -1.0))


def multiply(reader: Reader, where: str, a: Any, b: Any) -> Any:
    if is_constant(a):
        a, b = b, a
    if not is_constant(b):
        raise CompileError(where, f"multiplies {told(a)} by {told(b)}", "values are multiplied by constants")
    if isinstance(a, Total) and (number := _number(b)) is not None:
        return replace(a, factor=a.factor * number)
    signal = signal_of(where, a)
    gain = _per_channel(where, signal, b)
    return with_parts(reader, signal, ("times", gain.tobytes()), lambda parts: _affine(parts, gain, None))


def divide(reader: Reader, where: str, a: Any, b: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode is not None or not is_constant(b):
        raise CompileError(where, f"divides by {told(b)}", "values are divided by constants")
    if isinstance(a, Total) and (number := _number(b)) is not None:
        return replace(a, factor=a.factor / number)
    signal = signal_of(where, a)
    gain = 1 / _per_channel(where, signal, b)
    return with_parts(reader, signal, ("times", gain.tobytes()), lambda parts: _affine(parts, gain, None))


def is_constant(value: Any) -> bool:
    return isinstance(value, int | float | torch.Tensor | np.ndarray | np.generic)


def _number(value: Any) -> float | None:
    values = np.asarray(value.detach() if isinstance(value, torch.Tensor) else value, np.float64)
    return float(values.reshape(-1)[0]) if values.size == 1 else None


def _per_channel(where: str, signal: Signal, value: Any) -> Array:
    """A constant that broadcasts over the tensor, the same in every time step, sample and place, as (channels,)."""
    values = np.asarray(value.detach().double() if isinstance(value, torch.Tensor) else value, np.float64)
    lead = axes_of(signal)
    data = signal.shape
    extra = values.ndim - len(data)
    if extra > lead or any(n != 1 for n in values.shape[: max(extra, 0)]):
        raise CompileError(where, f"combines values with a constant of shape {values.shape}")
    inner = values.reshape(values.shape[max(extra, 0) :])
    found = by_channel(where, "the constant", inner, data)
    full: Array = np.broadcast_to(np.asarray(found), data[:1]).astype(np.float64)
    if not np.isfinite(full).all():
        raise CompileError(where, "combines values with a constant that is not finite")
    return full


def _offset(reader: Reader, where: str, value: Any, constant: Any, sign: float) -> Any:
    number = _number(constant)
    if number == 0 or (isinstance(constant, torch.Tensor) and not bool(constant.any())):
        return value
    signal = signal_of(where, value)
    offset = sign * _per_channel(where, signal, constant)
    return with_parts(reader, signal, ("plus", offset.tobytes()), lambda parts: _affine(parts, None, offset))


def _affine(parts: Parts, gain: Any, offset: Any) -> Parts:
    """gain * x + offset, (channels,) over all parts; the offset goes to the first term of each."""
    made, start = [], 0
    for part in parts:
        piece = slice(start, start + part.shape[0])
        start = piece.stop
        g = np.ones(part.shape[0]) if gain is None else gain[piece]
        terms = (
            affine(t, g, offset[piece] if offset is not None and n == 0 else None) for n, t in enumerate(part.terms)
        )
        made.append(Part(tuple(terms), part.shape))
    return tuple(made)
