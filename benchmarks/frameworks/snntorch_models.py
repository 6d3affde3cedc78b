"""Small networks of snntorch 1.0.0, as its tutorials write them."""

import snntorch as snn
import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 8


class Mlp(nn.Module):
    """A loop over time; states handed on; decays and thresholds learned by neuron."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(20, 16)
        self.lif1 = snn.Leaky(beta=torch.rand(16) * 0.5 + 0.45, learn_beta=True, threshold=0.4, learn_threshold=True)
        self.fc2 = nn.Linear(16, 12)
        self.lif2 = snn.Synaptic(alpha=0.6, beta=0.8, threshold=0.7)
        self.fc3 = nn.Linear(12, 5)
        self.lif3 = snn.Leaky(beta=0.9, threshold=0.3, reset_mechanism="zero", graded_spikes_factor=0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1 = self.lif1.init_leaky()
        syn2, mem2 = self.lif2.init_synaptic()
        mem3 = self.lif3.init_leaky()
        spikes, potentials = [], []
        for _ in range(STEPS):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, syn2, mem2 = self.lif2(self.fc2(spk1), syn2, mem2)
            spk3, mem3 = self.lif3(self.fc3(spk2), mem3)
            spikes.append(spk3)
            potentials.append(mem3)
        return torch.stack(spikes, dim=0), torch.stack(potentials, dim=0)


class Conv(nn.Module):
    """One step a call, its state kept inside; functional pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.lif1 = snn.Leaky(beta=0.5, init_hidden=True, threshold=0.5)
        self.conv2 = nn.Conv2d(4, 6, 3, groups=2)
        self.bn2 = nn.BatchNorm2d(6)
        self.lif2 = snn.Leaky(beta=0.7, init_hidden=True, threshold=0.5, reset_mechanism="zero", reset_delay=False)
        self.fc = nn.Linear(6, 5)
        self.lif3 = snn.Leaky(beta=0.6, init_hidden=True, threshold=0.3, reset_mechanism="none")

    def forward(self, x: Tensor) -> Tensor:
        x = self.lif1(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 2)
        x = self.lif2(self.bn2(self.conv2(x)))
        x = F.avg_pool2d(x, 2)
        return self.lif3(self.fc(x.flatten(1)))


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.lif1 = snn.Leaky(beta=0.5, init_hidden=True, threshold=0.4)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.lif2 = snn.Leaky(beta=0.5, init_hidden=True, threshold=0.4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.lif1(self.bn1(self.conv1(x)))
        return self.lif2(self.bn2(self.conv2(y)) + x)


class Residual(nn.Module):
    """Frames [T, B, C, H, W]; the time steps are the first axis."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.lif = snn.Leaky(beta=0.8, init_hidden=True, threshold=0.5)
        self.blocks = nn.Sequential(Block(4), Block(4))
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(4 * 3 * 3, 5)
        self.out = snn.Leaky(beta=0.8, init_hidden=True, threshold=0.2)

    def forward(self, x: Tensor) -> Tensor:
        total = 0.0
        for t in range(x.size(0)):
            y = self.blocks(self.lif(self.stem(x[t])))
            y = F.adaptive_avg_pool2d(y, (3, 3))
            y = self.dropout(torch.flatten(y, 1))
            total = total + self.out(self.fc(y))
        return total / x.size(0)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(20, 12)
        self.rlif1 = snn.RLeaky(beta=0.8, linear_features=12, threshold=0.5)
        self.fc2 = nn.Linear(12, 10)
        self.rlif2 = snn.RSynaptic(alpha=0.5, beta=0.7, linear_features=10, threshold=0.6)
        self.fc3 = nn.Linear(10, 5)
        self.rlif3 = snn.RLeaky(beta=0.9, all_to_all=False, V=torch.rand(5), threshold=0.4)

    def forward(self, x: Tensor) -> Tensor:
        spk1, mem1 = self.rlif1.init_rleaky()
        spk2, syn2, mem2 = self.rlif2.init_rsynaptic()
        spk3, mem3 = self.rlif3.init_rleaky()
        spikes = []
        for step in range(STEPS):
            spk1, mem1 = self.rlif1(self.fc1(x[step]), spk1, mem1)
            spk2, syn2, mem2 = self.rlif2(self.fc2(spk1), spk2, syn2, mem2)
            spk3, mem3 = self.rlif3(self.fc3(spk2), spk3, mem3)
            spikes.append(spk3)
        return torch.stack(spikes)


class Variants(nn.Module):
    """Every neuron and reset that is read, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(20, 10)
        hidden = {"init_hidden": True, "threshold": 0.4}
        leaky = [
            snn.Leaky(beta=0.8, reset_mechanism=reset, reset_delay=delay, **hidden)
            for reset, delay in (("subtract", True), ("zero", True), ("zero", False), ("none", True))
        ]
        synaptic = [
            snn.Synaptic(alpha=torch.rand(10), beta=0.7, reset_mechanism=reset, reset_delay=delay, **hidden)
            for reset, delay in (("subtract", True), ("zero", False), ("none", False))
        ]
        lapicque = [snn.Lapicque(R=2.0, C=3.0, reset_mechanism=reset, **hidden) for reset in ("subtract", "none")]
        lapicque.append(snn.Lapicque(beta=0.6, time_step=1, **hidden))
        one = {"linear_features": 10, "reset_mechanism": "zero", "reset_delay": False}
        recurrent = [snn.RLeaky(beta=0.7, **one, **hidden)]
        self.neurons = nn.ModuleList([*leaky, *synaptic, *lapicque, *recurrent])
        self.out = nn.Linear(10, 3)
        self.last = snn.Leaky(beta=1.5, init_hidden=True, threshold=0.5)

    def forward(self, x: Tensor) -> Tensor:
        current = self.fc(x)
        total = sum(neuron(current) for neuron in self.neurons)
        return self.last(self.out(total))


class Delayless(nn.Module):
    """The one reset that is approximate: by subtraction, at once."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(20, 10)
        self.lif = snn.Leaky(beta=0.8, init_hidden=True, threshold=0.3, reset_delay=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.lif(self.fc(frame)) for frame in x])


NEURONS = ("Leaky", "Synaptic", "RLeaky", "RSynaptic", "Lapicque")
MODELS = {
    "mlp": {"build": Mlp, "shape": (20,), "steps": STEPS},
    "conv": {"build": Conv, "shape": (1, 8, 8), "steps": 6, "repeat": True},
    "residual": {"build": Residual, "shape": (2, 6, 6), "steps": 5, "frames": True},
    "recurrent": {"build": Recurrent, "shape": (20,), "steps": STEPS, "frames": True},
    "variants": {"build": Variants, "shape": (20,), "steps": STEPS, "repeat": True},
    "delayless": {"build": Delayless, "shape": (20,), "steps": STEPS, "frames": True},
}


def mlp() -> nn.Module:
    return Mlp()


def conv() -> nn.Module:
    return Conv()


def residual() -> nn.Module:
    return Residual()


def recurrent() -> nn.Module:
    return Recurrent()


def variants() -> nn.Module:
    return Variants()


def delayless() -> nn.Module:
    return Delayless()
