"""The training loop that the example scripts share: AdamW with OneCycle, the best epoch by validation, saved whole."""

import argparse
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from datasets import load
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from snncompile.nn import DirectCoding, PerStep, TdBatchNorm1d, TdBatchNorm2d

Finish = Callable[[nn.Sequential], nn.Sequential]


class FirstLayersOnce(nn.Module):
    """A directly coded network with the layers before its first neuron run on one step instead of T equal ones.

    Same outputs and gradients up to rounding; a running variance counts N instead of N * T values as N - 1 of N.
    """

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        coding = network[0]
        assert isinstance(coding, DirectCoding)
        self.timesteps, self.scale = coding.timesteps, coding.scale
        stateless = [isinstance(layer, PerStep | TdBatchNorm1d | TdBatchNorm2d) for layer in network]
        first = stateless.index(False, 1)
        self.before, self.after = network[1:first], network[first:]

    def forward(self, x: Tensor) -> Tensor:
        currents: Tensor = self.before((x * self.scale)[None])
        logits: Tensor = self.after(currents.expand(self.timesteps, *currents.shape[1:]))
        return logits


def batches(x: Tensor, y: Tensor, args: argparse.Namespace) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled full batches of one epoch; what is left over comes up in another epoch."""
    for index in torch.randperm(len(x), device=x.device).split(args.batch):
        if len(index) == args.batch:
            yield augmented(x[index], args.shift, args.flip), y[index]


def augmented(images: Tensor, shift: int, flip: bool) -> Tensor:
    """Shifts each sample by up to `shift` pixels and mirrors half of them, all its frames alike; `[B, ..., H, W]`."""
    batch, height, width = len(images), *images.shape[-2:]
    flat = images.flatten(1, -3)
    if flip:
        mirrored = torch.rand(batch, 1, 1, 1, device=images.device) < 0.5
        flat = torch.where(mirrored, flat.flip(3), flat)
    if shift:
        dy, dx = torch.randint(0, 2 * shift + 1, (2, batch, 1, 1, 1), device=images.device)
        rows = torch.arange(height, device=images.device)[:, None] + dy
        columns = torch.arange(width, device=images.device) + dx
        sample, frame = (torch.arange(n, device=images.device) for n in flat.shape[:2])
        flat = pad(flat, [shift] * 4)[sample[:, None, None, None], frame[:, None, None], rows, columns]
    return flat.reshape(images.shape)


@torch.inference_mode()
def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    network.eval()
    hits = sum(int((network(a.float()).argmax(1) == b).sum()) for a, b in zip(x.split(250), y.split(250), strict=True))
    return 100 * hits / len(x)


def train(
    network: nn.Sequential,
    x: Tensor,
    y: Tensor,
    args: argparse.Namespace,
    input_scale: float = 1.0,
    after_epoch: Callable[[int, str], None] = lambda epoch, line: print(line, flush=True),
) -> None:
    """Label smoothing 0.1, AdamW, OneCycle. `input_scale`: what the network takes pixels 0..255 times of."""
    steps = args.epochs * (len(x) // args.batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=steps)
    trained: Any = FirstLayersOnce(network) if type(network[0]) is DirectCoding else network
    if args.compile:
        network.to(memory_format=torch.channels_last)
        trained = torch.compile(trained)
    for epoch in range(args.epochs):
        network.train()
        start, total = perf_counter(), torch.zeros((), device=x.device)
        for images, labels in batches(x, y, args):
            inputs = images * input_scale if input_scale != 1 else images.float()
            with torch.autocast(x.device.type, torch.bfloat16, enabled=args.bfloat16):
                logits = trained(inputs)
            loss = cross_entropy(logits.float(), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        mean = total.item() * args.epochs / steps
        after_epoch(epoch, f"epoch {epoch + 1}/{args.epochs} loss {mean:.4f} {perf_counter() - start:.1f} s")


def plain(network: nn.Sequential) -> nn.Sequential:
    """A copy to save: half precision, on the CPU, contiguous, its tensors without what torch.compile notes on them."""
    copy = deepcopy(network).half().cpu().to(memory_format=torch.contiguous_format)
    for tensor in (*copy.parameters(), *copy.buffers()):
        vars(tensor).clear()  # a pickled attribute is more than snncompile loads
    return copy


def options(description: str | None, epochs: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with IDX files, plain or .gz, or the npz of the data set")
    parser.add_argument("--out", type=Path, required=True, help="file to save the network to")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--shift", type=int, default=0, help="shift training samples by up to so many pixels")
    parser.add_argument("--flip", action="store_true", help="mirror half of the training samples")
    parser.add_argument("--validation", type=int, default=0, help="training samples held out; the best epoch is saved")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile the training step; needs a C++ compiler")
    parser.add_argument("--bfloat16", action="store_true", help="weights' layers in bfloat16 while training")
    return parser


def run(
    build: Callable[..., nn.Sequential],
    description: str | None,
    finish: Finish = lambda network: network,
    input_scale: float = 1.0,
    epochs: int = 8,
    **of_network: int,
) -> None:
    """Trains what `build` makes and saves `finish` of it, the network to deploy, whole and in half precision.

    With `--validation N` the last N training samples are held out, and the weights of the epoch that does best on them
    are saved; without, those after the last epoch. The accuracies printed are those of the file, in float32. Choose
    settings by validation, never by the test set. `of_network`: names and defaults of options more, given to `build`.
    """
    parser = options(description, epochs)
    for name, default in of_network.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"of the network; default {default}")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    x, y = (part.to(args.device) for part in load(args.data, "train"))
    keep = len(x) - args.validation
    network = build(**{name: getattr(args, name) for name in of_network}).to(args.device)
    best, best_weights = -1.0, None

    def select(epoch: int, line: str) -> None:
        nonlocal best, best_weights
        if args.validation:
            score = accuracy(finish(network), x[keep:], y[keep:])
            line += f" validation {score:.2f} %"
            if score >= best:
                best, best_weights = score, deepcopy(network.state_dict())
        print(line, flush=True)

    train(network, x[:keep], y[:keep], args, input_scale, select)
    if best_weights is not None:
        network.load_state_dict(best_weights)
    network = plain(finish(network))
    torch.save(network, args.out)  # what is saved is what is measured
    network = network.float().to(args.device)
    if args.validation:
        print(f"validation accuracy {accuracy(network, x[keep:], y[keep:]):.2f} %")
    x, y = (part.to(args.device) for part in load(args.data, "test"))
    print(f"test accuracy {accuracy(network, x, y):.2f} %")
