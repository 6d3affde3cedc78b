"""Time and memory of whole compiles of large networks, one core each: from a saved module to the sealed program.

    OMP_NUM_THREADS=1 uv run python benchmarks/scale.py [--network vgg16_cifar resnet50_224 vgg16_224] [--json FILE]

Weights are random (seed 0), networks those of `snncompile.nn` with STBP-tdBN neurons, T = 4, on loihi2. Each compile is
a process of its own; processor time and peak memory are those of that process, imports included. "from NIR" leaves out
the frontend (loading, tracing, writing network.nir): what a compile takes from the graph in memory on.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from snncompile.nn import StbpTdbn, resnet50, vgg
from snncompile.nn.networks import VGG_PLANS

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "vgg16_cifar": (lambda: vgg(StbpTdbn(), timesteps=4), 4),
    "resnet50_224": (lambda: resnet50(StbpTdbn(), timesteps=4), 48),
    "vgg16_224": (
        lambda: vgg(StbpTdbn(), VGG_PLANS["VGG-16"] + "-4096-4096", 1000, (3, 224, 224), 4),
        144,
    ),
}
"""How each is built, and the chips of the board it is compiled for."""


def measure(name: str, folder: Path) -> dict[str, Any]:
    build, chips = NETWORKS[name]
    torch.manual_seed(0)
    model = folder / f"{name}.pt"
    torch.save(build().eval(), model)
    command = [sys.executable, "-m", "snncompile", str(model), "--target", "loihi2-sim", "--chips", str(chips)]
    command += ["-o", str(folder / name), "--json"]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads(done.stdout)
    steps = {step["name"]: step["seconds"] for step in report["steps"]}
    mapping, rows = report["mapping"], report["mapping"]["baselines"]["row_major"]
    return {
        "network": name,
        "cores": report["cores_used"],
        "chips": report["chips_used"],
        "wall_s": round(wall, 2),
        "processor_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
        "from_nir_s": round(sum(steps.values()) - steps["frontend"], 2),
        "peak_gb_so_far": round(after.ru_maxrss / 1e6, 2),
        "steps": steps,
        "hops": [round(mapping["hops_per_packet"], 2), round(rows["hops_per_packet"], 2)],
        "busiest_link": [round(mapping["max_link_load"]), round(rows["max_link_load"])],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.network:  # smallest first: the peak is that of all children so far
            rows.append(measure(name, Path(folder)))
            print(json.dumps(rows[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
