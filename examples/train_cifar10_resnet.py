"""Trains a narrow ResNet-19 (arXiv 2011.05280) of multi-threshold LIF neurons with tdBN on CIFAR-10, JPEG copy.

    uv run --with pillow python examples/train_cifar10_resnet.py --data FILE.npz --out cifar10_resnet.pt \\
        --epochs 7 --shift 2 --flip --weight-decay 0.05 --validation 2000 --compile --bfloat16

c3 - 3 blocks c - 3 blocks 2c, stride 2 - 2 blocks 4c, stride 2 - AP4 - 256 - 10 with c = 16 (the paper's has c = 128
and binary neurons), direct coding, T = 2, 4 levels. The data are JPEG copies, not CIFAR-10's own pixels.
"""

from torch import nn
from training import run

from snncompile.nn import (
    DirectCoding,
    MeanReadout,
    MultiThresholdLIF,
    PerStep,
    TdBatchNorm1d,
    TdBatchNorm2d,
    basic_block,
)

THRESHOLD, CHANNELS = 0.5, 16


def neuron() -> MultiThresholdLIF:
    return MultiThresholdLIF(threshold=THRESHOLD, levels=4, leak=0.5)


def build_network() -> nn.Sequential:
    c = CHANNELS
    blocks = []
    for fan_in, channels, stride, count in ((c, c, 1, 3), (c, 2 * c, 2, 3), (2 * c, 4 * c, 2, 2)):
        blocks.append(basic_block(fan_in, channels, stride, neuron, THRESHOLD))
        blocks += [basic_block(channels, channels, 1, neuron, THRESHOLD) for _ in range(count - 1)]
    return nn.Sequential(
        DirectCoding(2, input_shape=(3, 32, 32), scale=1 / 255),
        PerStep(nn.Conv2d(3, c, 3, padding=1, bias=False)),
        TdBatchNorm2d(c, THRESHOLD),
        neuron(),
        *blocks,
        PerStep(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4 * c * 2 * 2, 256, bias=False)),
        TdBatchNorm1d(256, THRESHOLD),
        neuron(),
        PerStep(nn.Linear(256, 10)),
        MeanReadout(),
    )


if __name__ == "__main__":
    run(build_network, __doc__)
