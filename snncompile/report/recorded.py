"""Results of a program that its report shows: what `run --save` and `verify --json` wrote, with the program's seal."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snncompile.backend import load_backend
from snncompile.errors import CompileError
from snncompile.program import Program
from snncompile.quant_network import IntArray

SAMPLES = 20
"""Samples that spikes are kept of, at most."""

MOST_STATES = 60_000_000
"""Neuron states of all steps and samples that are looked at for that, at most."""

RASTER_STEPS, RASTER_POINTS = 32, 60_000
"""Time steps a raster is long, about, and spikes in the rasters of all layers together."""

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, eq=False)
class Recorded:
    """A run: the summary that `run --json` prints, and the arrays that `run --save` writes."""

    summary: Mapping[str, Any]
    arrays: Arrays

    def count(self, name: str) -> int:
        """`spikes.NAME`, a number of samples; 0 where no spikes were kept."""
        return int(np.asarray(self.arrays.get(f"spikes.{name}", 0)))

    def layers(self, kind: str) -> dict[str, NDArray[np.generic]]:
        """kind "rate" (neurons,) or "raster" (spikes, 3), by layer."""
        prefix = f"spikes.{kind}."
        return {name.removeprefix(prefix): values for name, values in self.arrays.items() if name.startswith(prefix)}


def spikes_of(program: Program, directory: Path, payloads: IntArray) -> dict[str, NDArray[np.generic]]:
    """Of the first samples (at most SAMPLES), by layer: firing rates and a raster; empty for networks too large.

    spikes.rate.LAYER (neurons,): spikes per neuron and step. spikes.raster.LAYER (spikes, 3): step, neuron in C order,
    payload; samples follow each other every T steps. Where a layer has more spikes than its share of RASTER_POINTS,
    every so-manieth is kept, and spikes.kept.LAYER is the fraction. The chip simulator computes them.
    """
    network = program.network
    states = program.neurons * network.timesteps
    samples = min(SAMPLES, len(payloads), MOST_STATES // states)
    if samples == 0:
        return {}
    names = [p.name for p in network.populations if p.spiking]
    run = load_backend("sim").run(program, directory, payloads[:samples], names)
    most = max(500, RASTER_POINTS // max(len(names), 1))
    drawn = min(samples, max(1, RASTER_STEPS // network.timesteps))
    found: dict[str, NDArray[np.generic]] = {
        "spikes.samples": np.array(samples),
        "spikes.raster_samples": np.array(drawn),
    }
    for name in names:
        sent = run.payloads[name].reshape(network.timesteps, samples, -1)
        found[f"spikes.rate.{name}"] = (sent != 0).mean((0, 1), dtype=np.float32)
        first = sent[:, :drawn].swapaxes(0, 1).reshape(drawn * network.timesteps, -1)
        step, neuron = np.nonzero(first)
        thinned = slice(None, None, max(1, -(-len(step) // most)))
        points = np.stack([step, neuron, first[step, neuron]], axis=1)[thinned]
        found[f"spikes.raster.{name}"] = points.astype(np.int32)
        found[f"spikes.kept.{name}"] = np.array(len(points) / len(step) if len(step) else 1.0)
    return found


def read_run(path: Path, seal: str) -> Recorded:
    """What `run --save` wrote. Raises CompileError: not such a file, or of another program than the sealed one."""
    how = "write it with `snncompile run DIR --data DATA --save FILE.npz`"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        summary = json.loads(str(arrays.pop("summary")))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CompileError(str(path), f"is not the result of a run ({error})", how) from error
    return Recorded(_belonging(path, summary, seal, how), arrays)


def read_verification(path: Path, seal: str) -> dict[str, Any]:
    """What `verify --json` printed. Raises as `read_run`."""
    how = "write it with `snncompile verify DIR --data DATA --json > FILE.json`"
    try:
        result = json.loads(path.read_text())
        result["pairs"], result["stages"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CompileError(str(path), f"is not the result of a verification ({error})", how) from error
    return _belonging(path, result, seal, how)


def _belonging(path: Path, result: dict[str, Any], seal: str, how: str) -> dict[str, Any]:
    if result.get("program") != seal:
        raise CompileError(
            str(path), "is the result of another program, or of this one before it was compiled anew", how
        )
    return result
