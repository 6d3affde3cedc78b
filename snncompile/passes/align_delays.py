"""Gives every population its depth on the chip's pipeline, and every synapse its delay."""

from dataclasses import dataclass, replace

from snncompile.errors import CompileError
from snncompile.network import SYNAPSES, Input, MultiThresholdLIF, Network, Node, Readout, Synapses, waits


@dataclass(frozen=True)
class AlignDelays:
    """A spike sent in chip step c arrives in c + 1, so a population at depth d does logical step c - d.

    depth(input) = 0; arrival(population) = 1 + the largest depth among the sources of its synapses;
    depth(population) = arrival, and more where it mixes steps: as many as it must wait for the last step it needs;
    delay_steps(synapse) = arrival(target) - depth(source): 1 in a chain, more on a shortcut; lateral: 1.
    Bias, leak and reset of a population are shifted by its depth. So the deployed network equals the trained one, and
    samples follow each other every T steps.

    Needs: nothing left but input, synapses, neurons, readout. Gives: every depth and delay set.
    A readout that counts a neuron's spikes has that neuron's depth.
    Refuses: synapses read by more than one population, or neurons fed by anything but synapses.
    """

    name: str = "align_delays"

    def __call__(self, network: Network) -> Network:
        depth: dict[str, int] = {}
        changed: dict[str, Node] = {}
        for node in network.nodes:
            if isinstance(node, Input):
                depth[node.name] = 0
            elif isinstance(node, Readout) and isinstance(network.by_name[node.inputs[0]], MultiThresholdLIF):
                depth[node.name] = depth[node.inputs[0]]
                changed[node.name] = replace(node, depth=depth[node.name])
            elif isinstance(node, MultiThresholdLIF | Readout):
                synapses = [self._synapses(network, name, node) for name in node.inputs]
                forward = [s for s in synapses if s.inputs[0] != node.name]
                arrival = 1 + max(depth[s.inputs[0]] for s in forward)
                depth[node.name] = arrival + (waits(node.mixing) if isinstance(node, MultiThresholdLIF) else 0)
                changed[node.name] = replace(node, depth=depth[node.name])
                for s in synapses:
                    steps = arrival - depth[s.inputs[0]] if s in forward else 1
                    changed[s.name] = replace(s, delay_steps=steps)
        return network.replacing(changed)

    @staticmethod
    def _synapses(network: Network, name: str, target: Node) -> Synapses:
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
