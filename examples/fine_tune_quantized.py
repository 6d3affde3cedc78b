"""Fine-tunes a trained network on the integers that the compiler will emit for 2 to 8 bits of weight.

    uv run python examples/fine_tune_quantized.py MODEL --data DIR_WITH_IDX_FILES --weight-bits 3 --out MODEL_3_BITS

Compile the result with the same `--weight-bits`. The best epoch, the untrained start among them, is chosen on
`--validation` held-out training samples.
"""

import argparse
from copy import deepcopy
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch
from datasets import load
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from training import accuracy, batches

from snncompile.frontend.torch.checkpoint import load_module
from snncompile.frontend.torch.trace import trace
from snncompile.nn import QuantizedNetwork, prepare_quantized


def distilled(logits: Tensor, taught: Tensor, labels: Tensor) -> Tensor:
    """Half the cross entropy with the labels, half that with the float network's softmax (arXiv 1503.02531)."""
    return (cross_entropy(logits, labels) + cross_entropy(logits, taught.softmax(1))) / 2


def fine_tune(quantized: QuantizedNetwork, teacher: nn.Module, x: Tensor, y: Tensor, args: argparse.Namespace) -> float:
    """Adam with OneCycle on `distilled`; leaves the best epoch in place and returns its validation accuracy."""
    keep = len(x) - args.validation
    held_out = x[keep:], y[keep:]
    best, best_state = accuracy(quantized, *held_out), deepcopy(quantized.state_dict())
    print(f"before: validation {best:.2f} %", flush=True)
    many = min(args.samples or keep, keep)
    steps = args.epochs * (many // args.batch)
    optimizer = torch.optim.Adam(quantized.parameters(), lr=args.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=max(1, steps), pct_start=0.1)
    trained: Any = quantized
    if args.fast:
        quantized.to(memory_format=torch.channels_last)
        trained, teacher = torch.compile(quantized), cast(nn.Module, torch.compile(teacher))
    for epoch in range(args.epochs):
        quantized.train()
        start, total, done = perf_counter(), 0.0, 0
        chosen = torch.randperm(keep)[:many]
        for pixels, labels in batches(x[chosen], y[chosen], args):
            images = pixels.float()
            with torch.no_grad():
                taught = teacher(images)
            loss = distilled(trained(images), taught, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total, done = total + loss.item(), done + 1
        score = accuracy(quantized, *held_out)
        print(
            f"epoch {epoch + 1}/{args.epochs} loss {total / max(1, done):.4f} {perf_counter() - start:.1f} s "
            f"validation {score:.2f} %",
            flush=True,
        )
        if score > best:
            best, best_state = score, deepcopy(quantized.state_dict())
    quantized.load_state_dict(best_state)
    return best


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="checkpoint of a trained network, as the compiler takes it")
    parser.add_argument("--data", required=True, help="folder with IDX files, plain or .gz, or the npz of the data set")
    parser.add_argument("--out", type=Path, required=True, help="file to save the network to")
    parser.add_argument("--weight-bits", type=int, required=True)
    parser.add_argument("--target", default="loihi2-sim")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--shift", type=int, default=0, help="shift training samples by up to so many pixels")
    parser.add_argument("--flip", action="store_true", help="mirror half of the training samples")
    parser.add_argument("--validation", type=int, default=5000, help="training samples held out to choose the epoch")
    parser.add_argument(
        "--calibration", type=int, default=1000, help="training samples that GPTQ starts from; 0: nearest integers"
    )
    parser.add_argument("--samples", type=int, help="training samples of an epoch; all unless given")
    parser.add_argument("--fast", action="store_true", help="torch.compile; the sums stay exact")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main() -> None:
    args = options().parse_args()
    torch.manual_seed(args.seed)
    network = load_module(args.model)
    trace(network)  # refuses what is not a network of known layers, before anything of the file is run
    assert isinstance(network, nn.Sequential)
    network = network.float().eval()
    x, y = load(args.data, "train")
    calibration = x[: args.calibration].numpy() if args.calibration else None
    quantized = prepare_quantized(network, args.weight_bits, args.target, calibration)
    start = deepcopy(quantized)
    fine_tune(quantized, network, x, y, args)
    finished = quantized.finish()
    torch.save(finished, args.out)
    x, y = load(args.data, "test")
    print(f"test accuracy: float {accuracy(network, x, y):.2f} %, its integers at the start ", end="")
    print(f"{accuracy(start, x, y):.2f} %, fine-tuned {accuracy(quantized, x, y):.2f} %")


if __name__ == "__main__":
    main()
