"""From the folded float network to integers: per-channel weights, thresholds, biases and proven state widths."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from snncompile.chip import Numerics
from snncompile.errors import CompileError
from snncompile.network import (
    INPUT_PAYLOAD_MAX,
    SYNAPSES,
    Array,
    Conv2d,
    Linear,
    MultiThresholdLIF,
    Network,
    OneToOne,
    Readout,
    Shape,
    Synapses,
)
from snncompile.quant_network import DECAY_ONE, MIX_SHIFT, IntArray, Population, QuantNetwork, QuantSynapses
from snncompile.state_bounds import prove


@dataclass(frozen=True, eq=False)
class HostScales:
    """What integers mean, kept on the host and never on the chip.

    input_scale: value of one stored unit of data. state[population] (channels,): value of one unit of the state.
    output_scale: the readout's state times this is the network's output.
    """

    input_scale: float
    state: dict[str, Array]
    output_scale: float


def quantize(network: Network, numerics: Numerics, weight_bits: int = 8) -> tuple[QuantNetwork, HostScales]:
    """Rounds to nearest: w = rint(W / s), thresholds, bias, v0 = rint(x * 2^F / s), decay = rint((1 - leak) * 4096).

    s is one scale per output channel, max |W| / (2^(bits-1) - 1), shared by all synapses into a neuron; a threshold is
    scale-free, so it costs nothing. Where several layers of synapses meet, s is that of the finest, and a unit of the
    others' weights is worth 2^e * s. The readout has one scale for all classes, so that its states compare as they are.
    F, the fractional bits of the state, is the largest up to the chip's for which `state_bounds.prove` shows that no
    state overflows. Needs: a folded, aligned network. Raises CompileError naming the layer: bits, leak or payload the
    chip does not have, or a state that is too wide even at F = 0.
    """
    _check_numerics(network, numerics, weight_bits)
    source_unit = {network.input.name: 1 / INPUT_PAYLOAD_MAX}
    synapses: list[QuantSynapses] = []
    populations: list[Population] = []
    states: dict[str, Array] = {}
    head = QuantNetwork(network.input.name, network.input.shape, INPUT_PAYLOAD_MAX, (), (), network.timesteps)
    for node in network.nodes:
        if not isinstance(node, MultiThresholdLIF) and not (isinstance(node, Readout) and not _counts(node, network)):
            continue
        incoming = [n for n in network.nodes if n.name in node.inputs and isinstance(n, SYNAPSES)]
        units = [source_unit.get(n.inputs[0], 1.0) for n in incoming]
        layer = _Layer(_as_neuron(node), incoming, units, network.shapes[node.name])
        before = replace(head, populations=tuple(populations))
        added, population, states[node.name] = _quantize_layer(layer, before, numerics, weight_bits)
        synapses += added
        populations.append(population)
    quantized = replace(head, synapses=tuple(synapses), populations=tuple(populations))
    return quantized, HostScales(network.input.scale, states, _output_scale(network, states))


def _counts(readout: Readout, network: Network) -> bool:
    """Whether a readout is fed by a neuron population, whose payloads the host adds up."""
    return isinstance(network.by_name[readout.inputs[0]], MultiThresholdLIF)


def _output_scale(network: Network, states: dict[str, Array]) -> float:
    readout = network.readout
    if not _counts(readout, network):
        kappa = sum(readout.leak**t for t in range(network.timesteps))
        return float(states[readout.name][0]) * readout.scale / kappa
    if readout.leak != 1:
        raise CompileError(
            readout.name,
            f"weighs spikes of {readout.inputs[0]} by a leak of {readout.leak:g}",
            "let a linear layer come between",
        )
    if network.by_name[readout.inputs[0]] is not network.neurons[-1]:
        raise CompileError(readout.name, f"counts spikes of {readout.inputs[0]}, which is not the last population")
    return readout.scale / network.timesteps


def _as_neuron(node: MultiThresholdLIF | Readout) -> MultiThresholdLIF:
    """A readout sums its input: a neuron without thresholds."""
    if isinstance(node, MultiThresholdLIF):
        return node
    none = np.zeros(0)
    return MultiThresholdLIF(node.name, node.inputs, none, none, none, node.leak, "none", "ge", depth=node.depth)


@dataclass(frozen=True, eq=False)
class _Layer:
    """A population to be, its synapses, and what one unit of each source's payload is worth."""

    node: MultiThresholdLIF
    synapses: list[Synapses]
    units: list[float]
    shape: Shape

    @property
    def weights(self) -> list[Array]:
        return [synapses.weight * unit for synapses, unit in zip(self.synapses, self.units, strict=True)]

    @property
    def bias(self) -> Array:
        biases = [s.bias for s in self.synapses if not isinstance(s, OneToOne)]
        return np.sum([np.zeros(self.shape[0]), *biases], axis=0)


def _check_numerics(network: Network, numerics: Numerics, weight_bits: int) -> None:
    if weight_bits not in numerics.weight_bits:
        allowed = ", ".join(map(str, numerics.weight_bits))
        raise CompileError("--weight-bits", f"the chip has no {weight_bits}-bit weights", f"allowed: {allowed}")
    payloads = {network.input.name: INPUT_PAYLOAD_MAX} | {n.name: int(n.payload.max()) for n in network.neurons}
    for name, largest in payloads.items():
        if largest > 1 and numerics.graded_spikes and largest >= 2**numerics.payload_bits:
            raise CompileError(name, f"sends payloads up to {largest}", f"the chip's have {numerics.payload_bits} bits")
    for node in network.neurons:
        _check_neuron(node, numerics)


def _check_neuron(node: MultiThresholdLIF, numerics: Numerics) -> None:
    if node.payload.max() > 1 and not numerics.graded_spikes:
        raise CompileError(node.name, f"sends payloads up to {node.payload.max():g}", "the chip's spikes are binary")
    if node.reset not in numerics.resets:
        raise CompileError(node.name, f"has a {node.reset} reset", f"the chip has: {', '.join(numerics.resets)}")
    if round((1 - node.leak) * DECAY_ONE) == DECAY_ONE:
        raise CompileError(node.name, f"leak {node.leak:g} rounds to 0 in {numerics.decay_bits} bits")
    if node.leak > 1 and not numerics.leak_above_one:
        raise CompileError(
            node.name, f"leak is {node.leak:g}", "the chip's neurons have no leak above 1; train with learn_leak=False"
        )
    if node.mixing is not None and not numerics.step_mixing:
        raise CompileError(node.name, "mixes the steps of its input (T-GIM)", "the chip's neurons cannot store them")


def _channel_scale(layer: _Layer, weight_bits: int, state_bits: int) -> Array:
    """(channels,) value of one weight unit; for a readout all equal. At F = 0 thresholds and bias fit the state."""
    largest = np.array([np.abs(w).reshape(len(w), -1).max(1) for w in layer.weights])
    finest = np.where(largest > 0, largest, np.inf).min(axis=0)
    constants = np.concatenate([[abs(layer.node.v0)], layer.node.thresholds, np.abs(layer.node.subtract)])
    constant = np.maximum(np.abs(layer.bias), constants.max())
    scale = np.maximum(
        np.where(np.isfinite(finest), finest, 0) / _largest(weight_bits), constant / 2.0 ** (state_bits - 2)
    )
    scale = np.where(scale > 0, scale, 1.0)
    return scale if len(layer.node.thresholds) else np.full_like(scale, scale.max())


def _largest(weight_bits: int) -> int:
    """Largest weight; the range is symmetric."""
    return int(2 ** (weight_bits - 1) - 1)


def _exponent(weight: Array, scale: Array, weight_bits: int) -> int:
    """Smallest e >= 0 for which weight / (scale * 2^e) fits the weight bits in every channel."""
    ratio = float((np.abs(weight).reshape(len(weight), -1).max(1) / scale).max()) / _largest(weight_bits)
    return max(0, math.ceil(math.log2(ratio) - 1e-12)) if ratio > 0 else 0


def _quantize_layer(
    layer: _Layer, before: QuantNetwork, numerics: Numerics, weight_bits: int
) -> tuple[list[QuantSynapses], Population, Array]:
    """The layer after the populations of `before`: synapses, population, value of one unit of its state (channels,)."""
    scale = _channel_scale(layer, weight_bits, numerics.state_bits)
    needed = 0
    for fraction in range(numerics.fraction_bits_max, -1, -1):
        synapses = [
            _synapses(node, weight, scale, weight_bits, fraction)
            for node, weight in zip(layer.synapses, layer.weights, strict=True)
        ]
        population = _population(layer, scale / 2**fraction)
        network = replace(before, synapses=tuple(synapses), populations=(*before.populations, population))
        bounds = prove(network, population)
        needed = bounds.state_bits
        if needed <= numerics.state_bits:
            proven = replace(population, input_bits=bounds.input_bits, state_bits=needed)
            return synapses, proven, scale / 2**fraction
    raise CompileError(
        layer.node.name,
        f"a state may need {needed} bits, the chip has {numerics.state_bits}",
        f"fewer weight bits than {weight_bits}, a smaller fan-in or fewer time steps keep it small",
    )


def _synapses(node: Synapses, weight: Array, scale: Array, weight_bits: int, fraction: int) -> QuantSynapses:
    if node.delay_steps is None:
        raise CompileError(node.name, "has no delay", "align the delays first")
    geometry: dict[str, Any] = {}
    if isinstance(node, Conv2d):
        geometry = {"stride": node.stride, "padding": node.padding, "dilation": node.dilation, "groups": node.groups}
    exponent = _exponent(weight, scale, weight_bits)
    unit = (scale * 2**exponent).reshape(-1, *(1,) * (weight.ndim - 1))
    return QuantSynapses(
        name=node.name,
        source=node.inputs[0],
        kind="conv" if isinstance(node, Conv2d) else "linear" if isinstance(node, Linear) else "one_to_one",
        weight=_rint(weight / unit),
        weight_bits=weight_bits,
        exponent=fraction + exponent,
        pool=node.pool,
        delay_steps=node.delay_steps,
        **geometry,
    )


def _population(layer: _Layer, unit: Array) -> Population:
    """`unit` (channels,): value of one unit of the state. Widths are filled in once they are proven."""
    node = layer.node
    if node.depth is None:
        raise CompileError(node.name, "has no depth", "align the delays first")
    return Population(
        name=node.name,
        shape=layer.shape,
        synapses=tuple(s.name for s in layer.synapses),
        bias=_rint(layer.bias / unit),
        v0=_rint(node.v0 / unit),
        thresholds=_rint(node.thresholds[:, None] / unit),
        payload=_rint(node.payload),
        subtract=_rint(node.subtract[:, None] / unit),
        decay=round((1 - node.leak) * DECAY_ONE),
        reset=node.reset,
        fire=node.fire,
        depth=node.depth,
        input_bits=0,
        state_bits=0,
        mixing=None if node.mixing is None else _rint(node.mixing * 2**MIX_SHIFT),
    )


def _rint(values: Array) -> IntArray:
    return np.rint(values).astype(np.int64)
