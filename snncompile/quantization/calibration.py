"""What the sources of each layer of synapses send on calibration data: the moments that the rounding of weights needs.

Per layer, over all samples, steps and positions of a kernel, s the vector of payloads that meet one row of weights (of
a convolution a patch, in the order of `weight.reshape(out, -1)`; pool windows and members summed first):

    mean = E[s]        square = E[s^2]        second_moment = H = E[s s^T]

Payloads are integers (an analog pixel: its payload of 0..255), so the sums are exact in any order. H is kept where the
fan-in of a group is at most `FAN_IN_MAX` and all H together take at most `MOMENTS_BYTES`, the smallest first; of the
other layers only the diagonal is known (`Calibration.diagonal_only`), and GPTQ is plain rounding there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from snncompile.backend import Progress, silent
from snncompile.encoding import Encoder, Kind
from snncompile.errors import CompileError
from snncompile.float_engine import FloatEngine, Stream, gathered
from snncompile.network import INPUT_PAYLOAD_MAX, Array, Conv2d, Linear, MultiThresholdLIF, Network, Synapses

FAN_IN_MAX = 4096
"""Largest fan-in whose H (float64, fan-in squared) is kept."""

MOMENTS_BYTES = 600_000_000
"""What all H of a network may take."""

PATCH_BYTES = 32_000_000
"""What the patches of a convolution may take at once."""

CHECK_ROWS = 1000

EXACT_FLOAT32 = 1 << 24


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Moments of what meets a row of weights, per group g of a grouped convolution, n its fan-in; payload units.

    mean, square (g, n); second_moment (g, n, n) or None where only its diagonal, `square`, was kept. vectors: samples
    times positions that they come from; those of the steps of a sample are much alike, so they count once.
    exact_mean (g, n), cross_moment (g, n, n): E[x] and E[x s^T] of what the float network sends, x, where s is what a
    network sends whose earlier layers are rounded (`propagation`); None: the same.
    """

    mean: Array
    square: Array
    second_moment: Array | None
    vectors: int
    exact_mean: Array | None = None
    cross_moment: Array | None = None


@dataclass(frozen=True, eq=False)
class Calibration:
    """Statistics per layer of dense trained weights, the number of samples that they come from, and x (N, ...),
    the data: GPTQ follows it through the rounded layers."""

    layers: Mapping[str, LayerStatistics]
    samples: int
    x: NDArray[np.generic] | None = None

    @property
    def diagonal_only(self) -> tuple[str, ...]:
        """Layers whose fan-in is too large to keep H."""
        return tuple(name for name, layer in self.layers.items() if layer.second_moment is None)


def check_samples(
    network: Network,
    x: NDArray[np.generic],
    y: NDArray[np.generic] | None = None,
    samples: int = 1,
    labelled: bool = False,
    where: str = "--calibrate",
) -> None:
    """Checks calibration data x (N, ...), labels y (N,).

    Raises CompileError: fewer than `samples`; another shape, NaN or values that the network does not take; `labelled`
    and no labels, not one a sample, or labels that are no classes.
    """
    if len(x) < samples:
        raise CompileError(where, f"{len(x)} samples, {samples} are needed", "give more samples")
    if not (np.issubdtype(x.dtype, np.number) or x.dtype == np.bool_):
        raise CompileError(where, f"x is of type {x.dtype}", "give numbers")
    encoder = _encoder(network)
    for start in range(0, len(x), CHECK_ROWS):
        part = x[start : start + CHECK_ROWS]
        if not np.isfinite(part).all():
            bad = start + int(np.flatnonzero(~np.isfinite(part.reshape(len(part), -1)).all(1))[0])
            raise CompileError(where, f"sample {bad} holds NaN or infinite values", "clean the data")
        encoder(part, where)
    if not labelled:
        return
    if y is None:
        raise CompileError(where, "has no labels y", "an accuracy can only be measured with labels; add y (N,)")
    if len(y) != len(x) or y.ndim != 1:
        raise CompileError(where, f"x has {len(x)} samples, y has shape {y.shape}", "give one label per sample")
    classes = int(np.prod(network.shapes[network.readout.name]))
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= classes:
        raise CompileError(where, f"labels from {y.min()} to {y.max()}", f"the network has classes 0 to {classes - 1}")


def _encoder(network: Network) -> Encoder:
    """What checks the data and makes payloads of it, whatever the chip."""
    kinds: dict[str, Kind] = {"direct": "pixels", "events": "events", "rate": "rate"}
    steps, source = network.timesteps // network.microsteps, network.input
    return Encoder(kinds[source.coding], source.scale, source.shape, steps, source.largest)


def calibrate(network: Network, x: NDArray[np.generic], progress: Progress = silent) -> Calibration:
    """Runs data x (N, ...) through a folded or lowered network in float32 and gathers the moments of every layer.

    Memory: `MOMENTS_BYTES`, `PATCH_BYTES` and a batch of the engine, whatever N. Raises CompileError for unfit data.
    """
    check_samples(network, x)
    moments = {node.name: Moments(network, node) for node in _layers(network)}
    left = MOMENTS_BYTES
    for layer in sorted(moments.values(), key=lambda layer: layer.bytes):
        if layer.fan_in <= FAN_IN_MAX and layer.bytes <= left:
            left -= layer.bytes
            layer.keep_second_moment()

    def watch(node: Synapses, stream: Stream) -> None:
        if node.name in moments:
            moments[node.name].add(stream)

    with torch.inference_mode():
        FloatEngine(network).run(x, watch, progress)
    return Calibration({name: layer.statistics() for name, layer in moments.items()}, len(x), x)


def _layers(network: Network) -> list[Synapses]:
    """Layers of dense trained weights: neither sparse ones, nor those that the lowering made of soft resets."""
    return [node for node in network.nodes if isinstance(node, Conv2d | Linear) and node.name not in network.of_resets]


class Moments:
    """Sums over the data of one layer of synapses."""

    def __init__(self, network: Network, node: Synapses) -> None:
        self.node = node
        self.groups = node.groups if isinstance(node, Conv2d) else 1
        self.fan_in = int(np.prod(node.weight.shape[1:]))
        self.bytes = 8 * self.groups * self.fan_in**2
        source = network.by_name[node.inputs[0]]
        analog = not isinstance(source, MultiThresholdLIF) and network.input.coding == "direct"
        self.unit = float(INPUT_PAYLOAD_MAX) if analog else 1.0
        largest = float(source.payload.max()) if isinstance(source, MultiThresholdLIF) else float(INPUT_PAYLOAD_MAX)
        self.largest = int(largest) * node.pool[0] * node.pool[1] * node.members
        self.total = torch.zeros(self.groups, self.fan_in, dtype=torch.float64)
        self.square = torch.zeros_like(self.total)
        self.products: torch.Tensor | None = None
        self.count = self.vectors = 0

    def keep_second_moment(self) -> None:
        self.products = torch.zeros(self.groups, self.fan_in, self.fan_in, dtype=torch.float64)

    def add(self, stream: Stream) -> None:
        before = self.count
        for frame, repeats in zip(stream.frames, stream.repeats, strict=True):
            payloads = torch.round(frame * self.unit)
            for part in torch.split(payloads, self.batch(payloads)):
                self._add(self.patches(part), int(repeats))
        self.vectors += (self.count - before) // len(stream.of_step)

    def batch(self, payloads: torch.Tensor) -> int:
        """Samples whose patches keep within `PATCH_BYTES`, for at most as many places as payloads (B, *source) has."""
        positions = int(np.prod(payloads.shape[2:])) if isinstance(self.node, Conv2d) else 1
        return max(1, PATCH_BYTES // (4 * self.groups * self.fan_in * positions))

    def exact(self, rows: int) -> bool:
        """Whether float32 holds every partial sum of `rows` products of integers exactly."""
        return self.largest**2 * rows < EXACT_FLOAT32

    def patches(self, payloads: torch.Tensor) -> torch.Tensor:
        """(groups, fan-in, rows): every vector that meets a row of weights, of payloads (B, *source)."""
        node = self.node
        x = gathered(node, payloads[..., None, None] if payloads.ndim == 2 and node.weight.ndim == 4 else payloads)
        if isinstance(node, Conv2d):
            kernel = node.weight.shape[2:]
            x = functional.unfold(x, kernel, node.dilation, node.padding, node.stride)
            return x.reshape(len(x), self.groups, self.fan_in, -1).permute(1, 2, 0, 3).flatten(2)
        return x.flatten(1).T[None]

    def _add(self, patches: torch.Tensor, repeats: int) -> None:
        rows = patches.shape[2]
        self.count += repeats * rows
        self.total += repeats * patches.sum(2, dtype=torch.float64)
        if self.products is None:
            self.square += repeats * patches.double().square().sum(2)
            return
        if not self.exact(rows):
            patches = patches.double()
        self.products += repeats * torch.bmm(patches, patches.transpose(1, 2))

    def statistics(self) -> LayerStatistics:
        count = max(1, self.count)
        mean = (self.total / count).numpy()
        if self.products is None:
            return LayerStatistics(mean, (self.square / count).numpy(), None, self.vectors)
        moment = self.products.div_(count).numpy()
        return LayerStatistics(mean, np.array(np.diagonal(moment, axis1=1, axis2=2)), moment, self.vectors)
