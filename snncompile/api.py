"""Python's way in: `import snncompile as sc; program = sc.compile(model, target="loihi2-sim", example=x)`.

`compile`, `load`, `diff` and `targets` do what the commands of these names do; what they give shows itself in a
notebook. Everything raises CompileError for what cannot be compiled, read or run.
"""

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from snncompile.backend import Progress, Run, RunOptions, Timing, silent
from snncompile.chip.targets import target_names
from snncompile.compiler import Model, Options, compile_file, compile_model
from snncompile.data import Samples, load_samples
from snncompile.errors import CompileError, nearest
from snncompile.frontend import TORCH_SUFFIXES, load_module
from snncompile.frontend.reading import Reading
from snncompile.inference import infer, summary_of
from snncompile.program import Program
from snncompile.proof.verify import STAGES, verify_program
from snncompile.report.diff import Gates, Side, compare
from snncompile.report.recorded import Recorded, spikes_of
from snncompile.report.view import DiffView, ReportView, RunView, VerificationView
from snncompile.sealed import read_program, read_report, seal_of

if TYPE_CHECKING:
    import nir
    from torch import nn

Data = str | Path | Samples | ArrayLike | tuple[ArrayLike, ArrayLike]
"""Samples: a file as `--data` takes it, x, or (x, y). Values are those the network was trained on."""


def compile(
    model: "str | Path | nn.Module | nir.NIRGraph",
    target: str,
    example: Data | None = None,
    output: str | Path | None = None,
    calibrate: Data | None = None,
    **options: Any,
) -> "SealedProgram":
    """Compiles a model for a target.

    model: a file, a torch module or a NIR graph. example: samples that say the input's shape where the model does not.
    output: folder for the sealed program; None: a temporary one that goes with the returned object. calibrate: samples
    (never the test set) for rates and rounding. options: fields of `snncompile.compiler.Options`, as `weight_bits=4`,
    and of `snncompile.frontend.reading.Reading`, as `timesteps=8`.
    """
    samples = None if example is None else _samples(example)
    chosen = _options(options)
    if output is not None:
        return _sealed(model, target, Path(output), chosen, calibrate, samples)
    folder = Path(tempfile.mkdtemp(prefix="snncompile-"))
    try:
        sealed = _sealed(model, target, folder / "program", chosen, calibrate, samples)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(sealed, shutil.rmtree, folder, ignore_errors=True)
    return sealed


def _sealed(
    model: "str | Path | nn.Module | nir.NIRGraph",
    target: str,
    directory: Path,
    options: Options,
    calibrate: Data | None,
    example: Samples | None,
) -> "SealedProgram":
    statistics = None if calibrate is None else _samples(calibrate)
    if isinstance(model, str | Path):
        path = Path(model)
        if not path.exists():
            raise CompileError(str(path), "no such file", "give a .pt saved whole with torch.save, or a .nir file")
        if example is not None and options.input_shape is None and path.suffix in TORCH_SUFFIXES:
            options = replace(options, input_shape=tuple(int(n) for n in example.x.shape[1:]))
        compile_file(path, target, directory, options, statistics)
    else:
        compile_model(_model(model, example, options), target, directory, options, statistics)
    return SealedProgram(directory)


def load(directory: str | Path) -> "SealedProgram":
    """A sealed program from its folder."""
    return SealedProgram(Path(directory))


def diff(a: "SealedProgram | str | Path", b: "SealedProgram | str | Path", data: Data | None = None) -> DiffView:
    """Two programs beside each other, run on the same data where there is some (`snncompile diff`)."""
    samples = None if data is None else _samples(data)
    sides = []
    for one in (a, b):
        program = one if isinstance(one, SealedProgram) else load(one)
        run = None if samples is None else program.run(samples).summary
        sides.append(Side(str(program.directory), program.content, run))
    return DiffView(compare(sides[0], sides[1], Gates()))


def targets() -> tuple[str, ...]:
    """Names that `compile` takes for a target; the path of a chip file is one, too."""
    return target_names()


@dataclass(frozen=True, eq=False)
class RunResult:
    """A run. summary: what `run --json` prints. prediction (N,), output (N, classes): on the scale of the readout."""

    program: "SealedProgram"
    run: Run
    summary: Mapping[str, Any]
    payloads: NDArray[np.int64]

    @property
    def accuracy(self) -> float | None:
        """Share of right predictions; None without labels."""
        accuracy: float | None = self.summary["accuracy"]
        return accuracy

    @property
    def energy_uj(self) -> Mapping[str, float] | None:
        """{low, nominal, high} of an inference; None where the backend models none."""
        energy: Mapping[str, float] | None = self.summary["energy_uj_per_inference"]
        return energy

    @property
    def latency_us(self) -> float | None:
        latency: float | None = self.summary["latency_us_per_inference"]
        return latency

    @property
    def prediction(self) -> NDArray[np.int64]:
        return self.run.prediction

    @property
    def output(self) -> NDArray[np.float64]:
        return np.asarray(self.run.output * self.program.program.host.output_scale, np.float64)

    @cached_property
    def recorded(self) -> Recorded:
        """The run as the report shows it, with spikes of its first samples."""
        spikes = spikes_of(self.program.program, self.program.directory, self.payloads)
        return Recorded(self.summary, {**self.run.arrays, **spikes})

    def __str__(self) -> str:
        return str(RunView(self.summary))

    def _repr_html_(self) -> str:
        return RunView(self.summary)._repr_html_()


class SealedProgram:
    """A compiled network in its sealed folder; remembers its last run and verification for the report.

    directory: the folder. program: the placed integer network. content: of report.json.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.program: Program = read_program(directory)
        self.content: dict[str, Any] = read_report(directory)
        self._last_run: RunResult | None = None
        self._last_verification: dict[str, Any] | None = None

    def run(
        self,
        data: Data,
        backend: str = "sim",
        limit: int | None = None,
        timing: Timing = "auto",
        progress: Progress = silent,
    ) -> RunResult:
        """Runs samples, the first `limit` of them (`snncompile run`)."""
        samples = _samples(data).first(limit)
        payloads = self.program.encode(samples.x, samples.source)
        result = infer(backend, self.program, self.directory, payloads, progress, RunOptions(timing, arrays=True), None)
        summary = {**summary_of(result, samples), "data": Path(samples.source).name, "program": seal_of(self.directory)}
        self._last_run = RunResult(self, result, summary, payloads)
        return self._last_run

    def verify(
        self, data: Data, limit: int | None = None, stages: tuple[str, ...] = STAGES, progress: Progress = silent
    ) -> VerificationView:
        """Compares the stages from float to Lava spike by spike (`snncompile verify`).

        stages: of `snncompile.proof.verify.STAGES`.
        """
        samples = _samples(data).first(limit)
        result = verify_program(self.directory, self.program, samples.x, samples.y, stages, progress)
        self._last_verification = result
        return VerificationView(result)

    def report(self) -> ReportView:
        """The report with the last run and verification of this object, if any: text, HTML, or shown in a notebook."""
        recorded = None if self._last_run is None else self._last_run.recorded
        return ReportView(self.content, self.program, recorded, self._last_verification)

    def __repr__(self) -> str:
        used, available = self.content["cores_used"], self.content["cores_available"]
        return f"<program for {self.content['target']}: {used} of {available} cores, in {self.directory}>"

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()


def _options(given: Mapping[str, Any]) -> Options:
    """Fields of Options, and those of Reading, which says of the model what it does not."""
    own, said = (tuple(declared.name for declared in fields(kind)) for kind in (Options, Reading))
    for name in given:
        if name not in own + said:
            raise CompileError("compile", f"no option {name!r}", nearest(name, own + said))
    reading = {name: value for name, value in given.items() if name in said}
    options = {name: value for name, value in given.items() if name in own}
    return Options(**options) if not reading else Options(**{**options, "reading": Reading(**reading)})


def _samples(data: Data) -> Samples:
    if isinstance(data, Samples):
        return data
    if isinstance(data, str | Path):
        return load_samples(data)
    x, y = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    values = np.asarray(x)
    if values.ndim < 2 or values.dtype.kind not in "buif" or not len(values):
        raise CompileError("data", f"has shape {values.shape} and type {values.dtype}", "give x (N, ...) or (x, y)")
    labels = None if y is None else np.asarray(y, np.int64)
    if labels is not None and labels.shape != (len(values),):
        raise CompileError(
            "data", f"x has {len(values)} samples, y has shape {labels.shape}", "give one label a sample"
        )
    return Samples(values, labels, "data")


def _model(model: "nn.Module | nir.NIRGraph", example: Samples | None, options: Options) -> Model:
    """A module or a graph in memory; its hash is that of the NIR file it makes."""
    import nir  # noqa: PLC0415 - a second

    def sha256(network_nir: bytes) -> str:
        return hashlib.sha256(network_nir).hexdigest()

    if isinstance(model, nir.NIRGraph):
        return Model("a NIR graph", lambda: model, sha256)
    from torch import nn  # noqa: PLC0415 - seconds

    if not isinstance(model, nn.Module):
        raise CompileError("model", f"is a {type(model).__name__}", "give a file, a torch module or a nir.NIRGraph")
    x = None if example is None else example.x
    return Model(type(model).__name__, lambda: load_module(model, x, options.reading, options.input_shape), sha256)
