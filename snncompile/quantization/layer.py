"""One layer on its way to integers: its weights rounded, or what the host computes for a chip of binary spikes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from snncompile.encoding import Encoder
from snncompile.errors import CompileError
from snncompile.network import (
    INPUT_PAYLOAD_MAX,
    Array,
    Conv2d,
    Linear,
    MultiThresholdLIF,
    Network,
    Shape,
    Sparse,
    Synapses,
    one_to_one,
)
from snncompile.quant_network import IntArray, QuantSynapses
from snncompile.quantization.rounding import Rounding, round_rows
from snncompile.quantization.state_bounds import signed_bits

HOST_BITS = 24
"""Fractional bits of the host's weights below one unit of the current that it writes: what rounding them adds up to
over a fan-in below 65,000 stays below half a unit."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A population to be, its synapses, and what one unit of each source's payload is worth.

    scale (channels,): value of one weight unit where it is settled already.
    """

    node: MultiThresholdLIF
    synapses: list[Synapses]
    units: list[float]
    shape: Shape
    scale: Array | None = None

    @property
    def weights(self) -> list[Array]:
        return [synapses.weight * unit for synapses, unit in zip(self.synapses, self.units, strict=True)]

    @property
    def forward(self) -> list[Synapses]:
        """Without the lateral synapses that stand for a soft reset, whose values are those of thresholds."""
        return [s for s in self.synapses if not (isinstance(s, Conv2d) and s.of_reset)]

    @property
    def forward_weights(self) -> list[Array]:
        return [weight for s, weight in zip(self.synapses, self.weights, strict=True) if s in self.forward]

    @property
    def bias(self) -> Array:
        return np.sum([np.zeros(self.shape[0]), *(s.bias for s in self.synapses)], axis=0)

    @property
    def largest_of_all(self) -> float:
        """Largest of constants and |bias|."""
        return max(self.largest_constant, float(np.abs(self.bias).max()))

    @property
    def largest_constant(self) -> float:
        """Largest of |v0|, thresholds, what is subtracted, and what else is compared with or added to the state."""
        node = self.node
        given = (node.v0, node.thresholds, node.subtract, node.drive, node.floor, node.adapt_step, node.adapt_start)
        return max(float(np.abs(values).max(initial=0)) for values in given if values is not None)


@dataclass(frozen=True, eq=False)
class RoundedLayer:
    """Integer weights of the forward synapses of a layer, by name, in units of scale * 2^exponent.

    scale (channels,): value of one weight unit. bias (channels,): that of the layer, with the mean error made up for.
    bits: width of every layer of synapses, the lateral ones too. finer: bits that the narrowest forward weights are
    narrower than the chip's widest.
    """

    weights: Mapping[str, IntArray]
    exponents: Mapping[str, int]
    scale: Array
    bias: Array
    bits: Mapping[str, int]
    finer: int


def round_layer(layer: Layer, weight_bits: int, how: Rounding, widest: int, state_bits: int) -> RoundedLayer:
    """Rounds the forward weights of a layer by `how`; what the host computes is settled and rounded plainly.

    Lateral synapses that stand for a soft reset get the chip's `widest` weights: those of thresholds, and few.
    """
    forward = layer.forward
    bits = {s.name: how.bits.get(s.name, weight_bits) if s in forward else widest for s in layer.synapses}
    if how.method == "max" or layer.scale is not None:
        scale = _largest_scale(layer, bits, state_bits)
        weights, exponents = {}, {}
        for s, weight in zip(forward, layer.forward_weights, strict=True):
            exponents[s.name] = exponent = exponent_of(s, weight, scale, bits[s.name])
            weights[s.name] = np.rint(weight / s.per_weight(scale * 2**exponent)).astype(np.int64)
        bias = layer.bias
    else:
        weights, exponents, scale, shift = _rounded(layer, bits, how, state_bits)
        bias = layer.bias + shift
    finer = 0 if layer.scale is not None else widest - min((bits[s.name] for s in forward), default=widest)
    return RoundedLayer(weights, exponents, scale, bias, bits, max(0, finer))


def _rounded(
    layer: Layer, bits: Mapping[str, int], how: Rounding, state_bits: int
) -> tuple[dict[str, IntArray], dict[str, int], Array, Array]:
    """Weights, exponents, scale and shift of the bias; members of one neuron are rounded once, so they stay alike."""
    forward, members = layer.forward, layer.node.members
    for s in forward:
        if isinstance(s, Sparse):
            raise CompileError(s.name, f"is sparse; rounding by {how.method} needs dense weights", "use --rounding max")
    rows = [w.reshape(len(w), -1) for w in layer.forward_weights]
    alike = all((w.reshape(-1, members, w.shape[1]) == w[::members, None]).all() for w in rows)
    each = members if alike else 1
    key = tuple((s.name, bits[s.name]) for s in forward)
    rounded = None if how.memo is None else how.memo.get(key)
    if rounded is None:
        rounded = round_rows(
            [w[::each] for w in rows],
            [how.moments(s.name, w[::each]) for s, w in zip(forward, rows, strict=True)],
            [bits[s.name] for s in forward],
            how,
            shared=not len(layer.node.thresholds),
            floor=layer.largest_of_all / 2.0 ** (state_bits - 2),
        )
    if how.memo is not None:
        how.memo[key] = rounded
    weights = {
        s.name: np.repeat(q, each, axis=0).reshape(s.weight.shape)
        for s, q in zip(forward, rounded.integers, strict=True)
    }
    exponents = {s.name: e for s, e in zip(forward, rounded.exponents, strict=True)}
    return weights, exponents, np.repeat(rounded.scale, each), np.repeat(rounded.bias, each)


def _largest_scale(layer: Layer, bits: Mapping[str, int], state_bits: int) -> Array:
    """(channels,) value of one weight unit; for a readout all equal. At F = 0 thresholds and bias fit the state."""
    if layer.scale is not None:
        return layer.scale
    largest = np.array(
        [
            s.row_largest(np.abs(w)) / largest_weight(bits[s.name])
            for s, w in zip(layer.forward, layer.forward_weights, strict=True)
        ]
    )
    finest = np.where(largest > 0, largest, np.inf).min(axis=0)
    constant = np.maximum(np.abs(layer.bias), layer.largest_constant)
    scale = np.maximum(np.where(np.isfinite(finest), finest, 0), constant / 2.0 ** (state_bits - 2))
    scale = np.where(scale > 0, scale, 1.0)
    return scale if len(layer.node.thresholds) else np.full_like(scale, scale.max())


def largest_weight(weight_bits: int) -> int:
    """Largest weight; the range is symmetric."""
    return int(2 ** (weight_bits - 1) - 1)


def exponent_of(node: Synapses, weight: Array, unit: Array, weight_bits: int) -> int:
    """Smallest e >= 0 for which weight / (unit * 2^e) fits the weight bits in every channel; unit (channels,).

    weight: that of `node`, or another in its shape.
    """
    ratio = float((node.row_largest(np.abs(weight)) / unit).max()) / largest_weight(weight_bits)
    return max(0, math.ceil(math.log2(ratio) - 1e-12)) if ratio > 0 else 0


def integer_synapses(node: Synapses, weight: IntArray, weight_bits: int, exponent: int) -> QuantSynapses:
    """Synapses of the geometry of `node` with integer weights."""
    geometry: dict[str, Any] = {}
    if isinstance(node, Conv2d):
        geometry = {"stride": node.stride, "padding": node.padding, "dilation": node.dilation, "groups": node.groups}
    if isinstance(node, Sparse):
        geometry = {"row": node.row, "column": node.column, "features": node.features}
    kinds: dict[type[Synapses], Literal["conv", "linear", "sparse"]]
    kinds = {Conv2d: "conv", Linear: "linear", Sparse: "sparse"}
    return QuantSynapses(
        name=node.name,
        source=node.inputs[0],
        kind=kinds[type(node)],
        weight=weight,
        weight_bits=weight_bits,
        exponent=exponent,
        pool=node.pool,
        members=node.members,
        delay_steps=node.delay_steps or 1,
        lag=node.lag,
        **geometry,
    )


def floats_of(node: Synapses, synapses: QuantSynapses, state: Array, analog: bool) -> Array:
    """The weights that integers stand for, of the shape and in the unit of those of `node`.

    state (channels,): value of one unit of the state. analog: the source sends pixels, of which 255 units make 1.
    """
    unit = node.per_weight(state * 2.0**synapses.exponent)
    weight: Array = synapses.weight * unit * (INPUT_PAYLOAD_MAX if analog else 1)
    return weight


def host_layer(layer: Layer, network: Network, payload_max: int, state_bits: int) -> tuple[Layer, Encoder]:
    """The layer fed by currents that the host computes of the image, and the encoder that does so.

    A unit of current is, per channel, the largest |current| that any image can cause over payload_max - 1. The bias of
    all synapses is part of the current. What other populations send to the layer stays on the chip.
    """
    of_host = [s for s in layer.synapses if s.inputs[0] == network.input.name]
    for synapses in of_host:
        if synapses.lag:
            raise CompileError(
                synapses.name,
                f"delays the input by {synapses.lag} steps",
                "the host writes a constant current where spikes are binary; use --input-coding rate",
            )
    low = high = layer.bias
    for synapses in of_host:
        weight = synapses.weight * (synapses.pool[0] * synapses.pool[1])
        low = low + synapses.row_sums(np.minimum(weight, 0))
        high = high + synapses.row_sums(np.maximum(weight, 0))
    unit = np.maximum(np.maximum(-low, high) / (payload_max - 1), layer.largest_constant / 2.0 ** (state_bits - 2))
    unit = np.where(unit > 0, unit, 1.0)
    if not len(layer.node.thresholds):
        unit = np.full_like(unit, unit.max())
    if (kept := layer.node.unit) is not None:
        if unit.max() > kept:
            problem = f"its input currents need units of {unit.max():g}, its integers count in {kept:g}"
            raise CompileError(layer.node.name, problem, "use a target with graded spikes, or --input-coding rate")
        unit = np.full_like(unit, kept)
    current = one_to_one(f"{layer.node.name}_current", network.input.name, unit)
    current = replace(current, delay_steps=of_host[0].delay_steps)
    others = [replace(s, bias=np.zeros_like(s.bias)) for s in layer.synapses if s not in of_host]
    units = [u for u, s in zip(layer.units, layer.synapses, strict=True) if s not in of_host]
    on_chip = replace(layer, synapses=[current, *others], units=[1.0, *units], scale=unit)
    return on_chip, _host_encoder(layer, of_host, network, unit, payload_max)


def _host_encoder(layer: Layer, of_host: list[Synapses], network: Network, unit: Array, payload_max: int) -> Encoder:
    fine = unit / 2**HOST_BITS
    synapses = []
    for node in of_host:
        weight = np.rint(node.weight / INPUT_PAYLOAD_MAX / node.per_weight(fine)).astype(np.int64)
        synapses.append(integer_synapses(node, weight, signed_bits(weight, weight), 0))
    steps = network.timesteps // network.microsteps
    bias = np.rint(layer.bias / fine).astype(np.int64)
    source = network.input
    return Encoder("currents", source.scale, source.shape, steps, payload_max, tuple(synapses), bias, HOST_BITS)
