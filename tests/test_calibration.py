"""Calibration statistics are the moments of what the reference sends; bad data is refused by name."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import conv_network, images, shortcut_network
from test_float_engine import far_from_thresholds
from test_lowering_integers import ROUTES, lowerable

from snncompile import reference
from snncompile.chip import load_chip
from snncompile.errors import CompileError
from snncompile.network import Conv2d, Network, Synapses
from snncompile.pipeline import lower
from snncompile.quantization.calibration import Calibration, calibrate, check_samples
from snncompile.reference import sum_members, sum_pool

LOIHI2 = load_chip("loihi2").numerics


def patches(node: Synapses, payloads: np.ndarray) -> np.ndarray:
    """(rows, groups, fan-in): what meets a row of weights, one by one, for payloads (N, *source)."""
    x = sum_pool(sum_members(payloads, node.members), node.pool)
    if not isinstance(node, Conv2d):
        return x.reshape(len(x), 1, -1)
    x = x if x.ndim == 4 else x[..., None, None]
    x = np.pad(x, ((0, 0), (0, 0), (node.padding[0],) * 2, (node.padding[1],) * 2))
    kh, kw = node.weight.shape[2:]
    found = []
    for top in range(0, x.shape[2] - node.dilation[0] * (kh - 1), node.stride[0]):
        for left in range(0, x.shape[3] - node.dilation[1] * (kw - 1), node.stride[1]):
            rows = top + node.dilation[0] * np.arange(kh)
            columns = left + node.dilation[1] * np.arange(kw)
            found.append(x[:, :, rows][:, :, :, columns].reshape(len(x), node.groups, -1))
    return np.concatenate(found)


@settings(max_examples=15)
@given(seed=st.integers(0, 100_000), route=st.sampled_from([*ROUTES, ("loihi2", "graded")]))
def test_moments_are_those_of_the_reference(seed: int, route: tuple[str, str]) -> None:
    chip, lowering = route
    network = lower(lowerable(seed, chip, lowering), load_chip(chip).numerics, lowering)
    x = images(network, 5, seed) / 255 / network.input.scale
    trace = reference.run_float(network, x)
    if not far_from_thresholds(network, trace.membranes, 1e-5):
        return
    calibration = calibrate(network, x)
    lateral = {name for neuron in network.neurons for name in network.laterals(neuron)}
    synapses = [node for node in network.nodes if isinstance(node, Synapses) and node.name not in lateral]
    assert set(calibration.layers) == {node.name for node in synapses}
    for node in synapses:
        unit = 255 if node.inputs == (network.input.name,) else 1
        seen = np.concatenate([patches(node, np.rint(unit * step)) for step in trace.outputs[node.inputs[0]]])
        layer = calibration.layers[node.name]
        assert layer.vectors * network.timesteps == len(seen)
        np.testing.assert_allclose(layer.mean, seen.mean(0), rtol=1e-12)
        np.testing.assert_allclose(layer.square, (seen**2).mean(0), rtol=1e-12)
        expected = np.einsum("rgn,rgm->gnm", seen, seen) / len(seen)
        np.testing.assert_allclose(layer.second_moment, expected, rtol=1e-12)


def _calibrated(network: Network, samples: int) -> Calibration:
    return calibrate(network, images(network, samples, 0))


def test_batches_and_pieces_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    network = lower(conv_network(7), LOIHI2)
    whole = _calibrated(network, 9)
    monkeypatch.setattr("snncompile.float_engine.BATCH_MAX", 4)
    monkeypatch.setattr("snncompile.quantization.calibration.PATCH_BYTES", 1)
    pieces = _calibrated(network, 9)
    for name, layer in whole.layers.items():
        np.testing.assert_array_equal(layer.second_moment, pieces.layers[name].second_moment)
        assert layer.vectors == pieces.layers[name].vectors


@pytest.mark.parametrize(("limit", "value"), [("FAN_IN_MAX", 8), ("MOMENTS_BYTES", 8 * 100)])
def test_a_fan_in_too_large_keeps_the_diagonal_only(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    network = lower(conv_network(7), LOIHI2)
    whole = _calibrated(network, 5)
    monkeypatch.setattr(f"snncompile.quantization.calibration.{limit}", value)
    bounded = _calibrated(network, 5)
    assert whole.diagonal_only == ()
    assert bounded.diagonal_only
    assert set(bounded.diagonal_only) < set(whole.layers)
    for name in bounded.diagonal_only:
        np.testing.assert_allclose(bounded.layers[name].square, whole.layers[name].square)


def _with(x: np.ndarray, value: float) -> np.ndarray:
    x = x.copy()
    x[3, 2] = value
    return x


GOOD = np.full((6, 6), 0.5)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (GOOD[:3], np.zeros(3, int), "d.npz: 3 samples, 6 are needed; give more samples"),
        (GOOD[:, :5], np.zeros(6, int), r"d.npz: samples of shape 5, the network takes 6; .*"),
        (_with(GOOD, np.nan), np.zeros(6, int), "d.npz: sample 3 holds NaN or infinite values; clean the data"),
        (_with(GOOD, np.inf), np.zeros(6, int), "d.npz: sample 3 holds NaN or infinite values; clean the data"),
        (_with(GOOD, 7), np.zeros(6, int), "d.npz: values from 0.5 to 7, the network takes 0 to 1; .*"),
        (GOOD.astype(str), np.zeros(6, int), "d.npz: x is of type .*; give numbers"),
        (GOOD, None, "d.npz: has no labels y; .*"),
        (GOOD, np.zeros(5, int), r"d.npz: x has 6 samples, y has shape \(5,\); give one label per sample"),
        (GOOD, np.full(6, 3), "d.npz: labels from 3 to 3; the network has classes 0 to 2"),
        (GOOD, np.full(6, 0.5), "d.npz: labels from 0.5 to 0.5; the network has classes 0 to 2"),
    ],
)
def test_unfit_data_is_refused(x: np.ndarray, y: np.ndarray | None, message: str) -> None:
    network = lower(shortcut_network(0), LOIHI2)
    with pytest.raises(CompileError, match=f"^{message}$"):
        check_samples(network, x, y, 6, labelled=True, where="d.npz")
    check_samples(network, GOOD, np.zeros(6, int), 6, labelled=True)
