"""What every chip step takes, and what it waits for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_STEPS = 400
"""Steps of a run that are shown."""

PARTS = ("core generates", "core receives", "mesh", "barrier")


@dataclass(frozen=True)
class Steps:
    """parts: ns of every step, by what it waits for: first the busiest core, then what the mesh adds, then the barrier.

    told: of every step what bounds it (the largest part), and the busiest core with its layers. basis: whose steps.
    """

    parts: Mapping[str, list[float]]
    told: list[tuple[str, str]]
    basis: str

    @property
    def bounds(self) -> dict[str, int]:
        """Steps that each part bounds."""
        counted = Counter(bound for bound, _ in self.told)
        return {part: counted[part] for part in PARTS if counted[part]}

    @property
    def about(self) -> str:
        said = ", ".join(f"{count} by {part}" for part, count in self.bounds.items())
        return f"{len(self.told)} chip steps ({self.basis}); bound: {said}"


def steps_of(lines: Mapping[str, Sequence[Any]], barrier_ns: float, cores: Sequence[Any], basis: str) -> Steps:
    """lines: ns, generation_ns, reception_ns, busiest_core, routed of every step; cores: the report's.

    A step that went through the router takes what the router needs beyond core and barrier for the mesh. Where times
    come from a model that does not tell parts apart (max-affine), the whole step is the core's.
    """
    parts: dict[str, list[float]] = {part: [] for part in PARTS}
    told = []
    columns = ("ns", "generation_ns", "reception_ns", "busiest_core", "routed")
    for ns, generation, reception, core, routed in zip(*(lines[name] for name in columns), strict=True):
        barrier = min(barrier_ns, ns)
        busy = min(max(generation, reception), ns - barrier) if routed else ns - barrier
        step = dict.fromkeys(PARTS, 0.0) | {"barrier": barrier, "mesh": max(ns - barrier - busy, 0.0)}
        step["core generates" if generation >= reception else "core receives"] = busy
        for part, value in step.items():
            parts[part].append(value)
        layers = ", ".join(part["name"] for part in cores[int(core)]["layers"])
        told.append((max(step, key=step.__getitem__), f"core {int(core)} ({layers})"))
    return Steps(parts, told, basis)


def estimated_steps(report: Mapping[str, Any]) -> Steps | None:
    """Of the estimate; None where the program was written by a snncompile that kept none."""
    estimate = report["estimate"]
    if "by_step" not in estimate:
        return None
    basis = "the estimate: equal samples follow each other"
    return steps_of(estimate["by_step"], estimate["barrier_ns"], report["cores"], basis)


def run_steps(arrays: Mapping[str, Any], report: Mapping[str, Any], samples: int) -> Steps | None:
    """The first steps of a run, from what `run --save` wrote; None where its backend models no time."""
    if "step_ns" not in arrays:
        return None
    names = ("ns", "generation_ns", "reception_ns", "busiest_core", "routed")
    lines = {name: arrays[f"step_{name}"][:MOST_STEPS].tolist() for name in names}
    shown, all_steps = len(lines["ns"]), len(arrays["step_ns"])
    part = f"the first {shown} of {all_steps}" if shown < all_steps else "all"
    return steps_of(
        lines, report["estimate"].get("barrier_ns", 0.0), report["cores"], f"{part} of a run of {samples} samples"
    )
