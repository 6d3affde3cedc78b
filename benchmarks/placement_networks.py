"""Networks of well-known shapes with weights of 1, so that mapping can be measured without training."""

import math
from dataclasses import replace

import numpy as np

from snncompile.network import Shape
from snncompile.quant_network import Population, QuantNetwork, QuantSynapses, pooled_shape

TIMESTEPS = 4


class Builder:
    """Adds populations one after the other; each reads the one before it unless told otherwise."""

    def __init__(self, shape: Shape) -> None:
        self.network = QuantNetwork("input", shape, 255, (), (), TIMESTEPS)
        self.last = "input"

    def conv(self, channels: int, kernel: int = 3, stride: int = 1, pool: int = 1, source: str = "") -> str:
        """A population behind a convolution that keeps the size but for stride and pool."""
        source = source or self.last
        name = f"n{len(self.network.populations):02d}"
        synapses = self._conv(f"{name}_a", source, channels, kernel, stride, pool)
        height, width = pooled_shape(self.network.shape_of(source), (pool, pool))[1:]
        sizes = ((n + 2 * (kernel // 2) - kernel) // stride + 1 for n in (height, width))
        return self._add(name, (channels, *sizes), synapses)

    def linear(self, features: int, pool: int = 1, last: bool = False) -> str:
        name = f"n{len(self.network.populations):02d}"
        inputs = math.prod(pooled_shape(self.network.shape_of(self.last), (pool, pool)))
        weight = np.ones((features, inputs), np.int64)
        synapses = QuantSynapses(f"{name}_a", self.last, "linear", weight, 8, 0, pool=(pool, pool))
        return self._add(name, (features,), synapses, spiking=not last)

    def shortcut(self, source: str, kind: str, stride: int = 1, pool: int = 1) -> None:
        """Synapses from `source` into the last population: "conv", 1 x 1, or "identity", one to one."""
        target = self.network.populations[-1]
        groups = target.shape[0] if kind == "identity" else 1
        synapses = self._conv(f"{target.name}_b", source, target.shape[0], 1, stride, pool, groups)
        joined = replace(target, synapses=(*target.synapses, synapses.name))
        populations = (*self.network.populations[:-1], joined)
        self.network = replace(self.network, synapses=(*self.network.synapses, synapses), populations=populations)

    def _conv(
        self, name: str, source: str, channels: int, kernel: int, stride: int, pool: int, groups: int = 1
    ) -> QuantSynapses:
        weight = np.ones((channels, self.network.shape_of(source)[0] // groups, kernel, kernel), np.int64)
        padding = (kernel // 2, kernel // 2)
        geometry = {"pool": (pool, pool), "stride": (stride, stride), "padding": padding, "groups": groups}
        return QuantSynapses(name, source, "conv", weight, 8, 0, **geometry)

    def _add(self, name: str, shape: Shape, synapses: QuantSynapses, spiking: bool = True) -> str:
        population = population_of(name, shape, synapses, len(self.network.populations) + 1, spiking)
        network = self.network
        self.network = replace(
            network, synapses=(*network.synapses, synapses), populations=(*network.populations, population)
        )
        self.last = name
        return name


def population_of(name: str, shape: Shape, synapses: QuantSynapses, depth: int, spiking: bool = True) -> Population:
    zeros, levels = np.zeros(shape[0], np.int64), np.ones((int(spiking), shape[0]), np.int64)
    reset = "hard" if spiking else "none"
    payload = np.ones(int(spiking), np.int64)
    return Population(
        name, shape, (synapses.name,), zeros, zeros, levels, payload, levels, 0, reset, "ge", depth, 16, 16
    )


def vgg16(size: int, features: tuple[int, ...]) -> QuantNetwork:
    """13 convolutions of VGG16 on images of size x size, then linear layers; pools are folded into the next layer."""
    net, pool = Builder((3, size, size)), 1
    for channels, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            net.conv(channels, pool=pool)
            pool = 1
        pool = 2
    for number, count in enumerate(features):
        net.linear(count, pool, last=number == len(features) - 1)
        pool = 1
    return net.network


def resnet50() -> QuantNetwork:
    """ResNet-50 on 224 x 224: bottlenecks of 1 x 1, 3 x 3 and 1 x 1, spikes over every shortcut."""
    net = Builder((3, 224, 224))
    source, pool = net.conv(64, 7, 2), 2
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(count):
            by = stride if block == 0 else 1
            net.conv(width, 1, pool=pool, source=source)
            net.conv(width, 3, by)
            net.conv(4 * width, 1)
            net.shortcut(source, "identity" if block else "conv", by, pool)
            source, pool = net.last, 1
    net.linear(1000, pool=7, last=True)
    return net.network


def graph(neurons: int, synapses_each: int, local: bool) -> QuantNetwork:
    """A recurrent population with `synapses_each` synapses a neuron: to neurons anywhere, or near it on a torus.

    Near: offsets along both axes are normal with a standard deviation of 8, and neurons are numbered row by row in
    squares of 16 x 16, so that consecutive ones are near each other.
    """
    rng = np.random.default_rng(0)
    side = 16 * round(math.sqrt(neurons) / 16)
    count = side * side if local else neurons
    source = np.repeat(np.arange(count), synapses_each)
    target = rng.integers(0, count, len(source))
    if local:
        dx, dy = np.rint(rng.normal(0, 8, (2, len(source)))).astype(np.int64)
        squares, within = np.divmod(np.arange(count), 256)
        x = squares % (side // 16) * 16 + within % 16
        y = squares // (side // 16) * 16 + within // 16
        number = np.zeros((side, side), np.int64)
        number[y, x] = np.arange(count)
        target = number[(y[source] + dy) % side, (x[source] + dx) % side]
    pairs = np.unique(source * count + target)
    column, row = np.divmod(pairs, count)
    order = np.lexsort((column, row))
    weight = np.ones(len(pairs), np.int64)
    lateral = QuantSynapses(
        "lateral", "n", "sparse", weight, 8, 0, row=row[order], column=column[order], features=count
    )
    eye = np.ones((count, 1, 1, 1), np.int64)
    first = QuantSynapses("first", "input", "conv", eye, 8, 0, groups=count)
    population = replace(population_of("n", (count,), first, 1), synapses=("first", "lateral"))
    return QuantNetwork("input", (count,), 255, (first, lateral), (population,), TIMESTEPS)
