"""Group Neurons: the activation they come from, the exactness theorems, the conversion."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from snncompile.data import load_samples
from snncompile.nn import QCFS, DirectCoding, GroupNeuron, MeanReadout, PerStep, Residual, convert_to_group_neurons


def trained_ann(levels: int, seed: int = 0) -> nn.Sequential:
    """Random weights, scales and norm statistics, as after training; (1, 8, 8) images, 10 classes."""
    torch.manual_seed(seed)
    branch = nn.Sequential(
        nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), QCFS(levels), nn.Conv2d(6, 6, 3, padding=1)
    )
    ann = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), QCFS(levels), nn.AvgPool2d(2)),
        nn.Conv2d(6, 6, 3, padding=1),
        QCFS(levels),
        Residual(branch),
        QCFS(levels),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(96, 40),
        nn.BatchNorm1d(40),
        QCFS(levels),
        nn.Linear(40, 10),
    ).double()
    for layer in ann.modules():
        if isinstance(layer, QCFS):
            nn.init.uniform_(layer.scale, 0.7, 1.5)
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.3, 1)
    return ann.eval()


@given(st.integers(1, 16), st.floats(0.1, 10), st.lists(st.floats(-30, 30), min_size=1, max_size=50))
def test_qcfs_is_the_published_formula(levels: int, scale: float, values: list[float]) -> None:
    layer = QCFS(levels, init=scale).double()
    length = layer.scale.item()
    for x, y in zip(values, layer(torch.tensor(values, dtype=torch.float64)).tolist(), strict=True):
        position = x * levels / length + 0.5
        if abs(position - round(position)) > 1e-9:  # on a threshold, rounding decides
            assert y == pytest.approx(length / levels * min(max(math.floor(position), 0), levels), abs=1e-12)


def test_the_gradients_go_straight_through_the_floor() -> None:
    layer = QCFS(4, init=2.0).double()
    x = torch.tensor([-0.1, 0.0, 0.9, 1.9, 2.0, 2.1], dtype=torch.float64, requires_grad=True)
    y = layer(x)
    assert y.tolist() == [0, 0, 1, 2, 2, 2]
    slopes = []
    for i in range(len(x)):
        x.grad = layer.scale.grad = None
        y[i].backward(retain_graph=True)
        slopes.append((x.grad[i].item(), layer.scale.grad.item()))
    assert slopes == [(0, 0), (1, 0), (1, 1 / 2 - 0.9 / 2), (1, 1 - 1.9 / 2), (1, 0), (0, 1)]


@given(st.integers(1, 300), st.floats(1e-3, 1e3), st.integers(0, 1000), st.sampled_from([torch.float32, torch.float64]))
def test_one_step_of_a_group_is_qcfs_in_every_bit(levels: int, scale: float, seed: int, dtype: torch.dtype) -> None:
    activation = QCFS(levels, init=scale).to(dtype)
    theta = activation.scale.detach() / levels
    generator = torch.Generator().manual_seed(seed)
    on_thresholds = theta * (torch.arange(-2, levels + 2, dtype=dtype) + 0.5)  # where one rounding error tells
    between = scale * (3 * torch.rand(200, generator=generator, dtype=dtype) - 1)
    x = torch.cat([on_thresholds, between])
    assert torch.equal(GroupNeuron(activation.scale.item(), levels)(x[None])[0], activation(x))


@given(st.integers(1, 8), st.integers(1, 8), st.lists(st.integers(-400, 4000), min_size=1, max_size=30))
def test_constant_input_gives_qcfs_of_members_times_steps(members: int, steps: int, grid: list[int]) -> None:
    """On a grid where float arithmetic is exact: thresholds 1, inputs in 64ths, mean taken as a sum."""
    x = torch.tensor(grid, dtype=torch.float64) / 64
    total = GroupNeuron(members, members)(x.expand(steps, -1)).sum(0)
    fine = QCFS(members * steps, init=members).double()
    position = (x * steps + 0.5).floor().clamp(0, members * steps)
    assert torch.equal(total, position)
    generic = (x * steps + 0.5) % 1 != 0
    torch.testing.assert_close(total[generic] / steps, fine(x[generic]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_converted_network_is_the_ann_in_every_bit(dtype: torch.dtype) -> None:
    ann = trained_ann(levels=4).to(dtype)
    snn = convert_to_group_neurons(ann, members=4, timesteps=1)
    x = torch.rand(1000, 1, 8, 8, dtype=dtype)
    with torch.no_grad():
        logits = ann(x)
        assert (snn(x) != logits).sum() == 0
        assert logits.std() > 0.05
        assert len(logits.argmax(1).unique()) > 1
        coarse = convert_to_group_neurons(ann, members=3, timesteps=1)
        assert (coarse(x) != logits).any()


def test_no_logit_differs_on_a_thousand_images(fashion_data: Path) -> None:
    """members = L and T = 1, in float32, with the norms where training left them."""
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), QCFS(4, init=2.0)),
        nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), QCFS(4, init=2.0)),
        nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * 7 * 7, 10)),
    )
    x = torch.from_numpy(load_samples(fashion_data).x.copy()).float()
    for batch in x.split(100):
        ann(batch / 255)
    ann.eval()
    snn = convert_to_group_neurons(ann, members=4, timesteps=1, input_shape=(1, 28, 28), input_scale=1 / 255)
    with torch.inference_mode():
        expected, logits = ann(x * (1 / 255)), snn(x)
    assert len(logits) == 1000
    assert int((logits != expected).sum()) == 0


def test_more_steps_follow_the_ann() -> None:
    ann = trained_ann(levels=8)
    x = torch.rand(500, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = ann(x).argmax(1)
        agreement = [
            float((convert_to_group_neurons(ann, m, t)(x).argmax(1) == expected).double().mean())
            for m, t in ((8, 1), (4, 2), (2, 4))
        ]
    assert agreement[0] == 1
    assert min(agreement[1:]) > 0.6


def test_the_conversion_gives_what_the_compiler_reads() -> None:
    ann = trained_ann(levels=4)
    snn = convert_to_group_neurons(ann, members=2, timesteps=3, input_shape=(1, 8, 8), input_scale=1 / 255)
    layer, neuron = (PerStep, GroupNeuron)
    kinds = (DirectCoding, layer, neuron, layer, neuron, Residual, neuron, layer, neuron, layer, MeanReadout)
    assert tuple(type(layer) for layer in snn) == kinds
    assert (snn[0].timesteps, snn[0].input_shape, snn[0].scale) == (3, (1, 8, 8), 1 / 255)
    assert [type(layer) for layer in snn[5].body] == [PerStep, GroupNeuron, PerStep]
    scale = ann[0][2].scale.item()
    assert (snn[2].threshold, snn[2].levels, snn[2].leak, snn[2].v0) == (scale / 2, 2, 1.0, scale / 4)
    assert not any(layer.training for layer in snn.modules())
    snn[1][0].weight.data.zero_()
    assert ann[0][0].weight.any()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.MaxPool2d(2), r"layer 1\.0 \(MaxPool2d\): the maximum of spike trains .* train with nn.AvgPool2d"),
        (nn.ReLU(), r"layer 1\.0 \(ReLU\): it has no scale .* replace it by QCFS\(levels\), which learns one"),
        (nn.GELU(), r"layer 1\.0 \(GELU\): not one of Conv2d, Linear, "),
        (nn.BatchNorm2d(4, track_running_stats=False), r"layer 1\.0 \(BatchNorm2d\): it has no running statistics"),
    ],
)
def test_refuses_layers_by_their_path(layer: nn.Module, message: str) -> None:
    ann = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(layer))
    with pytest.raises(ValueError, match=message):
        convert_to_group_neurons(ann, members=4, timesteps=1)


def test_refuses_bad_numbers() -> None:
    for make, message in (
        (lambda: QCFS(0), "QCFS: levels must be at least 1, got 0"),
        (lambda: QCFS(4, init=0.0), "QCFS: init must be positive, got 0.0"),
        (lambda: GroupNeuron(1.0, 0), "GroupNeuron: members must be at least 1, got 0"),
        (lambda: GroupNeuron(float("nan"), 2), "GroupNeuron: scale must be positive, got nan"),
        (lambda: convert_to_group_neurons(nn.Sequential(), 2, 0), "timesteps must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    dead = QCFS(4)
    nn.init.constant_(dead.scale, -0.5)
    inner = Residual(nn.Sequential(nn.Identity(), dead))
    with pytest.raises(ValueError, match=r"layer 0\.body\.1 \(QCFS\): its scale is -0\.5"):
        convert_to_group_neurons(nn.Sequential(inner), 4, 1)
