"""Lava: stock against fused Processes, batch lanes, and how much of a step is not computing.

    OMP_NUM_THREADS=1 uv run python benchmarks/lava_speed.py

1. The STBP-tdBN convnet on Fashion-MNIST, compiled for loihi1: every population as Lava's own Processes (stock), or one
   Process each (fused), one sample at a time: steps a second.
2. An MLP 784-256-10 of random weights, T = 20, for loihi2: samples a second on 1, 16 and 128 lanes.

Each contender runs `--rounds` times in turn; medians of the program's own `wall_s` (import, compiling and start-up left
out). `channels`: the part of a step that is not computing, 1 - c / s with s the seconds of a step and c those that one
process takes to do the work of all populations on the same payloads without Lava (two processes side by side may do it
in less, so it is a lower bound).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from snncompile.compiler import compile_file
from snncompile.data import load_samples
from snncompile.nn import DirectCoding, MeanReadout, MultiThresholdLIF, PerStep
from snncompile.program import Program

ROOT = Path(__file__).parent.parent
SAMPLES = {"convnet": 60, 1: 100, 16: 640, 128: 2560}


def mlp(folder: Path) -> Program:
    """784-256-10 with T = 20, one threshold, random weights of which some neurons fire."""
    torch.manual_seed(0)
    layers = (nn.Linear(784, 256), nn.Linear(256, 10))
    network = nn.Sequential(
        DirectCoding(20, (784,)),
        PerStep(layers[0]),
        MultiThresholdLIF(0.3, levels=1, leak=0.9),
        PerStep(layers[1]),
        MeanReadout(),
    )
    torch.save(network, folder / "mlp.pt")
    return compile_file(folder / "mlp.pt", "loihi2-sim", folder / "mlp").program


def lava_run(program: Path, payloads: np.ndarray, scratch: Path, *options: str) -> tuple[float, int]:
    """Seconds and steps of one run of the emitted program."""
    np.savez(scratch / "data.npz", payloads=payloads)
    command = [sys.executable, str(program / "lava" / "run.py"), "--data", str(scratch / "data.npz")]
    subprocess.run([*command, "--out", str(scratch / "out.npz"), *options], check=True, stdout=subprocess.DEVNULL)
    with np.load(scratch / "out.npz") as out:
        return float(out["wall_s"]), int(out["steps"])


def computing(program: Path, payloads: np.ndarray, lanes: int) -> float:
    """Seconds a step that all populations take in this process, without Lava."""
    sys.path.insert(0, str(program / "lava"))
    from files import read_network  # noqa: PLC0415 - found in the folder that was just added
    from layer import InputFrames, Layer, Stream, parameters  # noqa: PLC0415

    network, arrays = read_network()
    stream = Stream(-(-len(payloads) // lanes), lanes, network["timesteps"], network["microsteps"])
    frames = InputFrames(payloads, network["input"]["shape"], stream)
    given = [parameters(network, arrays, spec) for spec in network["populations"]]
    layers = [(spec["name"], Layer(**params, stream=stream), params["inputs"])
              for spec, params in zip(network["populations"], given, strict=True)]  # fmt: skip
    steps = stream.steps + max(spec["depth"] for spec in network["populations"])
    start = time.perf_counter()
    for c in range(steps):
        sent: dict[str, Any] = {network["input"]["name"]: frames.sent(c)}
        sent |= {name: layer.fire(c) for name, layer, _ in layers}
        for name, layer, inputs in layers:
            layer.send_itself(c, sent[name])
            for i, connection in enumerate(inputs):
                layer.receive(c, i, sent[connection["spec"]["source"]])
    return (time.perf_counter() - start) / steps


def apart(program: Path, payloads: np.ndarray, lanes: int, scratch: Path) -> float:
    """`computing` in a process of its own: the emitted modules go by plain names."""
    np.save(scratch / "payloads.npy", payloads)
    command = [sys.executable, __file__, "--computing", str(program), str(scratch / "payloads.npy"), str(lanes)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--computing", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.computing:
        program, payloads, lanes = args.computing
        print(computing(Path(program), np.load(payloads), int(lanes)))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measured(Path(folder), args.rounds), indent=2))


def measured(folder: Path, rounds: int) -> dict[str, Any]:
    """Both tables."""
    model = ROOT / "examples" / "models" / "fashion_stbp_tdbn.pt"
    convnet = compile_file(model, "loihi1-sim", folder / "convnet").program
    x = load_samples(ROOT / "examples" / "data" / "fashion_mnist_test_1k.npz").first(SAMPLES["convnet"]).x
    images = {"convnet": convnet.encode(x)}
    perceptron = mlp(folder)
    rng = np.random.default_rng(0)
    for lanes in (1, 16, 128):
        images[lanes] = perceptron.encode(rng.random((SAMPLES[lanes], 784)) * (rng.random((SAMPLES[lanes], 784)) < 0.3))
    contenders = {
        "convnet stock": (folder / "convnet", images["convnet"], ("--style", "stock"), 1),
        "convnet fused": (folder / "convnet", images["convnet"], ("--batch", "1"), 1),
        **{f"mlp {n} lanes": (folder / "mlp", images[n], ("--batch", str(n)), n) for n in (1, 16, 128)},
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    table: dict[str, Any] = {}
    for _ in range(rounds):
        for name, (program, payloads, options, _) in contenders.items():
            wall_s, steps = lava_run(program, payloads, folder, *options)
            seconds[name].append(wall_s / steps)
    for name, (program, payloads, _, lanes) in contenders.items():
        step = statistics.median(seconds[name])
        computed = statistics.median(apart(program, payloads, lanes, folder) for _ in range(3))
        timesteps = (convnet if "convnet" in name else perceptron).network.timesteps
        table[name] = {
            "step_ms": round(1000 * step, 3),
            "steps_per_s": round(1 / step, 1),
            "samples_per_s": round(lanes / step / timesteps, 1),
        }
        if "stock" not in name:
            table[name] |= {"computing_ms": round(1000 * computed, 3), "channels": round(1 - computed / step, 3)}
    pairs = {
        "fused / stock": ("convnet fused", "convnet stock", 1),
        **{f"{n} lanes / 1": (f"mlp {n} lanes", "mlp 1 lanes", n) for n in (16, 128)},
    }
    table["ratios"] = {
        name: round(statistics.median(b / a for a, b in zip(seconds[one], seconds[other], strict=True)) * factor, 1)
        for name, (one, other, factor) in pairs.items()
    }
    return {"cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "rounds": rounds, **table}


if __name__ == "__main__":
    main()
