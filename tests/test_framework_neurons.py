"""Neurons of other packages as ours: gain, rest, reset and lower bound taken into the state change no spike."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snncompile.errors import CompileError
from snncompile.frontend.torch.neurons import Leaky
from snncompile.network import MultiThresholdLIF
from snncompile.reference import float_neurons

CHANNELS, STEPS = 3, 12


@st.composite
def neurons(draw: st.DrawFn) -> Leaky:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))

    def value(low: float, high: float) -> float | np.ndarray:
        return rng.uniform(low, high, CHANNELS) if draw(st.booleans()) else float(rng.uniform(low, high))

    levels = draw(st.sampled_from([1, 1, 3]))
    return Leaky(
        threshold=value(0.3, 1.5),
        leak=draw(st.sampled_from([0.0, 1.0, value(0.1, 1.0)])),
        reset=draw(st.sampled_from(["soft", "hard", "none"])),
        fire=draw(st.sampled_from(["ge", "gt"])),
        gain=value(0.05, 2.0),
        v_reset=value(-0.5, 0.2),
        v_leak=value(-0.3, 0.3),
        v0=value(-0.3, 0.2),
        subtract=draw(st.sampled_from([None, value(0.2, 1.0)])),
        payload=draw(st.sampled_from([1.0, 0.25])),
        levels=levels,
        current_leak=draw(st.sampled_from([None, value(0.1, 0.9)])),
        floor=draw(st.sampled_from([None, -1.0])),
    )


def by_their_equations(neuron: Leaky, x: np.ndarray) -> np.ndarray:
    """Spikes (T, N, channels) of the equations in Leaky's docstring."""
    taken = neuron.threshold if neuron.subtract is None else neuron.subtract
    threshold, subtract = (np.broadcast_to(values, CHANNELS) for values in (neuron.threshold, taken))
    v, i, sent = np.zeros(x.shape[1:]) + neuron.v0, np.zeros(x.shape[1:]), []
    for step in x:
        i = step if neuron.current_leak is None else neuron.current_leak * i + step
        u = neuron.leak * v + neuron.gain * i + (1 - np.asarray(neuron.leak)) * neuron.v_leak
        k = np.zeros(u.shape)
        for n in range(1, neuron.levels + 1):
            k += u >= n * threshold if neuron.fire == "ge" else u > n * threshold
        v = {"soft": u - k * subtract, "hard": np.where(k > 0, neuron.v_reset, u), "none": u}[neuron.reset]
        v = v if neuron.floor is None else np.maximum(v, neuron.floor)
        sent.append(neuron.payload * k)
    return np.stack(sent)


@given(neurons())
def test_every_spike_is_that_of_the_equations(neuron: Leaky) -> None:
    x = np.random.default_rng(1).normal(0.4, 1.5, (STEPS, 20, CHANNELS))
    made = MultiThresholdLIF("neuron", ("x",), **neuron.parameters("neuron"))
    assert np.array_equal(float_neurons(made, x)[0], by_their_equations(neuron, x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gain": 0.0}, "neuron: its input has the gain 0.0; needed: a positive number"),
        ({"leak": 1.2}, "neuron: keeps 1.2 of its state a step; needed: a number from 0 to 1"),
        ({"v_reset": 1.0}, "neuron: fires at 1.0, resets to 1.0; a neuron must fire above its reset"),
    ],
)
def test_refuses_what_cannot_be(change: dict[str, float], message: str) -> None:
    usual = {"threshold": 1.0, "leak": 0.5, "reset": "hard", "fire": "ge"}
    with pytest.raises(CompileError) as caught:
        Leaky(**{**usual, **change}).parameters("neuron")
    assert str(caught.value) == message
