"""Residual connections: currents of two branches, added before a neuron."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor, nn

from snncompile.nn.coding import PerStep
from snncompile.nn.tdbn import TdBatchNorm2d

if TYPE_CHECKING:
    from snncompile.nn.stcb import SpikeTrain

Current = TypeVar("Current", Tensor, "SpikeTrain")
NormedConv = Callable[[int, int, int, int, float], Sequence[nn.Module]]
"""normed_conv(channels_in, channels_out, kernel, stride, alpha): a convolution that keeps the map (but for the stride),
without bias, and its norm; alpha is 1/sqrt(n) where n branches are added after it."""


class Residual(nn.Module):
    """Adds a branch to what it branches off: y = body(x) + (x if shortcut is None else shortcut(x)).

    Both sides are input currents of ONE neuron layer, which follows the Residual: `Residual(body), neuron`. The body
    therefore ends in weights or a norm; it may hold neurons before. An identity shortcut carries the spikes of the
    layer before the Residual as currents of weight 1 (value `spike_value * k`, the source layer's own scale).
    Shapes: `[T, B, ...]`, the same from both sides: nothing is broadcast. A network without time (`[B, ...]`, for
    `convert_to_group_neurons`) and `SpikeTrain`s (`snncompile.nn.stcb`) are added likewise.
    `_modules` holds "body" and "shortcut", the latter None for the identity.
    Raises ValueError at the first forward whose two sides differ in shape.
    Source: arXiv 2011.05280 (basic block) and arXiv 2402.19061 both add before the neuron.
    """

    body: nn.Module
    shortcut: nn.Module | None

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.register_module("shortcut", shortcut)

    def forward(self, x: Current) -> Current:
        branch: Current = self.body(x)
        side: Current = x if self.shortcut is None else self.shortcut(x)
        if branch.shape != side.shape:
            kind = "identity" if self.shortcut is None else "shortcut"
            raise ValueError(
                f"Residual: the body gives shape {tuple(branch.shape)}, the {kind} {tuple(side.shape)}; "
                "needed: equal shapes, e.g. a 1x1 convolution of the body's stride as the shortcut"
            )
        return branch + side


def residual_block(
    channels_in: int,
    convs: Sequence[tuple[int, int, int]],
    normed_conv: NormedConv,
    neuron: Callable[[], nn.Module],
) -> nn.Sequential:
    """y = neuron(norm'(conv(.. neuron(norm(conv(x))))) + shortcut(x)) of convolutions (channels, kernel, stride).

    Neurons stand between the convolutions of the body; norm' has alpha = 1/sqrt(2), as two branches are added before
    the last neuron, the other norms alpha = 1. The shortcut is the identity where no stride is above 1 and the channels
    stay, else norm'(conv1x1(x)) with the product of the strides.
    `[T, B, channels_in, H, W] -> [T, B, channels, H', W']` (or what `normed_conv` and `neuron` take), channels those of
    the last convolution. `neuron` makes a new neuron layer at each call.
    Raises ValueError unless there is a convolution, and channels, kernels and strides are at least 1.
    Source: arXiv 2011.05280 (alpha); arXiv 1512.03385 (basic and bottleneck blocks; its projection shortcuts, "B").
    """
    if not convs or min(channels_in, *(number for conv in convs for number in conv)) < 1:
        raise ValueError(
            f"residual_block: got {channels_in} channels and convolutions {list(convs)}; "
            "needed: one or more (channels, kernel, stride), all numbers at least 1"
        )
    added = 1 / math.sqrt(2)
    body: list[nn.Module] = []
    fan_in = channels_in
    for position, (channels, kernel, stride) in enumerate(convs, 1):
        last = position == len(convs)
        body += normed_conv(fan_in, channels, kernel, stride, added if last else 1.0)
        body += [] if last else [neuron()]
        fan_in = channels
    stride = math.prod(stride for _, _, stride in convs)
    is_identity = stride == 1 and channels_in == fan_in
    shortcut = None if is_identity else nn.Sequential(*normed_conv(channels_in, fan_in, 1, stride, added))
    return nn.Sequential(Residual(nn.Sequential(*body), shortcut), neuron())


def basic_block(
    channels_in: int, channels_out: int, stride: int, neuron: Callable[[], nn.Module], v_threshold: float
) -> nn.Sequential:
    """The tdBN basic block: y = neuron(tdBN'(conv(neuron(tdBN(conv(x))))) + shortcut(x)), a `residual_block`.

    conv are 3x3 with padding 1 and no bias, the first with `stride`; tdBN has alpha = 1 inside the branch and tdBN'
    alpha = 1/sqrt(2), as two branches are added before the last neuron. The shortcut is the identity where stride is 1
    and the channels stay, else tdBN'(conv1x1(x)) with `stride`.
    `[T, B, channels_in, H, W] -> [T, B, channels_out, ceil(H / stride), ceil(W / stride)]`. `neuron` makes a new neuron
    layer at each call; `v_threshold` is the scale of its input current.
    Raises ValueError unless channels and stride are at least 1 and v_threshold is positive.
    Source: arXiv 2011.05280 (alpha = 1/sqrt(n) for n added branches; identity and 1x1 shortcuts).
    """
    for name, value in (("channels_in", channels_in), ("channels_out", channels_out), ("stride", stride)):
        if value < 1:
            raise ValueError(f"basic_block: {name} must be at least 1, got {value}")
    if not v_threshold > 0:
        raise ValueError(f"basic_block: v_threshold must be positive, got {v_threshold}")

    def normed_conv(fan_in: int, channels: int, kernel: int, step: int, alpha: float) -> tuple[nn.Module, nn.Module]:
        conv = nn.Conv2d(fan_in, channels, kernel, stride=step, padding=kernel // 2, bias=False)
        return PerStep(conv), TdBatchNorm2d(channels, v_threshold, alpha)

    return residual_block(channels_in, [(channels_out, 3, stride), (channels_out, 3, 1)], normed_conv, neuron)
