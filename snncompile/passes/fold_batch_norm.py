"""Folds batch norm (tdBN included) into the convolution or linear layer before it."""

from dataclasses import dataclass, replace

import numpy as np

from snncompile.errors import CompileError
from snncompile.network import SYNAPSES, BatchNorm, Network


@dataclass(frozen=True)
class FoldBatchNorm:
    """s = gamma / sqrt(var + eps);  W' = s W;  b' = s (b - mean) + beta, added at every step.

    Needs: running statistics. Gives: no BatchNorm; the same function (exact but for float64 rounding).
    Refuses: a norm that does not follow a convolution or linear layer of its own.
    Source: arXiv 2011.05280 (tdBN equals batch norm over the flattened T*B axis).
    """

    name: str = "fold_batch_norm"

    def __call__(self, network: Network) -> Network:
        for norm in tuple(network.of_type(BatchNorm)):
            source = network.by_name[norm.inputs[0]]
            weighted = isinstance(source, SYNAPSES)
            if not isinstance(source, SYNAPSES) or len(network.users(source.name)) != 1:
                raise CompileError(
                    norm.name,
                    f"follows {source.name} ({source.kind})" + (", which others read too" if weighted else ""),
                    "a batch norm folds only into a convolution or linear layer right before it",
                )
            s = norm.gamma / np.sqrt(norm.var + norm.eps)
            folded = replace(
                source,
                weight=source.per_weight(s) * source.weight,
                bias=s * (source.bias - norm.mean) + norm.beta,
            )
            network = network.replacing({source.name: folded}).bypassing(norm.name)
        return network
