"""Networks of the literature, built for any neuron system: `resnet19(StbpTdbn(), classes=10)`.

    system      StbpTdbn, MultiThreshold, LmHt, Stcb (then `to_sequential`) or QcfsAnn (then `convert_to_group_neurons`)
    classes     size of the output
    input_shape (channels, height, width) of a sample
    timesteps   T; QcfsAnn has none and does not read it
    width       multiplies the channels and features of every hidden layer, rounded, at least 1

All give an nn.Sequential `[B, *input_shape] -> [B, classes]`; a system with `events` takes `[B, T, *input_shape]`.
Conv or linear, norm, neuron is the order throughout. Convolutions are padded by kernel // 2 and, like hidden linear
layers, have no bias; the last linear layer has one, no norm and no neuron, and the readout takes the mean of its
currents over t. Pools take averages, of spikes, where a paper takes the maximum too; a global pool is AvgPool2d of the
map's size.

Raise ValueError naming what is needed: input_shape, classes, timesteps or width that are not positive, a pool that does
not divide its map, a plan that cannot be read, a system that is not one.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence

from torch import nn

from snncompile.nn.networks_systems import System
from snncompile.nn.residual import residual_block

Convs = list[tuple[int, int, int]]
Stage = tuple[int, int, int]
"""Channels, blocks, stride of the first block."""

CIFARNET = "128C3-256C3-AP2-512C3-AP2-1024C3-512C3-1024-512"
VGG_PLANS = {
    "VGG-11": "64C3-AP2-128C3-AP2-256C3-256C3-AP2-512C3-512C3-AP2-512C3-512C3-AP2",
    "VGG-13": "64C3-64C3-AP2-128C3-128C3-AP2-256C3-256C3-AP2-512C3-512C3-AP2-512C3-512C3-AP2",
    "VGG-16": ("64C3-64C3-AP2-128C3-128C3-AP2-256C3-256C3-256C3-AP2-512C3-512C3-512C3-AP2-512C3-512C3-512C3-AP2"),
}
IMAGENET_STEM = "64C7S2-AP2"
IMAGENET_STAGES = [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)]
TOKEN = re.compile(r"(?P<channels>\d+)C(?P<kernel>\d+)(?:S(?P<stride>\d+))?|AP(?P<pool>\d+)|(?P<features>\d+)")


def vgg(
    system: System,
    plan: str = "VGG-16",
    classes: int = 10,
    input_shape: tuple[int, ...] = (3, 32, 32),
    timesteps: int = 2,
    width: float = 1.0,
) -> nn.Sequential:
    """A network without branches: VGG-11, VGG-13, VGG-16 or a plan, `15C5-AP2-40C5-AP2-300`; then classes.

    A plan joins by "-": `64C3` convolution of 64 channels and kernel 3 (`64C7S2`: stride 2), `AP2` average pooling,
    `300` linear layer. The named ones go from the last pool to the classes, as is common for 32x32 images, where the
    map is 1x1; the paper's classifier is the plan `VGG_PLANS["VGG-16"] + "-4096-4096"`.
    Raises ValueError as the module says; an even kernel, two pools in a row, convolutions after linear layers.
    Source: arXiv 1409.1556 (A, B, D), average pooling in place of the maximum.
    """
    builder = _Builder("vgg", system, input_shape, timesteps, width)
    builder.plan(VGG_PLANS.get(plan.upper(), plan))
    return builder.finish(classes)


def cifarnet(
    system: System,
    classes: int = 10,
    input_shape: tuple[int, ...] = (3, 32, 32),
    timesteps: int = 2,
    width: float = 1.0,
) -> nn.Sequential:
    """128C3-256C3-AP2-512C3-AP2-1024C3-512C3-1024-512-10. Source: arXiv 2011.05280; norms of linear layers are ours."""
    builder = _Builder("cifarnet", system, input_shape, timesteps, width)
    builder.plan(CIFARNET)
    return builder.finish(classes)


def resnet19(
    system: System,
    classes: int = 10,
    input_shape: tuple[int, ...] = (3, 32, 32),
    timesteps: int = 2,
    width: float = 1.0,
) -> nn.Sequential:
    """128C3, basic blocks 3 x 128, 3 x 256 (stride 2), 2 x 512 (stride 2), global pool, 256, classes.

    Source: arXiv 2011.05280; here the layer of 256 has a norm and a neuron, the classes have none.
    """
    stages = [(128, 3, 1), (256, 3, 2), (512, 2, 2)]
    builder = _Builder("resnet19", system, input_shape, timesteps, width)
    return _resnet(builder, "128C3", stages, _basic, classes, hidden=256)


def resnet20(
    system: System,
    classes: int = 10,
    input_shape: tuple[int, ...] = (3, 32, 32),
    timesteps: int = 2,
    width: float = 1.0,
) -> nn.Sequential:
    """16C3, basic blocks 3 x 16, 3 x 32 (stride 2), 3 x 64 (stride 2), global pool, classes.

    Source: arXiv 1512.03385, section 4.2; the shortcuts that change the map are 1x1 convolutions (there padded zeros).
    """
    stages = [(16, 3, 1), (32, 3, 2), (64, 3, 2)]
    builder = _Builder("resnet20", system, input_shape, timesteps, width)
    return _resnet(builder, "16C3", stages, _basic, classes)


def resnet34(
    system: System,
    classes: int = 1000,
    input_shape: tuple[int, ...] = (3, 224, 224),
    timesteps: int = 2,
    width: float = 1.0,
) -> nn.Sequential:
    """64C7 (stride 2), AP2, basic blocks 3 x 64, 4 x 128, 6 x 256, 3 x 512 (stride 2 but the first), pool, classes.

    Source: arXiv 1512.03385, table 1; 1x1 projections where the map changes; AP2 for its 3x3 maximum of stride 2.
    """
    builder = _Builder("resnet34", system, input_shape, timesteps, width)
    return _resnet(builder, IMAGENET_STEM, IMAGENET_STAGES, _basic, classes)


def resnet50(
    system: System,
    classes: int = 1000,
    input_shape: tuple[int, ...] = (3, 224, 224),
    timesteps: int = 2,
    width: float = 1.0,
) -> nn.Sequential:
    """ResNet-34 with bottleneck blocks: 1x1, 3x3 (which has the stride), 1x1 of four times the channels.

    Source: arXiv 1512.03385, table 1 (there the first 1x1 has the stride); AP2 for its 3x3 maximum of stride 2.
    """
    builder = _Builder("resnet50", system, input_shape, timesteps, width)
    return _resnet(builder, IMAGENET_STEM, IMAGENET_STAGES, _bottleneck, classes)


def _basic(channels: int, stride: int) -> Convs:
    return [(channels, 3, stride), (channels, 3, 1)]


def _bottleneck(channels: int, stride: int) -> Convs:
    return [(channels, 1, 1), (channels, 3, stride), (4 * channels, 1, 1)]


def _resnet(
    builder: "_Builder",
    stem: str,
    stages: Sequence[Stage],
    block: Callable[[int, int], Convs],
    classes: int,
    hidden: int | None = None,
) -> nn.Sequential:
    builder.plan(stem)
    for channels, blocks, stride in stages:
        for position in range(blocks):
            builder.residual(block(builder.scaled(channels), stride if position == 0 else 1))
    builder.global_pool()
    if hidden is not None:
        builder.linear(builder.scaled(hidden))
    return builder.finish(classes)


class _Builder:
    """Layers in order, and the shape of what they give. Pools and flattening wait for the weights that read them."""

    def __init__(self, where: str, system: System, input_shape: tuple[int, ...], timesteps: int, width: float) -> None:
        self.where, self.system, self.timesteps, self.width = where, system, timesteps, width
        if not isinstance(system, System):
            raise self.refused(f"the system is {system!r}; needed: a System, e.g. StbpTdbn()")
        if len(input_shape) != 3 or min(input_shape) < 1:
            raise self.refused(f"input_shape is {input_shape}; needed: (channels, height, width), each at least 1")
        if timesteps < 1:
            raise self.refused(f"timesteps must be at least 1, got {timesteps}")
        if not 0 < width < math.inf:
            raise self.refused(f"width must be positive, got {width}")
        self.shape = tuple(input_shape)
        self.layers = system.coding(self.shape, timesteps)
        self.waiting: list[nn.Module] = []

    def refused(self, why: str) -> ValueError:
        return ValueError(f"{self.where}: {why}")

    def scaled(self, number: int) -> int:
        return max(1, round(number * self.width))

    def plan(self, plan: str) -> None:
        """The layers of a plan in the notation of `vgg`, channels and features scaled."""
        for text, numbers in self._tokens(plan):
            if numbers.keys() == {"features"}:
                self.linear(self.scaled(numbers["features"]))
            elif len(self.shape) != 3:
                raise self.refused(f"{text} stands after a linear layer; needed: convolutions and pools before those")
            elif numbers.keys() == {"pool"}:
                self.pool(text, numbers["pool"])
            elif numbers["kernel"] % 2 == 0:
                raise self.refused(f"{text} has an even kernel; needed: an odd one, which keeps the map's size")
            else:
                channels = self.scaled(numbers["channels"])
                self.weights(self._conv(self.shape[0], channels, numbers["kernel"], numbers.get("stride", 1)))
                self.see_stride(channels, numbers.get("stride", 1))

    def _tokens(self, plan: str) -> Iterator[tuple[str, dict[str, int]]]:
        for text in plan.split("-"):
            match = TOKEN.fullmatch(text.upper())
            numbers = {key: int(value) for key, value in match.groupdict().items() if value} if match else {}
            if not numbers or min(numbers.values()) < 1:
                needed = f"needed: {', '.join(VGG_PLANS)}, or e.g. 15C5-AP2-40C5-AP2-300, numbers at least 1"
                raise self.refused(f"the plan {plan!r} has the part {text!r}; {needed}")
            yield text, numbers

    @staticmethod
    def _conv(channels_in: int, channels: int, kernel: int, stride: int) -> nn.Conv2d:
        return nn.Conv2d(channels_in, channels, kernel, stride=stride, padding=kernel // 2, bias=False)

    def see_stride(self, channels: int, stride: int) -> None:
        _, height, width = self.shape
        self.shape = (channels, math.ceil(height / stride), math.ceil(width / stride))

    def weights(self, weights: nn.Conv2d | nn.Linear) -> None:
        """Weights with their norm, and the neuron."""
        self.layers += self.system.normed(self.waiting, weights)
        self.layers.append(self.system.neuron(self.timesteps))
        self.waiting = []

    def linear(self, features: int) -> None:
        self.weights(nn.Linear(self.flattened(), features, bias=False))
        self.shape = (features,)

    def flattened(self) -> int:
        if len(self.shape) == 3:
            self.waiting.append(nn.Flatten())
        return math.prod(self.shape)

    def pool(self, text: str, kernel: int) -> None:
        channels, height, width = self.shape
        if height % kernel or width % kernel:
            raise self.refused(f"{text} meets a map of {height}x{width}; needed: a size divisible by {kernel}")
        if self.waiting:
            raise self.refused(f"{text} follows a pool; needed: one pool of the product of their sizes")
        self.waiting.append(nn.AvgPool2d(kernel))
        self.shape = (channels, height // kernel, width // kernel)

    def global_pool(self) -> None:
        channels, height, width = self.shape
        if (height, width) != (1, 1):
            self.waiting.append(nn.AvgPool2d((height, width)))
            self.shape = (channels, 1, 1)

    def residual(self, convs: Convs) -> None:
        if self.waiting:  # both branches read the pool
            self.layers += self.system.stateless(self.waiting)
            self.waiting = []

        def normed_conv(channels_in: int, channels: int, kernel: int, stride: int, alpha: float) -> list[nn.Module]:
            return self.system.normed([], self._conv(channels_in, channels, kernel, stride), alpha)

        block = residual_block(self.shape[0], convs, normed_conv, lambda: self.system.neuron(self.timesteps))
        self.layers.append(block)
        for channels, _, stride in convs:
            self.see_stride(channels, stride)

    def finish(self, classes: int) -> nn.Sequential:
        """The network, with its linear layer of classes and its readout."""
        if classes < 1:
            raise self.refused(f"classes must be at least 1, got {classes}")
        last = nn.Linear(self.flattened(), classes)
        return nn.Sequential(*self.layers, *self.system.stateless([*self.waiting, last]), *self.system.readout())
