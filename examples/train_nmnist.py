"""Trains a small convolutional network of multi-threshold LIF neurons on N-MNIST events in 10 binary frames.

    uv run python examples/train_nmnist.py --data nmnist_small.npz --out nmnist.pt \\
        --epochs 40 --batch 50 --shift 2 --validation 100

12C5, stride 2 - AP2 - 32C3 - AP2 - 64 - 10. A frame holds 1 where a pixel had an event of that polarity in its tenth of
the recording, so the input spikes are binary; 2 levels, leak 0.5, soft reset, neuron-less readout.
"""

from torch import nn
from training import run

from snncompile.nn import EventCoding, MeanReadout, MultiThresholdLIF, PerStep, TdBatchNorm1d, TdBatchNorm2d

THRESHOLD = 0.5


def neuron() -> MultiThresholdLIF:
    return MultiThresholdLIF(threshold=THRESHOLD, levels=2, leak=0.5)


def build_network() -> nn.Sequential:
    return nn.Sequential(
        EventCoding(10, input_shape=(2, 34, 34)),
        PerStep(nn.Conv2d(2, 12, 5, stride=2, padding=1, bias=False)),
        TdBatchNorm2d(12, THRESHOLD),
        neuron(),
        PerStep(nn.AvgPool2d(2), nn.Conv2d(12, 32, 3, padding=1, bias=False)),
        TdBatchNorm2d(32, THRESHOLD),
        neuron(),
        PerStep(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32 * 4 * 4, 64, bias=False)),
        TdBatchNorm1d(64, THRESHOLD),
        neuron(),
        PerStep(nn.Linear(64, 10)),
        MeanReadout(),
    )


if __name__ == "__main__":
    run(build_network, __doc__, epochs=40)
