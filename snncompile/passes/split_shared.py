"""Currents that several neurons read come from synapses of their own for each."""

from dataclasses import dataclass, replace

from snncompile.network import SYNAPSES, MultiThresholdLIF, Network, Node, Readout


@dataclass(frozen=True)
class SplitShared:
    """Synapses read by n populations become n copies, one a population (pre-activation residual blocks need it).

    On a chip a synapse ends in one neuron, so the copies are what the network really costs.
    Needs: norms folded, identities connected. Gives: every layer of synapses read once; the same function.
    Refuses nothing.
    """

    name: str = "split_shared"

    def __call__(self, network: Network) -> Network:
        nodes: list[Node] = []
        for node in network.nodes:
            if isinstance(node, MultiThresholdLIF | Readout):
                copies = {name: self._copy(network, name, node) for name in node.inputs if self._shared(network, name)}
                nodes += copies.values()
                node = replace(node, inputs=tuple(copies[i].name if i in copies else i for i in node.inputs))  # noqa: PLW2901
            nodes.append(node)
        kept = {name for node in nodes for name in node.inputs}
        return replace(network, nodes=tuple(n for n in nodes if n.name in kept or isinstance(n, Readout)))

    @staticmethod
    def _shared(network: Network, name: str) -> bool:
        return isinstance(network.by_name[name], SYNAPSES) and len(network.users(name)) > 1

    @staticmethod
    def _copy(network: Network, name: str, target: Node) -> Node:
        return replace(network.by_name[name], name=f"{name}_into_{target.name}")
