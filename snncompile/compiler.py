"""The straight line from a model to a sealed directory."""

import hashlib
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from snncompile.backend import Activity, backend_names, load_backend
from snncompile.chip import SIM_SUFFIX, Chip, load_target
from snncompile.compare_lowerings import compare_lowerings
from snncompile.data import Samples
from snncompile.errors import CompileError
from snncompile.frontend.reading import Reading
from snncompile.levels import DEFAULT_BASIS, LevelRates, activity_of, default_levels, measured_levels
from snncompile.lowering import resolve
from snncompile.mapping.activity import packet_flow
from snncompile.mapping.optimise import DEFAULT_EFFORT
from snncompile.mapping.orders import Ordering, choose_orders
from snncompile.mapping.pins import Pins
from snncompile.network import Network
from snncompile.pipeline import (
    Placing,
    StepLog,
    lowering_of,
    lowering_passes,
    pass_names,
    place_program,
    run_passes,
)
from snncompile.program import InputCoding, Program, Provenance
from snncompile.quantization.rounding import STATISTICAL, Rounding, method_of
from snncompile.report.build import build_report
from snncompile.report.command import command_line
from snncompile.sealed import NETWORK, REPORT, check_replaceable, json_bytes, write_program

if TYPE_CHECKING:
    import nir

SAMPLES_CALIBRATION = 200
"""Samples of the calibration data that activity is measured on."""


SAMPLES_STATISTICS = 2000
"""Samples of the calibration data that rounding takes its statistics from."""


@dataclass(frozen=True, eq=False)
class Compiled:
    """What compiling gives: the program, its report with this run's step times, and where it was sealed."""

    program: Program
    report: dict[str, Any]
    directory: Path


@dataclass(frozen=True)
class Options:
    """How to compile.

    weight_bits: of every layer, or "auto": of each layer what costs the chip least (`bit_budget.choose_bits`) while the
    held-out half of the calibration data loses at most `max_accuracy_drop` points. rounding: one of
    `rounding.METHODS`. lowering: one of `lowering.MODES`; input_coding "rate": an analog image as binary spikes.
    chips: of the board (`chip.on_board`). share_cores: small layers on one core (`partition`). effort (0 to 3), pins:
    of the placement (`mapping.optimise`, `mapping.pins`). reading: what the user says of the model
    (`frontend.reading`).
    """

    weight_bits: int | Literal["auto"] = 8
    rounding: str = "max"
    max_accuracy_drop: float = 0.5
    lowering: str = "auto"
    input_coding: InputCoding = "direct"
    input_shape: tuple[int, ...] | None = None
    chips: str | None = None
    share_cores: bool = False
    effort: int = DEFAULT_EFFORT
    pins: Pins = field(default_factory=dict)
    reading: Reading = field(default_factory=Reading)


@dataclass(frozen=True)
class Model:
    """What is compiled: the name it goes by, how it is read as a NIR graph, and how the hash of what was read is taken.

    sha256 is given the NIR file of the graph.
    """

    name: str
    read: Callable[[], "nir.NIRGraph"]
    sha256: Callable[[bytes], str]


def compile_file(
    model: Path,
    target: str,
    directory: Path,
    options: Options | None = None,
    calibrate: Samples | None = None,
    log: StepLog | None = None,
) -> Compiled:
    """Compiles a model file for a target and seals the result in `directory`; raises as `compile_model`."""
    options = options or Options()

    def read() -> "nir.NIRGraph":
        # nir and, for .pt, torch take a second to load: not before the target is known to exist
        from snncompile.frontend import load_model  # noqa: PLC0415

        return load_model(model, options.input_shape, options.reading)

    source = Model(model.name, read, lambda network_nir: _sha256(model))
    return compile_model(source, target, directory, options, calibrate, log)


def compile_model(
    model: Model,
    target: str,
    directory: Path,
    options: Options | None = None,
    calibrate: Samples | None = None,
    log: StepLog | None = None,
) -> Compiled:
    """Compiles a model for a target and seals the result in `directory`.

    Raises CompileError for anything about model, data or target that cannot be compiled; nothing is written then.
    """
    options, log = options or Options(), log or StepLog()
    chip = load_target(target, options.chips)
    mode = resolve(options.lowering, chip.numerics)
    check_replaceable(directory)
    with log.step("frontend"):
        from snncompile.frontend.nir.to_network import read_network, with_reading  # noqa: PLC0415
        from snncompile.frontend.nir.write import write_nir  # noqa: PLC0415 - loads nir

        graph = with_reading(model.read(), options.reading)
        network_nir = write_nir(graph)
    with log.step("read"):
        network, contract = read_network(graph)
    with log.step("passes"):
        folded = run_passes(network)
        ordering = choose_orders(folded, chip, mode, _widest(chip, options))
        lowered = run_passes(folded, lowering_passes(chip.numerics, mode, options.input_coding, ordering.orders))
    with log.step("calibrate"):
        how, tried = rounding_of(options, chip, lowered, calibrate)
    made = _provenance(model.sha256(network_nir), chip, options, how, folded, ordering)
    made = replace(made, contract=tuple(asdict(node) for node in contract))
    rates: list[tuple[LevelRates, str]] = []

    def activity_for(unplaced: Program) -> Activity:
        rates.append(activity_levels(unplaced, calibrate))
        return activity_of(unplaced.network, rates[0][0])

    placing = Placing(options.effort, options.pins, activity_for, options.share_cores)
    program = place_program(f"{chip.name}{SIM_SUFFIX}", chip, lowered, made, log, how, placing)
    with log.step("estimate"):
        levels, basis = rates[0]
        activity = activity_of(program.network, levels)
        cost = load_backend("sim").estimate(program, activity)
        report = build_report(program, packet_flow(program.network, program.core_graph, activity), cost or {}, basis)
        report["bit_budget"] = tried
        report["calibration"] = how.calibrated_on(_widest(chip, options))
        report["provenance"]["model"] = model.name
        report["provenance"]["command"] = command_line(model.name, target, options, Options(), calibrate)
        report["lowerings"] = compare_lowerings(folded, program, levels, cost or {})
    _seal(directory, program, network_nir, report, log)
    return Compiled(program, {**report, "steps": log.steps}, directory)


def _widest(chip: Chip, options: Options) -> int:
    """Bits of a weight where no layer has its own."""
    return max(chip.numerics.weight_bits) if options.weight_bits == "auto" else options.weight_bits


def _provenance(
    model_sha256: str, chip: Chip, options: Options, how: Rounding, folded: Network, ordering: Ordering
) -> Provenance:
    mode = resolve(options.lowering, chip.numerics)
    return Provenance(
        model_sha256,
        _versions(),
        pass_names(chip.numerics, mode, options.input_coding, ordering.orders),
        _widest(chip, options),
        how.method,
        dict(how.bits),
        mode,
        options.input_coding,
        lowering_of(folded, chip.numerics, mode),
        orders=ordering.orders,
        ordering=ordering.told,
    )


def _seal(directory: Path, program: Program, network_nir: bytes, report: dict[str, Any], log: StepLog) -> None:
    """Writes everything. Step times differ from run to run; there they are null, so that equal inputs seal alike."""
    with log.step("emit"):
        files = {NETWORK: network_nir}
        for name in backend_names():
            files.update(load_backend(name).emit(program))
    with log.step("seal"):
        sealed_steps = [{"name": step["name"], "seconds": None} for step in [*log.steps, {"name": "seal"}]]
        files[REPORT] = json_bytes({**report, "steps": sealed_steps})
        write_program(directory, program, files)


def rounding_of(
    options: Options, chip: Chip, lowered: Network, calibrate: Samples | None
) -> tuple[Rounding, dict[str, Any] | None]:
    """How the weights are rounded, and with `weight_bits` "auto" the table of what was tried.

    Raises CompileError: an unknown method, calibration data missing or unfit, a budget that cannot be met.
    """
    method = method_of(options.rounding)
    if options.weight_bits != "auto" and method not in STATISTICAL:
        return Rounding(method), None
    # the float engine loads torch
    from snncompile.quantization.bit_budget import choose_bits  # noqa: PLC0415
    from snncompile.quantization.calibration import calibrate as gather  # noqa: PLC0415

    if options.weight_bits == "auto":
        if calibrate is None:
            raise CompileError("--weight-bits auto", "needs calibration data with labels", "give --calibrate DATA")
        chosen = choose_bits(lowered, chip, calibrate.x, calibrate.y, options.max_accuracy_drop, method)
        return chosen.how, chosen.table
    if calibrate is None:
        raise CompileError("--rounding", f"{method} needs calibration data", "give --calibrate, or use --rounding mse")
    return Rounding(method, gather(lowered, calibrate.x[:SAMPLES_STATISTICS])), None


def activity_levels(program: Program, calibrate: Samples | None) -> tuple[LevelRates, str]:
    """How often each level is reached, for the estimate, and a sentence on where that comes from."""
    network = program.network
    if calibrate is None:
        return default_levels(network), DEFAULT_BASIS
    payloads = program.encode(calibrate.x[:SAMPLES_CALIBRATION], "--calibrate")
    spiking = [p.name for p in network.populations if p.spiking]
    run = load_backend("sim").run(program, Path(), payloads, spiking)
    measured = measured_levels(network, payloads, dict(run.payloads))
    return measured, f"rates measured on {len(payloads)} calibration samples"


def _versions() -> dict[str, str]:
    packages = ("snncompile", "numpy", "nir", "torch")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CompileError(str(path), f"cannot be read ({error})") from error
