"""The proof chain: float -> folded -> integer -> simulator -> Lava, every spike of every layer compared.

float: the network as trained, float64. folded: after the passes, float64. integer: the reference of the integer
network. The last three must be equal, spike for spike; between float and integer, rounding may move a spike, and then
the first one is named with both membranes, the threshold and the cause.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snncompile import reference
from snncompile.backend import Progress, load_backend, silent
from snncompile.compile import run_passes
from snncompile.divergence import Divergence, StageRun
from snncompile.errors import CompileError, nearest
from snncompile.network import Network
from snncompile.program import Program
from snncompile.quant_network import IntArray
from snncompile.sealed import NETWORK, check_emitted

STAGES = ("float", "folded", "integer", "simulator", "lava")
EXACT = ("integer", "simulator", "lava")
"""Stages that must be equal."""

CHUNK = 100


@dataclass(eq=False)
class PairTally:
    """What was compared between two stages so far."""

    a: str
    b: str
    compared: dict[str, int] = field(default_factory=dict)
    spikes: dict[str, int] = field(default_factory=dict)
    differing: dict[str, int] = field(default_factory=dict)
    rates: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=dict)
    outputs_differing: int = 0
    first: dict[str, Any] | None = None


def pairs_of(stages: Sequence[str]) -> list[tuple[str, str]]:
    """What is compared: each chosen stage with the next one, and float with the first that must be exact."""
    chosen = [stage for stage in STAGES if stage in stages]
    pairs = list(pairwise(chosen))
    first_exact = next((stage for stage in chosen if stage in EXACT), None)
    if "float" in chosen and first_exact and ("float", first_exact) not in pairs:
        pairs.insert(2, ("float", first_exact))
    return pairs


def verify_program(
    directory: Path,
    program: Program,
    x: NDArray[np.generic],
    y: NDArray[np.int64] | None,
    stages: Sequence[str] = STAGES,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Runs data x (N, ...) through the stages and compares; returns what `verify --json` prints.

    `equal`: whether the stages that must be equal are; None where fewer than two of them were chosen. Raises
    CompileError for an unknown stage or unfit data.
    """
    for stage in stages:
        if stage not in STAGES:
            raise CompileError("--stages", f"no stage {stage!r}", nearest(stage, STAGES))
    payloads = program.encode(x)
    if "lava" in stages:
        check_emitted(directory, program, load_backend("lava"))
    networks = _float_networks(directory)
    tallies = [PairTally(a, b) for a, b in pairs_of(stages)]
    divergence = Divergence(program, networks["folded"])
    hits = dict.fromkeys(stages, 0)
    for start in range(0, len(x), CHUNK):
        part = slice(start, start + CHUNK)
        runs = {stage: _run_stage(stage, directory, program, networks, x[part], payloads[part]) for stage in stages}
        for tally in tallies:
            _compare(tally, runs[tally.a], runs[tally.b])
            if tally.first is None and (found := divergence.first(runs[tally.a], runs[tally.b])):
                tally.first = {**found, "sample": start + found["sample"]}
        if y is not None:
            for stage, run in runs.items():
                hits[stage] += int((run.prediction == y[part]).sum())
        progress(min(start + CHUNK, len(x)), len(x))
    pairs = [_pair_report(tally, len(x), program.network.timesteps) for tally in tallies]
    exact = [pair for pair in pairs if pair["a"] in EXACT]
    return {
        "samples": len(x),
        "stages": list(stages),
        "accuracy": {stage: None if y is None else count / len(x) for stage, count in hits.items()},
        "pairs": pairs,
        "equal": all(pair["spikes_differing"] == 0 and pair["outputs_differing"] == 0 for pair in exact)
        if exact
        else None,
    }


def _float_networks(directory: Path) -> dict[str, Network]:
    from snncompile.frontend import load_model  # noqa: PLC0415 - loads nir
    from snncompile.frontend.to_network import to_network  # noqa: PLC0415

    network = to_network(load_model(directory / NETWORK))
    return {"float": network, "folded": run_passes(network)}


def _run_stage(
    stage: str,
    directory: Path,
    program: Program,
    networks: dict[str, Network],
    x: NDArray[np.generic],
    payloads: IntArray,
) -> StageRun:
    spiking = [p.name for p in program.network.populations if p.spiking]
    if stage in networks:
        trace = reference.run_float(networks[stage], x)
        levels = {n.name: _levels(trace.outputs[n.name], n.payload) for n in networks[stage].neurons}
        return StageRun(stage, levels, trace.membranes, trace.output.argmax(1), trace.output)
    if stage == "integer":
        exact = reference.run_integer(program.network, payloads)
        sent, membranes, output = exact.payloads, exact.membranes, exact.output
    else:
        run = load_backend("sim" if stage == "simulator" else stage).run(program, directory, payloads, spiking)
        sent, membranes, output = dict(run.payloads), {}, run.output
    by_name = program.network.populations_by_name
    levels = {name: _levels(sent[name], by_name[name].payload) for name in spiking}
    return StageRun(stage, levels, membranes, output.argmax(1), output)


def _levels(payloads: NDArray[np.generic], table: NDArray[np.generic]) -> IntArray:
    """Level k of every payload: the entry of the table it is nearest to, 0 for silence."""
    values = np.concatenate([np.zeros(1), np.asarray(table, np.float64)])
    middles = (values[1:] + values[:-1]) / 2
    return np.searchsorted(middles, np.asarray(payloads, np.float64), side="right")


def _compare(tally: PairTally, a: StageRun, b: StageRun) -> None:
    for layer in a.levels:
        one, two = a.levels[layer], b.levels[layer]
        different = one != two
        tally.compared[layer] = tally.compared.get(layer, 0) + one.size
        tally.spikes[layer] = tally.spikes.get(layer, 0) + int(((one > 0) | (two > 0)).sum())
        tally.differing[layer] = tally.differing.get(layer, 0) + int(different.sum())
        before = tally.rates.get(layer, (np.zeros(1), np.zeros(1)))
        counts = tuple(
            total + (levels > 0).sum(axis=(0, 1)).ravel() for total, levels in zip(before, (one, two), strict=True)
        )
        tally.rates[layer] = (counts[0], counts[1])
    if tally.a in EXACT:
        tally.outputs_differing += int((a.output != b.output).any(axis=1).sum())
    else:
        tally.outputs_differing += int((a.prediction != b.prediction).sum())


def _pair_report(tally: PairTally, samples: int, timesteps: int) -> dict[str, Any]:
    layers = {
        layer: {
            "compared": tally.compared[layer],
            "spikes": tally.spikes[layer],
            "differing": tally.differing[layer],
            "agreement": 1 - tally.differing[layer] / tally.compared[layer],
            "rate_drift": _rate_drift(*tally.rates[layer], samples * timesteps),
        }
        for layer in tally.compared
    }
    return {
        "a": tally.a,
        "b": tally.b,
        "neuron_steps_compared": sum(tally.compared.values()),
        "spikes_compared": sum(tally.spikes.values()),
        "spikes_differing": sum(tally.differing.values()),
        "outputs_differing": tally.outputs_differing,
        "rate_drift": max(entry["rate_drift"] for entry in layers.values()) if layers else 0.0,
        "layers": layers,
        "first_difference": tally.first,
    }


def _rate_drift(a: NDArray[np.float64], b: NDArray[np.float64], steps: int) -> float:
    """Earth mover's distance between the distributions of the neurons' firing rates."""
    return float(np.abs(np.sort(a) - np.sort(b)).mean()) / steps
