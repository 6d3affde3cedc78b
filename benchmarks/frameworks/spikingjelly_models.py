"""Small networks of spikingjelly 0.0.0.0.14 and 2.0.0."""

import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

STEPS = 6


def mlp() -> nn.Module:
    """Saved whole, one step a call."""
    return nn.Sequential(
        layer.Linear(20, 16),
        neuron.LIFNode(tau=2.5, v_threshold=0.4),
        layer.Dropout(0.2),
        layer.Linear(16, 12, bias=False),
        neuron.ParametricLIFNode(init_tau=1.7, v_threshold=0.2, v_reset=None, decay_input=False),
        layer.Linear(12, 5),
        neuron.IFNode(v_threshold=0.5, v_reset=-0.2),
    )


def conv() -> nn.Module:
    """Saved whole, all steps at once."""
    net = nn.Sequential(
        layer.Conv2d(2, 4, 3, padding=1, bias=False),
        layer.BatchNorm2d(4),
        neuron.IFNode(v_threshold=0.8),
        layer.MaxPool2d(2),
        layer.Conv2d(4, 6, 3),
        layer.BatchNorm2d(6),
        neuron.LIFNode(tau=2.0, v_threshold=0.3, v_reset=None),
        layer.AvgPool2d(2),
        layer.Flatten(),
        layer.Linear(6, 20),
        neuron.LIFNode(tau=3.0, v_threshold=0.3, decay_input=False, v_reset=0.1),
        layer.VotingLayer(4),
    )
    functional.set_step_mode(net, "m")
    return net


class Block(nn.Module):
    """SEW: spikes are added to spikes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = layer.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = layer.BatchNorm2d(channels)
        self.sn1 = neuron.IFNode(v_threshold=0.6)
        self.conv2 = layer.SeqToANNContainer(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )
        self.sn2 = neuron.IFNode(v_threshold=0.6, v_reset=None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.sn1(self.bn1(self.conv1(x)))
        return self.sn2(self.conv2(y)) + x


class Residual(nn.Module):
    """The image repeated over time in the forward; the mean over time at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(layer.Conv2d(1, 4, 3, padding=1), layer.BatchNorm2d(4), neuron.LIFNode(tau=2.0))
        self.blocks = nn.Sequential(Block(4), Block(4))
        self.conv = nn.Conv2d(4, 6, 3, stride=2)
        self.sn = neuron.LIFNode(tau=1.5, v_threshold=0.4)
        self.fc = nn.Sequential(layer.Flatten(), layer.Linear(24, 5))
        functional.set_step_mode(self, "m")

    def forward(self, x: Tensor) -> Tensor:
        x_seq = x.unsqueeze(0).repeat(STEPS, 1, 1, 1, 1)
        x_seq = self.blocks(self.stem(x_seq))
        x_seq = self.sn(functional.seq_to_ann_forward(x_seq, self.conv))
        return self.fc(x_seq).mean(0)


def residual() -> nn.Module:
    return Residual()


def recurrent() -> nn.Module:
    """Saved whole, one step a call."""
    return nn.Sequential(
        layer.Linear(20, 12),
        neuron.LIFNode(tau=2.0, v_threshold=0.3),
        layer.LinearRecurrentContainer(neuron.LIFNode(tau=2.0, v_threshold=0.2), 12, 12),
        layer.Linear(12, 5),
        neuron.IFNode(v_threshold=0.4, v_reset=None),
    )


class Variants(nn.Module):
    """Every neuron and reset that is read, side by side; the loop over time steps is here."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(20, 10)
        made = []
        for v_reset in (0.0, -0.3, None):
            made.append(neuron.IFNode(v_threshold=0.7, v_reset=v_reset))
            for decay in (True, False):
                made.append(neuron.LIFNode(tau=2.2, v_threshold=0.3, v_reset=v_reset, decay_input=decay))
                made.append(neuron.ParametricLIFNode(1.6, v_threshold=0.3, v_reset=v_reset, decay_input=decay))
        self.neurons = nn.ModuleList(made)
        self.rest = layer.MultiStepContainer(nn.Linear(10, 3), neuron.IFNode(v_threshold=2.0))
        self.steps = 8

    def forward(self, x: Tensor) -> Tensor:
        sums = []
        for _ in range(self.steps):
            total = 0
            for node in self.neurons:
                total = total + node(self.fc(x))
            sums.append(total.unsqueeze(0))
        return self.rest(torch.cat(sums, 0)).mean(0)


def variants() -> nn.Module:
    return Variants()


NEURONS = ("LIFNode", "IFNode", "ParametricLIFNode")
MODELS = {
    "mlp": {"build": mlp, "shape": (20,), "steps": 8, "repeat": True, "whole": True},
    "conv": {"build": conv, "shape": (2, 8, 8), "steps": STEPS, "frames": True, "whole": True, "axes": "TB"},
    "residual": {"build": residual, "shape": (1, 6, 6), "steps": STEPS, "axes": "TB"},
    "recurrent": {"build": recurrent, "shape": (20,), "steps": 8, "repeat": True, "whole": True},
    "variants": {"build": Variants, "shape": (20,), "steps": 8},
}
