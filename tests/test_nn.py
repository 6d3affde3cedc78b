"""The training layers: what they compute, how their gradients flow, what they refuse."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snncompile.nn import DirectCoding, MeanReadout, MultiThresholdLIF, PerStep, TdBatchNorm1d, TdBatchNorm2d
from snncompile.nn.surrogate import SURROGATES, surrogate_slope


def test_two_steps_by_hand() -> None:
    layer = MultiThresholdLIF(threshold=0.5, levels=4, leak=0.5, reset="soft")
    # u = 1.25 -> k = 2, v = 0.25;  u = 0.125 + 3 = 3.125 -> k = 4 (all levels)
    y = layer(torch.tensor([[[1.25]], [[3.0]]]))
    assert y.flatten().tolist() == [1.0, 2.0]


def test_hard_reset_with_one_level_is_the_tdbn_neuron() -> None:
    """u = tau * u_prev * (1 - o_prev) + x; o = [u > V_th] (arXiv 2011.05280, as re-implemented in public)."""
    layer = MultiThresholdLIF(threshold=0.2, levels=1, leak=0.25, reset="hard", fire="gt")
    x = torch.from_numpy(np.random.default_rng(0).normal(0.1, 0.3, (6, 5, 7)))
    u, o = torch.zeros_like(x[0]), torch.zeros_like(x[0])
    expected = []
    for current in x:
        u = 0.25 * u * (1 - o) + current
        o = (u > 0.2).to(x.dtype)
        expected.append(o)
    torch.testing.assert_close(layer(x), 0.2 * torch.stack(expected))


@pytest.mark.parametrize("kind", SURROGATES)
def test_a_surrogate_integrates_to_one(kind: str) -> None:
    x = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    area = torch.trapezoid(surrogate_slope(x, kind, width=0.7), x)
    assert float(area) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", SURROGATES)
def test_the_gradient_is_the_sum_over_thresholds(kind: str) -> None:
    layer = MultiThresholdLIF(threshold=0.5, levels=3, leak=1.0, surrogate=kind, width=0.4)
    u = torch.linspace(-1, 3, 101, dtype=torch.float64, requires_grad=True)
    layer(u[None]).sum().backward()
    expected = sum(surrogate_slope(u.detach() - 0.5 * j, kind, 0.4) for j in (1, 2, 3))
    torch.testing.assert_close(u.grad, 0.5 * expected)


def test_the_default_surrogate_is_one_on_the_wide_range() -> None:
    u = torch.tensor([0.2, 0.3, 0.9, 2.2, 2.3], requires_grad=True)
    MultiThresholdLIF(threshold=0.5, levels=4)(u[None]).sum().backward()
    assert u.grad.tolist() == [0, 1, 1, 1, 0]  # 1 on threshold/2 .. (levels + 1/2) * threshold


@pytest.mark.parametrize("detach", [True, False])
def test_the_reset_is_detached_when_asked(detach: bool) -> None:
    x = torch.tensor([[0.6], [0.3]], requires_grad=True)
    MultiThresholdLIF(threshold=0.5, levels=1, leak=0.5, detach_reset=detach)(x)[1].sum().backward()
    # dy1/dx0 = h * leak * (1 - dk0/du0 * threshold): the second factor is 0 where the reset is not detached
    assert float(x.grad[0, 0]) == (0.5 if detach else 0.0)


@given(st.integers(0, 1000), st.booleans())
def test_tdbn_is_batch_norm_over_steps_and_batch(seed: int, images: bool) -> None:
    rng = np.random.default_rng(seed)
    shape = (3, 4, 5, 2, 2) if images else (3, 4, 5)
    x = torch.from_numpy(rng.normal(1, 2, shape))
    layer = (TdBatchNorm2d if images else TdBatchNorm1d)(5, v_threshold=0.5, alpha=1 / math.sqrt(2)).double()
    axes = (0, 1, 3, 4) if images else (0, 1)
    mean, var = x.mean(axes, keepdim=True), x.var(axes, unbiased=False, keepdim=True)
    torch.testing.assert_close(layer(x), 0.5 / math.sqrt(2) * (x - mean) / torch.sqrt(var + 1e-5))


def test_coding_and_readout_are_the_borders() -> None:
    x = torch.rand(2, 1, 4, 4)
    coded = DirectCoding(3, input_shape=(1, 4, 4), scale=0.5)(x)
    assert coded.shape == (3, 2, 1, 4, 4)
    torch.testing.assert_close(coded[2], 0.5 * x)
    torch.testing.assert_close(PerStep(torch.nn.Flatten())(coded), coded.flatten(2))
    torch.testing.assert_close(MeanReadout()(coded), 0.5 * x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 0}, "levels must be at least 1, got 0"),
        ({"threshold": -1.0}, "threshold must be positive, got -1.0"),
        ({"leak": 1.1}, r"leak must lie in \(0, 1\], got 1.1"),
        ({"reset": "sof"}, "reset must be one of soft, hard, none, got 'sof'"),
        ({"fire": ">"}, "fire must be one of ge, gt, got '>'"),
        ({"surrogate": "atan"}, "surrogate must be one of rectangular, triangular, gaussian, got 'atan'"),
    ],
)
def test_refuses(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^MultiThresholdLIF: {message}$"):
        MultiThresholdLIF(**options)


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="timesteps must be at least 1, got 0"):
        DirectCoding(0)
