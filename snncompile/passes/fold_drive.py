"""Folds the constant drive of a population into the bias of its synapses."""

from dataclasses import dataclass, replace

from snncompile.network import SYNAPSES, MultiThresholdLIF, Network, Node, Synapses


@dataclass(frozen=True)
class FoldDrive:
    """b' = b + drive in one layer of synapses of each population whose input acts unfiltered in the step it comes in.

    Needs: every layer of synapses read once. Gives: the same function; a drive is left where a synaptic current or a
    mixing of steps lies between bias and membrane. Refuses nothing.
    """

    name: str = "fold_drive"

    def __call__(self, network: Network) -> Network:
        changed: dict[str, Node] = {}
        for neuron in network.neurons:
            synapses = self._into(network, neuron)
            if neuron.drive is None or neuron.current_leak is not None or neuron.mixing is not None or not synapses:
                continue
            changed[neuron.name] = replace(neuron, drive=None)
            changed[synapses[0].name] = replace(synapses[0], bias=synapses[0].bias + neuron.drive)
        return network.replacing(changed)

    @staticmethod
    def _into(network: Network, neuron: MultiThresholdLIF) -> list[Synapses]:
        nodes = (network.by_name[name] for name in neuron.inputs)
        return [node for node in nodes if isinstance(node, SYNAPSES) and node.inputs != (neuron.name,)]
