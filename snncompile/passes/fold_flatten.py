"""Flatten before a linear layer says nothing new: `Linear` reads any shape in C order."""

from dataclasses import dataclass

from snncompile.errors import CompileError
from snncompile.network import Flatten, Linear, Network, Sparse


@dataclass(frozen=True)
class FoldFlatten:
    """Needs: any network. Gives: no Flatten. Refuses: a Flatten read by anything but Linear and Sparse."""

    name: str = "fold_flatten"

    def __call__(self, network: Network) -> Network:
        for node in tuple(network.of_type(Flatten)):
            for user in network.users(node.name):
                if not isinstance(user, Linear | Sparse | Flatten):
                    raise CompileError(
                        node.name,
                        f"is read by {user.name} ({user.kind})",
                        "flatten must come right before a linear layer",
                    )
            network = network.bypassing(node.name)
        return network
