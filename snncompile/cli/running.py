"""`snncompile run`."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from snncompile.cli.common import (
    console_of,
    data_option,
    directory_argument,
    json_option,
    limit_option,
    print_json,
    progress_bar,
    read,
    samples_of,
)
from snncompile.errors import CompileError, InternalError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from snncompile.backend import Progress, Run, RunOptions, Timing
    from snncompile.data import Samples
    from snncompile.program import Program


@click.command()
@directory_argument
@data_option
@click.option("--backend", default="sim", show_default=True, help="sim, lava or reference.")
@limit_option
@click.option(
    "--timing",
    type=click.Choice(["event", "cycle", "auto"]),
    help="How steps are timed: from counts, every step through the clocked router, or those whose mesh may be busy. "
    "[default: auto]",
)
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    help="Write prediction and output, and counts, times and energy by core and step, to this .npz.",
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    help="Write time lines of cores and links to this folder: trace.json for Perfetto or chrome://tracing, trace.npz. "
    "Or to this .json, and the .npz beside it.",
)
@click.option(
    "--probe",
    multiple=True,
    metavar="LAYER[:i,j,k]",
    help="Also spikes and membranes of a layer, or of one neuron of it, in the trace's .npz. Repeatable.",
)
@click.option(
    "--metrics", is_flag=True, help="Also footprint, sparsity, effective MACs and ACs, as NeuroBench has them."
)
@json_option
def run(
    directory: Path,
    data: Path,
    backend: str,
    limit: int | None,
    timing: str | None,
    save: Path | None,
    trace: Path | None,
    probe: tuple[str, ...],
    metrics: bool,
    as_json: bool,
) -> None:
    """Runs the program in DIRECTORY on data."""
    from snncompile.backend import RunOptions
    from snncompile.probe import Probe, probed

    for path in (save, trace):
        if path is not None and not path.absolute().parent.is_dir():
            raise CompileError(str(path), "is in a folder that does not exist", "make the folder first")
    if probe and trace is None:
        raise CompileError("--probe", "is written to a trace", "give --trace FOLDER, too")
    program, samples = read(directory), samples_of(data, limit)
    probes = [Probe.parse(text, program.network) for text in probe]
    payloads = program.encode(samples.x, samples.source)
    chosen = RunOptions(cast("Timing", timing or "auto"), arrays=save is not None, trace=trace is not None)
    with progress_bar(backend) as progress:
        result = _run(backend, program, directory, payloads, progress, chosen, asked=timing or trace)
    if trace is not None:
        with progress_bar("probes") as progress:
            _write_trace(trace, result, probed(program.network, payloads, probes, progress))
    summary = _run_summary(result, samples)
    if metrics:
        from snncompile.metrics import metrics_of

        with progress_bar("metrics") as progress:
            summary["metrics"] = metrics_of(program, payloads, progress)
    if save is not None:
        _save(save, result, program)
    return print_json(summary) if as_json else _print(summary)


def _print(summary: dict[str, Any]) -> None:
    console = console_of()
    counted = summary.pop("metrics", {})
    for key, value in {**summary, **counted}.items():
        if key not in ("layers", "energy_by_layer"):
            console.print(f"{key:<28} {_readable(value)}", soft_wrap=True)
    for layer, energy in summary.get("energy_by_layer", {}).items():
        band = {bound: energy[f"{bound}_uj"] for bound in ("low", "nominal", "high")}
        console.print(f"{f'energy_uj {layer}':<28} {_readable(band)}", soft_wrap=True, highlight=False)


def _run(
    backend: str,
    program: "Program",
    directory: Path,
    payloads: "NDArray[np.int64]",
    progress: "Progress",
    options: "RunOptions",
    asked: str | Path | None,
) -> "Run":
    """asked: --timing or --trace where given, which a backend without times refuses."""
    from snncompile import reference
    from snncompile.backend import Run, TimedBackend, load_backend
    from snncompile.sealed import check_emitted

    loaded = None if backend == "reference" else load_backend(backend)
    if loaded is not None:
        check_emitted(directory, program, loaded)
        if isinstance(loaded, TimedBackend):
            return loaded.run(program, directory, payloads, (), progress, options)
    if asked is not None:
        given = "--trace" if isinstance(asked, Path) else "--timing"
        raise CompileError(given, f"the backend {backend!r} models no time", "use --backend sim")
    if loaded is not None:
        return loaded.run(program, directory, payloads, (), progress)
    start = time.perf_counter()
    import numpy as np

    outputs = []
    for first in range(0, len(payloads), 50):
        outputs.append(reference.run_integer(program.network, payloads[first : first + 50]).output)
        progress(min(first + 50, len(payloads)), len(payloads))
    return Run("reference", np.concatenate(outputs), time.perf_counter() - start, 0.0)


def _run_summary(result: "Run", samples: "Samples") -> dict[str, Any]:
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
    for key in ("timing_basis", "max_affine_counts"):
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


def _save(path: Path, result: "Run", program: "Program") -> None:
    from snncompile.sealed import npz_bytes

    arrays = {
        "prediction": result.prediction,
        "output": result.output * program.host.output_scale,
        "output_state": result.output,
        **result.arrays,
    }
    _write(path, npz_bytes(arrays))


def _write_trace(path: Path, result: "Run", probed: "dict[str, NDArray[np.int64]]") -> None:
    """trace.json and trace.npz in a folder, or PATH.json and the .npz beside it."""
    from snncompile.sealed import npz_bytes

    if result.trace is None:
        raise InternalError("a trace was asked for and not made")
    if path.suffix != ".json":
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise CompileError(str(path), f"cannot be made ({error})", "give a folder, or a .json file") from error
        path = path / "trace.json"
    _write(path, json.dumps(result.trace.events, separators=(",", ":")).encode())
    _write(path.with_suffix(".npz"), npz_bytes({**result.trace.lines, **probed}))


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise CompileError(str(path), f"cannot be written ({error})") from error


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key} {_readable(item)}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "unknown" if value is None else str(value)
