"""Accuracy of trained networks after rounding to few bits, by width and method, on the deployed integer network.

    uv run python benchmarks/quantization.py examples/models/*.pt --data fashion=DIR --data mnist=DIR \
        --data nmnist=FILE.npz --data cifar10=FILE.npz --methods gptq --json bits.json

A checkpoint's name begins with its data set; those without one are left out. Statistics come from the first
`--calibration-samples` training samples, accuracies from the test samples (`--split held-out`: from the training
samples 50,000 to 55,000, to choose settings by). Prints a markdown table a model. One row is one method, one column one
width of all layers alike; beside each accuracy the samples that only the float network gets right and those that only
the integers do, and the exact two-sided p of McNemar's test: how likely so uneven a split is if both are equally good.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snncompile.backend import load_backend
from snncompile.chip import Chip, load_target
from snncompile.float_engine import FloatEngine
from snncompile.frontend import load_model
from snncompile.frontend.nir.to_network import to_network
from snncompile.network import Network
from snncompile.pipeline import lower
from snncompile.quantization.bit_budget import placed
from snncompile.quantization.calibration import Calibration, calibrate
from snncompile.quantization.quantize import quantize
from snncompile.quantization.rounding import METHODS, Method, Rounding

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
HELD_OUT = slice(50_000, 55_000)


@dataclass(frozen=True, eq=False)
class Task:
    """Samples (N, ...) with labels (N,), and the samples that statistics come from."""

    x: NDArray[np.generic]
    y: NDArray[np.int64]
    calibration_x: NDArray[np.generic]


def task(source: str, args: argparse.Namespace) -> Task:
    import datasets  # noqa: PLC0415 - of the examples, found through sys.path

    train_x, train_y = (values.numpy() for values in datasets.load(source, "train"))
    if args.split == "held-out":
        x, y = train_x[HELD_OUT], train_y[HELD_OUT]
    else:
        x, y = (values.numpy() for values in datasets.load(source, "test"))
    return Task(x[: args.limit], y[: args.limit], train_x[: args.calibration_samples])


def mcnemar(lost: int, won: int) -> float:
    """P of a split at least so uneven of lost + won samples, each to either side with probability 1/2."""
    n = lost + won
    return min(1.0, 2 * sum(comb(n, k) for k in range(min(lost, won) + 1)) / 2**n)


def measure(
    network: Network, chip: Chip, rounding: Rounding, bits: int, task: Task, float_right: NDArray[np.bool_]
) -> dict[str, Any]:
    start = time.perf_counter()
    quantized, host = quantize(network, chip.numerics, bits, rounding)
    seconds = time.perf_counter() - start
    program = placed(chip, quantized, host)
    run = load_backend("sim").run(program, Path(), program.encode(task.x))
    right = run.prediction == task.y
    lost, won = int((float_right & ~right).sum()), int((right & ~float_right).sum())
    return {
        "method": rounding.method,
        "bits": bits,
        "accuracy": float(right.mean()),
        "lost": lost,
        "won": won,
        "p": mcnemar(lost, won),
        "cores": program.core_graph.core_count,
        "quantize_s": round(seconds, 2),
    }


def table(rows: list[dict[str, Any]], float_accuracy: float, widths: list[int]) -> str:
    lines = ["| method | float |" + "".join(f" {b} bits |" for b in widths), "|---|---|" + "---|" * len(widths)]
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = {row["bits"]: _cell(row) for row in rows if row["method"] == method}
        lines.append(f"| {method} | {float_accuracy:.2%} |" + "".join(f" {cells[bits]} |" for bits in widths))
    return "\n".join(lines)


def _cell(row: dict[str, Any]) -> str:
    return f"{row['accuracy']:.2%} (-{row['lost']} +{row['won']}, p {row['p']:.2g})"


def of_model(model: Path, args: argparse.Namespace, task: Task) -> dict[str, Any]:
    chip = load_target(args.target)
    network = lower(to_network(load_model(model, None)), chip.numerics)
    start = time.perf_counter()
    calibration: Calibration = calibrate(network, task.calibration_x)
    calibrate_s = time.perf_counter() - start
    right = FloatEngine(network).run(task.x).argmax(1) == task.y
    rows = []
    for method in args.methods:
        for bits in args.bits:
            rows.append(measure(network, chip, Rounding(method, calibration), bits, task, right))
            print(model.name, rows[-1], file=sys.stderr, flush=True)
    exact = float(right.mean())
    print(f"\n{model.stem}, {args.target}, {len(task.y)} samples\n\n{table(rows, exact, args.bits)}", flush=True)
    return {
        "model": model.stem,
        "samples": len(task.y),
        "float": exact,
        "calibration_samples": calibration.samples,
        "calibrate_s": round(calibrate_s, 2),
        "diagonal_only": list(calibration.diagonal_only),
        "rows": rows,
    }


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=PATH", help="a data set, as the examples'")
    parser.add_argument("--split", choices=("test", "held-out"), default="test")
    parser.add_argument("--calibration-samples", type=int, default=1000)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--target", default="loihi2-sim")
    parser.add_argument("--bits", type=lambda text: [int(b) for b in text.split(",")], default=[8, 6, 4, 3, 2])
    parser.add_argument("--methods", type=_methods, default=list(METHODS))
    parser.add_argument("--json", type=Path, help="also write all figures here")
    return parser


def _methods(text: str) -> list[Method]:
    return [method for method in METHODS if method in text.split(",")]


def main() -> None:
    args = options().parse_args()
    sources = dict(pair.split("=", 1) for pair in args.data)
    results = []
    for model in args.models:
        if (name := model.stem.partition("_")[0]) in sources:
            results.append(of_model(model, args, task(sources[name], args)))
            if args.json:
                args.json.write_text(json.dumps({"target": args.target, "models": results}, indent=2))


if __name__ == "__main__":
    main()
