"""From the folded float network to integers: per-channel weights, thresholds, biases and proven state widths."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from snncompile.chip import Numerics
from snncompile.encoding import Encoder, Kind
from snncompile.errors import CompileError, nearest
from snncompile.network import (
    INPUT_PAYLOAD_MAX,
    NO_MEMORY,
    SYNAPSES,
    Array,
    Fire,
    MultiThresholdLIF,
    Network,
    Readout,
    Synapses,
)
from snncompile.quant_network import DECAY_ONE, MIX_SHIFT, IntArray, Population, QuantNetwork, QuantSynapses
from snncompile.quantization.layer import (
    Layer,
    RoundedLayer,
    exponent_of,
    host_layer,
    integer_synapses,
    round_layer,
)
from snncompile.quantization.rounding import Rounding, following
from snncompile.quantization.state_bounds import prove


@dataclass(frozen=True, eq=False)
class HostScales:
    """What integers mean, kept on the host and never on the chip.

    encoder: what makes payloads of data. state[population] (channels,): value of one unit of the state.
    output_scale: the readout's state times this is the network's output.
    """

    encoder: Encoder
    state: dict[str, Array]
    output_scale: float


def quantize(
    network: Network, numerics: Numerics, weight_bits: int = 8, how: Rounding | None = None
) -> tuple[QuantNetwork, HostScales]:
    """Rounds to nearest: w = rint(W / s), thresholds, bias, v0 = rint(x * 2^F / s), decay = rint((1 - leak) * 4096).

    s is one scale per output channel, max |W| / (2^(bits-1) - 1), shared by all synapses into a neuron; a threshold is
    scale-free, so it costs nothing. Where several layers of synapses meet, s is that of the finest, and a unit of the
    others' weights is worth 2^e * s. The readout has one scale for all classes, so that its states compare as they are.
    how: another way to choose s and to round the weights, and the bits of single layers (`rounding.Rounding`).
    F, the fractional bits of the state, is the largest up to the chip's for which `state_bounds.prove` shows that no
    state overflows; weights of b bits fewer than the chip's widest get up to b more, so that states keep their unit.
    A layer whose states are too wide even at F = 0 gets fewer weight bits (`QuantSynapses.weight_bits` says how many).
    Thresholds and biases are rounded on to what the chip can hold (`Numerics`); on a chip that fires only above a
    threshold, "at or above" becomes "above the next smaller one".
    An analog image on a chip of binary spikes becomes the first population's input current, computed by the host
    (`encoding.Encoder`, currents).
    Needs: a folded, aligned network. Raises CompileError naming the layer: bits, leak or payload the chip does not
    have, or a state that is too wide at the fewest weight bits.
    """
    how = how or Rounding()
    _check_numerics(network, numerics, weight_bits, how)
    how = following(network, how, weight_bits)
    units = {network.input.name: 1.0 if network.input.coding != "direct" else 1 / INPUT_PAYLOAD_MAX}
    populations: list[Population] = []
    synapses: list[QuantSynapses] = []
    states: dict[str, Array] = {}
    head, encoder = _head(network, numerics), None
    for node in network.nodes:
        if not isinstance(node, MultiThresholdLIF) and not (isinstance(node, Readout) and not _counts(node, network)):
            continue
        incoming = [n for n in network.nodes if n.name in node.inputs and isinstance(n, SYNAPSES)]
        layer = Layer(
            _as_neuron(node), incoming, [units.get(n.inputs[0], 1.0) for n in incoming], network.shapes[node.name]
        )
        if layer.node.unit is not None:
            layer = replace(layer, scale=np.full(layer.shape[0], layer.node.unit))
        before = replace(head, populations=tuple(populations))
        if layer.bias.any() and layer.node.current_leak is not None and not numerics.current_bias:
            hint = "train without bias (and without batch norm), or use a target that can, e.g. loihi2-sim"
            raise CompileError(node.name, "its bias acts through a synaptic current; the chip adds it after", hint)
        if head.input_kind == "currents" and any(s.inputs[0] == network.input.name for s in incoming):
            if encoder is not None:
                raise CompileError(
                    node.name,
                    f"reads the input, as {populations[0].name} does",
                    "where spikes are binary the host computes the current of one population; try --input-coding rate",
                )
            layer, encoder = host_layer(layer, network, head.input_payload_max, numerics.state_bits)
            before = head = replace(head, input_shape=layer.shape)
        added, population, states[node.name] = _quantize_layer(layer, before, numerics, weight_bits, how)
        synapses += added
        populations.append(population)
        if how.propagation is not None:
            how.propagation.advance(node, added, population, states[node.name])
    quantized = replace(head, synapses=tuple(synapses), populations=tuple(populations))
    return quantized, HostScales(encoder or _encoder(network, head), states, _output_scale(network, states))


def _head(network: Network, numerics: Numerics) -> QuantNetwork:
    """The integer network without its layers: what the host sends."""
    on_host = network.input.coding == "direct" and not numerics.graded_spikes
    largest = network.input.largest if network.input.coding == "events" else INPUT_PAYLOAD_MAX
    if on_host:
        largest = 2 ** ((numerics.bias_mantissa_bits or numerics.state_bits) - 1) - 1
    elif network.input.coding == "rate" or not numerics.graded_spikes:
        largest = 1
    return QuantNetwork(
        network.input.name,
        network.input.shape,
        largest,
        (),
        (),
        network.timesteps,
        network.microsteps,
        "currents" if on_host else "spikes",
    )


def _encoder(network: Network, head: QuantNetwork) -> Encoder:
    kinds: dict[str, Kind] = {"direct": "pixels", "events": "events", "rate": "rate"}
    steps = network.timesteps // network.microsteps
    kind = kinds[network.input.coding]
    return Encoder(kind, network.input.scale, network.input.shape, steps, head.input_payload_max)


def _counts(readout: Readout, network: Network) -> bool:
    """Whether a readout is fed by a neuron population, whose payloads the host adds up."""
    return isinstance(network.by_name[readout.inputs[0]], MultiThresholdLIF)


def _output_scale(network: Network, states: dict[str, Array]) -> float:
    readout = network.readout
    if not _counts(readout, network):
        kappa = readout.total(network.timesteps // network.microsteps)
        return float(states[readout.name][0]) * readout.scale / kappa
    if readout.leak != 1 or readout.current_leak is not None:
        raise CompileError(
            readout.name,
            f"weighs spikes of {readout.inputs[0]} by a leak of {readout.leak:g}",
            "let a linear layer come between",
        )
    if network.by_name[readout.inputs[0]] is not network.neurons[-1]:
        raise CompileError(readout.name, f"counts spikes of {readout.inputs[0]}, which is not the last population")
    if network.neurons[-1].members > 1:
        raise CompileError(
            readout.name,
            f"counts spikes of {readout.inputs[0]}, whose levels are spread over several neurons",
            "let a linear layer come between",
        )
    return readout.scale * network.microsteps / network.timesteps


def _as_neuron(node: MultiThresholdLIF | Readout) -> MultiThresholdLIF:
    """A readout sums its input: a neuron without thresholds."""
    if isinstance(node, MultiThresholdLIF):
        return node
    none, current_leak = np.zeros(0), node.current_leak
    return MultiThresholdLIF(
        node.name, node.inputs, none, none, none, node.leak, "none", "ge", depth=node.depth, current_leak=current_leak
    )


def _check_numerics(network: Network, numerics: Numerics, weight_bits: int, how: Rounding) -> None:
    for where, bits in (("--weight-bits", weight_bits), *how.bits.items()):
        if bits not in numerics.weight_bits:
            allowed = ", ".join(map(str, numerics.weight_bits))
            raise CompileError(where, f"the chip has no {bits}-bit weights", f"allowed: {allowed}")
    known = [node.name for node in network.nodes if isinstance(node, SYNAPSES)]
    for name in how.bits:
        if name not in known:
            raise CompileError(name, "has a number of weight bits and is no layer of weights", nearest(name, known))
    payloads = {network.input.name: INPUT_PAYLOAD_MAX} | {n.name: int(n.payload.max()) for n in network.neurons}
    if network.input.coding != "direct":
        del payloads[network.input.name]
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
    leak = np.atleast_1d(node.leak)
    if (_decay(leak[leak > NO_MEMORY]) == DECAY_ONE).any():
        raise CompileError(node.name, f"leak {leak.min():g} rounds to 0 in {numerics.decay_bits} bits")
    if leak.max() > 1 and not numerics.leak_above_one:
        raise CompileError(
            node.name, f"leak is {leak.max():g}", "the chip's neurons have no leak above 1; train with learn_leak=False"
        )
    _check_dynamics(node, numerics)
    if node.mixing is not None and not numerics.step_mixing:
        raise CompileError(node.name, "mixes the steps of its input (T-GIM)", "the chip's neurons cannot store them")


def _check_dynamics(node: MultiThresholdLIF, numerics: Numerics) -> None:
    """What a neuron has beyond a leaky membrane, against what the chip's neurons have."""
    wanted = {
        "a synaptic current": (node.current_leak is not None, numerics.synaptic_current),
        "an adaptive threshold": (node.adapt_leak is not None, numerics.adaptive_threshold),
        "a lower bound of its state": (node.floor is not None, numerics.state_floor),
    }
    for what, (has, can) in wanted.items():
        if has and not can:
            raise CompileError(node.name, f"has {what}", "the chip's neurons do not; loihi2-sim's do")
    leaks = np.broadcast_arrays(node.leak, 0 if node.current_leak is None else node.current_leak)
    pairs = np.unique(np.stack([_decay(np.atleast_1d(leak)) for leak in leaks]), axis=1).shape[1]
    if numerics.decays_max is not None and pairs > numerics.decays_max:
        problem = f"has {pairs} different pairs of leaks"
        raise CompileError(node.name, problem, f"a core of the chip has {numerics.decays_max}; loihi2-sim any number")


def _quantize_layer(
    layer: Layer, before: QuantNetwork, numerics: Numerics, weight_bits: int, how: Rounding
) -> tuple[list[QuantSynapses], Population, Array]:
    """The layer after the populations of `before`: synapses, population, value of one unit of its state (channels,).

    Where the state is too wide even at F = 0, the layer's weights get fewer bits, as few as the chip has.
    """
    bits, needed = {s.name: how.bits.get(s.name, weight_bits) for s in layer.forward}, 0
    while True:
        found, bits_needed = _rounded_layer(
            layer, before, numerics, weight_bits, replace(how, bits={**how.bits, **bits})
        )
        if found is not None:
            return found
        needed = needed or bits_needed
        narrower = {
            name: max((b for b in numerics.weight_bits if b < width), default=0) for name, width in bits.items()
        }
        if layer.scale is not None or not narrower or min(narrower.values()) == 0:
            break
        bits = narrower
    raise CompileError(
        layer.node.name,
        f"a state may need {needed} bits, the chip has {numerics.state_bits}",
        f"fewer weight bits than {weight_bits}, a smaller fan-in or fewer time steps keep it small",
    )


def _rounded_layer(
    layer: Layer, before: QuantNetwork, numerics: Numerics, weight_bits: int, how: Rounding
) -> tuple[tuple[list[QuantSynapses], Population, Array] | None, int]:
    """The layer at the largest F its states and constants fit at, or None; and the state bits that it needs."""
    rounded = round_layer(layer, weight_bits, how, max(numerics.weight_bits), numerics.state_bits)
    needed, unshifted = 0, _unshifted(layer, rounded)
    fewest = 0 if layer.node.unit is None else numerics.fraction_bits_max
    _check_kept(layer, rounded)
    fraction, weights = numerics.fraction_bits_max + rounded.finer, layer.weights
    while True:
        unit = rounded.scale / 2**fraction
        synapses = [
            unshifted[node.name].shifted(fraction + rounded.exponents[node.name])
            if node.name in unshifted
            else _synapses(node, weight, rounded, fraction)
            for node, weight in zip(layer.synapses, weights, strict=True)
        ]
        population = _population(layer, rounded.bias, synapses, unit, numerics)
        network = replace(before, synapses=tuple(synapses), populations=(*before.populations, population))
        bounds = prove(network, population)
        needed = bounds.state_bits
        if needed <= numerics.state_bits and _holds(synapses, population, numerics):
            proven = replace(population, input_bits=bounds.input_bits, state_bits=needed)
            return (synapses, proven, unit), needed
        # each step down halves the states; rounding takes off at most one bit more over all of them
        if fraction == fewest:
            break
        fraction = max(fewest, fraction - max(1, needed - numerics.state_bits - 1))
    if needed <= numerics.state_bits:
        raise CompileError(
            layer.node.name,
            "a bias, a threshold or a weight is beyond what the chip's fields hold",
            "train with weights and thresholds of one magnitude",
        )
    return None, needed


def _check_kept(layer: Layer, rounded: RoundedLayer) -> None:
    """Raises CompileError where a network that was quantised elsewhere would lose an integer."""
    if layer.node.unit is None:
        return
    for s, weight in zip(layer.forward, layer.forward_weights, strict=True):
        kept = rounded.weights[s.name] * s.per_weight(rounded.scale * 2.0 ** rounded.exponents[s.name])
        if not np.allclose(kept, weight, rtol=1e-9, atol=0):
            largest = float(np.abs(weight).max()) / layer.node.unit
            raise CompileError(
                s.name,
                f"has integer weights up to {largest:g} that {rounded.bits[s.name]} bits do not hold",
                "more --weight-bits keep them, or import the network as floats",
            )


def _holds(synapses: list[QuantSynapses], population: Population, numerics: Numerics) -> bool:
    """Whether the chip's fields for thresholds, biases and exponents hold these."""
    threshold_bits = numerics.threshold_mantissa_bits or numerics.state_bits
    constants = np.concatenate([population.thresholds.ravel(), population.subtract.ravel(), [0]])
    if constants.max() >> numerics.threshold_shift >= 2**threshold_bits:
        return False
    if numerics.exponent_max is not None and max(s.exponent for s in synapses) > numerics.exponent_max:
        return False
    added = [population.bias] if population.drive is None else [population.bias, population.drive]
    return all(_bias_exponent(values, numerics) is not None for values in added)


def _bias_exponent(bias: IntArray, numerics: Numerics) -> int | None:
    """The smallest exponent at which the chip's mantissa holds every bias; None where there is none."""
    if numerics.bias_mantissa_bits is None:
        return 0
    mantissa_max = 2 ** (numerics.bias_mantissa_bits - 1) - 1
    exponents = range((numerics.bias_exponent_max or 0) + 1)
    return next((e for e in exponents if np.abs(np.rint(bias / 2**e)).max() <= mantissa_max), None)


def _unshifted(layer: Layer, rounded: RoundedLayer) -> dict[str, QuantSynapses]:
    """The forward synapses of a layer, by name, with exponent 0; their sums are found once for all fractions."""
    for node in layer.synapses:
        if node.delay_steps is None:
            raise CompileError(node.name, "has no delay", "align the delays first")
    forward = (node for node in layer.synapses if node.name in rounded.weights)
    found = {
        node.name: integer_synapses(node, rounded.weights[node.name], rounded.bits[node.name], 0) for node in forward
    }
    for synapses in found.values():
        _ = synapses.row_sums
    return found


def _synapses(node: Synapses, weight: Array, rounded: RoundedLayer, fraction: int) -> QuantSynapses:
    bits = rounded.bits[node.name]
    finer = min(rounded.finer, fraction)
    fine = rounded.scale / 2**finer
    exponent = exponent_of(node, weight, fine, bits)
    unit = node.per_weight(fine * 2**exponent)
    return integer_synapses(node, _rint(weight / unit), bits, fraction - finer + exponent)


def _population(
    layer: Layer, exact_bias: Array, synapses: list[QuantSynapses], unit: Array, numerics: Numerics
) -> Population:
    """`unit` (channels,): value of one unit of the state. Widths are filled in once they are proven."""
    node = layer.node
    if node.depth is None:
        raise CompileError(node.name, "has no depth", "align the delays first")
    into_current = node.current_leak is not None and not numerics.current_bias
    bias = np.zeros(len(unit), np.int64) if into_current else _held(exact_bias / unit, numerics)
    fire, thresholds, subtract = _comparison(layer, synapses, unit, bias, numerics)
    return Population(
        name=node.name,
        shape=layer.shape,
        synapses=tuple(s.name for s in layer.synapses),
        bias=bias,
        v0=_rint(_each(node.v0, unit) / unit),
        thresholds=thresholds,
        payload=_rint(node.payload),
        subtract=subtract,
        decay=_decay(_each(node.leak, unit)),
        reset=node.reset,
        fire=fire,
        depth=node.depth,
        input_bits=0,
        state_bits=0,
        mixing=None if node.mixing is None else _rint(node.mixing * 2**MIX_SHIFT),
        members=node.members,
        open_steps=node.open_steps,
        current_decay=None if node.current_leak is None else _decay(_each(node.current_leak, unit)),
        drive=None if node.drive is None else _held(node.drive / unit, numerics),
        floor=None if node.floor is None else _rint(_each(node.floor, unit) / unit),
        **_adaptation(node, unit),
    )


def _held(values: Array, numerics: Numerics) -> IntArray:
    """Constants that the chip adds in every step, rounded to what its mantissa and exponent hold."""
    rounded = _rint(values)
    step = 2 ** (_bias_exponent(rounded, numerics) or 0)
    return _rint(rounded / step) * step


def _adaptation(node: MultiThresholdLIF, unit: Array) -> dict[str, Any]:
    if node.adapt_leak is None:
        return {}
    step, start = (_rint(_each(values, unit) / unit) for values in (node.adapt_step, node.adapt_start))
    decay = _decay(_each(node.adapt_leak, unit))
    return {"adapt_decay": decay, "adapt_step": step, "adapt_start": start, "adapt_resets": node.adapt_resets}


def _decay(leak: Array) -> IntArray:
    """(channels,) decays in units of 1/4096."""
    return _rint((1 - leak) * DECAY_ONE)


def _each(values: float | Array, unit: Array) -> Array:
    """One number, or one a channel, as (channels,)."""
    return np.broadcast_to(np.asarray(values, np.float64), unit.shape)


def _comparison(
    layer: Layer, synapses: list[QuantSynapses], unit: Array, bias: IntArray, numerics: Numerics
) -> tuple[Fire, IntArray, IntArray]:
    """How the population compares, its thresholds and what a soft reset subtracts, (levels, channels) each.

    Both are multiples of the grid 2^threshold_shift. Where the chip only fires above a threshold, u >= theta becomes
    u > theta - 1 in state units; of the grid the value below it where every state lies on the grid (then exact: no
    leak, inputs, bias and v0 on the grid), else the nearest.
    """
    node, grid = layer.node, 1 << numerics.threshold_shift
    thetas, subtract = (_rint(_by_channel(values, unit) / unit) for values in (node.thresholds, node.subtract))
    subtract = _rint(subtract / grid) * grid
    if node.fire in numerics.fire:
        thetas, fire = _rint(thetas / grid) * grid, node.fire
    else:
        start = _rint(_each(node.v0, unit) / unit)
        on_grid = np.all(np.asarray(node.leak) == 1) and not node.beyond_lif and node.drive is None
        on_grid = on_grid and not (bias % grid).any() and not (start % grid).any()
        on_grid = on_grid and all(s.exponent >= numerics.threshold_shift for s in synapses)
        thetas, fire = ((thetas - 1) // grid if on_grid else _rint((thetas - 1) / grid)) * grid, "gt"
    thetas = np.maximum(thetas, grid)
    if (np.diff(thetas, axis=0) <= 0).any():
        raise CompileError(
            node.name, "two of its thresholds are the same integer", "train with thresholds further apart"
        )
    return fire, thetas, subtract


def _by_channel(values: Array, unit: Array) -> Array:
    """(levels,) or (levels, channels) as (levels, channels)."""
    return np.broadcast_to(values[:, None] if values.ndim == 1 else values, (len(values), len(unit)))


def _rint(values: Array) -> IntArray:
    return np.rint(values).astype(np.int64)
