"""An analog input as binary spikes, where the user asks for it."""

from dataclasses import dataclass, replace

from snncompile.errors import CompileError
from snncompile.network import Network


@dataclass(frozen=True)
class RateInput:
    """Direct coding, the value x at every step, becomes spikes of 0 and 1 whose mean over the T steps is x to 1/T.

    Gives: an approximation of the network, the better the larger T. Refuses: an input that is not direct-coded.
    """

    name: str = "rate_input"

    def __call__(self, network: Network) -> Network:
        source = network.input
        if source.coding != "direct":
            raise CompileError(source.name, f"is coded by {source.coding}", "--input-coding rate is for analog input")
        return network.replacing({source.name: replace(source, coding="rate")})
