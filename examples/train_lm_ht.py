"""Trains an LM-HT network: multi-threshold neurons whose steps exchange currents by learned weights (arXiv 2402.00411).

    uv run python examples/train_lm_ht.py --data DIR_WITH_IDX_FILES --out lm_ht.pt

16C3-AP2-32C3-AP2-64-10, L = 4 levels, T = 2, direct training (threshold 2/L). With `--timesteps 1` there are no steps
to exchange: the form for a chip that cannot hold T inputs.
"""

from torch import nn
from training import run

from snncompile.nn import LMHT, DirectCoding, MeanReadout, PerStep, TdBatchNorm1d, TdBatchNorm2d

LEVELS = 4


def build_network(timesteps: int = 2) -> nn.Sequential:
    return nn.Sequential(
        DirectCoding(timesteps, input_shape=(1, 28, 28), scale=1 / 255),
        PerStep(nn.Conv2d(1, 16, 3, padding=1, bias=False)),
        TdBatchNorm2d(16),
        LMHT(LEVELS, timesteps),
        PerStep(nn.AvgPool2d(2), nn.Conv2d(16, 32, 3, padding=1, bias=False)),
        TdBatchNorm2d(32),
        LMHT(LEVELS, timesteps),
        PerStep(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32 * 7 * 7, 64, bias=False)),
        TdBatchNorm1d(64),
        LMHT(LEVELS, timesteps),
        PerStep(nn.Linear(64, 10)),
        MeanReadout(),
    )


if __name__ == "__main__":
    run(build_network, __doc__, timesteps=2)
