"""Trains an ANN with quantised activations (QCFS) and converts it to Group Neurons (arXiv 2402.19061).

    uv run python examples/train_group_neurons.py --data DIR_WITH_IDX_FILES --out group_neurons.pt

16C3-AP2-32C3-AP2-64-10, 4 levels; deployed with 4 members and T = 2.
"""

from torch import nn
from training import run

from snncompile.nn import QCFS, convert_to_group_neurons

LEVELS, TIMESTEPS = 4, 2


def build_ann() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        QCFS(LEVELS, init=2.0),
        nn.AvgPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        QCFS(LEVELS, init=2.0),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 64, bias=False),
        nn.BatchNorm1d(64),
        QCFS(LEVELS, init=2.0),
        nn.Linear(64, 10),
    )


def spiking(ann: nn.Sequential) -> nn.Sequential:
    return convert_to_group_neurons(ann, LEVELS, TIMESTEPS, input_shape=(1, 28, 28), input_scale=1 / 255)


if __name__ == "__main__":
    run(build_ann, __doc__, finish=spiking, input_scale=1 / 255)
