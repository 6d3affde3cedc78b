"""Trains the multi-threshold LIF network 15C5-AP2-40C5-AP2-300-10 with tdBN on MNIST (or Fashion-MNIST).

    uv run python examples/train_mnist.py --data DIR_WITH_IDX_FILES --out mnist_mtlif.pt \\
        --epochs 10 --shift 2 --weight-decay 0.05 --validation 5000 --compile --bfloat16

Convolutions without padding, direct coding, T = 2, 4 levels, leak 0.5, soft reset, neuron-less readout.
"""

from torch import nn
from training import run

from snncompile.nn import DirectCoding, MeanReadout, MultiThresholdLIF, PerStep, TdBatchNorm1d, TdBatchNorm2d

THRESHOLD = 0.5


def neuron() -> MultiThresholdLIF:
    return MultiThresholdLIF(threshold=THRESHOLD, levels=4, leak=0.5)


def build_network() -> nn.Sequential:
    return nn.Sequential(
        DirectCoding(2, input_shape=(1, 28, 28), scale=1 / 255),
        PerStep(nn.Conv2d(1, 15, 5, bias=False)),
        TdBatchNorm2d(15, THRESHOLD),
        neuron(),
        PerStep(nn.AvgPool2d(2), nn.Conv2d(15, 40, 5, bias=False)),
        TdBatchNorm2d(40, THRESHOLD),
        neuron(),
        PerStep(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(40 * 4 * 4, 300, bias=False)),
        TdBatchNorm1d(300, THRESHOLD),
        neuron(),
        PerStep(nn.Linear(300, 10)),
        MeanReadout(),
    )


if __name__ == "__main__":
    run(build_network, __doc__)
