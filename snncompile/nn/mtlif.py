"""The multi-threshold leaky integrate-and-fire neuron."""

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from snncompile.nn.surrogate import SURROGATES, Fire, Surrogate, spike_count

Reset = Literal["soft", "hard", "none"]


class MultiThresholdLIF(nn.Module):
    """Leaky integrate-and-fire neuron with `levels` equidistant thresholds and a graded spike.

        u[t] = leak * v[t-1] + x[t]                                      v[0] = v0
        k[t] = number of j in 1..levels with u[t] >= j * threshold       (`fire="gt"`: with >)
        y[t] = spike_value * k[t]                                        (default: threshold)
        v[t] = u[t] - threshold * k[t]   reset "soft"
             = 0 where k[t] > 0          reset "hard"
             = u[t]                      reset "none"

    Shapes: x, y `[T, B, ...]`; the state starts at v0 in every call, so each call is one sample (batch) of T steps.
    levels = 1, reset "hard", fire "gt" is the STBP-tdBN neuron (`StbpLIF`).
    Gradient: dk/du = sum_j h(u - theta_j), h one of `surrogate` with `width` (default: threshold, which makes the
    rectangular one the wide surrogate, dk/du = 1/threshold on threshold/2 <= u < (levels + 1/2)*threshold). The reset
    is detached from the gradient unless `detach_reset=False`.
    Raises ValueError: levels < 1, threshold or spike_value <= 0, leak outside (0, 1], unknown reset, fire or surrogate.
    Source: arXiv 2112.07426 (Symmetry 14(9):1933) gives several thresholds, three surrogates and T = 1-2; equidistant
    thresholds, integer payload and soft reset are our definition (docs/how-it-works.md).
    """

    def __init__(
        self,
        threshold: float = 0.5,
        levels: int = 4,
        leak: float = 0.5,
        reset: Reset = "soft",
        fire: Fire = "ge",
        v0: float = 0.0,
        surrogate: Surrogate = "rectangular",
        width: float | None = None,
        detach_reset: bool = True,
        spike_value: float | None = None,
    ) -> None:
        super().__init__()
        _check(threshold, levels, leak, reset, fire, surrogate)
        if spike_value is not None and not spike_value > 0:
            raise ValueError(f"MultiThresholdLIF: spike_value must be positive, got {spike_value}")
        self.threshold, self.levels, self.leak = float(threshold), int(levels), float(leak)
        self.reset, self.fire, self.v0 = reset, fire, float(v0)
        self.surrogate, self.width = surrogate, float(threshold if width is None else width)
        self.detach_reset = detach_reset
        self.spike_value = float(threshold if spike_value is None else spike_value)

    @cached_property
    def spike_value(self) -> float:
        """Payload of level 1. Only a module pickled without this attribute gets here: then it is the threshold."""
        return self.threshold

    def forward(self, x: Tensor) -> Tensor:
        thetas = self.threshold * torch.arange(1, self.levels + 1, dtype=x.dtype, device=x.device)
        v = torch.full_like(x[0], self.v0)
        spikes = []
        for current in x:
            u = self.leak * v + current
            k = spike_count(u, thetas, self.fire, self.surrogate, self.width)
            spikes.append(self.spike_value * k)
            v = self._after_reset(u, k.detach() if self.detach_reset else k)
        return torch.stack(spikes)

    def _after_reset(self, u: Tensor, k: Tensor) -> Tensor:
        if self.reset == "soft":
            return u - self.threshold * k
        if self.reset == "hard":
            return u * (k == 0).to(u.dtype)
        return u

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, levels={self.levels}, leak={self.leak}, reset={self.reset}"


def _check(threshold: float, levels: int, leak: float, reset: str, fire: str, surrogate: str) -> None:
    if levels < 1:
        raise ValueError(f"MultiThresholdLIF: levels must be at least 1, got {levels}")
    if threshold <= 0:
        raise ValueError(f"MultiThresholdLIF: threshold must be positive, got {threshold}")
    if not 0 < leak <= 1:
        raise ValueError(f"MultiThresholdLIF: leak must lie in (0, 1], got {leak}")
    for key, value, allowed in (
        ("reset", reset, ("soft", "hard", "none")),
        ("fire", fire, ("ge", "gt")),
        ("surrogate", surrogate, SURROGATES),
    ):
        if value not in allowed:
            raise ValueError(f"MultiThresholdLIF: {key} must be one of {', '.join(allowed)}, got {value!r}")
