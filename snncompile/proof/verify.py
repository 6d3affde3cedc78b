"""The proof chain: float -> folded -> lowered -> integer -> simulator -> Lava, every spike of every layer compared.

float: the network as trained, float64. folded: after the passes that no chip matters to, float64. lowered: after those
for the chip, float64: its neurons may be members or bursts, which are added up to the trained neurons' levels where
they are compared with float or folded. integer: the reference of the integer network. The last three must be equal,
spike for spike; between float and integer, rounding may move a spike, and then the first one is named with both
membranes, the threshold and the cause.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snncompile import reference
from snncompile.backend import Progress, load_backend, silent
from snncompile.errors import CompileError, nearest
from snncompile.levels import fired_levels, levels_of
from snncompile.network import Network
from snncompile.pipeline import lower, run_passes
from snncompile.program import Program
from snncompile.proof.divergence import EXACT, Divergence, Form, StageRun, in_chip_order, in_one_form
from snncompile.proof.traces import Traces
from snncompile.quant_network import IntArray
from snncompile.sealed import NETWORK, check_emitted

STAGES = ("float", "folded", "lowered", "integer", "simulator", "lava")

CHUNK, CHUNK_STATES = 100, 20_000_000
"""Samples that run at once: at most so many, and no more neuron states than that."""


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
    steps: int = 0

    @property
    def equal(self) -> bool:
        return not any(self.differing.values()) and self.outputs_differing == 0


@dataclass(frozen=True)
class Asked:
    """What of the proof chain is wanted.

    require_equal: stages that must equal every chosen one before them. dump: file for the traces of all stages.
    """

    stages: tuple[str, ...] = STAGES
    require_equal: tuple[str, ...] = ()
    dump: Path | None = None

    def check(self) -> None:
        """Raises CompileError: no such stage, or one that must be equal and is not run, or has none before it."""
        for option, names in (("--stages", self.stages), ("--require-equal", self.require_equal)):
            for stage in names:
                if stage not in STAGES:
                    raise CompileError(option, f"no stage {stage!r}", nearest(stage, STAGES))
        for stage in self.require_equal:
            if stage not in self.stages:
                chosen = ", ".join(self.stages)
                raise CompileError("--require-equal", f"{stage} is not run (stages: {chosen})", "add it to --stages")
            if len(chain_to(stage, self.stages)) == 0:
                raise CompileError("--require-equal", f"no stage before {stage} is run", "add float to --stages")


def chain_to(stage: str, stages: Sequence[str]) -> list[tuple[str, str]]:
    """Every pair of neighbours among the chosen stages up to and including `stage`."""
    return list(pairwise(s for s in STAGES[: STAGES.index(stage) + 1] if s in stages))


def pairs_of(stages: Sequence[str]) -> list[tuple[str, str]]:
    """What is compared: each chosen stage with the next one, and float with the first that must be exact."""
    chosen = [stage for stage in STAGES if stage in stages]
    pairs = list(pairwise(chosen))
    first_exact = next((stage for stage in chosen if stage in EXACT), None)
    if "float" in chosen and first_exact and ("float", first_exact) not in pairs:
        after = next(i for i, (_, b) in enumerate(pairs, 1) if b == first_exact)
        pairs.insert(after, ("float", first_exact))
    return pairs


def verify_program(
    directory: Path,
    program: Program,
    x: NDArray[np.generic],
    y: NDArray[np.int64] | None,
    stages: Sequence[str] = STAGES,
    progress: Progress = silent,
    require_equal: Sequence[str] = (),
    dump: Path | None = None,
) -> dict[str, Any]:
    """Runs data x (N, ...) through the stages of a sealed program and compares; returns what `verify --json` prints.

    `require_equal`, `dump`: see `Asked`. Raises CompileError for an unknown stage, unfit data, a dump that cannot be
    written.
    """
    asked = Asked(tuple(stages), tuple(require_equal), dump)
    asked.check()
    payloads = program.encode(x)
    if "lava" in asked.stages:
        check_emitted(directory, program, load_backend("lava"))
    networks = _float_networks(directory, program)

    def run(stage: str, x: NDArray[np.generic], payloads: IntArray) -> StageRun:
        return _run_stage(stage, directory, program, networks, x, payloads)

    return Chain(program, networks, run).compare(x, payloads, y, asked, progress)


@dataclass(frozen=True, eq=False)
class Chain:
    """A program beside the float networks it was made of. run(stage, x, payloads) runs some samples."""

    program: Program
    networks: Mapping[str, Network]
    run: Callable[[str, NDArray[np.generic], IntArray], StageRun]

    def compare(
        self,
        x: NDArray[np.generic],
        payloads: IntArray,
        y: NDArray[np.int64] | None,
        asked: Asked,
        progress: Progress = silent,
    ) -> dict[str, Any]:
        """Every pair of stages on every spike of every layer, for samples x (N, ...) and what the host makes of them.

        `equal`: whether the stages that must be equal are; None where fewer than two of them were chosen.
        """
        stages, network = [s for s in STAGES if s in asked.stages], self.program.network
        tallies = [PairTally(a, b) for a, b in pairs_of(stages)]
        traces = None if asked.dump is None else Traces(asked.dump, self.program, self.networks)
        if traces is not None:
            traces.check_size(stages, len(x))
        hits = dict.fromkeys(stages, 0)
        size = max(1, min(CHUNK, CHUNK_STATES // (self.program.neurons * network.timesteps)))
        for start in range(0, len(x), size):
            part = slice(start, start + size)
            runs = {stage: self.run(stage, x[part], payloads[part]) for stage in stages}
            divergence = Divergence(self.program, self.networks, x[part], payloads[part])
            for tally in tallies:
                one, two = in_one_form(runs[tally.a], runs[tally.b], network)
                _compare(tally, one, two)
                if tally.first is None and (found := divergence.first(runs[tally.a], runs[tally.b])):
                    tally.first = {**found, "sample": start + found["sample"]}
            for stage, run in runs.items():
                hits[stage] += 0 if y is None else int((run.prediction == y[part]).sum())
                if traces is not None:
                    traces.add(stage, run)
            progress(min(start + size, len(x)), len(x))
        if traces is not None:
            traces.write()
        return _result(tallies, hits, len(x), y is not None, asked)


def _result(
    tallies: list[PairTally], hits: dict[str, int], samples: int, labelled: bool, asked: Asked
) -> dict[str, Any]:
    exact = [tally for tally in tallies if tally.a in EXACT]
    equal = {(tally.a, tally.b): tally.equal for tally in tallies}
    return {
        "samples": samples,
        "stages": list(hits),
        "accuracy": {stage: count / samples if labelled else None for stage, count in hits.items()},
        "pairs": [_pair_report(tally) for tally in tallies],
        "equal": all(tally.equal for tally in exact) if exact else None,
        "require_equal": {
            stage: all(equal[pair] for pair in chain_to(stage, asked.stages)) for stage in asked.require_equal
        },
    }


def _float_networks(directory: Path, program: Program) -> dict[str, Network]:
    from snncompile.frontend import load_model  # noqa: PLC0415 - loads nir
    from snncompile.frontend.nir.to_network import to_network  # noqa: PLC0415

    network, made = to_network(load_model(directory / NETWORK)), program.provenance
    folded = run_passes(network)
    lowered = lower(network, program.chip.numerics, made.lowering_mode, made.input_coding, made.orders)
    return {"float": network, "folded": folded, "lowered": lowered}


def _run_stage(
    stage: str,
    directory: Path,
    program: Program,
    networks: Mapping[str, Network],
    x: NDArray[np.generic],
    payloads: IntArray,
) -> StageRun:
    spiking = [p.name for p in program.network.populations if p.spiking]
    if stage in networks:
        trace = reference.run_float(networks[stage], x)
        levels = {n.name: levels_of(trace.outputs[n.name], n.payload) for n in networks[stage].neurons}
        form: Form = "chip" if stage == "lowered" else "trained"
        run = StageRun(stage, form, levels, trace.membranes, trace.output.argmax(1), trace.output)
        return run if stage == "lowered" else in_chip_order(run, program.provenance.orders)
    if stage == "integer":
        exact = reference.run_integer(program.network, payloads)
        sent, membranes, output = exact.payloads, exact.membranes, exact.output
    else:
        ran = load_backend("sim" if stage == "simulator" else stage).run(program, directory, payloads, spiking)
        sent, membranes, output = dict(ran.payloads), {}, ran.output
    by_name = program.network.populations_by_name
    levels = {name: fired_levels(by_name[name], sent[name]) for name in spiking}
    return StageRun(stage, "chip", levels, membranes, output.argmax(1), output)


def _compare(tally: PairTally, a: StageRun, b: StageRun) -> None:
    """Adds what two runs in one form have in common; layers in which neurons fired or not."""
    tally.steps += max((k.shape[0] * k.shape[1] for k in a.levels.values()), default=0)
    for layer in a.levels:
        one, two = a.levels[layer], b.levels[layer]
        different = one != two
        tally.compared[layer] = tally.compared.get(layer, 0) + one.size
        tally.spikes[layer] = tally.spikes.get(layer, 0) + int(((one != 0) | (two != 0)).sum())
        tally.differing[layer] = tally.differing.get(layer, 0) + int(different.sum())
        before = tally.rates.get(layer, (np.zeros(1), np.zeros(1)))
        counts = tuple(
            total + (levels != 0).sum(axis=(0, 1)).ravel() for total, levels in zip(before, (one, two), strict=True)
        )
        tally.rates[layer] = (counts[0], counts[1])
    if tally.a in EXACT:
        tally.outputs_differing += int((a.output != b.output).any(axis=1).sum())
    else:
        tally.outputs_differing += int((a.prediction != b.prediction).sum())


def _pair_report(tally: PairTally) -> dict[str, Any]:
    layers = {
        layer: {
            "compared": tally.compared[layer],
            "spikes": tally.spikes[layer],
            "differing": tally.differing[layer],
            "agreement": 1 - tally.differing[layer] / tally.compared[layer],
            "rate_drift": _rate_drift(*tally.rates[layer], tally.steps),
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
    """Earth mover's distance between the distributions of the neurons' firing rates, in spikes per neuron and step.

    a, b (neurons,): spikes of each neuron in all steps. In one dimension it is the mean of |a_(i) - b_(i)| over the
    sorted rates. 0 where the layer fires as often as before, whichever of its neurons do.
    """
    return float(np.abs(np.sort(a) - np.sort(b)).mean()) / steps
