"""LM-HT: learnable multi-hierarchical threshold neurons."""

from typing import Self

import torch
from torch import Tensor, nn

from snncompile.nn.group_neuron import QCFS
from snncompile.nn.surrogate import spike_count


class LMHT(nn.Module):
    """Multi-threshold neuron whose time steps exchange their input currents by learned weights (T-GIM).

        I[t] = sum_{j=1..T} omega[t, j] * x[j]                    omega = 2*sigmoid(mixing)/T       (T, T)
        m[t] = leak * v[t-1] + I[t]                               leak = sigmoid(raw_leak) + 0.5,   v[0] = v0
        k[t] = clip(floor(m[t] / threshold), 0, levels)           (counted: m >= j * threshold)
        y[t] = threshold * k[t];   v[t] = m[t] - threshold * k[t]

    Shapes: x, y `[T, B, ...]`, T = `timesteps`. Parameters `mixing` (T, T) and `raw_leak` (), both from 0: omega = 1/T
    and leak = 1. omega is in (0, 2/T), leak in (0.5, 1.5). T-GIM is not causal: step t needs later steps of x.
    threshold: 2/levels unless given (direct training); `from_qcfs` for the hybrid initialisation.
    Gradient: dy/dm = 1 on threshold/2 <= m <= (levels + 1/2)*threshold, else 0; v[t-1] and the reset are constants, so
    time is learned through omega and leak alone. `learn_leak=False` keeps leak at 1.
    Raises ValueError: levels or timesteps < 1, threshold <= 0, and in forward when x has another number of steps.
    Source: arXiv 2402.00411 and its public code.
    """

    def __init__(
        self,
        levels: int,
        timesteps: int,
        threshold: float | None = None,
        v0: float = 0.0,
        learn_leak: bool = True,
    ) -> None:
        super().__init__()
        for name, value in (("levels", levels), ("timesteps", timesteps)):
            if value < 1:
                raise ValueError(f"LMHT: {name} must be at least 1, got {value}")
        if threshold is not None and not threshold > 0:
            raise ValueError(f"LMHT: threshold must be positive, got {threshold}")
        self.levels, self.timesteps = int(levels), int(timesteps)
        self.threshold, self.v0 = float(2 / levels if threshold is None else threshold), float(v0)
        self.mixing = nn.Parameter(torch.zeros(timesteps, timesteps))
        self.raw_leak = nn.Parameter(torch.zeros(()), requires_grad=learn_leak)

    @classmethod
    def from_qcfs(cls, qcfs: QCFS, levels: int, timesteps: int, learn_leak: bool = True) -> Self:
        """Hybrid initialisation from a trained ANN's activation: threshold = its learned scale, v0 = threshold/2.

        The paper multiplies the first layer's input by `levels`. For input currents `levels * x`, constant in time, the
        mean over t is `levels * QCFS(levels * timesteps)(x)` of the same scale; biases of later layers need the same
        factor for that to hold through a network (this remark is ours).
        Raises ValueError: the scale is not positive; levels or timesteps < 1.
        """
        scale = qcfs.scale.item()
        return cls(levels, timesteps, threshold=scale, v0=scale / 2, learn_leak=learn_leak)

    @property
    def omega(self) -> Tensor:
        """(T, T); row t weighs the steps that make up I[t]."""
        return 2 * torch.sigmoid(self.mixing) / self.timesteps

    @property
    def leak(self) -> Tensor:
        """(); in (0.5, 1.5)."""
        return torch.sigmoid(self.raw_leak) + 0.5

    def currents(self, x: Tensor) -> Tensor:
        """T-GIM: I of x, both `[T, B, ...]`. Raises ValueError when x does not have `timesteps` steps."""
        if len(x) != self.timesteps:
            raise ValueError(f"LMHT: made for {self.timesteps} time steps, got x of shape {tuple(x.shape)}")
        return (self.omega @ x.flatten(1)).reshape(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        theta, leak = self.threshold, self.leak
        thetas = theta * torch.arange(1, self.levels + 1, dtype=x.dtype, device=x.device)
        v = torch.full_like(x[0], self.v0)
        spikes = []
        for current in self.currents(x):
            m = leak * v + current
            k = spike_count(m.detach(), thetas, "ge", "rectangular", theta)
            passed = m.clamp(theta / 2, (self.levels + 0.5) * theta)
            spikes.append(theta * k + (passed - passed.detach()))
            v = (m - theta * k).detach()
        return torch.stack(spikes)

    def extra_repr(self) -> str:
        return f"levels={self.levels}, timesteps={self.timesteps}, threshold={self.threshold}, v0={self.v0}"


def single_threshold(
    currents: Tensor, levels: int, threshold: float, leak: float | Tensor = 1.0, v0: float = 0.0
) -> Tensor:
    """The spikes of LM-HT's binary form: `levels` micro-steps a time step, each with the current I/levels.

        v <- leak * v                               before the first micro-step of a time step (its place is ours)
        v <- v + I[t]/levels;  spike = threshold where v >= threshold, else 0;  v <- v - spike

    currents: I `[T, B, ...]`, after T-GIM (`LMHT.currents`). Gives `[T * levels, B, ...]`; the sum over a time step's
    micro-steps stands for y[t]. In exact arithmetic it equals y[t] of a neuron if T = 1, or if 0 <= I < levels *
    threshold in every step; more widely, if no I is negative, or if every I < levels * threshold and leak <= 1. Else it
    may fire too much: a membrane left above threshold by a saturated step (or raised by a leak above 1) fires in an
    early micro-step, before the negative current is all in. About 1e-4..1e-3 of the spikes then differ.
    Raises ValueError: levels < 1, threshold <= 0, v0 outside [0, threshold).
    Source: arXiv 2402.00411 (reparameterisation); the conditions are ours.
    """
    if levels < 1:
        raise ValueError(f"single_threshold: levels must be at least 1, got {levels}")
    if not threshold > 0:
        raise ValueError(f"single_threshold: threshold must be positive, got {threshold}")
    if not 0 <= v0 < threshold:
        raise ValueError(f"single_threshold: v0 must lie in [0, threshold = {threshold}), got {v0}")
    v = torch.full_like(currents[0], v0)
    spikes = []
    for current in currents:
        v = leak * v
        for _ in range(levels):
            u = v + current / levels
            spikes.append(threshold * (u >= threshold).to(u.dtype))
            v = u - spikes[-1]
    return torch.stack(spikes)
