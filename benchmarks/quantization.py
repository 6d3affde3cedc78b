"""Deployed accuracy by weight bits and rounding method: float, then the integer network in the chip simulator.

    uv run python benchmarks/quantization.py examples/models/*.pt --data ../shared/data/fashion-mnist

`--data`: a folder of IDX files; the statistics come from its first `--calibration-samples` training images, accuracies
from its test images. Or an .npz of test data, with `--calibrate` for the statistics. Prints a markdown table a model
and, last, all numbers as JSON. One row is one method, one column one width of all layers alike.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snncompile.backend import load_backend
from snncompile.chip import Chip, load_target
from snncompile.data import Samples, load_samples
from snncompile.float_engine import accuracy
from snncompile.frontend import load_model
from snncompile.frontend.to_network import to_network
from snncompile.network import Network
from snncompile.pipeline import lower
from snncompile.quantization.bit_budget import placed
from snncompile.quantization.calibration import Calibration, calibrate
from snncompile.quantization.quantize import quantize
from snncompile.quantization.rounding import METHODS, Method, Rounding


def measure(
    network: Network, chip: Chip, bits: int, method: Method, calibration: Calibration, test: Samples
) -> dict[str, Any]:
    start = time.perf_counter()
    quantized, host = quantize(network, chip.numerics, bits, Rounding(method, calibration))
    seconds = time.perf_counter() - start
    program = placed(chip, quantized, host)
    run = load_backend("sim").run(program, Path(), program.encode(test.x))
    assert test.y is not None
    return {
        "method": method,
        "bits": bits,
        "accuracy": float((run.prediction == test.y).mean()),
        "cores": len(program.core_graph.cores),
        "quantize_s": round(seconds, 2),
    }


def table(rows: list[dict[str, Any]], float_accuracy: float, widths: list[int]) -> str:
    lines = ["| method | float |" + "".join(f" {b} bits |" for b in widths), "|---|---|" + "---|" * len(widths)]
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = {row["bits"]: row["accuracy"] for row in rows if row["method"] == method}
        lines.append(f"| {method} | {float_accuracy:.2%} |" + "".join(f" {cells[b]:.2%} |" for b in widths))
    return "\n".join(lines)


def of_model(model: Path, args: argparse.Namespace, calibrate_x: NDArray[np.generic], test: Samples) -> dict[str, Any]:
    chip = load_target(args.target)
    network = lower(to_network(load_model(model, None)), chip.numerics)
    start = time.perf_counter()
    calibration = calibrate(network, calibrate_x)
    calibrate_s = time.perf_counter() - start
    assert test.y is not None
    exact = accuracy(network, test.x, test.y)
    rows = []
    for method in args.methods:
        for bits in args.bits:
            rows.append(measure(network, chip, bits, method, calibration, test))
            print(model.name, rows[-1], file=sys.stderr, flush=True)
    print(f"\n{model.name}, {args.target}, {len(test)} test samples\n\n{table(rows, exact, args.bits)}", flush=True)
    return {"model": model.name, "float": exact, "calibrate_s": round(calibrate_s, 2), "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--calibrate", type=Path)
    parser.add_argument("--calibration-samples", type=int, default=1000)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--target", default="loihi2-sim")
    parser.add_argument("--bits", type=lambda text: [int(b) for b in text.split(",")], default=[8, 6, 4, 3, 2])
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS))
    args = parser.parse_args()
    if args.calibrate is None and not args.data.is_dir():
        parser.error("an .npz has no training part: give --calibrate")
    test = load_samples(args.data, "test").first(args.limit)
    source = load_samples(args.calibrate) if args.calibrate else load_samples(args.data, "train")
    calibration_x = source.first(args.calibration_samples).x
    results = [of_model(model, args, calibration_x, test) for model in args.models]
    print("\n" + json.dumps({"target": args.target, "samples": len(test), "models": results}, indent=2))


if __name__ == "__main__":
    main()
