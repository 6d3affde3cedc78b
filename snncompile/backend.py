"""What a backend is: it adds files to the sealed directory and runs a program on data.

Backends are found through the entry-point group `snncompile.backends`; the core imports none of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from snncompile.errors import CompileError, nearest
from snncompile.quant_network import IntArray

if TYPE_CHECKING:
    from pathlib import Path

    from snncompile.program import Program

GROUP = "snncompile.backends"

Activity = Mapping[str, NDArray[np.float64]]
"""Per population, and for the input: the probability that a neuron fires in a step, (*shape)."""


Timing = Literal["event", "cycle", "auto"]
"""How steps are timed: from counts; every one through the clocked router; or those whose mesh may be busy."""


class Progress(Protocol):
    """Told how many samples are done; the command line draws a bar with it."""

    def __call__(self, done: int, total: int) -> None: ...


def silent(done: int, total: int) -> None:
    """Progress that shows nothing."""


@dataclass(frozen=True)
class RunOptions:
    """What a backend that models time is asked for besides spikes and cost; the command line's `--timing` is auto.

    arrays: energy, times and counts per core and per chip step (`Run.arrays`). trace: time lines (`Run.trace`).
    """

    timing: Timing = "event"
    arrays: bool = False
    trace: bool = False


@dataclass(frozen=True)
class ProcessOptions:
    """What a backend that runs a network as processes is asked for.

    style: one of the backend's `styles`; the first is the default. placement: a process for every core slice.
    membranes: populations whose u before firing is recorded (`Run.membranes`).
    """

    style: str | None = None
    placement: bool = False
    membranes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Trace:
    """Time lines of a run. lines: arrays per chip step, core and link; events: the same as a Chrome trace for JSON."""

    lines: Mapping[str, NDArray[np.generic]]
    events: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Run:
    """What a backend gives back for N samples.

    output (N, classes): integer state of the readout after step T. `payloads`: per recorded population (T, N, *shape).
    `cost`: energy, time and counts where the backend models them (keys of `run --json`), else empty. `arrays`, `trace`:
    what `RunOptions` asked for. `membranes`: as `payloads`, u before firing. `notes`: what `run --json` adds.
    """

    backend: str
    output: IntArray
    wall_s: float
    startup_s: float
    payloads: Mapping[str, IntArray] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    trace: Trace | None = None
    membranes: Mapping[str, IntArray] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prediction(self) -> NDArray[np.int64]:
        """(N,) class with the largest readout; the lowest index where several are equal."""
        return self.output.argmax(1)


class Backend(Protocol):
    """Runs a sealed program. Everything is integer: input payloads in, readout states and spikes out."""

    name: str

    def emit(self, program: "Program") -> Mapping[str, bytes]:
        """Files for the sealed directory, by path relative to it. The same program gives the same bytes."""

    def estimate(self, program: "Program", activity: Activity) -> Mapping[str, Any] | None:
        """Cost of one inference at that activity; None where the backend has no cost model."""

    def run(
        self,
        program: "Program",
        directory: "Path",
        payloads: IntArray,
        record: Sequence[str] = (),
        progress: Progress = silent,
    ) -> Run:
        """Runs input payloads (N, *input shape); records the payloads of the populations named in `record`."""


@runtime_checkable
class TimedBackend(Backend, Protocol):
    """A backend that models time in one way or another."""

    timings: tuple[Timing, ...]

    def run(
        self,
        program: "Program",
        directory: "Path",
        payloads: IntArray,
        record: Sequence[str] = (),
        progress: Progress = silent,
        options: RunOptions = ...,
    ) -> Run:
        """As `Backend.run`. Raises CompileError where the chip's model does not hold what `options.timing` needs."""


@runtime_checkable
class ProcessBackend(Backend, Protocol):
    """A backend that runs a network as processes, in one style or another."""

    styles: tuple[str, ...]

    def run(
        self,
        program: "Program",
        directory: "Path",
        payloads: IntArray,
        record: Sequence[str] = (),
        progress: Progress = silent,
        options: ProcessOptions = ...,
    ) -> Run:
        """As `Backend.run`. Raises CompileError for an unknown style, or more slices than processes are allowed."""


def backend_names() -> tuple[str, ...]:
    return tuple(sorted(point.name for point in entry_points(group=GROUP)))


@cache
def _made_by(name: str) -> Callable[[], Backend] | None:
    """What makes the backend `name`; None where none has this name. Looking through all packages takes a while."""
    found: list[EntryPoint] = [point for point in entry_points(group=GROUP) if point.name == name]
    return found[0].load() if found else None


def load_backend(name: str) -> Backend:
    """The backend `name`. Raises CompileError with the nearest known name."""
    made_by = _made_by(name)
    if made_by is None:
        raise CompileError("--backend", f"no backend {name!r}", nearest(name, (*backend_names(), "reference")))
    return made_by()
