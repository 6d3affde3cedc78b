"""Trains spatio-temporal conversion blocks with the spike-train-level gradient (after arXiv 2307.07136, STCB-R).

    uv run python examples/train_stcb.py --data DIR_WITH_IDX_FILES --out stcb.pt

16C3-AP2-32C3-AP2-64-10, T = 2, leak 0.5: one backward pass a spike train, no back-propagation through time.
"""

from torch import nn
from training import run

from snncompile.nn import PerTrain, SpikeTrainCoding, StcbLIF, TrainReadout, to_sequential

THRESHOLD = 0.5


def build_network(timesteps: int = 2) -> nn.Sequential:
    return nn.Sequential(
        SpikeTrainCoding(timesteps, leak=0.5, input_shape=(1, 28, 28), scale=1 / 255),
        PerTrain(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)),
        StcbLIF(THRESHOLD),
        PerTrain(nn.AvgPool2d(2), nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)),
        StcbLIF(THRESHOLD),
        PerTrain(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32 * 7 * 7, 64, bias=False), nn.BatchNorm1d(64)),
        StcbLIF(THRESHOLD),
        PerTrain(nn.Linear(64, 10)),
        TrainReadout(),
    )


if __name__ == "__main__":
    run(build_network, __doc__, finish=to_sequential, timesteps=2)
