"""Group Neurons: a trained ANN with quantised activations, converted to a spiking network."""

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn

from snncompile.nn.coding import DirectCoding, MeanReadout, PerStep
from snncompile.nn.mtlif import MultiThresholdLIF
from snncompile.nn.residual import Residual
from snncompile.nn.surrogate import spike_count


class QCFS(nn.Module):
    """Quantised activation of the ANN to convert: y = (l/L) * clip(floor(x*L/l + 1/2), 0, L); any shape.

    L = `levels`, l = `scale`, a learned parameter of shape () that starts at `init`.
    Gradient, straight through the floor: dy/dx = 1 on 0 <= x <= l, else 0; dy/dl = y/l - x/l there, 1 above, 0 below.
    The floor is evaluated as a count of thresholds, x + l/(2L) >= j*l/L for j in 1..L: the same operations in the same
    order as `GroupNeuron`'s, so that the two agree in every bit, also where x lies on a threshold (the form is ours).
    Raises ValueError: levels < 1, init <= 0. A scale that training drives to 0 or below has no meaning; the conversion
    refuses it.
    Source: the activation ANNs are trained with in arXiv 2402.19061; init as in public QCFS code.
    """

    def __init__(self, levels: int, init: float = 8.0) -> None:
        super().__init__()
        if levels < 1:
            raise ValueError(f"QCFS: levels must be at least 1, got {levels}")
        if not init > 0:
            raise ValueError(f"QCFS: init must be positive, got {init}")
        self.levels = int(levels)
        self.scale = nn.Parameter(torch.tensor(float(init)))

    def forward(self, x: Tensor) -> Tensor:
        k = self._level(x.detach())
        smooth = self.scale.detach() * (x / self.scale).clamp(0, 1)
        return self.scale / self.levels * k + (smooth - smooth.detach())

    def _level(self, x: Tensor) -> Tensor:
        theta = self.scale.detach() / self.levels
        thetas = theta * torch.arange(1, self.levels + 1, dtype=x.dtype, device=x.device)
        return spike_count(theta / 2 + x, thetas, "ge", "rectangular", 1.0)

    def extra_repr(self) -> str:
        return f"levels={self.levels}"


class GroupNeuron(MultiThresholdLIF):
    """`members` integrate-and-fire neurons that share one input, as one graded neuron without leak.

        v[t] = v[t-1] + x[t]   (before firing)                    v[0] = theta/2,  theta = scale/members
        y[t] = theta * k[t],  k[t] = clip(floor(v[t] / theta), 0, members)
        v[t] <- v[t] - theta * k[t]

    Shapes: x, y `[T, B, ...]`. The paper's group has members with thresholds theta that all start at theta/2 and are
    all reset by theta * k, so they always agree: the one graded neuron is our form of it.
    T = 1, members = L: equals `QCFS(L)` of the same scale bit for bit. A constant input over T steps: the mean over t
    equals QCFS with members * T levels. Otherwise it approximates QCFS, best with many members and few steps.
    Raises ValueError: scale <= 0, members < 1.
    Source: arXiv 2402.19061 and its public code.
    """

    def __init__(self, scale: float, members: int) -> None:
        if members < 1:
            raise ValueError(f"GroupNeuron: members must be at least 1, got {members}")
        if not scale > 0:
            raise ValueError(f"GroupNeuron: scale must be positive, got {scale}")
        theta = scale / members
        super().__init__(threshold=theta, levels=members, leak=1.0, reset="soft", fire="ge", v0=theta / 2)


COPIED = (nn.Conv2d, nn.Linear, nn.AvgPool2d, nn.Flatten, nn.BatchNorm1d, nn.BatchNorm2d)
DROPPED = (nn.Dropout, nn.Dropout2d, nn.Identity)
ADVICE = {
    nn.MaxPool2d: "the maximum of spike trains is not the spike train of the maximum: train with nn.AvgPool2d",
    nn.ReLU: "it has no scale to take for a threshold: replace it by QCFS(levels), which learns one, and train on",
}


def convert_to_group_neurons(
    ann: nn.Sequential,
    members: int,
    timesteps: int,
    input_shape: tuple[int, ...] | None = None,
    input_scale: float = 1.0,
) -> nn.Sequential:
    """The spiking network of a trained ANN: DirectCoding, PerStep(weights, norms, pools), GroupNeuron, .., MeanReadout.

    Needs: Conv2d, Linear, AvgPool2d, Flatten, BatchNorm, QCFS, nested Sequential, Residual; dropout is left out. The
    ANN is `[B, ...] -> [B, classes]` and takes `input_scale * x` where the spiking network takes x.
    Gives: copies of the weights and norms in evaluation mode (a later training run changes neither network); every QCFS
    becomes a GroupNeuron(scale, members). The readout is the mean over t; the paper's is the sum, of the same argmax.
    Exact: members = levels of every QCFS and timesteps = 1 gives the ANN's logits bit for bit.
    Refuses, ValueError naming the layer by its path: MaxPool2d, ReLU and every other layer; a norm without running
    statistics; a QCFS scale that is not positive; members or timesteps < 1.
    Source: arXiv 2402.19061 and its public code; the norm stays a layer here, the compiler folds it.
    """
    coding = DirectCoding(timesteps, input_shape, input_scale)
    return nn.Sequential(coding, *_spiking("", ann, members), MeanReadout()).eval()


def _spiking(path: str, module: nn.Module, members: int) -> list[nn.Module]:
    """The layers of a module: stateless ones together in a PerStep, between them neurons and residuals."""
    layers: list[nn.Module] = []
    stateless: list[nn.Module] = []
    for where, leaf in _leaves(path, module):
        if type(leaf) in COPIED:
            _check_norm(where, leaf)
            stateless.append(deepcopy(leaf))
            continue
        layers += _per_step(stateless)
        stateless = []
        layers.append(_neuron_or_residual(where, leaf, members))
    return layers + _per_step(stateless)


def _per_step(layers: list[nn.Module]) -> list[nn.Module]:
    return [PerStep(*layers)] if layers else []


def _leaves(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers with their dotted paths, sequences opened, what does nothing in evaluation left out."""
    if type(module) is nn.Sequential:
        for name, child in module.named_children():
            yield from _leaves(f"{path}.{name}".lstrip("."), child)
    elif type(module) not in DROPPED:
        yield path, module


def _neuron_or_residual(where: str, module: nn.Module, members: int) -> nn.Module:
    if type(module) is QCFS:
        scale = module.scale.item()
        if not scale > 0:
            raise _refused(where, module, f"its scale is {scale}, needed: a positive one; train it again")
        return GroupNeuron(scale, members)
    if type(module) is Residual:
        shortcut = [] if module.shortcut is None else _spiking(f"{where}.shortcut", module.shortcut, members)
        body = nn.Sequential(*_spiking(f"{where}.body", module.body, members))
        return Residual(body, nn.Sequential(*shortcut) if shortcut else None)
    known = ", ".join(kind.__name__ for kind in (*COPIED, QCFS, Residual, nn.Sequential, *DROPPED))
    raise _refused(where, module, ADVICE.get(type(module), f"not one of {known}"))


def _check_norm(where: str, layer: nn.Module) -> None:
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.running_mean is None:
        raise _refused(where, layer, "it has no running statistics; train it with track_running_stats=True")


def _refused(where: str, module: nn.Module, why: str) -> ValueError:
    return ValueError(f"convert_to_group_neurons: layer {where or 'of the network'} ({type(module).__name__}): {why}")
