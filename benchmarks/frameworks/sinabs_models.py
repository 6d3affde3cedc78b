"""Small networks of sinabs 3.1.3."""

import sinabs.activation as sa
import sinabs.layers as sl
import torch
from torch import Tensor, nn


def mlp() -> nn.Module:
    """Saved whole: [B, T, features]."""
    return nn.Sequential(
        nn.Linear(20, 16),
        sl.LIF(tau_mem=6.0, spike_threshold=0.05, spike_fn=sa.SingleSpike, min_v_mem=-0.1),
        nn.Linear(16, 12),
        sl.LIF(tau_mem=9.0, tau_syn=3.0, spike_threshold=0.1, spike_fn=sa.MaxSpike(3), norm_input=False),
        nn.Linear(12, 5),
        sl.IAF(spike_threshold=0.4, min_v_mem=-0.4),
    )


def conv() -> nn.Module:
    """Saved whole: [B*T, C, H, W]."""
    steps = {"num_timesteps": 6}
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        sl.IAFSqueeze(spike_fn=sa.SingleSpike, min_v_mem=-1.0, **steps),
        sl.SumPool2d(2),
        nn.Conv2d(4, 6, 3),
        nn.BatchNorm2d(6),
        sl.LIFSqueeze(tau_mem=5.0, spike_threshold=0.2, reset_fn=sa.MembraneReset(), **steps),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(6, 5),
        sl.IAFSqueeze(spike_threshold=0.5, reset_fn=sa.MembraneSubtract(0.3), spike_fn=sa.SingleSpike, **steps),
    )


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.spike1 = sl.IAFSqueeze(num_timesteps=5, min_v_mem=-1.0)
        self.body = nn.Conv2d(4, 4, 3, padding=1)
        self.merge = sl.Merge()
        self.spike2 = sl.IAFSqueeze(num_timesteps=5, spike_fn=sa.SingleSpike)
        self.fc = nn.Linear(144, 5)
        self.spike3 = sl.IAFSqueeze(num_timesteps=5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.spike1(self.stem(x))
        x = self.spike2(self.merge(self.body(x), x))
        return self.spike3(self.fc(x.flatten(1)))


def residual() -> nn.Module:
    return Residual()


def recurrent() -> nn.Module:
    """Saved whole: [B, T, features]."""
    return nn.Sequential(
        nn.Linear(20, 12),
        sl.LIFRecurrent(tau_mem=5.0, rec_connect=nn.Linear(12, 12), spike_threshold=0.05, spike_fn=sa.SingleSpike),
        nn.Linear(12, 5),
        sl.IAFRecurrent(rec_connect=nn.Linear(5, 5, bias=False), spike_threshold=0.6, min_v_mem=-1.0),
    )


class Variants(nn.Module):
    """Every neuron, spike and reset function that is read, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(20, 10)
        made: list[nn.Module] = []
        for spike in (sa.SingleSpike, sa.MultiSpike, sa.MaxSpike(2)):
            for reset in (sa.MembraneSubtract(), sa.MembraneReset(), sa.MembraneSubtract(0.2)):
                made.append(sl.IAF(spike_threshold=0.3, spike_fn=spike, reset_fn=reset, min_v_mem=-0.5))
                made.append(sl.LIF(tau_mem=4.0, tau_syn=2.0, spike_threshold=0.1, spike_fn=spike, reset_fn=reset))
        made.append(sl.LIF(tau_mem=torch.rand(10) * 5 + 2, norm_input=False, train_alphas=True))
        self.neurons = nn.ModuleList(made)
        self.out = nn.Linear(10, 3)
        self.last = sl.IAF(spike_threshold=4.0, spike_fn=sa.SingleSpike)

    def forward(self, x: Tensor) -> Tensor:
        current = self.fc(x)
        total = sum(neuron(current) for neuron in self.neurons)
        return self.last(self.out(total))


def variants() -> nn.Module:
    return Variants()


class Leak(nn.Module):
    """Read out by leaky integrators."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(20, 10)
        self.spike = sl.IAF(spike_fn=sa.SingleSpike)
        self.out = nn.Linear(10, 3)
        self.leak = sl.ExpLeak(tau_mem=5.0, norm_input=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.leak(self.out(self.spike(self.fc(x))))


def leak() -> nn.Module:
    return Leak()


NEURONS = ("LIF", "IAF", "IAFSqueeze", "LIFSqueeze", "LIFRecurrent", "IAFRecurrent")
MODELS = {
    "mlp": {"build": mlp, "shape": (20,), "steps": 8, "frames": True, "whole": True, "axes": "BT"},
    "conv": {"build": conv, "shape": (2, 8, 8), "steps": 6, "frames": True, "whole": True, "axes": "(BT)"},
    "residual": {"build": residual, "shape": (2, 6, 6), "steps": 5, "frames": True, "axes": "(BT)"},
    "recurrent": {"build": recurrent, "shape": (20,), "steps": 8, "frames": True, "whole": True, "axes": "BT"},
    "variants": {"build": Variants, "shape": (20,), "steps": 8, "frames": True, "axes": "BT"},
    "leak": {"build": Leak, "shape": (20,), "steps": 8, "frames": True, "axes": "BT"},
}
