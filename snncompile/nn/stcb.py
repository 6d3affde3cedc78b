"""STCB-R: soft-reset multi-threshold neurons trained on spike trains as a whole, without back-propagation through time.

What is the paper's (arXiv 2307.07136, read in its abstract only): blocks that replace convolution + ReLU, and learning
by a block's equivalent gradient. The neuron, the weighted mean and the gradient below are ours.

    z[t] = W s[t] + b;   u = leak*v + z;   k = clip(floor(u/theta), 0, n);   v = u - theta*k;   s[t] = theta*k[t]
    kappa[t] = leak^(T-t);   mean of a train x: sum_t kappa[t]*x[t] / sum_t kappa[t];   a = mean of s, Z = mean of z
    exactly:  a = Z - (v[T] - leak^T * v0) / sum kappa,   therefore about clip(Z, 0, n*theta)

Z = W a' + b for the train a' before: a network of means is an ordinary network with activations a, whose values the
spikes give and whose derivative is da/dZ = [0 <= Z <= n*theta]. A layer is differentiated once a spike train, not T
times; the T steps run without a graph. The same weights in `MultiThresholdLIF` layers are the network to deploy.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from snncompile.nn.coding import DirectCoding, PerStep
from snncompile.nn.mtlif import MultiThresholdLIF
from snncompile.nn.residual import Residual


def weighted_mean(x: Tensor, leak: float) -> Tensor:
    """sum_t leak^(T-t) * x[t] / sum_t leak^(T-t); `[T, B, ...] -> [B, ...]`."""
    kappa = leak ** torch.arange(len(x) - 1, -1, -1, dtype=x.dtype, device=x.device)
    return torch.einsum("t,t...->...", kappa / kappa.sum(), x)


@dataclass(frozen=True, eq=False)
class SpikeTrain:
    """The values of T steps (spikes or currents) and their weighted mean, which alone carries the gradient.

    steps `[T, B, ...]` without graph; mean `[B, ...]`, equal to weighted_mean(steps, leak); leak is that of every
    neuron of the network. `constant`: every step is the mean, so layers need not run on the steps.
    """

    steps: Tensor
    mean: Tensor
    leak: float
    constant: bool = False

    @property
    def shape(self) -> torch.Size:
        return self.steps.shape

    def __add__(self, other: "SpikeTrain") -> "SpikeTrain":
        """Sum of two currents of one neuron (`Residual`). Raises ValueError unless the leaks are equal."""
        if self.leak != other.leak:
            raise ValueError(f"SpikeTrain: adds trains of leak {self.leak} and {other.leak}; they need one leak")
        constant = self.constant and other.constant
        return SpikeTrain(self.steps + other.steps, self.mean + other.mean, self.leak, constant)


class SpikeTrainCoding(DirectCoding):
    """First layer of an STCB network: `DirectCoding` as a spike train, `[B, ...] -> SpikeTrain` of T steps.

    leak: that of every neuron of the network; the weighted means of two layers only fit each other for one leak.
    Raises ValueError: timesteps < 1, leak outside (0, 1].
    """

    def __init__(
        self, timesteps: int, leak: float = 0.5, input_shape: tuple[int, ...] | None = None, scale: float = 1.0
    ) -> None:
        super().__init__(timesteps, input_shape, scale)
        self.leak = _checked_leak("SpikeTrainCoding", leak)

    def forward(self, x: Tensor) -> SpikeTrain:  # type: ignore[override]
        return SpikeTrain(super().forward(x.detach()), x * self.scale, self.leak, constant=True)


AFFINE = (nn.Conv2d, nn.Linear, nn.AvgPool2d, nn.Flatten, nn.Identity, nn.BatchNorm1d, nn.BatchNorm2d)


class PerTrain(nn.Sequential):
    """Affine layers on a spike train: once with a graph on the mean, and without one on the T steps.

    Norms: in training the statistics are those of the MEAN, over batch and space, differentiated as ever and kept as
    running statistics; the steps are normalised by the same numbers. So both sides pass one affine map, the mean stays
    the weighted mean of the steps, and in evaluation every step takes the running statistics (a choice of ours: tdBN
    would take them over the steps too).
    Raises ValueError for a layer that is not affine or treats samples differently (ReLU, MaxPool2d, Dropout ..).
    """

    def __init__(self, *layers: Any) -> None:
        super().__init__(*layers)
        if strange := [layer for layer in self if type(layer) not in AFFINE]:
            known = ", ".join(kind.__name__ for kind in AFFINE)
            raise ValueError(f"PerTrain: {type(strange[0]).__name__} is not one of {known}")

    def forward(self, x: SpikeTrain) -> SpikeTrain:
        mean, steps = x.mean, x.steps.flatten(0, 1)
        for layer in self:
            before, mean = mean.detach(), layer(mean)
            if not x.constant:
                with torch.no_grad():
                    steps = _on_steps(layer, steps, before)
        if x.constant:
            return SpikeTrain(mean.detach().expand(len(x.steps), *mean.shape), mean, x.leak, constant=True)
        return SpikeTrain(steps.reshape(*x.shape[:2], *steps.shape[1:]), mean, x.leak)


def _on_steps(layer: nn.Module, steps: Tensor, mean: Tensor) -> Tensor:
    """The layer on steps (T*B, ...); a norm in training takes the statistics of the mean (B, ...) before it."""
    if not isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) or not (layer.training or layer.running_mean is None):
        return cast(Tensor, layer(steps))
    axes = [axis for axis in range(mean.ndim) if axis != 1]
    variance, center = torch.var_mean(mean, axes, correction=0)
    return batch_norm(steps, center, variance, layer.weight, layer.bias, training=False, eps=layer.eps)


class _SpikeTrainGradient(torch.autograd.Function):
    """Gives a; da/dZ = [0 <= Z <= limit]. Keeps one byte an element."""

    @staticmethod
    def forward(ctx: Any, Z: Tensor, a: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward((Z >= 0) & (limit >= Z))
        return a.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (passes,) = ctx.saved_tensors
        return grad_outputs[0] * passes, None, None


class StcbLIF(nn.Module):
    """The neuron of an STCB network: currents to spikes, `SpikeTrain -> SpikeTrain`, by the equations above.

    The spikes are those of `MultiThresholdLIF(threshold, levels, leak of the train, soft reset, v0)`, bit for bit; the
    mean is theirs, and its gradient with respect to the mean current is [0 <= Z <= levels * threshold].
    Raises ValueError: levels < 1, threshold <= 0.
    """

    def __init__(self, threshold: float = 0.5, levels: int = 4, v0: float = 0.0) -> None:
        super().__init__()
        self.threshold, self.levels, self.v0 = float(threshold), int(levels), float(v0)
        self.neuron(leak=1.0)  # refuses bad arguments

    def neuron(self, leak: float) -> MultiThresholdLIF:
        """The neuron to deploy."""
        return MultiThresholdLIF(self.threshold, self.levels, leak, reset="soft", fire="ge", v0=self.v0)

    def forward(self, x: SpikeTrain) -> SpikeTrain:
        with torch.no_grad():
            spikes = self.neuron(x.leak)(x.steps)
            a = weighted_mean(spikes, x.leak)
        passed: Tensor = _SpikeTrainGradient.apply(x.mean, a, self.levels * self.threshold)  # type: ignore[no-untyped-call]
        return SpikeTrain(spikes, passed, x.leak)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, levels={self.levels}, v0={self.v0}"


class TrainReadout(nn.Module):
    """Last layer of an STCB network: the weighted mean of the last currents, `SpikeTrain -> [B, classes]`."""

    def forward(self, x: SpikeTrain) -> Tensor:
        return x.mean


class LeakyReadout(nn.Module):
    """Neuron-less readout of a leaky accumulator: sum_t leak^(T-t) * x[t] / sum_t leak^(T-t).

    `[T, B, classes] -> [B, classes]`; the numerator is the state after step T of v[t] = leak * v[t-1] + x[t]; leak = 1
    is `MeanReadout`. Raises ValueError: leak outside (0, 1]. Ours, for STCB networks.
    """

    def __init__(self, leak: float) -> None:
        super().__init__()
        self.leak = _checked_leak("LeakyReadout", leak)

    def forward(self, x: Tensor) -> Tensor:
        return weighted_mean(x, self.leak)

    def extra_repr(self) -> str:
        return f"leak={self.leak}"


def _checked_leak(where: str, leak: float) -> float:
    if not 0 < leak <= 1:
        raise ValueError(f"{where}: leak must lie in (0, 1], got {leak}")
    return float(leak)


def to_sequential(network: nn.Sequential) -> nn.Sequential:
    """The network to deploy: DirectCoding, PerStep, MultiThresholdLIF, Residual, LeakyReadout, in evaluation mode.

    Needs: SpikeTrainCoding first, then PerTrain, StcbLIF, Residual and nested Sequential, TrainReadout last.
    Gives: an ordinary `[T, B, ...]` network with copies of the weights. In evaluation mode its spikes are those of
    `network`, its logits equal up to rounding (the last linear layer here runs before the mean, there after it).
    Raises ValueError naming the layer: everything else.
    """
    layers = list(network)
    if not layers or type(layers[0]) is not SpikeTrainCoding:
        raise ValueError("to_sequential: the first layer is not SpikeTrainCoding, which says the leak of the network")
    coding = layers[0]
    deployed = [_deployed(str(i), layer, coding.leak) for i, layer in enumerate(layers[1:], 1)]
    first = DirectCoding(coding.timesteps, coding.input_shape, coding.scale)
    return nn.Sequential(first, *deployed).eval()


def _deployed(where: str, layer: nn.Module, leak: float) -> nn.Module:
    match layer:
        case PerTrain():
            return PerStep(*(deepcopy(inner) for inner in layer))
        case StcbLIF():
            return layer.neuron(leak)
        case TrainReadout():
            return LeakyReadout(leak)
        case Residual():
            shortcut = None if layer.shortcut is None else _deployed(f"{where}.shortcut", layer.shortcut, leak)
            return Residual(_deployed(f"{where}.body", layer.body, leak), shortcut)
        case nn.Sequential():
            return nn.Sequential(*(_deployed(f"{where}.{i}", inner, leak) for i, inner in enumerate(layer)))
    known = "PerTrain, StcbLIF, Residual, Sequential, TrainReadout"
    raise ValueError(f"to_sequential: layer {where} ({type(layer).__name__}) is not one of {known}")
