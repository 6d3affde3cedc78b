"""W s of one layer of synapses, before the shift by its exponent: which kernel computes it, and that it is exact.

Payloads and sums have their channels innermost in memory: (N, H, W, C); features (n,) are (N, 1, 1, n).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from snncompile import reference
from snncompile.errors import InternalError
from snncompile.mapping.connectivity import shape3
from snncompile.quant_network import IntArray, QuantNetwork, QuantSynapses, pooled_shape

from . import events, int8
from .int8 import Geometry
from .neurons import sum_windows

EXACT_FLOAT32 = 1 << 24
EXACT_FLOAT64 = 1 << 53
EXACT_INT64 = 1 << 63

SCAN_NS = 0.26
"""Event-driven kernels, per payload looked at. All costs: one core of an AMD EPYC with AVX512-VNNI; they decide which
exact kernel runs, never what it gives."""
ROW_NS, SYNAPSE_NS = 11.0, 0.028
"""Per row of synapses that a spike reaches, and per synapse in it."""
MAC_NS = {"int8": 0.005, "float32": 0.022}
"""Per multiplication of a product that takes all payloads, silent or not."""

Values = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Kernel:
    """of(x) computes the sums for payloads x (N, H, W, C) of type `kind`, windows and members added up."""

    name: str
    kind: Any
    of: Callable[[Values], Values]


@dataclass(frozen=True, eq=False)
class Layer:
    """What a kernel needs to know: `shape` (H, W, C) of what it takes, `target` (h, w, out) of what it gives.

    It takes integers 0..high (`signed`: -high..high), and no sum it gives is beyond `bound`.
    """

    synapses: QuantSynapses
    shape: tuple[int, int, int]
    target: tuple[int, int, int]
    high: int
    signed: bool
    bound: int

    @property
    def geometry(self) -> Geometry:
        s = self.synapses
        return Geometry(s.stride, s.padding, s.dilation, s.groups)

    @property
    def in_bytes(self) -> bool:
        """Whether payloads are unsigned bytes."""
        return not self.signed and self.high <= int8.PAYLOAD_MAX

    @property
    def one_pixel(self) -> bool:
        """Whether a target sees one position, and each position is seen by one."""
        s = self.synapses
        return s.weight.shape[2:] == (1, 1) and s.stride == (1, 1) and s.padding == (0, 0)

    def matrix(self, weight: IntArray) -> IntArray | None:
        """(h * w * out, H * W * C) of the weights; None where a convolution multiplies less."""
        height, width, channels = self.shape
        if self.synapses.kind == "linear":
            return weight.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(len(weight), -1)
        if self.synapses.groups > 1 or height * width > np.prod(weight.shape[2:]):
            return None
        dense = np.zeros((*self.target, *self.shape), np.int64)
        s = self.synapses
        for y, x, i, j in np.ndindex(*self.target[:2], *weight.shape[2:]):
            above = y * s.stride[0] - s.padding[0] + i * s.dilation[0]
            left = x * s.stride[1] - s.padding[1] + j * s.dilation[1]
            if 0 <= above < height and 0 <= left < width:
                dense[y, x, :, above, left] = weight[:, :, i, j]
        return dense.reshape(int(np.prod(self.target)), -1)

    @cached_property
    def products(self) -> int:
        """Multiplications an image takes."""
        matrix = self.matrix(self.synapses.weight)
        if matrix is not None:
            return matrix.size
        return self.target[0] * self.target[1] * self.synapses.weight.size


def choose(layer: Layer) -> Kernel:
    """The first kernel that is exact for what is proven of the layer and equals the reference in a start-up self-test.

    The last one, in float64, is exact below 2^53, which needs no test. Raises InternalError for sums beyond.
    """
    if layer.bound >= EXACT_FLOAT64:
        raise InternalError(f"{layer.synapses.name}: sums up to {layer.bound} are not exact in float64")
    for make in _candidates(layer):
        try:
            kernel = make(layer.synapses.weight)
            if kernel.kind is np.float64 or _passes(layer, make, kernel):
                return kernel
        except int8.Unavailable:
            continue
    raise InternalError(f"{layer.synapses.name}: no kernel")


def _candidates(layer: Layer) -> Iterator[Callable[[IntArray], Kernel]]:
    """Kernels that can compute a layer, made from its weights (out, ...), fastest first."""
    weight, exact = layer.synapses.weight, layer.bound < EXACT_FLOAT32
    grouped = layer.synapses.kind == "conv" and layer.synapses.groups > 1 and layer.one_pixel
    small = weight.min(initial=0) >= int8.WEIGHT_LOW and weight.max(initial=0) <= int8.WEIGHT_HIGH
    if exact and small and layer.in_bytes and not grouped:
        yield lambda weight: _int8(layer, weight)
    in_floats = _within_groups if grouped else _float
    if exact:
        yield lambda weight: in_floats(layer, weight, np.float32)
    yield lambda weight: in_floats(layer, weight, np.float64)


def _passes(layer: Layer, make: Callable[[IntArray], Kernel], kernel: Kernel) -> bool:
    """Self-test: two images at random and one of the largest payloads, against the reference in float64.

    Where two products may exceed 2^15, also on weights of +-127 in pairs, so that a sum in 16 bits would be noticed.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(-layer.high if layer.signed else 0, layer.high + 1, (3, *layer.shape))
    images[2] = layer.high
    weight = layer.synapses.weight
    tested = _equals_reference(layer, weight, kernel, images)
    if not tested or kernel.kind is not np.uint8 or layer.high <= int8.NO_SATURATION_MAX:
        return tested
    pairs = np.where(np.arange(weight.shape[1]) // 2 % 2 == 0, 127, -127).reshape(1, -1, *(1,) * (weight.ndim - 2))
    largest = np.broadcast_to(pairs, weight.shape)
    return _equals_reference(layer, largest, make(largest), images[2:])


def _equals_reference(layer: Layer, weight: IntArray, kernel: Kernel, images: IntArray) -> bool:
    """Whether a kernel gives for images (N, H, W, C) what `reference.integer_current` defines; exact below 2^53."""
    x, w = np.moveaxis(images, 3, 1).astype(np.float64), weight.astype(np.float64)
    s = layer.synapses
    if s.kind == "linear":
        expected = (x.reshape(len(x), -1) @ w.T)[:, None, None]
    else:
        expected = np.moveaxis(reference.convolve(x, w, s.stride, s.padding, s.dilation, s.groups), 1, 3)
    blocks = int8.BLOCKS if kernel.kind is np.uint8 else (len(images),)
    try:
        for size in blocks:
            of = np.arange(size) % len(images)
            if not np.array_equal(kernel.of(images[of].astype(kernel.kind)), expected[of]):
                return False
        return True
    except (RuntimeError, NotImplementedError) as error:
        raise int8.Unavailable(str(error)) from error


def _int8(layer: Layer, weight: IntArray) -> Kernel:
    matrix = layer.matrix(weight)
    if matrix is None:
        return Kernel("int8 convolution", np.uint8, int8.convolution(weight, layer.geometry))
    multiplied = int8.linear(matrix)
    return Kernel("int8 matrix", np.uint8, lambda x: multiplied(x.reshape(len(x), -1)).reshape(len(x), *layer.target))


def _float(layer: Layer, weight: IntArray, kind: Any) -> Kernel:
    matrix, g, name = layer.matrix(weight), layer.geometry, np.dtype(kind).name
    if matrix is not None:
        dense = torch.from_numpy(matrix.astype(kind))

        def multiplied(x: Values) -> Values:
            flat = torch.from_numpy(x.reshape(len(x), -1))
            return functional.linear(flat, dense).numpy().reshape(len(x), *layer.target)

        return Kernel(f"{name} matrix", kind, torch.inference_mode()(multiplied))
    filters = torch.from_numpy(weight.astype(kind)).contiguous(memory_format=torch.channels_last)

    def convolved(x: Values) -> Values:
        images = torch.from_numpy(x).permute(0, 3, 1, 2)
        y = functional.conv2d(images, filters, None, g.stride, g.padding, g.dilation, g.groups)
        return np.ascontiguousarray(y.permute(0, 2, 3, 1).numpy())

    return Kernel(f"{name} convolution", kind, torch.inference_mode()(convolved))


def _within_groups(layer: Layer, weight: IntArray, kind: Any) -> Kernel:
    """A grouped 1x1 convolution as small products, which is faster by far: one to one, or members to members."""
    groups, (out, fan_in), name = layer.synapses.groups, weight.shape[:2], np.dtype(kind).name
    if out == fan_in * groups == groups:
        row = weight.reshape(-1).astype(kind)
        return Kernel(f"{name} one to one", kind, lambda x: x * row)
    blocks = weight.reshape(groups, out // groups, fan_in).astype(kind).transpose(0, 2, 1)

    def multiplied(x: Values) -> Values:
        grouped = x.reshape(-1, groups, fan_in).swapaxes(0, 1)
        return np.ascontiguousarray(np.matmul(grouped, blocks).swapaxes(0, 1)).reshape(len(x), *layer.target)

    return Kernel(f"{name} within groups", kind, multiplied)


class EventKernel:
    """The same sums spike by spike, for silent payloads of unsigned bytes; sums below 2^24."""

    def __init__(self, layer: Layer, dense: Kernel) -> None:
        s = layer.synapses
        self._layer = layer
        self._dense_ns = layer.products * MAC_NS[dense.name.split()[0]]
        matrix = layer.matrix(s.weight)
        small = s.weight.min() >= int8.WEIGHT_LOW and s.weight.max() <= int8.WEIGHT_HIGH
        by_source = s.weight.transpose(1, 2, 3, 0) if matrix is None else matrix.T
        self._weight = np.ascontiguousarray(by_source, np.int8 if small else np.float32)
        rows = 1 if matrix is not None else s.weight[0, 0].size
        self._spike_ns = rows * (ROW_NS + SYNAPSE_NS * self._weight.shape[-1])

    @staticmethod
    def can(layer: Layer, dense: Kernel) -> bool:
        """Where it is exact and its cost beside the dense kernel's is known."""
        return layer.in_bytes and layer.synapses.groups == 1 and dense.name.split()[0] in MAC_NS

    def pays(self, x: Values) -> bool:
        """Whether payloads x are silent enough."""
        most = (self._dense_ns * len(x) - SCAN_NS * x.size) / self._spike_ns
        return most > 0 and bool(events.count_spikes(x.reshape(-1)) < most)

    def of(self, x: Values) -> Values:
        s, total = self._layer.synapses, np.zeros((len(x), *self._layer.target), np.float32)
        if self._weight.ndim == 2:
            events.add_rows(x.reshape(len(x), -1), self._weight, total.reshape(len(x), -1))
        else:
            events.add_taps(x, self._weight, s.stride, s.padding, s.dilation, total)
        return total


class Product:
    """W s of one layer of dense synapses. `kernels` names what computes it."""

    def __init__(self, network: QuantNetwork, synapses: QuantSynapses) -> None:
        self.synapses = synapses
        self.sending = _sending_steps(network, synapses.source)
        payload_max = network.payload_max_of(synapses.source)
        if synapses.source == network.input_name:
            signed = network.input_kind == "currents"
        else:
            signed = network.populations_by_name[synapses.source].sums
        low, high = synapses.row_sums
        pooled_max = payload_max * synapses.pool[0] * synapses.pool[1] * synapses.members
        pooled = pooled_shape(network.read_shape(synapses), synapses.pool, synapses.members)
        (c, h, w), (o, y, x) = shape3(pooled), shape3(network.target_of(synapses).shape)
        bound = int((high - low).max(initial=0)) * pooled_max
        self.layer = Layer(synapses, (h, w, c), (y, x, o), pooled_max, signed, bound)
        self._hold()

    def _hold(self) -> None:
        self._kernel = choose(self.layer)
        can = EventKernel.can(self.layer, self._kernel)
        self._events = EventKernel(self.layer, self._kernel) if can else None

    @property
    def kernels(self) -> str:
        return self._kernel.name + (", spike by spike where silent" if self._events else "")

    def of(self, payloads: Values) -> Values:
        """(N, h, w, out) for payloads (N, H, W, C) of the source."""
        x = self._gathered(payloads, np.uint8 if self.layer.in_bytes else self._kernel.kind)
        if self._events and self._events.pays(x):
            return self._events.of(x)
        return self._kernel.of(x.astype(self._kernel.kind, copy=False))

    def _gathered(self, payloads: Values, kind: Any) -> Values:
        """What is multiplied, as `kind`: the channels that are read, members and windows added up."""
        s = self.synapses
        if s.members == 1 and s.pool == (1, 1):
            read = payloads if s.reads is None else payloads[..., slice(*s.reads)]
            return np.ascontiguousarray(read, kind)
        total = np.zeros((len(payloads), *self.layer.shape), kind)
        sum_windows(payloads, s.reads[0] if s.reads else 0, s.members, *s.pool, total)
        return total


class ListedProduct(Product):
    """W s of sparse synapses, in int64: sources in order, each with its targets, so that silence costs nothing."""

    def _hold(self) -> None:
        s = self.synapses
        if self.layer.bound >= EXACT_INT64:
            raise InternalError(f"{s.name}: sums up to {self.layer.bound} are not exact in int64")
        row, column = s.listed
        by_source = np.argsort(column, kind="stable")
        small = max(s.weight_bits, s.channels.bit_length()) < 32
        kind: Any = np.int32 if small else np.int64
        self._row, self._weight = row[by_source].astype(kind), s.weight[by_source].astype(kind)
        self._first = np.concatenate([[0], np.cumsum(np.bincount(column))])

    @property
    def kernels(self) -> str:
        return "int64 spike by spike, listed"

    def of(self, payloads: Values) -> Values:
        x = self._gathered(payloads, payloads.dtype if self._plain else np.int64)
        summed = np.moveaxis(x, 3, 1).reshape(len(x), -1)
        total = np.zeros((len(x), self.synapses.channels), np.int64)
        events.add_listed(summed[:, : len(self._first) - 1], self._first, self._row, self._weight, total)
        return total[:, None, None]

    @property
    def _plain(self) -> bool:
        return self.synapses.members == 1 and self.synapses.pool == (1, 1)


def product_of(network: QuantNetwork, synapses: QuantSynapses) -> Product:
    return ListedProduct(network, synapses) if synapses.kind == "sparse" else Product(network, synapses)


def _sending_steps(network: QuantNetwork, source: str) -> list[int]:
    """Steps of a sample in which a source may send: the input in first micro-steps, populations in open ones."""
    steps = range(network.timesteps)
    if source == network.input_name:
        return list(steps[:: network.microsteps])
    population = network.populations_by_name[source]
    return [t for t in steps if population.is_open(t % network.microsteps)]
