"""Running a sealed program on data, and what is said of a run."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from snncompile import reference
from snncompile.backend import ProcessBackend, ProcessOptions, Progress, Run, RunOptions, TimedBackend, load_backend
from snncompile.data import Samples
from snncompile.errors import CompileError
from snncompile.program import Program
from snncompile.quant_network import IntArray
from snncompile.sealed import check_emitted

NO_PROCESSES = ProcessOptions()


def infer(
    backend: str,
    program: Program,
    directory: Path,
    payloads: IntArray,
    progress: Progress,
    options: RunOptions,
    asked: str | Path | None,
    processes: ProcessOptions = NO_PROCESSES,
) -> Run:
    """Runs input payloads (N, ...) on a backend, or on the integer reference (`reference`), which models no cost.

    asked: --timing or --trace where given; raises CompileError where the backend models no time. processes: what only a
    backend of processes can be asked for; raises CompileError for any other.
    """
    loaded = None if backend == "reference" else load_backend(backend)
    if processes != NO_PROCESSES and not isinstance(loaded, ProcessBackend):
        raise CompileError("--backend", f"{backend!r} makes no Lava processes", "--lava-style needs --backend lava")
    if loaded is not None:
        check_emitted(directory, program, loaded)
        if isinstance(loaded, TimedBackend):
            return loaded.run(program, directory, payloads, (), progress, options)
    if asked is not None:
        given = "--trace" if isinstance(asked, Path) else "--timing"
        raise CompileError(given, f"the backend {backend!r} models no time", "use --backend sim")
    if isinstance(loaded, ProcessBackend):
        return loaded.run(program, directory, payloads, processes.membranes, progress, processes)
    if loaded is not None:
        return loaded.run(program, directory, payloads, (), progress)
    start = time.perf_counter()
    outputs = []
    for first in range(0, len(payloads), 50):
        outputs.append(reference.run_integer(program.network, payloads[first : first + 50]).output)
        progress(min(first + 50, len(payloads)), len(payloads))
    return Run("reference", np.concatenate(outputs), time.perf_counter() - start, 0.0)


def summary_of(result: Run, samples: Samples) -> dict[str, Any]:
    """What `run --json` prints: accuracy, counts, energy and time per inference; None: unknown."""
    cost = result.cost
    energy = cost.get("energy_pj")
    correct = None if samples.y is None else float((result.prediction == samples.y).mean())
    summary: dict[str, Any] = {
        "backend": result.backend,
        "samples": len(samples),
        "accuracy": correct,
        "synops_per_inference": cost.get("synops"),
        "spikes_per_inference": cost.get("spikes"),
        "packets_per_inference": cost.get("packets"),
        "energy_uj_per_inference": None if energy is None else {k: energy[k] / 1e6 for k in ("low", "nominal", "high")},
        "static_energy_uj_during_latency": cost.get("static_energy_uj_during_latency"),
        "latency_us_per_inference": cost.get("latency_us"),
        "inferences_per_s_on_chip": cost.get("inferences_per_s"),
        "timing": cost.get("timing"),
        "chip_steps": cost.get("steps"),
        "routed_steps": cost.get("routed_steps"),
        "wall_s": result.wall_s,
        "startup_s": result.startup_s,
    }
    if cost.get("timing_note"):
        summary["timing_note"] = cost["timing_note"]
    summary.update(result.notes)
    for key in ("timing_basis", "max_affine_counts", "kernels"):
        if key in cost:
            summary[key] = cost[key]
    if "energy_by_layer_pj" in cost:
        summary["energy_by_layer"] = {layer: _in_uj(entry) for layer, entry in cost["energy_by_layer_pj"].items()}
    if energy is not None:
        summary["energy_uj_by_cause"] = {
            cause: None if pj is None else pj / 1e6 for cause, pj in energy["by_cause"].items()
        }
        summary["energy_sources"] = {
            name: {"inherited": entry["inherited"], "not_published": entry["not_published"]}
            for name, entry in energy["cost_sets"].items()
        }
    return summary


def _in_uj(entry: dict[str, Any]) -> dict[str, Any]:
    """{low, nominal, high}_uj and by_cause_uj from the same in pJ; what is not published stays None."""
    bounds = {f"{bound}_uj": entry[bound] / 1e6 for bound in ("low", "nominal", "high")}
    causes = {cause: None if pj is None else pj / 1e6 for cause, pj in entry["by_cause"].items()}
    return {**bounds, "by_cause_uj": causes}
