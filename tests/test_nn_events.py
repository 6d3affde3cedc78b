"""EventCoding: frames of events as the input of a multi-step network."""

import pytest
import torch
from torch import nn

from snncompile.nn import EventCoding, MeanReadout, MultiThresholdLIF, PerStep


def test_steps_come_first_and_values_stay() -> None:
    frames = torch.randint(0, 4, (5, 3, 2, 4, 6), dtype=torch.uint8)
    y = EventCoding(3, (2, 4, 6))(frames)
    assert y.dtype == torch.float32
    assert y.shape == (3, 5, 2, 4, 6)
    for t in range(3):
        torch.testing.assert_close(y[t], frames[:, t].float(), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(5, 2, 2, 4, 6), (5, 3, 4, 6), (5, 3, 2, 6, 4), (3, 2, 4, 6)])
def test_another_shape_is_refused_naming_both(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"needed x of shape \(B, 3, 2, 4, 6\), got \(") as error:
        EventCoding(3, (2, 4, 6))(torch.zeros(shape))
    assert str(shape) in str(error.value)


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="timesteps must be at least 1, got 0"):
        EventCoding(0, (2,))


def test_attributes_and_a_network_of_features() -> None:
    coding = EventCoding(4, [6])
    assert (coding.timesteps, coding.input_shape) == (4, (6,))
    network = nn.Sequential(coding, PerStep(nn.Linear(6, 3)), MultiThresholdLIF(), MeanReadout())
    assert network(torch.ones(2, 4, 6)).shape == (2, 3)
