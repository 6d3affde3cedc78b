"""From the folded float network to integers: per-channel weights, thresholds, biases and proven state widths."""

from dataclasses import dataclass, replace

import numpy as np

from snncompile.chip import Numerics
from snncompile.errors import CompileError
from snncompile.network import INPUT_PAYLOAD_MAX, Array, Conv2d, Linear, MultiThresholdLIF, Network, Readout, Shape
from snncompile.quant_network import DECAY_ONE, IntArray, Population, QuantNetwork, QuantSynapses
from snncompile.state_bounds import Bounds, prove


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
    scale-free, so it costs nothing. The readout has one scale for all classes, so that its states compare as they are.
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
        if not isinstance(node, MultiThresholdLIF | Readout):
            continue
        incoming = [n for n in network.nodes if n.name in node.inputs and isinstance(n, Conv2d | Linear)]
        units = [source_unit.get(n.inputs[0], 1.0) for n in incoming]
        layer = _Layer(_as_neuron(node), incoming, units, network.shapes[node.name])
        added, population, unit = _quantize_layer(
            layer, replace(head, populations=tuple(populations)), numerics, weight_bits
        )
        synapses += added
        populations.append(population)
        states[node.name] = unit
    readout = network.readout
    output_scale = float(states[readout.name][0]) * readout.scale / network.timesteps
    quantized = replace(head, synapses=tuple(synapses), populations=tuple(populations))
    return quantized, HostScales(network.input.scale, states, output_scale)


def _as_neuron(node: MultiThresholdLIF | Readout) -> MultiThresholdLIF:
    """A readout sums its input: a neuron without leak and without thresholds."""
    if isinstance(node, MultiThresholdLIF):
        return node
    none = np.zeros(0)
    return MultiThresholdLIF(node.name, node.inputs, none, none, none, 1.0, "none", "ge", depth=node.depth)


@dataclass(frozen=True, eq=False)
class _Layer:
    """A population to be, its synapses, and what one unit of each source's payload is worth."""

    node: MultiThresholdLIF
    synapses: list[Conv2d | Linear]
    units: list[float]
    shape: Shape

    @property
    def weights(self) -> list[Array]:
        return [synapses.weight * unit for synapses, unit in zip(self.synapses, self.units, strict=True)]

    @property
    def bias(self) -> Array:
        return np.sum([synapses.bias for synapses in self.synapses], axis=0)


def _check_numerics(network: Network, numerics: Numerics, weight_bits: int) -> None:
    if weight_bits not in numerics.weight_bits:
        allowed = ", ".join(map(str, numerics.weight_bits))
        raise CompileError("--weight-bits", f"the chip has no {weight_bits}-bit weights", f"allowed: {allowed}")
    payloads = {network.input.name: INPUT_PAYLOAD_MAX} | {
        node.name: int(node.payload.max()) for node in network.neurons
    }
    for name, largest in payloads.items():
        if largest > 1 and numerics.graded_spikes and largest >= 2**numerics.payload_bits:
            raise CompileError(name, f"sends payloads up to {largest}", f"the chip's have {numerics.payload_bits} bits")
    for node in network.neurons:
        if node.payload.max() > 1 and not numerics.graded_spikes:
            raise CompileError(
                node.name, f"sends payloads up to {node.payload.max():g}", "the chip's spikes are binary"
            )
        if node.reset not in numerics.resets:
            raise CompileError(node.name, f"has a {node.reset} reset", f"the chip has: {', '.join(numerics.resets)}")
        if round((1 - node.leak) * DECAY_ONE) == DECAY_ONE:
            raise CompileError(node.name, f"leak {node.leak:g} rounds to 0 in {numerics.decay_bits} bits")


def _channel_scale(layer: _Layer, weight_bits: int, state_bits: int) -> Array:
    """(channels,) value of one weight unit; for a readout all equal. At F = 0 thresholds and bias fit the state."""
    largest = np.max([np.abs(w).reshape(len(w), -1).max(1) for w in layer.weights], axis=0)
    constants = np.concatenate([[abs(layer.node.v0)], layer.node.thresholds, np.abs(layer.node.subtract)])
    constant = np.maximum(np.abs(layer.bias), constants.max())
    scale = np.maximum(largest / (2 ** (weight_bits - 1) - 1), constant / 2.0 ** (state_bits - 2))
    scale = np.where(scale > 0, scale, 1.0)
    return scale if len(layer.node.thresholds) else np.full_like(scale, scale.max())


def _quantize_layer(
    layer: _Layer, head: QuantNetwork, numerics: Numerics, weight_bits: int
) -> tuple[list[QuantSynapses], Population, Array]:
    scale = _channel_scale(layer, weight_bits, numerics.state_bits)
    bounds: Bounds | None = None
    for fraction in range(numerics.fraction_bits_max, -1, -1):
        synapses = [
            _synapses(s, w, scale, weight_bits, fraction) for s, w in zip(layer.synapses, layer.weights, strict=True)
        ]
        population = _population(layer, scale / 2**fraction)
        network = replace(head, synapses=tuple(synapses), populations=(*head.populations, population))
        bounds = prove(network, population)
        if bounds.state_bits <= numerics.state_bits:
            proven = replace(population, input_bits=bounds.input_bits, state_bits=bounds.state_bits)
            return synapses, proven, scale / 2**fraction
    needed = bounds.state_bits if bounds else 0
    raise CompileError(
        layer.node.name,
        f"a state may need {needed} bits, the chip has {numerics.state_bits}",
        f"fewer weight bits than {weight_bits}, a smaller fan-in or fewer time steps keep it small",
    )


def _synapses(node: Conv2d | Linear, weight: Array, scale: Array, weight_bits: int, fraction: int) -> QuantSynapses:
    if node.delay_steps is None:
        raise CompileError(node.name, "has no delay", "align the delays first")
    geometry = (
        {"stride": node.stride, "padding": node.padding, "dilation": node.dilation, "groups": node.groups}
        if isinstance(node, Conv2d)
        else {}
    )
    return QuantSynapses(
        name=node.name,
        source=node.inputs[0],
        kind="conv" if isinstance(node, Conv2d) else "linear",
        weight=_rint(weight / scale.reshape(-1, *(1,) * (weight.ndim - 1))),
        weight_bits=weight_bits,
        exponent=fraction,
        pool=node.pool,
        delay_steps=node.delay_steps,
        **geometry,  # type: ignore[arg-type]
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
    )


def _rint(values: Array) -> IntArray:
    return np.rint(values).astype(np.int64)
