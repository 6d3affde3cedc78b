"""Folds average pooling of spikes into the synapses after it."""

from dataclasses import dataclass, replace

from snncompile.errors import CompileError
from snncompile.network import SYNAPSES, AvgPool2d, Input, MultiThresholdLIF, Network


@dataclass(frozen=True)
class FoldAvgPool:
    """W * avg_pool(x) + b = (W / (kh*kw)) * sum_pool(x) + b.

    The sources of one window share one axon, hence one synapse list: several neurons may name the same axon of the
    target core (as nengo-loihi's compartment-to-axon map does), so pooling costs neither neurons nor synapses.
    A convolution written this way equals the one with its kernel repeated kh x kw times and stride times (kh, kw).

    Needs: no Flatten. Gives: no AvgPool2d; the same function. Refuses: pooling of anything but spikes, or read by
    anything but convolution or linear layers.
    """

    name: str = "fold_avg_pool"

    def __call__(self, network: Network) -> Network:
        for pool in tuple(network.of_type(AvgPool2d)):
            source = network.by_name[pool.inputs[0]]
            if not isinstance(source, MultiThresholdLIF | Input):
                raise CompileError(
                    pool.name, f"pools {source.name} ({source.kind})", "pool the spikes, after the neuron"
                )
            folded = {}
            for user in network.users(pool.name):
                if not isinstance(user, SYNAPSES) or user.pool != (1, 1):
                    raise CompileError(
                        pool.name,
                        f"is read by {user.name} ({user.kind})",
                        "a convolution or linear layer must follow the pool",
                    )
                folded[user.name] = replace(
                    user, pool=pool.kernel, weight=user.weight / (pool.kernel[0] * pool.kernel[1])
                )
            network = network.replacing(folded).bypassing(pool.name)
        return network
