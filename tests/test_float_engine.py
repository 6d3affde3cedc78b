"""The float engine is the reference: same spikes in float64, any batch, any lowering."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import conv_network, images, random_network
from test_lowering_integers import ROUTES, lowerable

from snncompile import reference
from snncompile.chip import load_chip
from snncompile.float_engine import FloatEngine, Stream, accuracy
from snncompile.network import MultiThresholdLIF, Network, Readout, Synapses
from snncompile.pipeline import lower, run_passes


def far_from_thresholds(network: Network, membranes: dict[str, np.ndarray], near: float = 1e-9) -> bool:
    """Whether no membrane lies within rounding of a threshold."""
    for neuron in network.neurons:
        for theta in neuron.thresholds:
            u = membranes[neuron.name]
            by_channel = np.reshape(theta, (-1, *(1,) * (u.ndim - 3)))
            if (np.abs(u - by_channel) < near).any():
                return False
    return True


def assert_as_reference(network: Network, x: np.ndarray) -> None:
    expected = reference.run_float(network, x)
    if not far_from_thresholds(network, expected.membranes):
        return
    engine = FloatEngine(network, "float64")
    for node, stream in engine.streams(x):
        if isinstance(node, Readout):
            np.testing.assert_allclose(stream.frames[0].numpy(), expected.output, rtol=0, atol=1e-9)
            continue
        steps = np.stack([stream[t].numpy() for t in range(network.timesteps)])
        if isinstance(node, MultiThresholdLIF):
            np.testing.assert_array_equal(steps, expected.outputs[node.name])
        else:
            np.testing.assert_allclose(steps, expected.outputs[node.name], rtol=0, atol=1e-9)


@settings(max_examples=30)
@given(st.integers(0, 100_000))
def test_networks_as_read_and_folded(seed: int) -> None:
    network = random_network(seed)
    x = images(network, 3, seed) / 255 / network.input.scale
    assert_as_reference(network, x)
    assert_as_reference(run_passes(network), x)


@settings(max_examples=30)
@given(seed=st.integers(0, 100_000), route=st.sampled_from(ROUTES))
def test_lowered_networks(seed: int, route: tuple[str, str]) -> None:
    chip, lowering = route
    network = lower(lowerable(seed, chip, lowering), load_chip(chip).numerics, lowering)
    assert_as_reference(network, images(network, 3, seed) / 255 / network.input.scale)


@settings(max_examples=30)
@given(seed=st.integers(0, 100_000), coding=st.sampled_from(["events", "rate"]))
def test_other_input_codings(seed: int, coding: str) -> None:
    network = random_network(seed)
    coded = replace(network.input, coding=coding, scale=1.0)
    network = lower(network.replacing({coded.name: coded}), load_chip("loihi2").numerics)
    rng = np.random.default_rng(seed)
    steps = network.timesteps // network.microsteps
    events = rng.integers(0, 3, (2, steps, *coded.shape))
    assert_as_reference(network, events if coding == "events" else rng.random((2, *coded.shape)))


def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    network = lower(conv_network(5), load_chip("loihi2").numerics)
    x = images(network, 11, 0)
    whole = FloatEngine(network).run(x)
    monkeypatch.setattr("snncompile.float_engine.BATCH_MAX", 3)
    engine = FloatEngine(network)
    done: list[tuple[int, int]] = []
    np.testing.assert_allclose(engine.run(x, progress=lambda *now: done.append(now)), whole, atol=1e-6)
    assert engine.batch == 3
    assert done == [(3, 11), (6, 11), (9, 11), (11, 11)]
    assert accuracy(network, x, whole.argmax(1)) == 1.0


def test_watching_shows_every_layer_its_input() -> None:
    network = lower(lowerable(8, "loihi2", "r1"), load_chip("loihi2").numerics, "r1")
    x = images(network, 4, 0) / 255 / network.input.scale
    seen: dict[str, np.ndarray] = {}

    def watch(synapses: Synapses, stream: Stream) -> None:
        seen[synapses.name] = torch.tensordot(torch.from_numpy(stream.repeats).double(), stream.frames, 1).numpy()

    FloatEngine(network, "float64").run(x, watch)
    expected = reference.run_float(network, x)
    synapses = [node for node in network.nodes if isinstance(node, Synapses)]
    assert set(seen) == {s.name for s in synapses}
    for s in synapses:
        steps = expected.outputs[s.inputs[0]]
        lateral = s.name in network.laterals(network.by_name[s.inputs[0]])
        np.testing.assert_allclose(seen[s.name], (steps[:-1] if lateral else steps).sum(0), atol=1e-9)
