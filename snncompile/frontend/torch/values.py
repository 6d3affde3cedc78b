"""What a tensor of a torch model is to us: which network values it holds, and how time and batch lie in its axes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from snncompile.errors import CompileError
from snncompile.network import Array, Shape

Lead = Literal["step", "TB", "BT", "(TB)", "(BT)", "1B"]
"""Axes before those of the data: one step [B, ...]; all steps [T, B, ...] or [B, T, ...]; both in one axis, [T*B, ...]
or [B*T, ...]; one step with an axis of one before it, [1, B, ...]."""
WHOLE: tuple[Lead, ...] = ("TB", "BT", "(TB)", "(BT)")
LEADS: dict[Lead, str] = {
    "step": "one time step [B, ...]",
    "TB": "all time steps [T, B, ...]",
    "BT": "all time steps [B, T, ...]",
    "(TB)": "all time steps in one axis, [T*B, ...]",
    "(BT)": "all time steps in one axis, [B*T, ...]",
    "1B": "one time step [1, B, ...]",
}


class LayoutError(CompileError):
    """A layer gets its time steps in axes it does not expect; another layout of the model's input may do."""


@dataclass(frozen=True, eq=False)
class Term:
    """gain * x + offset, x what the node at this position puts out; gain and offset (channels,) or None: 1 and 0."""

    node: int
    gain: Array | None = None
    offset: Array | None = None

    @property
    def plain(self) -> bool:
        return self.gain is None and self.offset is None


@dataclass(frozen=True, eq=False)
class Part:
    """The sum of terms of one shape."""

    terms: tuple[Term, ...]
    shape: Shape


@dataclass(frozen=True, eq=False)
class Signal:
    """A tensor that carries network values: `parts` one after the other along the first axis of their data.

    at: which time step it is, None where every step is alike. rows: a part (C, 1, L) is [C, L] to torch (Conv1d).
    Two signals of the same `parts` are the same values: whatever is computed from equal things is computed once.
    """

    parts: tuple[Part, ...]
    lead: Lead = "step"
    at: int | None = None
    rows: bool = False

    @property
    def shape(self) -> Shape:
        """Of the data of one step, as torch has it."""
        first = self.parts[0].shape
        channels = sum(part.shape[0] for part in self.parts)
        return (channels, first[2]) if self.rows else (channels, *first[1:])


@dataclass(frozen=True, eq=False)
class Total:
    """factor * (sum over time steps `steps` of a signal's values); None: all of them."""

    signal: Signal
    factor: float
    steps: frozenset[int] | None


@dataclass(frozen=True, eq=False)
class Potential:
    """The potential v of a leaky integrator that is not reset; x the signal.

        i[t] = current_leak * i[t-1] + x[t];  v[t] = leak * v[t-1] + gain * i[t]

    The signal's lead and step are those of v. leak in (0, 1], gain one number; current_leak None: i = x.
    """

    signal: Signal
    leak: float
    gain: float
    current_leak: float | None = None


@dataclass(frozen=True, eq=False)
class State:
    """The state a stateful layer returned at step `at`, to be handed back to it at the next; its potential if known."""

    path: str
    at: int
    potential: Potential | None = None


def channels_of(values: Array | None, part: slice) -> Array | None:
    return None if values is None else values[part]


def spread(values: Array | None, shape: Shape) -> Array | None:
    """(channels,) values repeated for every place of (C, H, W): what they are once the data is flattened."""
    return None if values is None else np.repeat(values, int(np.prod(shape[1:])))
