"""How near the simulator comes to what one core of this machine can do, on VGG-16 for 32x32 images, four time steps.

    OMP_NUM_THREADS=1 uv run python benchmarks/limits.py

The network has random weights, and its neurons fire at a rate of about `--rate`. In each round, in turn: the
simulator's function and counts per core; int8 and float32 convolutions alone of the network's own shapes, in the
largest batch sizes that it uses; a copy of 64 MiB. All are timed in CPU seconds of one thread, so that other processes
on the machine disturb less; they still share its caches and memory. Medians are printed. The fraction is that of the
time in which int8 convolutions alone would be done. Multiplications are counted as a convolution does them, at the
border too.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from snncompile.backends.chipsim import int8, products
from snncompile.backends.chipsim.counting import CoreCounter
from snncompile.backends.chipsim.function import FunctionEngine
from snncompile.backends.chipsim.simulator import _Simulation
from torch import nn

from snncompile.compiler import Options, compile_file
from snncompile.nn import StbpTdbn, vgg
from snncompile.program import Program
from snncompile.quant_network import QuantNetwork

SHAPE = (3, 32, 32)
COPIED = 1 << 26


def trained_like(folder: Path) -> Path:
    """VGG-16 with random weights whose norms know the statistics of random images."""
    torch.manual_seed(0)
    network = vgg(StbpTdbn(), timesteps=4).train()
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = 0.7
    with torch.no_grad():
        for _ in range(8):
            network(torch.rand(8, *SHAPE))
    torch.save(network.eval(), folder / "vgg.pt")
    return folder / "vgg.pt"


def at_rate(program: Program, images: np.ndarray, rate: float) -> Program:
    """The program with thresholds scaled, layer after layer, until `rate` of the neurons fire a step."""
    network = program.network
    for number, population in enumerate(network.populations[:-1]):
        low, high = 0.25, 4.0
        for _ in range(5):
            scaled = np.maximum(1, (population.thresholds * (low * high) ** 0.5).astype(np.int64))
            network = _with_thresholds(network, number, scaled)
            part = replace(network, populations=network.populations[: number + 1])
            *_, last = FunctionEngine(part).run(images)
            fires = float((last.fired != 0).mean())
            low, high = ((low * high) ** 0.5, high) if fires > rate else (low, (low * high) ** 0.5)
    return replace(program, network=network)


def _with_thresholds(network: QuantNetwork, number: int, thresholds: np.ndarray) -> QuantNetwork:
    changed = list(network.populations)
    changed[number] = replace(changed[number], thresholds=thresholds)
    return replace(network, populations=tuple(changed))


def convolutions(network: QuantNetwork, batch: int) -> tuple[int, dict[str, Callable[[], None]]]:
    """Multiplications a batch takes, and the calls that do them: all layers in int8, in float32."""
    total, calls = 0, {"int8": [], "float32": []}
    rng = np.random.default_rng(0)
    for synapses in network.synapses:
        if synapses.kind != "conv":
            continue
        layer = products.Product(network, synapses).layer
        images = batch * (1 if synapses.source == network.input_name else network.timesteps)
        total += images * layer.target[0] * layer.target[1] * synapses.weight.size
        size = min(images, int8.BLOCKS[0])
        x = (rng.random((size, *layer.shape)) < 0.1).astype(np.uint8)
        floats = x.astype(np.float32)
        whole = replace(layer, shape=(1 << 20, *layer.shape[1:]))  # so that float32 convolves, too
        of = {
            "int8": int8.convolution(synapses.weight, layer.geometry),
            "float32": products._float(whole, synapses.weight, np.float32).of,
        }
        for name, values in (("int8", x), ("float32", floats)):
            calls[name] += [lambda of=of[name], values=values: of(values)] * (images // size)
    return total, {name: lambda parts=parts: [part() for part in parts] for name, parts in calls.items()}


def measured(rounds: int, batch: int, rate: float) -> dict[str, Any]:
    """Medians over the rounds, as the program prints them."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = trained_like(Path(folder))
        program = compile_file(model, "loihi2-sim", Path(folder) / "program", Options(chips="2")).program
    images = program.encode(np.random.default_rng(0).random((batch, *SHAPE)).astype(np.float32))
    program = at_rate(program, images[:2], rate)
    simulation = _Simulation(program, FunctionEngine(program.network), CoreCounter(program), frozenset())
    rates = [float((layer.fired != 0).mean()) for layer in simulation.engine.run(images)][:-1]
    macs, calls = convolutions(program.network, batch)
    source, into = np.ones(COPIED, np.uint8), np.empty(COPIED, np.uint8)
    calls |= {
        "simulator": lambda: simulation.batch(images),
        "function": lambda: [None for _ in simulation.engine.run(images)],
        "copy": lambda: np.copyto(into, source),
    }
    took = [{name: seconds(call) for name, call in calls.items()} for _ in range(rounds + 1)][1:]
    middle = {name: statistics.median(r[name] for r in took) for name in calls}

    def ratio(over: str, under: str) -> float:
        return round(statistics.median(r[over] / r[under] for r in took), 3)

    return {
        "rounds": rounds,
        "batch": batch,
        "rate": round(float(np.mean(rates)), 3),
        "million_multiplications_an_image": round(macs / batch / 1e6),
        "int8_gmac_per_s": round(macs / middle["int8"] / 1e9, 1),
        "float32_gmac_per_s": round(macs / middle["float32"] / 1e9, 1),
        "copied_gb_per_s": round(2 * len(source) / middle["copy"] / 1e9, 1),
        "function_images_per_s": round(batch / middle["function"], 1),
        "images_per_s": round(batch / middle["simulator"], 1),
        "fraction_of_int8_limit": ratio("int8", "simulator"),
        "function_fraction_of_int8_limit": ratio("int8", "function"),
        "times_float32_limit": ratio("float32", "simulator"),
        "kernels": simulation.engine.kernels,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=0.1)
    args = parser.parse_args()
    print(json.dumps(measured(args.rounds, args.batch, args.rate), indent=2))


def seconds(call: Callable[[], object]) -> float:
    start = time.thread_time()
    call()
    return time.thread_time() - start


if __name__ == "__main__":
    main()
