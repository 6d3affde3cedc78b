"""Spike count of several thresholds with a surrogate gradient."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

Surrogate = Literal["rectangular", "triangular", "gaussian"]
Fire = Literal["ge", "gt"]

SURROGATES: tuple[Surrogate, ...] = ("rectangular", "triangular", "gaussian")


def surrogate_slope(x: Tensor, kind: Surrogate, width: float) -> Tensor:
    """h(x), which stands for the derivative of the step function at distance x from a threshold.

    rectangular: (1/a) [|x| < a/2];  triangular: max(0, (1 - |x|/a)/a);  gaussian: exp(-x^2 / (2 a^2)) / (a sqrt(2 pi)).
    Each integrates to 1; a = `width`. The three candidates are named in arXiv 2112.07426; the exact forms are ours.
    """
    if kind == "rectangular":
        return (x.abs() < width / 2).to(x.dtype) / width
    if kind == "triangular":
        return ((1 - x.abs() / width) / width).clamp(min=0)
    return torch.exp(-0.5 * (x / width) ** 2) / (width * math.sqrt(2 * math.pi))


class _SpikeCount(torch.autograd.Function):
    """k = number of thresholds reached; dk/du = sum_j h(u - theta_j)."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, thresholds: Tensor, fire: Fire, kind: Surrogate, width: float) -> Tensor:
        ctx.save_for_backward(u, thresholds)
        ctx.kind, ctx.width = kind, width
        k = torch.zeros_like(u)
        for theta in thresholds:
            k += (u >= theta if fire == "ge" else u > theta).to(u.dtype)
        return k

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None]:
        u, thresholds = ctx.saved_tensors
        slope = torch.zeros_like(u)
        for theta in thresholds:
            slope += surrogate_slope(u - theta, ctx.kind, ctx.width)
        return grad_outputs[0] * slope, None, None, None, None


def spike_count(u: Tensor, thresholds: Tensor, fire: Fire, kind: Surrogate, width: float) -> Tensor:
    """Number of j with u >= thresholds[j] (`fire="ge"`) or u > thresholds[j] (`"gt"`); same shape as u."""
    k: Tensor = _SpikeCount.apply(u, thresholds, fire, kind, width)  # type: ignore[no-untyped-call]
    return k
