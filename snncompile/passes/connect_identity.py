"""Spikes that enter a neuron directly, as over an identity shortcut, get synapses of their own."""

from dataclasses import dataclass, replace

import numpy as np

from snncompile.network import AvgPool2d, Conv2d, Input, MultiThresholdLIF, Network, Node, Readout, one_to_one


@dataclass(frozen=True)
class ConnectIdentity:
    """A neuron (or a readout of several inputs) that reads spikes x directly reads 1 * x through synapses instead.

    Needs: any network. Gives: the same function; neurons are fed by currents only. A readout whose one input is a
    neuron stays: the host counts those spikes. Refuses nothing.
    """

    name: str = "connect_identity"

    def __call__(self, network: Network) -> Network:
        nodes: list[Node] = []
        for node in network.nodes:
            if isinstance(node, MultiThresholdLIF) or (isinstance(node, Readout) and len(node.inputs) > 1):
                added = {
                    name: self._identity(network, name, node) for name in node.inputs if self._spikes(network, name)
                }
                nodes += added.values()
                node = replace(node, inputs=tuple(added[i].name if i in added else i for i in node.inputs))  # noqa: PLW2901
            nodes.append(node)
        return replace(network, nodes=tuple(nodes))

    @staticmethod
    def _spikes(network: Network, name: str) -> bool:
        return isinstance(network.by_name[name], MultiThresholdLIF | Input | AvgPool2d)

    @staticmethod
    def _identity(network: Network, source: str, target: Node) -> Conv2d:
        return one_to_one(f"{target.name}_from_{source}", source, np.ones(network.shapes[source][0]))
