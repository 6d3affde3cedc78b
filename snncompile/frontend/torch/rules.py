"""Every layer that is read, by its full name."""

from snncompile.errors import CompileError
from snncompile.frontend.torch import layers, norse, sinabs, snntorch, spikingjelly
from snncompile.frontend.torch.layers import Rule

RULES: dict[str, Rule] = {
    **layers.RULES,
    **spikingjelly.RULES,
    **sinabs.RULES,
    **snntorch.RULES,
    **norse.RULES,
}
PRODUCERS = {module.PACKAGE.partition(".")[0]: module.PRODUCER for module in (spikingjelly, sinabs, snntorch, norse)}
HELD = (*spikingjelly.HELD, *sinabs.HELD)
"""Beginnings of the names of what saved modules hold besides layers."""

ADVICE = (
    *((part, "deploy what snncompile.nn.to_sequential(network) gives") for part in ("Train", "Stcb")),
    ("QCFS", "deploy what snncompile.nn.convert_to_group_neurons(network, ...) gives"),
    ("AdaptiveMax", "use nn.MaxPool2d on spikes"),
    ("Upsample", "synapses that write more places than they read are not there: upsample the data"),
    ("Transpose", "synapses that write more places than they read are not there: upsample the data"),
    ("Norm", "use batch norm, e.g. TdBatchNorm1d or TdBatchNorm2d"),
    ("LIF", "use snncompile.nn.MultiThresholdLIF"),
    ("LU", "a rectifier does not spike: use snncompile.nn.MultiThresholdLIF"),
)
SUPPORTED = sorted({name.rpartition(".")[2] for name in layers.RULES})


def unsupported(where: str, kind: str, *more: str) -> CompileError:
    """A layer of no rule; more: what is supported besides `SUPPORTED`."""
    advice = next((what for part, what in ADVICE if part in kind), "replace it by supported layers")
    packages = ", ".join(PRODUCERS.values())
    listed = ", ".join(sorted({*SUPPORTED, *more}))
    return CompileError(where, "this layer is not supported", f"{advice}; supported: {listed}, neurons of {packages}")
