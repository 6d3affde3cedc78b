"""The STBP-tdBN neuron, and `spike_value` of the neuron it builds on."""

import numpy as np
import pytest
import torch

from snncompile.frontend.torch.checkpoint import load_module
from snncompile.nn import MultiThresholdLIF, StbpLIF


def published(x: torch.Tensor, threshold: float, leak: float) -> torch.Tensor:
    """u = tau * u_prev * (1 - o_prev) + x; o = [u > V_th], surrogate of height 1 on |u - V_th| < 0.5."""
    u, o = torch.zeros_like(x[0]), torch.zeros_like(x[0])
    spikes = []
    for current in x:
        u = leak * u * (1 - o) + current
        window = u.clamp(threshold - 0.5, threshold + 0.5)
        o = (u > threshold).to(x.dtype) + (window - window.detach())
        spikes.append(o)
    return torch.stack(spikes)


def normal(*shape: int, scale: float = 0.4) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(0.1, scale, shape))


def test_spikes_and_gradient_are_the_published_ones() -> None:
    x, weight = normal(6, 5, 70), normal(6, 5, 70, scale=1.0)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = StbpLIF()(ours), published(theirs, 0.2, 0.25)
    assert torch.equal(y.detach(), expected.detach().round())
    assert 0.2 < float(y.detach().mean()) < 0.6
    (y * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-12)


def test_the_surrogate_is_one_within_a_half() -> None:
    u = torch.tensor([-0.31, -0.29, 0.2, 0.69, 0.71], requires_grad=True)
    StbpLIF(threshold=0.2)(u[None]).sum().backward()
    assert u.grad.tolist() == [0, 1, 1, 1, 0]


def test_the_reset_is_a_constant_when_asked() -> None:
    x = torch.tensor([[0.3], [0.1]], requires_grad=True)
    StbpLIF(detach_reset=True)(x)[1].sum().backward()
    assert x.grad[0, 0] == 0  # a spike: nothing of u[1] is left in u[2]
    x.grad = None
    StbpLIF()(x)[1].sum().backward()
    assert float(x.grad[0, 0]) == pytest.approx(-0.25 * 0.3)  # d/du of leak * u * (1 - o), where o = 1 and do/du = 1


def test_a_current_on_the_threshold_does_not_fire() -> None:
    assert StbpLIF(threshold=0.25)(torch.tensor([[0.25]])).item() == 0


def test_the_compiler_finds_every_attribute() -> None:
    layer = StbpLIF(threshold=0.3, leak=0.5)
    held = {key: vars(layer)[key] for key in ("threshold", "levels", "leak", "reset", "fire", "v0", "spike_value")}
    assert held == {
        "threshold": 0.3,
        "levels": 1,
        "leak": 0.5,
        "reset": "hard",
        "fire": "gt",
        "v0": 0.0,
        "spike_value": 1.0,
    }


def test_the_spike_value_scales_the_output_alone() -> None:
    x = normal(4, 3, 50, scale=1.0)
    plain, scaled = (MultiThresholdLIF(0.5, 3, spike_value=value) for value in (None, 2.0))
    assert vars(plain)["spike_value"] == 0.5
    assert torch.equal(scaled(x), 4 * plain(x))
    assert plain(x).any()


def test_a_module_pickled_before_spike_value_fires_its_threshold(tmp_path) -> None:
    new = MultiThresholdLIF(threshold=0.5, levels=4, leak=0.5)
    early = MultiThresholdLIF(threshold=0.5, levels=4, leak=0.5)
    del vars(early)["spike_value"]
    torch.save(torch.nn.Sequential(early), tmp_path / "early.pt")
    (old,) = load_module(tmp_path / "early.pt")
    assert "spike_value" not in vars(old)
    x = normal(2, 3, 32, 4, 4, scale=1.0)
    assert torch.equal(old(x), new(x))
    assert old.spike_value == 0.5


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_refuses_a_spike_value(value: float) -> None:
    with pytest.raises(ValueError, match=f"^MultiThresholdLIF: spike_value must be positive, got {value}$"):
        MultiThresholdLIF(spike_value=value)
