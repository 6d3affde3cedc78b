"""Accuracy of every checkpoint of examples/models: float, and deployed in 8 bits on each chip, on whole test sets.

    uv run python benchmarks/zoo.py --data fashion=DIR --data mnist=DIR --data cifar10=FILE.npz --data nmnist=FILE.npz

A checkpoint's name begins with its data set; those without one are left out. Float is the trained module
in float32, deployed the chip simulator. A chip that cannot take a network is shown with the layer it names.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from snncompile.backend import load_backend
from snncompile.compiler import compile_file
from snncompile.errors import CompileError
from snncompile.frontend.torch.checkpoint import load_module

ROOT = Path(__file__).parent.parent
TARGETS = ("loihi2-sim", "loihi1-sim")
sys.path.insert(0, str(ROOT / "examples"))


def float_accuracy(model: Path, x: torch.Tensor, y: NDArray[np.int64]) -> float:
    network = load_module(model).float().eval()
    with torch.inference_mode():
        classes = [network(batch.float()).argmax(1).numpy() for batch in x.split(250)]
    return float((np.concatenate(classes) == y).mean())


def deployed(model: Path, target: str, x: NDArray[np.generic], y: NDArray[np.int64]) -> Any:
    """Accuracy, cores and energy on a target, or what it refuses."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            program = compile_file(model, target, Path(folder) / "p").program
        except CompileError as error:
            return {"refused": str(error)}
        run = load_backend("sim").run(program, Path(folder) / "p", program.encode(x))
        return {
            "accuracy": float((run.prediction == y).mean()),
            "samples": len(run.output),
            "cores": program.core_graph.core_count,
            "chips": program.placement.chips_used,
            "energy_uj": run.cost["energy_pj"]["nominal"] / 1e6,
            "latency_us": run.cost["latency_us"],
        }


def row(model: Path, source: str, limit: int | None) -> dict[str, Any]:
    import datasets  # noqa: PLC0415 - of the examples, found through sys.path

    images, labels = (values[:limit] for values in datasets.load(source, "test"))
    x, y = images.numpy(), labels.numpy()
    chips = {target: deployed(model, target, x, y) for target in TARGETS}
    return {"model": model.stem, "float": float_accuracy(model, images, y), "samples": len(y), **chips}


def shown(entry: dict[str, Any]) -> str:
    if "refused" in entry:
        return f"refused: {entry['refused'].split(';')[0]}"
    chips = f", {entry['chips']} chips" if entry["chips"] > 1 else ""
    return f"{100 * entry['accuracy']:.2f} % ({entry['cores']} cores{chips}, {entry['energy_uj']:.0f} uJ)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", default=[], metavar="NAME=PATH", help="a data set's test samples")
    parser.add_argument("--limit", type=int, help="samples of each test set; default: all")
    parser.add_argument("--models", nargs="*", type=Path, default=sorted((ROOT / "examples" / "models").glob("*.pt")))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    sources = dict(pair.split("=", 1) for pair in args.data)
    console = Console(width=200)
    console.print(f"| model | float | {' | '.join(TARGETS)} |\n|---|---|{'---|' * len(TARGETS)}")
    rows = []
    for model in args.models:
        if (name := model.stem.partition("_")[0]) in sources:
            rows.append(row(model, sources[name], args.limit))
            cells = " | ".join(shown(rows[-1][target]) for target in TARGETS)
            console.print(f"| {model.stem} | {100 * rows[-1]['float']:.2f} % | {cells} |", soft_wrap=True)
            if args.json:
                args.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
