"""Biases through a synaptic current, on chips that add biases past it: spikes of a neuron that always fires."""

from dataclasses import dataclass, replace

import numpy as np

from snncompile.chip import Numerics
from snncompile.network import SYNAPSES, Array, Linear, MultiThresholdLIF, Network, Node

SUFFIX = "_always"
TOLD = {"lowering": "one neuron that fires in every step sends a bias", "exactness": "exact"}


@dataclass(frozen=True)
class BiasNeurons:
    """i[t] = current_leak * i[t-1] + W s + b becomes i[t] = current_leak * i[t-1] + W s + b * 1, 1 a spike every step.

    The neuron is driven above its threshold in every step and reads the input with weights of 0, so that it runs a
    step behind it; what it drives runs a step behind that.
    Needs: identities connected, members not yet made. Gives: no bias in the synapses of flat populations with a
    synaptic current; the same function. Images keep theirs, which the chip then refuses.
    """

    numerics: Numerics
    name: str = "bias_neurons"

    def __call__(self, network: Network) -> Network:
        nodes: list[Node] = []
        biased = {node.name: self.bias(network, node) for node in self.of(network)}
        silent = {name for node in self.of(network) for name in node.inputs}
        for node in network.nodes:
            if node.name in biased:
                assert isinstance(node, MultiThresholdLIF)
                nodes += self._always(network, node.name, biased[node.name])
                node = replace(node, inputs=(*node.inputs, f"{node.name}_bias"))  # noqa: PLW2901
            elif node.name in silent and isinstance(node, SYNAPSES):
                node = replace(node, bias=np.zeros_like(node.bias))  # noqa: PLW2901
            nodes.append(node)
        return replace(network, nodes=tuple(nodes))

    def of(self, network: Network) -> list[MultiThresholdLIF]:
        """The populations whose bias is sent to them."""
        if self.numerics.current_bias or not self.numerics.synaptic_current:
            return []
        return [
            node
            for node in network.neurons
            if node.current_leak is not None and len(network.shapes[node.name]) == 1 and self.bias(network, node).any()
        ]

    @staticmethod
    def bias(network: Network, node: MultiThresholdLIF) -> Array:
        """(neurons,) sum of the biases of its synapses, lateral ones too."""
        synapses = (network.by_name[name] for name in node.inputs)
        zeros = np.zeros(network.shapes[node.name][0])
        return np.sum([zeros, *(s.bias for s in synapses if isinstance(s, SYNAPSES))], axis=0)

    @staticmethod
    def _always(network: Network, name: str, bias: Array) -> list[Node]:
        source = network.input
        silence = np.zeros((1, int(np.prod(source.shape))))
        driven = Linear(f"{name}_drive", (source.name,), silence, np.ones(1))
        half = np.full(1, 0.5)
        always = MultiThresholdLIF(
            f"{name}{SUFFIX}", (driven.name,), half, np.ones(1), half, 1.0, "hard", "gt", unit=0.5
        )
        return [driven, always, Linear(f"{name}_bias", (always.name,), bias[:, None], np.zeros(len(bias)))]
