"""Removes what mixing of steps and leak cannot change: special cases of T-GIM, and samples of one step."""

from dataclasses import dataclass, replace

import numpy as np

from snncompile.network import Array, MultiThresholdLIF, Network, Node, Synapses


@dataclass(frozen=True)
class SimplifySteps:
    """A mixing that needs no memory becomes none, so that the population waits for nothing.

    T = 1: u = leak * v0 + mixing * I, so v0 takes the leak and the weights take the mixing; no state is read again.
    Input the same in every step (direct coding straight into the population): sum_j mixing[t, j] * I is the row's sum
    times I: a diagonal; where all rows have one sum, the weights take it. A mixing that is the identity is none.
    A mixing without entries above the diagonal stays: it looks back only, and `network.waits` is 0 for it.

    Needs: every layer of synapses read once. Gives: the same function. Refuses nothing.
    """

    name: str = "simplify_steps"

    def __call__(self, network: Network) -> Network:
        changed: dict[str, Node] = {}
        for neuron in network.neurons:
            synapses = [node for name in neuron.inputs if isinstance(node := network.by_name[name], Synapses)]
            simpler, gain = self._simpler(network, neuron, synapses)
            if simpler is not neuron:
                changed[neuron.name] = simpler
            if gain != 1:
                changed |= {s.name: replace(s, weight=s.weight * gain, bias=s.bias * gain) for s in synapses}
        return network.replacing(changed)

    def _simpler(
        self, network: Network, neuron: MultiThresholdLIF, synapses: list[Synapses]
    ) -> tuple[MultiThresholdLIF, float]:
        """The neuron, and what its synapses are to be multiplied by."""
        mixing, gain = neuron.mixing, 1.0
        if network.timesteps == 1:
            gain = 1.0 if mixing is None else float(mixing[0, 0])
            return replace(neuron, mixing=None, leak=1.0, v0=np.multiply(neuron.leak, neuron.v0)), gain
        if mixing is None:
            return neuron, gain
        if network.input.coding == "direct" and all(s.inputs[0] == network.input.name for s in synapses):
            sums: Array = mixing.sum(1)
            mixing, gain = (np.eye(len(sums)), float(sums[0])) if np.ptp(sums) == 0 else (np.diag(sums), 1.0)
        identity = np.array_equal(mixing, np.eye(len(mixing)))
        return replace(neuron, mixing=None if identity else mixing), gain
