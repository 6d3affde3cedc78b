"""Images a second of one compiled network: chip simulator, Lava and reference against PyTorch's own float forward pass.

    uv run python benchmarks/throughput.py examples/models/fashion_mtlif.pt \\
        --data examples/data/fashion_mnist_test_1k.npz

Each contender runs once to warm up, then `--rounds` times in turn (A B C D, A B C D, ...), so that a change of the
machine's speed meets all of them; medians are printed, and the ratio to PyTorch of each round. Run-time only: imports,
loading and Lava's start-up are left out. The reference runs on a tenth of the images.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from snncompile import reference
from snncompile.backend import load_backend
from snncompile.compiler import compile_file
from snncompile.data import load_samples
from snncompile.frontend.torch.checkpoint import load_module


def contenders(model: Path, data: Path, folder: Path) -> dict[str, Callable[[], float]]:
    """Per contender: a call that gives seconds an image."""
    program = compile_file(model, "loihi2-sim", folder).program
    x = load_samples(data).x
    payloads = program.encode(x)
    network = load_module(model).float().eval()
    images = torch.from_numpy(x).float()

    @torch.inference_mode()
    def pytorch() -> float:
        start = time.perf_counter()
        for batch in images.split(50):
            network(batch)
        return (time.perf_counter() - start) / len(images)

    def backend(name: str) -> Callable[[], float]:
        return lambda: load_backend(name).run(program, folder, payloads).wall_s / len(payloads)

    def slow() -> float:
        few = payloads[: len(payloads) // 10]
        start = time.perf_counter()
        reference.run_integer(program.network, few)
        return (time.perf_counter() - start) / len(few)

    return {"pytorch": pytorch, "sim": backend("sim"), "lava": backend("lava"), "reference": slow}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        calls = contenders(args.model, args.data, Path(folder) / "program")
        for call in calls.values():
            call()
        rounds = [{name: call() for name, call in calls.items()} for _ in range(args.rounds)]
    result = {
        name: {
            "images_per_s": round(1 / statistics.median(r[name] for r in rounds), 1),
            "times_pytorch": round(statistics.median(r["pytorch"] / r[name] for r in rounds), 3),
        }
        for name in calls
    }
    print(json.dumps({"threads": torch.get_num_threads(), "rounds": args.rounds, **result}, indent=2))


if __name__ == "__main__":
    main()
