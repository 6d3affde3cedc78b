"""The command line. `snncompile MODEL ...` without a verb compiles.

Nothing heavy is imported before a command needs it: `--help` loads neither torch, numba, nir nor lava.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from snncompile import __version__
from snncompile.errors import CompileError, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from snncompile.backend import Progress, Run
    from snncompile.data import Samples
    from snncompile.program import InputCoding, Program


class DefaultToCompile(click.Group):
    """A first word that is no command is a model to compile."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        word = args[0] if args else ""
        if word and not word.startswith("-") and word not in self.commands:
            if "." not in Path(word).name and not Path(word).exists():
                raise click.UsageError(f"no command and no file {word!r}; {nearest(word, tuple(self.commands))}", ctx)
            args = ["compile", *args]
        elif word.startswith("-") and word not in ("-h", "--help", "--version"):
            args = ["compile", *args]
        return super().parse_args(ctx, args)


@click.group(cls=DefaultToCompile, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="snncompile")
def cli() -> None:
    """Compiles trained spiking neural networks to neuromorphic chips.

    snncompile MODEL --target loihi2-sim -o DIR compiles; run, verify and report take DIR.
    """


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Machine-readable result on standard output, nothing else there."
)
data_option = click.option(
    "--data", required=True, type=click.Path(path_type=Path), help=".npz with x and y, or a folder of IDX files."
)
limit_option = click.option("--limit", type=int, help="Use only the first N samples.")
directory_argument = click.argument("directory", type=click.Path(path_type=Path))


def parse_shape(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        shape = tuple(int(n) for n in value.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise click.BadParameter(f"{value!r} is not C,H,W or a number of features, for example 1,28,28")
    return shape


def parse_bits(ctx: click.Context, parameter: click.Parameter, value: str) -> "int | str":
    if value == "auto" or value.isdigit():
        return value if value == "auto" else int(value)
    raise click.BadParameter(f"{value!r} is neither a number nor auto")


@cli.command("compile")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--target", required=True, help="What to compile for; `snncompile targets` lists them.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for the program. [default: build/MODEL]")
@click.option(
    "--weight-bits", callback=parse_bits, default="8", show_default=True, help="Bits of a weight, or auto (see below)."
)
@click.option("--rounding", default="max", show_default=True, help="max, percentile, mse, activation or gptq.")
@click.option(
    "--max-accuracy-drop", type=float, default=0.5, show_default=True, help="Points that --weight-bits auto may lose."
)
@click.option(
    "--lowering",
    default="auto",
    show_default=True,
    help="How multi-threshold neurons become the chip's: auto, graded, r1, burst, uniform.",
)
@click.option(
    "--input-coding",
    type=click.Choice(["direct", "rate"]),
    default="direct",
    show_default=True,
    help="rate: an analog image as binary spikes.",
)
@click.option("--input-shape", callback=parse_shape, help="C,H,W where the model does not say it.")
@click.option("--calibrate", type=click.Path(path_type=Path), help="Data (never the test set) for rates and rounding.")
@json_option
def compile_command(
    model: Path,
    target: str,
    output: Path | None,
    weight_bits: "int | Literal['auto']",
    rounding: str,
    max_accuracy_drop: float,
    lowering: str,
    input_coding: "InputCoding",
    input_shape: tuple[int, ...] | None,
    calibrate: Path | None,
    as_json: bool,
) -> None:
    """Compiles MODEL (.pt saved whole, or .nir) and says what it costs.

    --weight-bits auto chooses each layer's bits so that the chip has least to do, within the accuracy drop measured on
    half of the --calibrate data. The roundings activation and gptq need --calibrate as well.
    """
    from snncompile.compile import Options, compile_file
    from snncompile.data import load_samples
    from snncompile.pipeline import StepLog

    if not model.exists():
        raise CompileError(str(model), "no such file", "give a .pt saved whole with torch.save, or a .nir file")
    errors = _console(stderr=True)

    def tell(number: int, total: int, name: str) -> None:
        if errors.is_terminal:
            errors.print(f"step {number}/{total} {name}", style="dim")

    compiled = compile_file(
        model,
        target,
        output or Path("build") / model.stem,
        Options(weight_bits, rounding, max_accuracy_drop, lowering, input_coding, input_shape),
        None if calibrate is None else load_samples(calibrate),
        StepLog(tell),
    )
    if as_json:
        return _print_json(compiled.report)
    from snncompile.report.terminal import print_report

    console = _console()
    print_report(compiled.report, console)
    seconds = sum(step["seconds"] for step in compiled.report["steps"])
    console.print(f"wrote {compiled.directory} in {seconds:.1f} s", soft_wrap=True)
    return None


@cli.command()
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
    program, samples = _program(directory), _samples(data, limit)
    payloads = program.encode(samples.x, samples.source)
    with _progress(backend) as progress:
        result = _run(backend, program, directory, payloads, progress)
    summary = _run_summary(result, samples)
    if metrics:
        from snncompile.metrics import metrics_of

        with _progress("metrics") as progress:
            summary["metrics"] = metrics_of(program, payloads, progress)
    if save is not None:
        _save(save, result, program)
    if as_json:
        return _print_json(summary)
    console = _console()
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


@cli.command()
@directory_argument
@data_option
@limit_option
@click.option("--stages", help="Comma-separated, of float, folded, lowered, integer, simulator, lava. [default: all]")
@click.option(
    "--require-equal",
    multiple=True,
    metavar="STAGE",
    help="Exit 1 unless every stage up to STAGE equals the one before in every spike and output. Repeatable.",
)
@click.option("--dump", type=click.Path(path_type=Path), help="Write levels and membranes of all stages to this .npz.")
@json_option
@click.pass_context
def verify(
    ctx: click.Context,
    directory: Path,
    data: Path,
    limit: int | None,
    stages: str | None,
    require_equal: tuple[str, ...],
    dump: Path | None,
    as_json: bool,
) -> None:
    """Compares float, folded, lowered, integer, simulator and Lava spike by spike; exit 1 if the last three differ."""
    from snncompile.proof.verify import STAGES, verify_program

    program, samples = _program(directory), _samples(data, limit)
    chosen, note = _stages(stages, STAGES)
    with _progress("verify") as progress:
        result = verify_program(
            directory, program, samples.x, samples.y, chosen, progress, require_equal=require_equal, dump=dump
        )
    if note:
        result["note"] = note
    if as_json:
        _print_json(result)
    else:
        from snncompile.report.verification import print_verification

        print_verification(result, _console())
    if result["equal"] is False or not all(result["require_equal"].values()):
        ctx.exit(1)


def _stages(stages: str | None, known: tuple[str, ...]) -> tuple[tuple[str, ...], str | None]:
    """The stages to run; Lava is left out, with a word, where it is not installed and was not asked for."""
    from importlib.util import find_spec

    if stages is not None:
        return tuple(stage.strip() for stage in stages.split(",")), None
    if find_spec("lava") is None:
        return tuple(s for s in known if s != "lava"), "lava-nc is not installed: that stage was left out"
    return known, None


@cli.command()
@directory_argument
@json_option
def report(directory: Path, as_json: bool) -> None:
    """Per-layer and per-core use of the chip, and the estimated cost with its sources."""
    from snncompile.sealed import read_report

    content = read_report(directory)
    if as_json:
        return _print_json(content)
    from snncompile.report.terminal import print_report

    print_report(content, _console())
    return None


@cli.command()
@click.argument("name", required=False)
@json_option
def targets(name: str | None, as_json: bool) -> None:
    """Lists the targets; with NAME prints limits, numerics, costs and sources of one."""
    from snncompile.chip import load_target, target_names

    if name is not None:
        plain = load_target(name).model_dump(mode="json")
        return _print_json(plain) if as_json else _console().print(_yaml(plain), markup=False, highlight=False)
    chips = {target: load_target(target) for target in target_names()}
    if as_json:
        return _print_json({target: chip.description for target, chip in chips.items()})
    for target, chip in chips.items():
        _console().print(
            f"{target:<14} {chip.mesh.cores:>5} cores  {chip.description}", highlight=False, soft_wrap=True
        )
    return None


def _yaml(value: Any) -> str:
    import yaml

    text: str = yaml.safe_dump(value, sort_keys=False, width=100)
    return text


def _program(directory: Path) -> "Program":
    from snncompile.sealed import read_program

    return read_program(directory)


def _samples(data: Path, limit: int | None) -> "Samples":
    from snncompile.data import load_samples

    return load_samples(data).first(limit)


def _console(stderr: bool = False) -> "Console":
    from rich.console import Console

    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=160)


@contextmanager
def _progress(title: str) -> "Iterator[Progress]":
    """A progress bar on standard error; nothing where that is no terminal."""
    from rich.progress import Progress as Bar

    console = _console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key} {_readable(item)}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "unknown" if value is None else str(value)
