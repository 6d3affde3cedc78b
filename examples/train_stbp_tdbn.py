"""Trains an STBP-tdBN network: binary spikes, hard reset, threshold-dependent batch norm (arXiv 2011.05280).

    uv run python examples/train_stbp_tdbn.py --data DIR_WITH_IDX_FILES --out stbp.pt

16C3-AP2-32C3-AP2-64-10, direct coding, T = 2, neuron-less readout (the paper averages spikes of the last layer).
"""

from torch import nn
from training import run

from snncompile.nn import DirectCoding, MeanReadout, PerStep, StbpLIF, TdBatchNorm1d, TdBatchNorm2d

THRESHOLD = 0.2


def build_network() -> nn.Sequential:
    return nn.Sequential(
        DirectCoding(2, input_shape=(1, 28, 28), scale=1 / 255),
        PerStep(nn.Conv2d(1, 16, 3, padding=1, bias=False)),
        TdBatchNorm2d(16, THRESHOLD),
        StbpLIF(THRESHOLD),
        PerStep(nn.AvgPool2d(2), nn.Conv2d(16, 32, 3, padding=1, bias=False)),
        TdBatchNorm2d(32, THRESHOLD),
        StbpLIF(THRESHOLD),
        PerStep(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32 * 7 * 7, 64, bias=False)),
        TdBatchNorm1d(64, THRESHOLD),
        StbpLIF(THRESHOLD),
        PerStep(nn.Linear(64, 10)),
        MeanReadout(),
    )


if __name__ == "__main__":
    run(build_network, __doc__)
