"""`snncompile run`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from snncompile.errors import CompileError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from snncompile.backend import Progress, Run
    from snncompile.data import Samples
    from snncompile.program import Program


@click.command()
@directory_argument
@data_option
@click.option("--backend", default="sim", show_default=True, help="sim, lava or reference.")
@limit_option
@click.option("--save", type=click.Path(path_type=Path), help="Write prediction and output to this .npz.")
@click.option(
    "--metrics", is_flag=True, help="Also footprint, sparsity, effective MACs and ACs, as NeuroBench has them."
)
@json_option
def run(
    directory: Path, data: Path, backend: str, limit: int | None, save: Path | None, metrics: bool, as_json: bool
) -> None:
    """Runs the program in DIRECTORY on data."""
    if save is not None and not save.absolute().parent.is_dir():
        raise CompileError(str(save), "is in a folder that does not exist", "make the folder first")
    program, samples = read(directory), samples_of(data, limit)
    payloads = program.encode(samples.x, samples.source)
    with progress_bar(backend) as progress:
        result = _run(backend, program, directory, payloads, progress)
    summary = _run_summary(result, samples)
    if metrics:
        from snncompile.metrics import metrics_of

        with progress_bar("metrics") as progress:
            summary["metrics"] = metrics_of(program, payloads, progress)
    if save is not None:
        _save(save, result, program)
    if as_json:
        return print_json(summary)
    console = console_of()
    counted = summary.pop("metrics", {})
    for key, value in {**summary, **counted}.items():
        if key != "layers":
            console.print(f"{key:<28} {_readable(value)}", soft_wrap=True)
    return None


def _run(
    backend: str, program: "Program", directory: Path, payloads: "NDArray[np.int64]", progress: "Progress"
) -> "Run":
    from snncompile import reference
    from snncompile.backend import Run, load_backend
    from snncompile.sealed import check_emitted

    if backend != "reference":
        loaded = load_backend(backend)
        check_emitted(directory, program, loaded)
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
        "wall_s": result.wall_s,
        "startup_s": result.startup_s,
    }
    if energy is not None:
        summary["energy_uj_by_cause"] = {
            cause: None if pj is None else pj / 1e6 for cause, pj in energy["by_cause"].items()
        }
        summary["energy_sources"] = {
            name: {"inherited": entry["inherited"], "not_published": entry["not_published"]}
            for name, entry in energy["cost_sets"].items()
        }
    return summary


def _save(path: Path, result: "Run", program: "Program") -> None:
    from snncompile.sealed import npz_bytes

    arrays = {
        "prediction": result.prediction,
        "output": result.output * program.host.output_scale,
        "output_state": result.output,
    }
    try:
        path.write_bytes(npz_bytes(arrays))
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
