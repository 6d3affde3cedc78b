"""What every node means: slow, obvious interpreters of the float and of the integer network.

All else (passes, simulator, Lava) is tested against this file. `run_float` and `run_integer` go layer by layer, all T
steps of a layer before the next layer; `run_on_chip_clock` runs the integer network as a chip does, one step of every
population at a time, spikes arriving one step after they are sent, samples following each other every T steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snncompile.network import (
    SYNAPSES,
    Array,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Flatten,
    Linear,
    MultiThresholdLIF,
    Network,
    Node,
    Pair,
    Readout,
    Shape,
    Sparse,
)
from snncompile.quant_network import MIX_SHIFT, IntArray, Population, QuantNetwork, QuantSynapses
from snncompile.quantization.state_bounds import decay


@dataclass(frozen=True, eq=False)
class FloatTrace:
    """Every node's output (T, N, ...), every neuron's u before firing (T, N, ...), and the readout (N, classes)."""

    outputs: dict[str, Array]
    membranes: dict[str, Array]
    output: Array


@dataclass(frozen=True, eq=False)
class IntegerTrace:
    """Per population: payloads sent and u before firing (T, N, ...); readout state after step T (N, classes)."""

    payloads: dict[str, IntArray]
    membranes: dict[str, IntArray]
    output: IntArray


def run_float(network: Network, x: NDArray[np.generic]) -> FloatTrace:
    """Runs x (N, *input shape), for event input (N, T, *input shape), through the float network in float64."""
    values = network.input.scale * np.asarray(x, np.float64)
    if network.input.coding == "rate":
        values = rate_coded(values, network.timesteps // network.microsteps).astype(np.float64)
    outputs = {network.input.name: input_steps(values, network.input.shape, network.timesteps, network.microsteps)}
    membranes: dict[str, Array] = {}
    for node in network.nodes[1:]:
        y = np.sum([outputs[name] for name in node.inputs if name in outputs], axis=0)
        y = lagged(y, node.lag) if isinstance(node, SYNAPSES) else y
        if isinstance(node, MultiThresholdLIF):
            laterals = [network.by_name[name] for name in network.laterals(node)]
            outputs[node.name], membranes[node.name] = float_neurons(node, y, laterals, network.microsteps)
        elif isinstance(node, Readout):
            weights = np.repeat(node.weights(len(y) // network.microsteps), network.microsteps)
            outputs[node.name] = np.tensordot(weights, y, 1)[None]
        else:
            outputs[node.name] = np.stack([stateless(node, step) for step in y])
    return FloatTrace(outputs, membranes, outputs[network.readout.name][0])


def input_steps(x: NDArray[Any], shape: Shape, timesteps: int, microsteps: int) -> NDArray[Any]:
    """What the host sends in each of the chip's steps, (timesteps, N, *shape).

    x (N, *shape) is the same at every time step, x (N, T, *shape) has a frame for each; sent in its first micro-step.
    """
    frames = x[:, None] if x.ndim == 1 + len(shape) else x
    sent = np.zeros((timesteps, len(x), *shape), x.dtype)
    sent[::microsteps] = frames.swapaxes(0, 1)
    return sent


def rate_coded(p: NDArray[np.float64], timesteps: int) -> IntArray:
    """Spikes (N, T, ...) of values p in 0..1 (N, ...), spread evenly; their mean over t is p rounded to 1/T.

    In time step t = 0..T-1: floor((t+1) p + 1/2) - floor(t p + 1/2).
    """
    steps = np.arange(timesteps + 1).reshape(-1, *(1,) * p.ndim)
    return np.diff(np.floor(steps * p + 0.5), axis=0).astype(np.int64).swapaxes(0, 1)


def stateless(node: Node, x: Array) -> Array:
    """One step of a node without state; x (N, ...)."""
    match node:
        case Conv2d():
            x = sum_pool(sum_members(x, node.members), node.pool)
            y = convolve(x, node.weight, node.stride, node.padding, node.dilation, node.groups)
            return y + _per_channel(node.bias, y)
        case Linear():
            return sum_pool(sum_members(x, node.members), node.pool).reshape(len(x), -1) @ node.weight.T + node.bias
        case Sparse():
            s = sum_pool(sum_members(x, node.members), node.pool).reshape(len(x), -1)
            return listed_product(s, node.weight, node.row, node.column, node.features) + node.bias
        case BatchNorm():
            gamma, beta, mean, var = (_per_channel(p, x) for p in (node.gamma, node.beta, node.mean, node.var))
            return gamma * (x - mean) / np.sqrt(var + node.eps) + beta
        case AvgPool2d():
            return sum_pool(x, node.kernel) / (node.kernel[0] * node.kernel[1])
        case Flatten():
            return x.reshape(len(x), -1)
    raise TypeError(f"{node.name}: the reference does not know {node.kind}")


def float_neurons(
    node: MultiThresholdLIF, current: Array, laterals: Sequence[Node] = (), microsteps: int = 1
) -> tuple[Array, Array]:
    """Payloads and membranes before firing for input currents (T, N, ...); lateral synapses add theirs.

    Before the first step a population sent nothing: of its lateral synapses only the bias acts in it.
    """
    table = np.concatenate([[0.0], node.payload])
    reached: Callable[[Array, Array], NDArray[np.bool_]] = np.greater_equal if node.fire == "ge" else np.greater
    if node.mixing is not None:
        current = np.tensordot(node.mixing, current, 1)
    parameters = (node.leak, node.current_leak, node.drive, node.adapt_leak, node.adapt_step, node.adapt_start)
    leak, current_leak, drive, adapt_leak, adapt_step, a = (
        _per_channel(np.asarray(0.0 if value is None else value), current[0]) for value in parameters
    )
    silence, k = np.zeros_like(current[0]), np.zeros(current[0].shape, np.int64)
    v, i = silence + _per_channel(np.asarray(node.v0), silence), silence
    sent: list[Array] = []
    membranes = []
    for t, step in enumerate(current):
        micro = t % microsteps
        i = (
            current_leak * i
            + step
            + sum(stateless(synapses, _before(sent, t, synapses, silence)) for synapses in laterals)
        )
        u = (leak if micro == 0 else 1.0) * v + i + drive
        if node.adapt_leak is not None:
            a = adapt_leak * a + adapt_step * k
            u = u - np.where(k > 0, a, 0.0) if node.adapt_resets else u
        k = np.zeros(u.shape, np.int64)
        if node.open_steps is None or micro < node.open_steps:
            k = np.sum([reached(u, _per_channel(theta, u) + a) for theta in node.thresholds], axis=0)
        v = {"soft": u - _at_level(node.subtract, k), "hard": np.where(k > 0, 0.0, u), "none": u}[node.reset]
        v = v if node.floor is None else np.maximum(v, _per_channel(np.asarray(node.floor), v))
        sent.append(table[k])
        membranes.append(u)
    return np.stack(sent), np.stack(membranes)


def _before(sent: Sequence[Array], t: int, synapses: Node, like: Array) -> Array:
    """What lateral synapses carry in step t: what was sent one step and their lag before."""
    at = t - 1 - (synapses.lag if isinstance(synapses, SYNAPSES) else 0)
    return sent[at] if at >= 0 else np.zeros_like(like)


def lagged(x: NDArray[Any], lag: int) -> NDArray[Any]:
    """x (T, ...) `lag` steps later: 0 in the first ones, and what would act after the last step is lost."""
    if lag == 0:
        return x
    return np.concatenate([np.zeros_like(x[:lag]), x[: max(len(x) - lag, 0)]])


def _at_level(values: NDArray[Any], k: NDArray[np.int64]) -> NDArray[Any]:
    """values[k-1], 0 where k = 0; values (levels,) or (levels, channels), k (N, channels, ...)."""
    found = np.zeros(k.shape, values.dtype)
    for level, value in enumerate(values, 1):
        found = np.where(k == level, _per_channel(value, k), found)
    return found


def run_integer(network: QuantNetwork, payloads: NDArray[np.integer]) -> IntegerTrace:
    """Runs input payloads (N, *input shape) or frames (N, T, *input shape) through the integer network in int64."""
    image = np.asarray(payloads, np.int64)
    sent = {network.input_name: input_steps(image, network.input_shape, network.timesteps, network.microsteps)}
    membranes = {}
    for population in network.populations:
        synapses = [(s, lagged(sent[s.source], s.lag)) for s in forward_inputs(network, population)]
        arriving = [sum(integer_current(s, spikes[t]) for s, spikes in synapses) for t in range(network.timesteps)]
        state = initial_state(population, len(image))
        own: list[IntArray] = []
        steps = []
        for t, current in enumerate(input_currents(population, np.stack(arriving))):
            lateral = [(s, t - 1 - s.lag) for s in laterals(network, population)]
            of_own = sum(integer_current(s, own[at]) for s, at in lateral if at >= 0)
            u, k, state = step_population(population, state, current + of_own, t % network.microsteps)
            own.append(emitted(population, k))
            steps.append(u)
        sent[population.name], membranes[population.name] = np.stack(own), np.stack(steps)
    return IntegerTrace(sent, membranes, sent[network.readout.name].sum(0) if network.readout.spiking else state.v)


def forward_inputs(network: QuantNetwork, population: Population) -> list[QuantSynapses]:
    """Synapses into a population that come from elsewhere."""
    return [s for s in network.inputs_of(population) if s.source != population.name]


def laterals(network: QuantNetwork, population: Population) -> list[QuantSynapses]:
    """Synapses of a population into itself."""
    return [s for s in network.inputs_of(population) if s.source == population.name]


def run_on_chip_clock(network: QuantNetwork, payloads: NDArray[np.integer]) -> IntegerTrace:
    """The same on the chip's clock: N samples back to back in N*T + depth chip steps, every population in every step.

    In chip step c the population at depth d does logical step c - d: before the first it does nothing, at the first
    step of a sample its state is v0; bias, leak and reset are thereby shifted by d. A spike sent in step c is added up
    at its target in step c + delay_steps; one that a population sends itself, only within its sample. A population that
    mixes steps stores what arrives for as many steps more as it waits.
    """
    image = np.asarray(payloads, np.int64)
    logical_steps = len(image) * network.timesteps
    stream = input_steps(image, network.input_shape, network.timesteps, network.microsteps)
    sent = {network.input_name: stream.swapaxes(0, 1).reshape(-1, *network.input_shape)}
    sent |= {p.name: np.zeros((logical_steps, *p.shape), np.int64) for p in network.populations}
    membranes = {p.name: np.zeros((logical_steps, *p.shape), np.int64) for p in network.populations}
    arrived = {p.name: np.zeros((logical_steps, *p.shape), np.int64) for p in network.populations}
    depths = {network.input_name: 0} | {p.name: p.depth for p in network.populations}
    state = {p.name: initial_state(p, 1) for p in network.populations}
    output = np.zeros((len(image), *network.readout.shape), np.int64)
    for chip_step in range(logical_steps + network.depth):
        for population in network.populations:
            name, t = population.name, chip_step - population.depth
            arriving = t + population.waits
            if 0 <= arriving < logical_steps:
                for s in forward_inputs(network, population):
                    at = chip_step - s.delay_steps - depths[s.source] - s.lag
                    if at >= arriving - arriving % network.timesteps:  # what was sent in the sample before is lost
                        arrived[name][arriving] += integer_current(s, sent[s.source][at][None])[0]
            if not 0 <= t < logical_steps:
                continue
            sample, step = divmod(t, network.timesteps)
            if step == 0:
                state[name] = initial_state(population, 1)
            stored = arrived[name][t - step : t - step + network.timesteps, None]
            current = input_currents(population, stored)[step]
            for s in laterals(network, population):
                if step > s.lag:
                    current = current + integer_current(s, sent[name][t - 1 - s.lag][None])
            u, k, state[name] = step_population(population, state[name], current, step % network.microsteps)
            sent[name][t], membranes[name][t] = emitted(population, k)[0], u[0]
            if population is network.readout:
                output[sample] = output[sample] + sent[name][t] if population.spiking else state[name].v[0]
    return IntegerTrace(_by_sample(sent, network.timesteps), _by_sample(membranes, network.timesteps), output)


def _by_sample(steps: dict[str, IntArray], timesteps: int) -> dict[str, IntArray]:
    """(N*T, ...) -> (T, N, ...) for every population."""
    return {name: v.reshape(-1, timesteps, *v.shape[1:]).swapaxes(0, 1) for name, v in steps.items()}


@dataclass(frozen=True, eq=False)
class State:
    """A population between two steps, each (N, *shape): membrane, synaptic current, adaptation, level of the last."""

    v: IntArray
    i: IntArray
    h: IntArray
    k: IntArray

    @classmethod
    def of(cls, v: IntArray) -> "State":
        """A membrane, and nothing else that is not 0."""
        zeros = np.zeros_like(v)
        return cls(v, zeros, zeros, zeros)


def initial_state(population: Population, samples: int) -> State:
    """Every neuron before a sample's first step."""
    zeros = np.zeros((samples, *population.shape), np.int64)
    start = zeros if population.adapt_start is None else zeros + _per_channel(population.adapt_start, zeros)
    return State(zeros + _per_channel(population.v0, zeros), zeros, start, zeros)


def integer_current(synapses: QuantSynapses, payloads: IntArray) -> IntArray:
    """(W s) << exponent for one step of payloads (N, ...)."""
    read = payloads if synapses.reads is None else payloads[:, slice(*synapses.reads)]
    s = sum_pool(sum_members(read, synapses.members), synapses.pool)
    if synapses.kind == "sparse":
        a = listed_product(s.reshape(len(s), -1), synapses.weight, *synapses.listed, synapses.channels)
    elif synapses.kind == "linear":
        a = s.reshape(len(s), -1) @ synapses.weight.T
    else:
        a = convolve(s, synapses.weight, synapses.stride, synapses.padding, synapses.dilation, synapses.groups)
    return a << synapses.exponent


def input_currents(population: Population, arriving: IntArray) -> IntArray:
    """I of all T steps from a of all T steps, both (T, N, *shape)."""
    biased = arriving + _per_channel(population.bias, arriving[0])
    if population.mixing is None:
        return biased
    return np.tensordot(population.mixing, biased, 1) >> MIX_SHIFT


def step_population(
    population: Population, state: State, current: IntArray, micro: int = 0
) -> tuple[IntArray, IntArray, State]:
    """One step on the input I: (u before firing, level k, the state after it); u, k (N, *shape).

    micro: which micro-step of its time step this is. The level of a population that sends its sum is that sum.
    """
    if population.sums:
        return current, current, state
    like = state.v
    i: IntArray = current
    if population.current_decay is not None:
        i = decay(state.i, _per_channel(population.current_decay, like)) + current
    u = (decay(like, _per_channel(population.decay, like)) if micro == 0 else like) + i
    u = u if population.drive is None else u + _per_channel(population.drive, like)
    h = state.h
    if population.adapt_decay is not None and population.adapt_step is not None:
        step: IntArray = _per_channel(population.adapt_step, like)
        h = decay(h, _per_channel(population.adapt_decay, like)) + step * state.k
        if population.adapt_resets:
            u = u - h * (state.k > 0)
    k = np.zeros_like(u)
    for threshold in population.thresholds if population.is_open(micro) else ():
        theta = _per_channel(threshold, u) + h
        k += u >= theta if population.fire == "ge" else u > theta
    v: IntArray = u
    if population.reset == "soft":
        v = u - _at_level(population.subtract, k)
    elif population.reset == "hard":
        v = np.where(k > 0, 0, u)
    v = v if population.floor is None else np.maximum(v, _per_channel(population.floor, v))
    return u, k, State(v, i, h, k)


def emitted(population: Population, k: IntArray) -> IntArray:
    """Payload of level k; 0 (no spike) for k = 0."""
    if population.sums:
        return k
    return np.concatenate([np.zeros(1, np.int64), population.payload])[k]


def sum_members(x: NDArray[Any], members: int) -> NDArray[Any]:
    """x (N, C * members, ...) with every `members` consecutive channels added up."""
    if members == 1:
        return x
    summed: NDArray[Any] = x.reshape(len(x), -1, members, *x.shape[2:]).sum(2)
    return summed


def sum_pool(x: NDArray[Any], window: Pair) -> NDArray[Any]:
    """Sum over non-overlapping windows of the last two axes; what fills no window is left out."""
    if window == (1, 1):
        return x
    height, width = (n // w for n, w in zip(x.shape[-2:], window, strict=True))
    trimmed = x[..., : height * window[0], : width * window[1]]
    return trimmed.reshape(*x.shape[:-2], height, window[0], width, window[1]).sum((-3, -1))


def listed_product(
    s: NDArray[Any], weight: NDArray[Any], row: NDArray[np.int64], column: NDArray[np.int64], features: int
) -> NDArray[Any]:
    """W s for s (N, n) and the matrix W (features, n) that is weight[i] at (row[i], column[i]), else 0."""
    y = np.zeros((len(s), features), np.result_type(s, weight))
    for sample, values in zip(y, s, strict=True):
        np.add.at(sample, row, weight * values[column])
    return y


def convolve(
    x: NDArray[Any], weight: NDArray[Any], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> NDArray[Any]:
    """Cross-correlation of x (N, C, H, W) with weight (O, C/groups, kh, kw), zero padding; as torch's conv2d.

    Features x (N, n) are images (N, n, 1, 1).
    """
    if x.ndim == 2:
        return convolve(x[..., None, None], weight, stride, padding, dilation, groups)[..., 0, 0]
    out, fan_in, kh, kw = weight.shape
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    height = (x.shape[2] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    width = (x.shape[3] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((len(x), out, height, width), x.dtype)
    for ky in range(kh):
        for kx in range(kw):
            top, left = ky * dilation[0], kx * dilation[1]
            seen = x[:, :, top : top + stride[0] * height : stride[0], left : left + stride[1] * width : stride[1]]
            for g in range(groups):
                rows, columns = slice(g * out // groups, (g + 1) * out // groups), slice(g * fan_in, (g + 1) * fan_in)
                y[:, rows] += np.moveaxis(np.tensordot(weight[rows, :, ky, kx], seen[:, columns], (1, 1)), 0, 1)
    return y


def _per_channel(values: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
    """(channels,), or one number, shaped to broadcast over like (N, channels, ...)."""
    return np.reshape(values, (-1, *(1,) * (like.ndim - 2)))
