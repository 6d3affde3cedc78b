"""Gives every population its depth on the chip's pipeline, and every synapse its delay."""

from dataclasses import dataclass, replace

from snncompile.errors import CompileError
from snncompile.network import SYNAPSES, Conv2d, Input, Linear, MultiThresholdLIF, Network, Node, Readout


@dataclass(frozen=True)
class AlignDelays:
    """A spike sent in chip step c arrives in c + 1, so a population at depth d does logical step c - d.

    depth(input) = 0; depth(population) = 1 + the largest depth among the sources of its synapses;
    delay_steps(synapse) = depth(target) - depth(source): 1 in a chain, more on a shortcut. Bias, leak and reset of a
    population are shifted by its depth. So the deployed network equals the trained one, and samples follow each other
    every T steps.

    Needs: nothing left but input, synapses, neurons, readout. Gives: every depth and delay set.
    Refuses: synapses read by more than one population, or neurons fed by anything but synapses.
    """

    name: str = "align_delays"

    def __call__(self, network: Network) -> Network:
        depth: dict[str, int] = {}
        changed: dict[str, Node] = {}
        for node in network.nodes:
            if isinstance(node, Input):
                depth[node.name] = 0
            elif isinstance(node, MultiThresholdLIF | Readout):
                synapses = [self._synapses(network, name, node) for name in node.inputs]
                depth[node.name] = 1 + max(depth[s.inputs[0]] for s in synapses)
                changed[node.name] = replace(node, depth=depth[node.name])
                for s in synapses:
                    changed[s.name] = replace(s, delay_steps=depth[node.name] - depth[s.inputs[0]])
        return network.replacing(changed)

    @staticmethod
    def _synapses(network: Network, name: str, target: Node) -> Conv2d | Linear:
        node = network.by_name[name]
        if not isinstance(node, SYNAPSES):
            raise CompileError(
                target.name, f"is fed by {name} ({node.kind})", "a convolution or linear layer must come between"
            )
        if len(network.users(name)) != 1:
            raise CompileError(
                name, f"feeds {' and '.join(n.name for n in network.users(name))}", "give each its own layer"
            )
        return node
