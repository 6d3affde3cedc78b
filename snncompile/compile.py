"""The straight line from a model to a sealed directory. The only file that knows the order of the passes."""

import hashlib
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snncompile import network as float_network
from snncompile.backend import Activity, backend_names, load_backend
from snncompile.chip import load_target
from snncompile.errors import CompileError
from snncompile.mapping import partition
from snncompile.mapping.activity import default_activity, measured_activity, packet_flow
from snncompile.mapping.place import place_hilbert
from snncompile.network import FOLDED, Network
from snncompile.passes.align_delays import AlignDelays
from snncompile.passes.connect_identity import ConnectIdentity
from snncompile.passes.fold_avg_pool import FoldAvgPool
from snncompile.passes.fold_batch_norm import FoldBatchNorm
from snncompile.passes.fold_flatten import FoldFlatten
from snncompile.passes.fold_payload import FoldPayload
from snncompile.passes.split_shared import SplitShared
from snncompile.program import Program, Provenance
from snncompile.quant_network import QuantNetwork
from snncompile.quantize import quantize
from snncompile.report.build import build_report
from snncompile.sealed import NETWORK, REPORT, check_replaceable, json_bytes, write_program
from snncompile.verify_integers import verify_integers

PASSES: tuple[Callable[[Network], Network], ...] = (
    FoldFlatten(),  # so that pools stand right before linear layers
    FoldBatchNorm(),  # before pools: a norm must still stand next to its convolution
    ConnectIdentity(),  # before pools and payloads: they fold into synapses
    SplitShared(),  # after norms: a norm may stand between a convolution and its readers
    FoldAvgPool(),
    FoldPayload(),  # after pools: payloads go straight into weights
    AlignDelays(),  # last: depths count what is left
)

SAMPLES_CALIBRATION = 200
"""Samples of the calibration data that activity is measured on."""


@dataclass(eq=False)
class StepLog:
    """Names and durations of the steps; `tell(number, total, name)` is called as each begins."""

    tell: Callable[[int, int, str], None] = lambda number, total, name: None
    steps: list[dict[str, Any]] = field(default_factory=list)
    total: int = 9

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.tell(len(self.steps) + 1, self.total, name)
        start = time.perf_counter()
        yield
        self.steps.append({"name": name, "seconds": round(time.perf_counter() - start, 4)})


@dataclass(frozen=True, eq=False)
class Compiled:
    """What compiling gives: the program, its report with this run's step times, and where it was sealed."""

    program: Program
    report: dict[str, Any]
    directory: Path


def compile_file(
    model: Path,
    target: str,
    directory: Path,
    weight_bits: int = 8,
    input_shape: tuple[int, ...] | None = None,
    calibrate: NDArray[np.generic] | None = None,
    log: StepLog | None = None,
) -> Compiled:
    """Compiles a model file for a target and seals the result in `directory`.

    Raises CompileError for anything about model, data or target that cannot be compiled; nothing is written then.
    """
    log = log or StepLog()
    chip = load_target(target)
    check_replaceable(directory)
    with log.step("frontend"):
        # nir and, for .pt, torch take a second to load: not before the target is known to exist
        from snncompile.frontend import load_model  # noqa: PLC0415
        from snncompile.frontend.nir_file import write_nir  # noqa: PLC0415
        from snncompile.frontend.to_network import to_network  # noqa: PLC0415

        graph = load_model(model, input_shape)
        network_nir = write_nir(graph)
    with log.step("read"):
        network = to_network(graph)
    with log.step("passes"):
        folded = run_passes(network)
    with log.step("quantize"):
        quantized, host = quantize(folded, chip.numerics, weight_bits)
        verify_integers(quantized)
    with log.step("partition"):
        core_graph = partition.partition(quantized, chip)
        partition.verify(core_graph, quantized, chip)
    with log.step("place"):
        placement = place_hilbert(len(core_graph.cores), chip.mesh)
        made = Provenance(_sha256(model), _versions(), _pass_names(), weight_bits, lowering_of(quantized))
        program = Program(target, chip, quantized, host, core_graph, placement, made)
    with log.step("estimate"):
        activity, basis = _activity(program, calibrate)
        cost = load_backend("sim").estimate(program, activity)
        report = build_report(program, packet_flow(quantized, core_graph, activity), cost or {}, basis)
    with log.step("emit"):
        files = {NETWORK: network_nir}
        for name in backend_names():
            files.update(load_backend(name).emit(program))
    with log.step("seal"):
        # step times differ from run to run; sealed they would make every directory differ, so they are null there
        sealed_steps = [{"name": step["name"], "seconds": None} for step in [*log.steps, {"name": "seal"}]]
        files[REPORT] = json_bytes({**report, "steps": sealed_steps})
        write_program(directory, program, files)
    return Compiled(program, {**report, "steps": log.steps}, directory)


def run_passes(network: Network, passes: tuple[Callable[[Network], Network], ...] = PASSES) -> Network:
    """Every pass in order, with `verify` before the first and after each; at the end only foldable nodes are left."""
    float_network.verify(network)
    for apply in passes:
        network = apply(network)
        float_network.verify(network)
    float_network.verify(network, allowed=FOLDED)
    return network


def lowering_of(network: QuantNetwork) -> Mapping[str, Mapping[str, str]]:
    """Per population: how it is put on the chip, and what is claimed of that (rounding to integers apart)."""
    lowering = {}
    for population in network.populations:
        if population.mixing is not None:
            lowering[population.name] = {"lowering": "graded, store and forward", "exactness": "exact"}
        elif not population.spiking:
            lowering[population.name] = {"lowering": "accumulate", "exactness": "exact"}
        elif len(population.thresholds) == 1:
            lowering[population.name] = {"lowering": "native", "exactness": "exact"}
        else:
            lowering[population.name] = {"lowering": "graded", "exactness": "exact"}
    return lowering


def _activity(program: Program, calibrate: NDArray[np.generic] | None) -> tuple[Activity, str]:
    """Firing rates for the estimate, and a sentence on where they come from."""
    network = program.network
    if calibrate is None:
        return default_activity(
            network
        ), "assumed rates: 0.15 of neurons and 0.5 of inputs a step; --calibrate measures them"
    payloads = program.encode(calibrate[:SAMPLES_CALIBRATION], "--calibrate")
    spiking = [p.name for p in network.populations if p.spiking]
    run = load_backend("sim").run(program, Path(), payloads, spiking)
    return measured_activity(
        network, payloads, dict(run.payloads)
    ), f"rates measured on {len(payloads)} calibration samples"


def _pass_names() -> tuple[str, ...]:
    return tuple(getattr(apply, "name", type(apply).__name__) for apply in PASSES)


def _versions() -> dict[str, str]:
    packages = ("snncompile", "numpy", "nir", "torch")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CompileError(str(path), f"cannot be read ({error})") from error
