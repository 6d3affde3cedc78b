"""`snncompile run`."""

import json
from dataclasses import replace
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
    quiet_option,
    read,
    samples_of,
)
from snncompile.errors import CompileError, InternalError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from snncompile.backend import Run, Timing
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
    help="Write prediction and output, counts, times and energy by core and step, and spikes, to this .npz; "
    "`report --html --run` shows it.",
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
    help="Also spikes and membranes of a layer, or of one neuron of it, in the trace's .npz. Repeatable. "
    "With --backend lava: Lava's own, in the .npz of --save.",
)
@click.option(
    "--lava-style",
    type=click.Choice(["fused", "stock"]),
    help="--backend lava: one Process a population, or Lava's own Dense, Conv, Sparse and LIF where they are exact. "
    "[default: fused]",
)
@click.option("--lava-placement", is_flag=True, help="--backend lava: a Process for every core slice (at most 63).")
@click.option(
    "--metrics", is_flag=True, help="Also footprint, sparsity, effective MACs and ACs, as NeuroBench has them."
)
@quiet_option
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
    lava_style: str | None,
    lava_placement: bool,
) -> None:
    """Runs the program in DIRECTORY on data."""
    from snncompile.backend import ProcessOptions, RunOptions
    from snncompile.inference import infer, summary_of
    from snncompile.probe import Probe, probed, recorded
    from snncompile.report.recorded import spikes_of
    from snncompile.sealed import seal_of

    for path in (save, trace):
        if path is not None and not path.absolute().parent.is_dir():
            raise CompileError(str(path), "is in a folder that does not exist", "make the folder first")
    by_backend = backend == "lava" and save is not None
    if probe and trace is None and not by_backend:
        raise CompileError("--probe", "is written to a trace", "give --trace FOLDER, too")
    program, samples = read(directory), samples_of(data, limit)
    probes = [Probe.parse(text, program.network) for text in probe]
    payloads = program.encode(samples.x, samples.source)
    chosen = RunOptions(cast("Timing", timing or "auto"), arrays=save is not None, trace=trace is not None)
    watched = tuple(dict.fromkeys(probe.population for probe in probes)) if by_backend and trace is None else ()
    processes = ProcessOptions(lava_style, lava_placement, watched)
    with progress_bar(backend) as progress:
        result = infer(backend, program, directory, payloads, progress, chosen, timing or trace, processes)
    if watched:
        result = replace(result, arrays={**result.arrays, **recorded(result, probes)})
    if trace is not None:
        with progress_bar("probes") as progress:
            _write_trace(trace, result, probed(program.network, payloads, probes, progress))
    summary = {**summary_of(result, samples), "data": Path(samples.source).name, "program": seal_of(directory)}
    if metrics:
        from snncompile.metrics import metrics_of

        with progress_bar("metrics") as progress:
            summary["metrics"] = metrics_of(program, payloads, progress)
    if save is not None:
        _save(save, result, program, summary, spikes_of(program, directory, payloads))
    return print_json(summary) if as_json else _print(summary)


def _print(summary: dict[str, Any]) -> None:
    console = console_of()
    counted = summary.pop("metrics", {})
    for key, value in {**summary, **counted}.items():
        if key not in ("layers", "energy_by_layer", "program", "kernels"):
            console.print(f"{key:<28} {_readable(value)}", soft_wrap=True)
    for layer, energy in summary.get("energy_by_layer", {}).items():
        band = {bound: energy[f"{bound}_uj"] for bound in ("low", "nominal", "high")}
        console.print(f"{f'energy_uj {layer}':<28} {_readable(band)}", soft_wrap=True, highlight=False)


def _save(
    path: Path, result: "Run", program: "Program", summary: dict[str, Any], spikes: "dict[str, NDArray[np.generic]]"
) -> None:
    """summary: what `run --json` prints; spikes: of `recorded.spikes_of`. The report reads both."""
    import numpy as np

    from snncompile.sealed import npz_bytes

    arrays = {
        "prediction": result.prediction,
        "output": result.output * program.host.output_scale,
        "output_state": result.output,
        "summary": np.array(json.dumps(summary)),
        **result.arrays,
        **spikes,
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
