"""Spike-train-level learning (STCB) against back-propagation through time: accuracy, and time and memory of a step.

    uv run python benchmarks/spike_train_learning.py --data DIR_WITH_IDX_FILES --steps 20    time and memory alone
    uv run python benchmarks/spike_train_learning.py --data DIR_WITH_IDX_FILES               trains both as well

Both train the network of examples/train_stcb.py from the same initial weights on the same data with the same optimiser;
BPTT trains what `to_sequential` makes of it: the same neurons, with the surrogate gradient of `MultiThresholdLIF`, the
reset detached, norms over steps and batch. Both run the layers before the first neuron once. Float32.
Time: steps in turn (A B A B ..) on the same batches; the median. Memory: the bytes that the graph keeps for the
backward pass (each storage once, parameters left out), exact; and how far steps raise the peak resident size of a fresh
process (Linux).
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

from datasets import load
from train_stcb import build_network
from training import FirstLayersOnce, accuracy, train

from snncompile.nn import to_sequential

METHODS = ("stcb", "bptt")


def network(method: str, timesteps: int, seed: int) -> nn.Sequential:
    """The network to train; `bptt` has the weights of `stcb`."""
    torch.manual_seed(seed)
    stcb = build_network(timesteps)
    return stcb if method == "stcb" else to_sequential(stcb).train()


def stepper(method: str, timesteps: int, seed: int, compiled: bool = False) -> Callable[[Tensor, Tensor], None]:
    """A call that does one training step on a batch."""
    layers = network(method, timesteps, seed)
    trained = layers if method == "stcb" else FirstLayersOnce(layers)
    if compiled:
        layers.to(memory_format=torch.channels_last)
        trained = torch.compile(trained)
    optimizer = torch.optim.AdamW(layers.parameters(), lr=1e-3)

    def step(x: Tensor, y: Tensor) -> None:
        loss = cross_entropy(trained(x.float()), y, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def times(x: Tensor, y: Tensor, timesteps: int, args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each step but the first two, which warm up."""
    steppers = {method: stepper(method, timesteps, args.seed, args.compile) for method in METHODS}
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for _ in range(args.steps + 2):
        index = torch.randint(0, len(x), (args.batch,))
        for method, step in steppers.items():
            start = time.perf_counter()
            step(x[index], y[index])
            seconds[method].append(time.perf_counter() - start)
    return {method: values[2:] for method, values in seconds.items()}


def kept_bytes(method: str, x: Tensor, timesteps: int, seed: int) -> int:
    """Bytes of all storages that one forward pass of the batch x saves for its backward pass, without parameters."""
    layers = network(method, timesteps, seed)
    trained = layers if method == "stcb" else FirstLayersOnce(layers)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in layers.parameters()}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = trained(x.float()).sum()  # the graph lives until here, so no address is used twice
    kept = sum(storages.values())
    loss.backward()
    return kept


def peak_of_this_process(method: str, timesteps: int, batch: int, seed: int) -> int:
    """Bytes by which three steps raise the resident size at their peak."""
    step = stepper(method, timesteps, seed)
    x, y = torch.randint(0, 256, (batch, 1, 28, 28), dtype=torch.uint8), torch.randint(0, 10, (batch,))
    step(x[:2], y[:2])  # libraries and buffers of their own
    before = resident("VmHWM")
    for _ in range(3):
        step(x, y)
    return resident("VmHWM") - before


def resident(key: str) -> int:
    """Bytes; VmHWM is the peak. (getrusage's maximum would start at that of the parent process.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def peak_of_a_process(method: str, timesteps: int, args: argparse.Namespace) -> int:
    call = [sys.executable, __file__, "--peak", method, "--timesteps", timesteps, "--batch", args.batch]
    return int(subprocess.run([*map(str, call)], check=True, capture_output=True, text=True).stdout)


def compare_steps(x: Tensor, y: Tensor, timesteps: int, args: argparse.Namespace) -> None:
    seconds = times(x, y, timesteps, args)
    ratio = statistics.median(b / a for a, b in zip(seconds["stcb"], seconds["bptt"], strict=True))
    for method in METHODS:
        kept = kept_bytes(method, x[: args.batch], timesteps, args.seed) / 2**20
        peak = peak_of_a_process(method, timesteps, args) / 2**20
        median = 1000 * statistics.median(seconds[method])
        print(f"T = {timesteps} {method}: {median:.0f} ms a step, kept {kept:.1f} MiB, peak {peak:.0f} MiB", flush=True)
    print(f"T = {timesteps} median of the ratios bptt / stcb of a pair of steps: {ratio:.2f}", flush=True)


def compare_accuracy(x: Tensor, y: Tensor, args: argparse.Namespace) -> None:
    settings = argparse.Namespace(
        epochs=args.epochs,
        batch=args.batch,
        lr=3e-3,
        weight_decay=0.0,
        shift=0,
        flip=False,
        compile=args.compile,
        bfloat16=False,
    )
    for method in args.methods:
        layers = network(method, args.timesteps[0], args.seed)
        torch.manual_seed(args.seed)  # the same batches
        train(layers, x, y, settings)
        deployed = to_sequential(layers) if method == "stcb" else layers
        print(f"{method}: test accuracy {accuracy(deployed, *load(args.data, 'test')):.2f} %", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with IDX files")
    parser.add_argument("--steps", type=int, help="timed steps; without it 30, and both are trained for --epochs")
    parser.add_argument("--train-only", action="store_true", help="only train for --epochs")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--timesteps", type=int, nargs="+", default=[2, 8], help="T; training takes the first")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="what to train")
    parser.add_argument("--compile", action="store_true", help="torch.compile what is timed and what is trained")
    parser.add_argument("--peak", choices=METHODS, help=argparse.SUPPRESS)  # in a child process
    args = parser.parse_args()
    if args.peak:
        print(peak_of_this_process(args.peak, args.timesteps[0], args.batch, args.seed))
        return
    if args.data is None:
        parser.error("--data is needed")
    x, y = load(args.data, "train")
    trains, args.steps = args.steps is None, args.steps or 30
    for timesteps in [] if args.train_only else args.timesteps:
        compare_steps(x, y, timesteps, args)
    if trains or args.train_only:
        compare_accuracy(x, y, args)


if __name__ == "__main__":
    main()
