"""What a backend is: it adds files to the sealed directory and runs a program on data.

Backends are found through the entry-point group `snncompile.backends`; the core imports none of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Protocol

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


class Progress(Protocol):
    """Told how many samples are done; the command line draws a bar with it."""

    def __call__(self, done: int, total: int) -> None: ...


def silent(done: int, total: int) -> None:
    """Progress that shows nothing."""


@dataclass(frozen=True, eq=False)
class Run:
    """What a backend gives back for N samples.

    output (N, classes): integer state of the readout after step T. `payloads`: per recorded population (T, N, *shape).
    `cost`: energy, time and counts where the backend models them (keys of `run --json`), else empty.
    """

    backend: str
    output: IntArray
    wall_s: float
    startup_s: float
    payloads: Mapping[str, IntArray] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)

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


def backend_names() -> tuple[str, ...]:
    return tuple(sorted(point.name for point in entry_points(group=GROUP)))


def load_backend(name: str) -> Backend:
    """The backend `name`. Raises CompileError with the nearest known name."""
    found: list[EntryPoint] = [point for point in entry_points(group=GROUP) if point.name == name]
    if not found:
        raise CompileError("--backend", f"no backend {name!r}", nearest(name, (*backend_names(), "reference")))
    backend: Backend = found[0].load()()
    return backend
