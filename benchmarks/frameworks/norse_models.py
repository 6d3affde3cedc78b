"""Small networks of norse 1.1.0."""

import norse.torch as norse
import torch
from norse.torch.functional.lif_box import LIFBoxParameters
from norse.torch.functional.reset import reset_subtract
from torch import Tensor, nn

STEPS = 12


def lif(threshold: float, **more: float) -> norse.LIFParameters:
    return norse.LIFParameters(v_th=torch.as_tensor(threshold), **{k: torch.as_tensor(v) for k, v in more.items()})


class Mlp(nn.Module):
    """One step a call of a SequentialState, its state handed on in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.net = norse.SequentialState(
            nn.Linear(20, 16),
            norse.LIFCell(lif(0.1, v_leak=0.02, v_reset=-0.05)),
            nn.Linear(16, 12),
            norse.LIFBoxCell(LIFBoxParameters(v_th=torch.as_tensor(0.05), tau_mem_inv=torch.as_tensor(200.0))),
            nn.Linear(12, 5),
            norse.LIFCell(lif(0.03), dt=0.002),
        )

    def forward(self, x: Tensor) -> Tensor:
        state, spikes = None, []
        for _ in range(STEPS):
            z, state = self.net(x, state)
            spikes.append(z)
        return torch.stack(spikes).sum(0)


class Conv(nn.Module):
    """Frames [T, B, C, H, W]; layers without time lifted over it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = norse.Lift(nn.Conv2d(2, 4, 3, padding=1, bias=False))
        self.bn1 = norse.Lift(nn.BatchNorm2d(4))
        self.lif1 = norse.LIF(lif(0.2))
        self.pool = norse.Lift(nn.MaxPool2d(2))
        self.conv2 = norse.Lift(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)))
        self.lif2 = norse.LIF(lif(0.1))
        self.rest = norse.Lift(nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(6, 5)))
        self.lif3 = norse.LIF(lif(0.05))

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lif1(self.bn1(self.conv1(x)))
        y, _ = self.lif2(self.conv2(self.pool(y)))
        y, _ = self.lif3(self.rest(y))
        return y


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.lif0, self.lif1, self.lif2 = (norse.LIFCell(lif(th)) for th in (0.1, 0.08, 0.1))
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(144, 5)
        self.lif3 = norse.LIFCell(lif(0.05))

    def forward(self, x: Tensor) -> Tensor:
        s0 = s1 = s2 = s3 = None
        out = torch.zeros(x.shape[0], 5)
        for _ in range(STEPS):
            z0, s0 = self.lif0(self.stem(x), s0)
            z1, s1 = self.lif1(self.conv1(z0), s1)
            z2, s2 = self.lif2(self.conv2(z1) + z0, s2)
            z3, s3 = self.lif3(self.fc(torch.flatten(z2, 1)), s3)
            out = out + z3
        return out / STEPS


class Recurrent(nn.Module):
    """Frames [T, B, features]."""

    def __init__(self) -> None:
        super().__init__()
        self.lif1 = norse.LIFRecurrent(20, 12, lif(0.2))
        self.lif2 = norse.LIFRecurrentCell(12, 10, lif(0.1), autapses=True)
        self.fc = nn.Linear(10, 5)
        self.lif3 = norse.LIFCell(lif(0.05))

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lif1(x)
        state2 = state3 = None
        spikes = []
        for z in y:
            z2, state2 = self.lif2(z, state2)
            z3, state3 = self.lif3(self.fc(z2), state3)
            spikes.append(z3)
        return torch.stack(spikes)


class Variants(nn.Module):
    """Every neuron and reset that is read, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(20, 10)
        box = {"v_th": torch.as_tensor(0.1), "v_reset": torch.as_tensor(0.02)}
        self.neurons = nn.ModuleList(
            [
                norse.LIFCell(lif(0.1, v_leak=-0.05, v_reset=-0.1)),
                norse.LIFCell(lif(0.1, tau_syn_inv=1000.0), dt=0.001),
                norse.LIFCell(lif(0.2, tau_mem_inv=300.0, tau_syn_inv=400.0), dt=0.0005),
                norse.LIFBoxCell(LIFBoxParameters(**box)),
                norse.LIFBoxCell(LIFBoxParameters(**box, reset_method=reset_subtract)),
            ]
        )
        self.out = nn.Linear(10, 3)
        self.last = norse.LIFCell(lif(0.05))

    def forward(self, x: Tensor) -> Tensor:
        states, last, spikes = [None] * len(self.neurons), None, []
        for _ in range(STEPS):
            current, total = self.fc(x), 0.0
            for n, cell in enumerate(self.neurons):
                z, states[n] = cell(current, states[n])
                total = total + z
            z, last = self.last(self.out(total), last)
            spikes.append(z)
        return torch.stack(spikes, 1)


class Leak(nn.Module):
    """Read out by leaky integrators; a tau_syn_inv of 1000 (1/dt): their current follows at once."""

    def __init__(self, tau_syn_inv: float = 1000.0) -> None:
        super().__init__()
        self.fc = nn.Linear(20, 10)
        self.lif = norse.LIFCell(lif(0.1))
        self.out = norse.LILinearCell(10, 3, norse.LIParameters(tau_syn_inv=torch.as_tensor(tau_syn_inv)))

    def forward(self, x: Tensor) -> Tensor:
        state = out = None
        for _ in range(STEPS):
            z, state = self.lif(self.fc(x), state)
            v, out = self.out(z, out)
        return v


def variants() -> nn.Module:
    return Variants()


def leak() -> nn.Module:
    return Leak()


def current() -> nn.Module:
    """Norse's own default: two time constants."""
    return Leak(200.0)


def mlp() -> nn.Module:
    return Mlp()


def conv() -> nn.Module:
    return Conv()


def residual() -> nn.Module:
    return Residual()


def recurrent() -> nn.Module:
    return Recurrent()


NEURONS = ("LIFCell", "LIFBoxCell", "LIF", "LIFRecurrent", "LIFRecurrentCell")
MODELS = {
    "mlp": {"build": mlp, "shape": (20,), "steps": STEPS},
    "conv": {"build": conv, "shape": (2, 8, 8), "steps": STEPS, "frames": True, "axes": "TB"},
    "residual": {"build": residual, "shape": (1, 6, 6), "steps": STEPS},
    "recurrent": {"build": recurrent, "shape": (20,), "steps": STEPS, "frames": True},
    "variants": {"build": Variants, "shape": (20,), "steps": STEPS},
    "leak": {"build": Leak, "shape": (20,), "steps": STEPS},
    "current": {"build": current, "shape": (20,), "steps": STEPS},
}
