"""Trains a small residual network of multi-threshold LIF neurons with tdBN basic blocks (arXiv 2011.05280).

    uv run python examples/train_residual.py --data DIR_WITH_IDX_FILES --out residual.pt

16C3 - block 16 (identity shortcut) - block 32, stride 2 (1x1 shortcut) - AP2 - 10, direct coding, T = 2.
"""

from torch import nn
from training import run

from snncompile.nn import DirectCoding, MeanReadout, MultiThresholdLIF, PerStep, TdBatchNorm2d, basic_block

THRESHOLD = 0.5


def neuron() -> MultiThresholdLIF:
    return MultiThresholdLIF(threshold=THRESHOLD, levels=4, leak=0.5)


def build_network() -> nn.Sequential:
    return nn.Sequential(
        DirectCoding(2, input_shape=(1, 28, 28), scale=1 / 255),
        PerStep(nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False)),
        TdBatchNorm2d(16, THRESHOLD),
        neuron(),
        basic_block(16, 16, 1, neuron, THRESHOLD),
        basic_block(16, 32, 2, neuron, THRESHOLD),
        PerStep(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32 * 3 * 3, 10)),
        MeanReadout(),
    )


if __name__ == "__main__":
    run(build_network, __doc__)
