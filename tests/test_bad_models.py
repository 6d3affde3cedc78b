"""Models that cannot be compiled: the error names the layer, and nothing is written."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from snncompile.compiler import compile_file
from snncompile.errors import CompileError
from snncompile.nn import (
    LMHT,
    DirectCoding,
    MeanReadout,
    MultiThresholdLIF,
    PerStep,
    Residual,
    StbpLIF,
    TdBatchNorm2d,
)


def small(*layers: nn.Module, timesteps: int = 2) -> nn.Sequential:
    """A 4x8x8 current, then the layers, then a readout."""
    return nn.Sequential(
        DirectCoding(timesteps, input_shape=(1, 8, 8)),
        PerStep(nn.Conv2d(1, 4, 3, padding=1)),
        *layers,
        PerStep(nn.Flatten(), nn.LazyLinear(3)),
        MeanReadout(),
    )


def shortcut_of_another_shape() -> nn.Module:
    network = small(StbpLIF(), PerStep(nn.Identity()))
    branch = nn.Sequential(PerStep(nn.Conv2d(4, 4, 3, stride=2, padding=1)))
    network(torch.zeros(1, 1, 8, 8))
    network[3] = Residual(branch)
    network.insert(4, StbpLIF())
    return network


def norm_before_padding() -> nn.Module:
    network = small(StbpLIF(), TdBatchNorm2d(4), PerStep(nn.Conv2d(4, 4, 3, padding=1)), StbpLIF())
    nn.init.ones_(network[3].bias)
    network(torch.zeros(1, 1, 8, 8))
    return network


def threshold_of_zero() -> nn.Module:
    network = small(StbpLIF())
    network(torch.zeros(1, 1, 8, 8))
    network[2].threshold = 0.0
    return network


def not_a_number() -> nn.Module:
    network = small(StbpLIF())
    network(torch.zeros(1, 1, 8, 8))
    network[1][0].weight.data[0, 0, 0, 0] = float("nan")
    return network


def mixing(leak: float = 0.0) -> nn.Module:
    network = small(LMHT(2, 2), PerStep(nn.Conv2d(4, 4, 3, padding=1)), LMHT(2, 2))
    network(torch.zeros(1, 1, 8, 8))
    for neuron in (network[2], network[4]):
        neuron.raw_leak.data.fill_(leak)
    network[4].mixing.data[0, 1] = 1.0
    return network


def hard_reset_of_many_levels() -> nn.Module:
    network = small(MultiThresholdLIF(levels=3, reset="hard"))
    network(torch.zeros(1, 1, 8, 8))
    return network


CASES = (
    (
        shortcut_of_another_shape,
        "loihi2-sim",
        r"3 \(Residual\): the body gives shape \(4, 4, 4\), the identity \(4, 8, 8\)",
    ),
    (
        norm_before_padding,
        "loihi2-sim",
        r"4\.0 \(Conv2d\): reads normalised values with zeros padded around them; a batch norm folds into",
    ),
    (threshold_of_zero, "loihi2-sim", r"2 \(StbpLIF\): thresholds are \[0\.0\], they must be positive"),
    (not_a_number, "loihi2-sim", r"1\.0 \(Conv2d\): weight holds NaN or infinite values"),
    (mixing, "loihi1-sim", r"04_lm_ht: mixes the steps of its input \(T-GIM\); the chip's neurons cannot store them"),
    (lambda: mixing(2.0), "loihi1-sim", r"02_lm_ht: leak is 1\.38.*; the chip's neurons have no leak above 1"),
    (hard_reset_of_many_levels, "loihi1-sim", r"02_mtlif: has 3 thresholds and a hard reset, T = 2: .*graded spikes"),
)


@pytest.mark.parametrize(("build", "target", "message"), CASES)
def test_the_error_names_the_layer(build: Callable[[], nn.Module], target: str, message: str, tmp_path: Path) -> None:
    torch.save(build().eval(), tmp_path / "model.pt")
    with pytest.raises(CompileError, match=f"^{message}"):
        compile_file(tmp_path / "model.pt", target, tmp_path / "out")
    assert not (tmp_path / "out").exists()
