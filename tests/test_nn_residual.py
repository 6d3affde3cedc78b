"""Residual connections and the tdBN basic block."""

import math

import pytest
import torch
from torch import nn

from snncompile.nn import MultiThresholdLIF, PerStep, Residual, StbpLIF, TdBatchNorm2d, basic_block


def test_adds_what_it_branches_off() -> None:
    body, side = nn.Linear(3, 3), nn.Linear(3, 3)
    x = torch.randn(2, 4, 3)
    assert torch.equal(Residual(body)(x), body(x) + x)
    assert torch.equal(Residual(body, side)(x), body(x) + side(x))


def test_both_branches_are_where_a_reader_of_the_module_looks() -> None:
    body = nn.Linear(3, 3)
    assert list(vars(Residual(body))["_modules"].items()) == [("body", body), ("shortcut", None)]
    assert list(Residual(body, body).state_dict()) == ["body.weight", "body.bias", "shortcut.weight", "shortcut.bias"]


@pytest.mark.parametrize("shortcut", [None, nn.Linear(3, 1)])
def test_nothing_is_broadcast(shortcut: nn.Module | None) -> None:
    kind, width = ("identity", 3) if shortcut is None else ("shortcut", 1)
    layer = Residual(nn.Linear(3, 1 if shortcut is None else 3), shortcut)
    given = 1 if shortcut is None else 3
    with pytest.raises(ValueError, match=rf"body gives shape \(2, 4, {given}\), the {kind} \(2, 4, {width}\); needed"):
        layer(torch.zeros(2, 4, 3))


@pytest.mark.parametrize(("channels_in", "stride"), [(5, 1), (5, 2), (3, 1)])
def test_basic_block_is_the_formula(channels_in: int, stride: int) -> None:
    block = basic_block(channels_in, 5, stride, lambda: StbpLIF(0.2, 0.25), v_threshold=0.2)
    residual, last = block
    conv1, norm1, neuron, conv2, norm2 = residual.body
    x = (torch.rand(2, 3, channels_in, 7, 7) < 0.5).float()
    side = x
    if stride > 1 or channels_in != 5:
        conv3, norm3 = residual.shortcut
        assert (conv3[0].kernel_size, conv3[0].stride, conv3[0].padding) == ((1, 1), (stride, stride), (0, 0))
        torch.testing.assert_close(norm3.weight, torch.full((5,), 0.2 / math.sqrt(2)))
        side = norm3(conv3(x))
    else:
        assert residual.shortcut is None
    torch.testing.assert_close(norm1.weight, torch.full((5,), 0.2))
    torch.testing.assert_close(norm2.weight, torch.full((5,), 0.2 / math.sqrt(2)))
    expected = last(norm2(conv2(neuron(norm1(conv1(x))))) + side)
    y = block(x)
    assert torch.equal(y, expected)
    assert y.shape == (2, 3, 5, math.ceil(7 / stride), math.ceil(7 / stride))
    assert neuron is not last
    assert not any(layer.bias is not None for layer in block.modules() if isinstance(layer, nn.Conv2d))


def test_an_identity_shortcut_carries_graded_spikes() -> None:
    spikes = MultiThresholdLIF(0.5, 3)(torch.rand(2, 1, 2, 3, 3) * 3)
    silent = Residual(nn.Sequential(PerStep(nn.Conv2d(2, 2, 3, padding=1)), TdBatchNorm2d(2, 0.5)))
    nn.init.zeros_(silent.body[1].weight)
    assert torch.equal(silent(spikes), spikes)
    assert spikes.max() > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels_in": 0}, "basic_block: channels_in must be at least 1, got 0"),
        ({"stride": 0}, "basic_block: stride must be at least 1, got 0"),
        ({"v_threshold": 0.0}, "basic_block: v_threshold must be positive, got 0.0"),
    ],
)
def test_refuses(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        basic_block(
            **{"channels_in": 2, "channels_out": 2, "stride": 1, "neuron": StbpLIF, "v_threshold": 1.0} | options
        )
