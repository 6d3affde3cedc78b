"""Integer networks made of layer shapes alone, for mapping: weights are ones, thresholds as good as any."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from snncompile.network import Shape
from snncompile.quant_network import Population, QuantNetwork, QuantSynapses


@dataclass(frozen=True)
class Conv:
    """A convolution to `channels`; from the layer `source` (None: the one before)."""

    channels: int
    kernel: int = 3
    stride: int | tuple[int, int] = 1
    padding: int | tuple[int, int] = 0
    pool: int = 1
    groups: int = 1
    source: int | None = None
    shortcut: "Conv | None" = None


@dataclass(frozen=True)
class Dense:
    features: int
    pool: int = 1
    source: int | None = None


def shaped(
    input_shape: Shape,
    layers: Sequence[Conv | Dense],
    weight_bits: int = 8,
    reset: str = "hard",
    fill: int = 1,
) -> QuantNetwork:
    """Layers in order; `source` counts them from 0, -1 is the input. Shortcuts end in the same population."""
    shapes = {-1: input_shape}
    populations, synapses = [], []
    depths = {-1: 0}
    for number, layer in enumerate(layers):
        parts = [layer] if isinstance(layer, Dense) or layer.shortcut is None else [layer, layer.shortcut]
        sources = [number - 1 if part.source is None else part.source for part in parts]
        depths[number] = 1 + max(depths[source] for source in sources)
        names = []
        for part, source in zip(parts, sources, strict=True):
            names.append(f"s{number}_{len(names)}")
            delay = depths[number] - depths[source]
            made, shape = _synapses(names[-1], part, source, shapes[source], delay, weight_bits, fill)
            synapses.append(made)
        shapes[number] = shape
        zeros, theta = np.zeros(shape[0], np.int64), np.ones((1, shape[0]), np.int64)
        populations.append(
            Population(
                f"n{number}", shape, tuple(names), zeros, zeros, theta, np.ones(1, np.int64), theta, 0, reset, "gt",
                depths[number], 24, 24,
            )
        )  # fmt: skip
    return QuantNetwork("input", input_shape, 1, tuple(synapses), tuple(populations), 1)


def _synapses(
    name: str, layer: Conv | Dense, source: int, shape: Shape, delay: int, weight_bits: int, fill: int
) -> tuple[QuantSynapses, Shape]:
    origin = "input" if source < 0 else f"n{source}"
    pool = (layer.pool, layer.pool)
    maps = [n // layer.pool for n in shape[1:]]
    if isinstance(layer, Dense):
        weight = np.full((layer.features, shape[0] * int(np.prod(maps))), fill)
        made = QuantSynapses(name, origin, "linear", weight, weight_bits, 0, pool, delay_steps=delay)
        return made, (layer.features,)
    stride = layer.stride if isinstance(layer.stride, tuple) else (layer.stride, layer.stride)
    padding = layer.padding if isinstance(layer.padding, tuple) else (layer.padding, layer.padding)
    weight = np.full((layer.channels, shape[0] // layer.groups, layer.kernel, layer.kernel), fill)
    out = [(n + 2 * p - layer.kernel) // s + 1 for n, p, s in zip(maps, padding, stride, strict=True)]
    made = QuantSynapses(
        name, origin, "conv", weight, weight_bits, 0, pool, stride, padding, groups=layer.groups, delay_steps=delay
    )
    return made, (layer.channels, *out)


def vgg16_cifar() -> QuantNetwork:
    """13 convolutions and the classes, 32x32 images, pools of 2 (`snncompile.nn.vgg`)."""
    plan = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    pooled = {2, 4, 7, 10}
    convs = [Conv(c, padding=1, pool=2 if i in pooled else 1) for i, c in enumerate(plan)]
    return shaped((3, 32, 32), [*convs, Dense(10, pool=2)])


def resnet50() -> QuantNetwork:
    """ResNet-50 for 224x224 images: bottlenecks 3, 4, 6, 3, projections where the map or the channels change."""
    layers: list[Conv | Dense] = [Conv(64, 7, 2, 3)]
    pool, channels = 2, 64
    for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            before = len(layers) - 1
            layers += [Conv(width, 1, pool=pool), Conv(width, 3, stride, 1)]
            project = channels != 4 * width
            groups = 1 if project else 4 * width
            shortcut = Conv(4 * width, 1, stride, pool=pool, source=before, groups=groups)
            layers.append(Conv(4 * width, 1, shortcut=shortcut))
            channels, pool = 4 * width, 1
    return shaped((3, 224, 224), [*layers, Dense(1000, pool=7)])


def mobilenet() -> QuantNetwork:
    """MobileNet v1 for 128x128 images: 28 layers, 4.2 M weights."""
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    layers: list[Conv | Dense] = [Conv(32, 3, 2, 1)]
    channels = 32
    for features, stride in plan:
        layers += [Conv(channels, 3, stride, 1, groups=channels), Conv(features, 1)]
        channels = features
    return shaped((3, 128, 128), [*layers, Dense(1000, pool=4)])


def pilotnet() -> QuantNetwork:
    """PilotNet-LIF of lava-dl (`pilotnet_lif.net`): shapes of its layers."""
    return shaped(
        (3, 66, 200),
        [
            Conv(24, 3, 2), Conv(36, 3, 2), Conv(48, 3, 2), Conv(64, 3, (2, 1), (1, 0)), Conv(64, 3, 1),
            Dense(100), Dense(50), Dense(10), Dense(1),
        ],
    )  # fmt: skip
