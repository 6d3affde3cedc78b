"""How a model is to be read where its file does not say: what `--dt`, `--reset`, `--fire` and the like set."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from snncompile.errors import CompileError
from snncompile.network import Fire, Reset

ReadAs = Literal["direct", "events"]
Output = Literal["count", "sum", "mean", "last", "membrane"]

DT_S = 1e-4
"""Seconds a step stands for where neither file nor user says; snntorch and spikingjelly write NIR with it."""

MOST_STEPS = 1_000_000
"""Steps of a sample; bounds what a number in a file can make us compute."""


@dataclass(frozen=True)
class Reading:
    """What the user says of a model; None: what the file says, else the producer's convention.

    dt: seconds of a time step (of a file whose time constants count steps: 1). reset, fire: of every neuron, "ge"
    fires at the threshold, "gt" above it. timesteps of a sample. coding: "direct" (an image, the same in every step)
    or "events" (a frame a step). readout: what the output is: "count" or "sum" of what arrives at it, "mean" over the
    steps, "last" (of the last step), "membrane" (state after the last step of the leaky integrator before it).
    factory: `file.py:function` that builds the module a state_dict is loaded into.
    Raises CompileError for values that cannot be.
    """

    dt: float | None = None
    reset: Reset | None = None
    fire: Fire | None = None
    timesteps: int | None = None
    coding: ReadAs | None = None
    readout: Output | None = None
    factory: str | None = None

    def __post_init__(self) -> None:
        if self.dt is not None and not 0 < self.dt < float("inf"):
            raise CompileError("--dt", f"is {self.dt}", "needed: seconds of a time step, more than 0")
        if self.timesteps is not None and not 1 <= self.timesteps <= MOST_STEPS:
            raise CompileError("--timesteps", f"is {self.timesteps}", f"needed: 1 to {MOST_STEPS}")
        choices = {"reset": Reset, "fire": Fire, "coding": ReadAs, "readout": Output}
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value is not None and value not in get_args(allowed):
                raise CompileError(f"--{name}", f"is {value}", f"needed: {', '.join(get_args(allowed))}")

    @property
    def dt_s(self) -> float:
        return DT_S if self.dt is None else self.dt

    def to_json(self) -> str:
        """What is said, as JSON; `from_json` is its inverse."""
        return json.dumps({name: value for name, value in asdict(self).items() if value is not None})

    @classmethod
    def from_json(cls, where: str, text: object) -> "Reading":
        """Raises CompileError with `where` for what is no text of `to_json`."""
        try:
            values: Any = json.loads(text) if isinstance(text, str) else None
        except (ValueError, RecursionError):
            values = None
        kinds = {"dt": int | float, "timesteps": int}
        known = {declared.name for declared in fields(cls)}
        if not isinstance(values, dict) or values.keys() - known:
            raise CompileError(where, "its reading is not the JSON of one", "export the model again")
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, kinds.get(name, str)):
                raise CompileError(where, f"{name} of its reading is {value!r:.80}", "export the model again")
        return cls(**values)
