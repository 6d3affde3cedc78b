"""The training loop that the example scripts share: Fashion-MNIST or MNIST from a folder of IDX files."""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from snncompile.data import load_samples


def load(folder: str, split: str, device: str) -> tuple[Tensor, Tensor]:
    samples = load_samples(folder, split)
    assert samples.y is not None  # an IDX folder always has labels
    return torch.from_numpy(samples.x.copy()).to(device), torch.from_numpy(samples.y).to(device)


def batches(x: Tensor, y: Tensor, size: int, augment: bool) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.randperm(len(x), device=x.device)
    for start in range(0, len(x) - size + 1, size):
        index = order[start : start + size]
        images = x[index].float()
        yield (flip_and_crop(images) if augment else images), y[index]


def flip_and_crop(images: Tensor, margin: int = 2) -> Tensor:
    """Mirrors half of the images and shifts each by up to `margin` pixels; (B, 1, H, W)."""
    batch, _, height, width = images.shape
    flip = torch.rand(batch, 1, 1, 1, device=images.device) < 0.5
    padded = pad(torch.where(flip, images.flip(3), images), [margin] * 4)[:, 0]
    dy, dx = torch.randint(0, 2 * margin + 1, (2, batch, 1, 1), device=images.device)
    rows = torch.arange(height, device=images.device)[None, :, None] + dy
    cols = torch.arange(width, device=images.device)[None, None, :] + dx
    return padded[torch.arange(batch, device=images.device)[:, None, None], rows, cols][:, None]


@torch.no_grad()
def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    network.eval()
    hits = sum(int((network(a.float()).argmax(1) == b).sum()) for a, b in zip(x.split(500), y.split(500), strict=True))
    return 100 * hits / len(x)


def train(network: nn.Module, x: Tensor, y: Tensor, args: argparse.Namespace, input_scale: float) -> None:
    steps = args.epochs * (len(x) // args.batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=steps)
    with Progress() as progress:
        bar = progress.add_task("training", total=steps)
        for epoch in range(args.epochs):
            network.train()
            for images, labels in batches(x, y, args.batch, args.augment):
                loss = cross_entropy(network(images * input_scale), labels, label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                progress.advance(bar)
            progress.update(bar, description=f"epoch {epoch + 1}/{args.epochs} loss {loss.item():.3f}")


def run(
    build: Callable[[], nn.Sequential],
    description: str | None,
    finish: Callable[[nn.Sequential], nn.Sequential] = lambda network: network,
    input_scale: float = 1.0,
) -> None:
    """Trains what `build` makes and saves `finish` of it, the network to deploy, whole and in half precision.

    No model selection: the weights after the last epoch are saved, and the accuracy printed is that of the file, on the
    test set. `--validation N` holds out the last N training images and prints their accuracy as well; use it, not the
    test set, to choose settings. `input_scale`: what the network in training takes pixels 0..255 times of.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the IDX files, plain or .gz")
    parser.add_argument("--out", type=Path, required=True, help="file to save the network to")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--augment", action="store_true", help="mirror and shift the training images")
    parser.add_argument("--validation", type=int, default=0, help="training images held out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    x, y = load(args.data, "train", args.device)
    keep = len(x) - args.validation
    network = build().to(args.device)
    train(network, x[:keep], y[:keep], args, input_scale)

    network = finish(network).half().cpu()  # half the file; what is saved is what is measured
    torch.save(network, args.out)
    network = network.float().to(args.device)
    if args.validation:
        print(f"validation accuracy {accuracy(network, x[keep:], y[keep:]):.2f} %")
    print(f"test accuracy {accuracy(network, *load(args.data, 'test', args.device)):.2f} %")
