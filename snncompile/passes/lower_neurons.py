"""Multi-threshold neurons become what the chip has: graded neurons, binary members, or bursts of binary spikes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from snncompile.chip import Numerics
from snncompile.lowering import Lowered, Mode, is_spread, levels, plan
from snncompile.network import Array, Conv2d, MultiThresholdLIF, Network, Node, Readout, Sparse, Synapses, in_order
from snncompile.quant_network import pooled_shape

EQUAL = 1e-12
"""Relative; members whose inhibition differs by less share their lateral synapses (theta, 2 theta, ... in floats)."""


@dataclass(frozen=True)
class LowerNeurons:
    """Applies `lowering.plan` for one chip; what each lowering does, and when it is exact, stands there.

    Needs: integer payloads, nothing left but input, synapses, neurons, readout. Gives: the same function where the plan
    says exact; on a chip of binary spikes every payload is 1. After one step a sample no state is read again, so a
    reset that takes more compartments than the hard one becomes that.
    Refuses: what the mode cannot lower (`lowering.plan`).
    """

    numerics: Numerics
    mode: Mode
    name: str = "lower_neurons"

    def __call__(self, network: Network) -> Network:
        planned = plan(network, self.numerics, self.mode)
        if is_spread(network, self.mode):
            return _spread(network, uniform=self.mode == "uniform")
        network = _split(network, planned)
        return self._cheapest_reset(network) if network.timesteps == 1 else network

    def _cheapest_reset(self, network: Network) -> Network:
        cost = self.numerics.compartments
        dear = [n for n in network.neurons if getattr(cost, n.reset) > cost.hard and "hard" in self.numerics.resets]
        return network.replacing({neuron.name: replace(neuron, reset="hard") for neuron in dear})


def _split(network: Network, planned: Mapping[str, Lowered]) -> Network:
    """Neurons into members, channels (channel, member), member fastest; synapses into each, weights by increments."""
    members = {name: lowered.members for name, lowered in planned.items()}
    if max(members.values()) == 1:
        return network
    nodes: list[Node] = []
    for node in network.nodes:
        if isinstance(node, Synapses):
            (target,) = network.users(node.name)
            nodes.append(_repeated(_by_increments(network, node, members), members.get(target.name, 1)))
        elif isinstance(node, MultiThresholdLIF) and members[node.name] > 1:
            nodes += _members(node, network.shapes[node.name][0], network.timesteps)
        else:
            nodes.append(node)
    return replace(network, nodes=tuple(nodes))


def _by_increments(network: Network, node: Synapses, members: Mapping[str, int]) -> Synapses:
    """Synapses that read the members of a source: member i carries the increment payload_i - payload_{i-1}.

    Equal increments: the members share their synapses, they name one axon. Else each has synapses of its own.
    """
    source = network.by_name[node.inputs[0]]
    if not isinstance(source, MultiThresholdLIF) or members[source.name] == 1:
        return node
    steps = np.diff(source.payload, prepend=0.0)
    if (steps == steps[0]).all():
        return replace(node, weight=node.weight * steps[0], members=len(steps))
    if isinstance(node, Conv2d):
        out, fan_in, *kernel = node.weight.shape
        weight = node.weight[:, :, None] * steps[:, None, None]
        return replace(node, weight=weight.reshape(out, fan_in * len(steps), *kernel))
    shape = network.shapes[source.name]
    if isinstance(node, Sparse):
        positions = math.prod(pooled_shape(shape, node.pool)[1:])
        channel, position = np.divmod(node.column, positions)
        column = (channel * len(steps) + np.arange(len(steps))[:, None]) * positions + position
        row = np.tile(node.row, len(steps))
        return replace(node, **in_order(np.outer(steps, node.weight).ravel(), row, column.ravel()))
    weight = node.weight.reshape(len(node.weight), shape[0], 1, -1) * steps[:, None]
    return replace(node, weight=weight.reshape(len(node.weight), -1))


def _repeated(node: Synapses, members: int) -> Synapses:
    """Synapses into `members` neurons each."""
    if members == 1:
        return node
    if isinstance(node, Sparse):
        row = (node.row[:, None] * members + np.arange(members)).ravel()
        listed = in_order(np.repeat(node.weight, members), row, np.repeat(node.column, members))
        return replace(node, bias=np.repeat(node.bias, members), **listed)
    return replace(node, weight=np.repeat(node.weight, members, axis=0), bias=np.repeat(node.bias, members))


def _members(neuron: MultiThresholdLIF, channels: int, timesteps: int) -> list[Node]:
    """The members of a population, and where it resets softly over several steps their lateral synapses."""
    n = levels(neuron)
    thresholds = np.tile(neuron.thresholds, channels)[None]
    lowered = replace(neuron, thresholds=thresholds, subtract=thresholds, payload=np.ones(1), reset="none", members=n)
    if timesteps == 1 or neuron.reset == "none":
        return [lowered]
    lateral = f"{neuron.name}_lateral"
    off = -neuron.leak * np.diff(neuron.subtract, prepend=0.0)
    shared = np.ptp(off) <= EQUAL * np.abs(off).max()
    weight = np.tile(off[:1] if shared else off, (channels * n, 1))[:, :, None, None]
    summed = n if shared else 1
    inhibition = Conv2d(
        lateral, (neuron.name,), weight, np.zeros(channels * n), groups=channels, members=summed, of_reset=True
    )
    return [replace(lowered, inputs=(*neuron.inputs, lateral)), inhibition]


def _spread(network: Network, uniform: bool) -> Network:
    """Every time step into n micro-steps, n the most levels of any neuron; a neuron fires once a micro-step at most."""
    n = max(map(levels, network.neurons))
    changed: dict[str, Node] = {}
    for node in network.nodes:
        if isinstance(node, MultiThresholdLIF):
            synapses = [s for name in node.inputs if isinstance(s := network.by_name[name], Synapses)]
            gathers = any(s.inputs[0] != network.input.name for s in synapses)
            changed[node.name] = _bursting(node, network.timesteps, n, gathers, uniform)
        elif isinstance(node, Readout):
            synapses = [s for name in node.inputs if isinstance(s := network.by_name[name], Synapses)]
            gathers = True
        else:
            continue
        if gathers:  # the bias comes in every micro-step of those that are added up
            changed |= {s.name: replace(s, bias=s.bias / n) for s in synapses}
    spread = network.replacing(changed)
    late = {s.name: replace(s, lag=s.lag * n) for s in spread.nodes if isinstance(s, Synapses) and s.lag}
    return replace(spread.replacing(late), timesteps=network.timesteps * n, microsteps=n)


def _bursting(node: MultiThresholdLIF, timesteps: int, n: int, gathers: bool, uniform: bool) -> MultiThresholdLIF:
    """The neuron with one threshold that takes a step's input at its first micro-step, or in equal parts."""
    parts = levels(node) if uniform else 1
    taken = np.zeros((n, n))
    taken[:parts, : n if gathers else 1] = 1 / parts
    of_steps = np.eye(timesteps) if node.mixing is None else node.mixing
    mixing: Array = np.kron(of_steps, taken).astype(np.float64)
    return replace(
        node,
        thresholds=node.thresholds[:1],
        payload=np.ones(1),
        subtract=node.subtract[:1],
        mixing=mixing,
        open_steps=levels(node),
    )
