"""Trains a multi-threshold LIF convolutional SNN with tdBN on Fashion-MNIST (or MNIST) and saves it whole.

    uv run python examples/train_fashion_mnist.py --data DIR_WITH_IDX_FILES --out fashion_mtlif.pt \\
        --epochs 15 --flip --weight-decay 0.05 --validation 5000 --compile --bfloat16

32C3-AP2-64C3-AP2-128-10, direct coding, T = 2, soft reset, neuron-less readout.
"""

from torch import nn
from training import run

from snncompile.nn import DirectCoding, MeanReadout, MultiThresholdLIF, PerStep, TdBatchNorm1d, TdBatchNorm2d

THRESHOLD = 0.5


def build_network(timesteps: int = 2, levels: int = 4, leak: float = 0.5) -> nn.Sequential:
    def neuron() -> MultiThresholdLIF:
        return MultiThresholdLIF(threshold=THRESHOLD, levels=levels, leak=leak, reset="soft")

    return nn.Sequential(
        DirectCoding(timesteps, input_shape=(1, 28, 28), scale=1 / 255),
        PerStep(nn.Conv2d(1, 32, 3, padding=1, bias=False)),
        TdBatchNorm2d(32, THRESHOLD),
        neuron(),
        PerStep(nn.AvgPool2d(2), nn.Conv2d(32, 64, 3, padding=1, bias=False)),
        TdBatchNorm2d(64, THRESHOLD),
        neuron(),
        PerStep(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64 * 7 * 7, 128, bias=False)),
        TdBatchNorm1d(128, THRESHOLD),
        neuron(),
        PerStep(nn.Linear(128, 10)),
        MeanReadout(),
    )


if __name__ == "__main__":
    run(build_network, __doc__)
