"""Folds the real value of a graded spike into the weights that read it, so that payloads are integers."""

from dataclasses import dataclass, replace

import numpy as np

from snncompile.errors import CompileError
from snncompile.network import SYNAPSES, MultiThresholdLIF, Network, Node, Readout


@dataclass(frozen=True)
class FoldPayload:
    """payload = theta * k becomes payload k, and the weights after it theta * W (a readout's scale likewise).

    The unit theta is the payload of level 1; every other payload must be an integer multiple of it.
    Needs: no pools. Gives: integer payloads; the same currents. Refuses: payloads without a common unit.
    """

    name: str = "fold_payload"
    tolerance: float = 1e-9

    def __call__(self, network: Network) -> Network:
        changed: dict[str, Node] = {}
        for neuron in network.neurons:
            unit = float(neuron.payload[0])
            levels = np.rint(neuron.payload / unit) if unit > 0 else np.zeros(0)
            if (
                not len(levels)
                or (levels < 1).any()
                or (np.abs(neuron.payload - levels * unit) > self.tolerance * unit).any()
            ):
                raise CompileError(
                    neuron.name,
                    f"payloads {neuron.payload.tolist()} are not positive integer multiples of the first",
                    "graded spikes carry integers",
                )
            changed[neuron.name] = replace(neuron, payload=levels)
            for user in network.users(neuron.name):
                changed[user.name] = _scaled(changed.get(user.name, user), unit, neuron)
        return network.replacing(changed)


def _scaled(user: Node, unit: float, neuron: MultiThresholdLIF) -> Node:
    if isinstance(user, SYNAPSES):
        return replace(user, weight=user.weight * unit)
    if isinstance(user, Readout) and user.inputs == (neuron.name,):
        return replace(user, scale=user.scale * unit)
    raise CompileError(
        neuron.name,
        f"its spikes go to {user.name} ({user.kind})",
        "spikes must go through a convolution or linear layer",
    )
