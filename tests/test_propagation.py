"""GPTQ that follows the data: what the rounded layers send is what the integers send, and its error is made up for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import conv_network, images, residual_network, shortcut_network
from test_calibration import patches
from test_float_engine import far_from_thresholds

from snncompile import reference
from snncompile.chip import load_chip
from snncompile.network import Network, Synapses
from snncompile.pipeline import lower
from snncompile.quant_network import Population
from snncompile.quantization.calibration import LayerStatistics, calibrate
from snncompile.quantization.propagation import Propagation
from snncompile.quantization.quantize import quantize
from snncompile.quantization.rounding import DRIFT_DAMPING, Rounding, damping_of, following

LOIHI2 = load_chip("loihi2").numerics
KINDS = {"conv": conv_network, "shortcut": shortcut_network, "residual": residual_network}


def samples(network: Network, count: int, seed: int) -> np.ndarray:
    return images(network, count, seed) / 255 / network.input.scale


@settings(max_examples=12)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(sorted(KINDS)), bits=st.sampled_from([2, 4, 8]))
def test_statistics_are_those_of_the_integer_and_the_float_network(seed: int, kind: str, bits: int) -> None:
    network = lower(KINDS[kind](seed), LOIHI2)
    x = samples(network, 6, seed)
    exact = reference.run_float(network, x)
    if not far_from_thresholds(network, exact.membranes, 1e-5):
        return
    integers, host = quantize(network, LOIHI2, bits)
    trace = reference.run_integer(integers, host.encoder(x))
    if any(_close(p, trace.membranes[p.name]) for p in integers.populations if p.spiking):
        return  # a float32 sum may fall on the other side
    calibration = calibrate(network, x)
    propagation = Propagation(network, calibration, x)
    for population in integers.populations:
        for s in integers.inputs_of(population):
            _check(propagation, network, s.name, exact.outputs, trace.payloads)
        node = network.by_name[population.name]
        propagation.advance(node, integers.inputs_of(population), population, host.state[population.name])


def _close(population: Population, membranes: np.ndarray) -> bool:
    """Whether a membrane (T, N, *shape) comes within 2 of a threshold."""
    thresholds = population.thresholds.reshape(-1, 1, 1, population.shape[0], *(1,) * (len(population.shape) - 1))
    return bool((np.abs(membranes - thresholds) < 2).any())


def _check(
    propagation: Propagation, network: Network, name: str, exact: dict[str, np.ndarray], sent: dict[str, np.ndarray]
) -> None:
    node = network.by_name[name]
    assert isinstance(node, Synapses)
    found = propagation.statistics(name)
    source = node.inputs[0]
    if source == network.input.name:
        assert found.exact_mean is found.cross_moment is None
        return
    ours = np.concatenate([patches(node, step) for step in sent[source]]).astype(float)
    theirs = np.concatenate([patches(node, step) for step in exact[source]])
    np.testing.assert_allclose(found.mean, ours.mean(0), rtol=1e-12)
    moment = np.einsum("rgn,rgm->gnm", ours, ours) / len(ours)
    np.testing.assert_allclose(found.second_moment, moment, rtol=1e-12)
    if found.exact_mean is None:
        assert not theirs.any()
        return
    np.testing.assert_allclose(found.exact_mean, theirs.mean(0), rtol=1e-12)
    cross = np.einsum("rgn,rgm->gnm", theirs, ours) / len(ours)
    np.testing.assert_allclose(found.cross_moment, cross, rtol=1e-12)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), centred=st.booleans())
def test_what_is_rounded_is_the_ridge_regression(seed: int, centred: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, (300, 6)).astype(float)
    sent = np.clip(x + rng.integers(-1, 2, x.shape), 0, None)
    weight = rng.normal(size=(3, 6))
    layer = LayerStatistics(
        sent.mean(0)[None], (sent**2).mean(0)[None], (sent.T @ sent / 300)[None], 300, x.mean(0)[None],
        (x.T @ sent / 300)[None],
    )  # fmt: skip
    how = Rounding("gptq", calibrate(lower(shortcut_network(0), LOIHI2), np.zeros((1, 6))), correct_bias=centred)
    moments = how.of_layer(layer)
    if centred:
        x, sent = x - x.mean(0), sent - sent.mean(0)
    damping = (DRIFT_DAMPING + 1) * damping_of(layer) * (sent**2).mean(0).mean()
    # rows of the penalty pull W* towards W
    inputs = np.concatenate([sent / np.sqrt(300), np.sqrt(damping) * np.eye(6)])
    wanted = np.concatenate([x @ weight.T / np.sqrt(300), np.sqrt(damping) * weight.T])
    expected = np.linalg.lstsq(inputs, wanted, rcond=None)[0].T
    np.testing.assert_allclose(moments.target(weight), expected, atol=1e-9)


def test_the_bias_takes_the_mean_error_of_both() -> None:
    rng = np.random.default_rng(0)
    x, sent = rng.random((50, 4)), rng.random((50, 4)) + 1
    layer = LayerStatistics(
        sent.mean(0)[None], (sent**2).mean(0)[None], (sent.T @ sent / 50)[None], 50, x.mean(0)[None],
        (x.T @ sent / 50)[None],
    )  # fmt: skip
    how = Rounding("gptq", calibrate(lower(shortcut_network(0), LOIHI2), np.zeros((1, 6))))
    w, q = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    lost = how.of_layer(layer).mean_lost(w, q)
    np.testing.assert_allclose((sent @ q.T + lost).mean(0), (x @ w.T).mean(0))


def _output_error(network: Network, how: Rounding, bits: int, x: np.ndarray) -> float:
    integers, host = quantize(network, LOIHI2, bits, how)
    output = reference.run_integer(integers, host.encoder(x)).output * host.output_scale
    exact = reference.run_float(network, x).output
    return float(((output - exact) ** 2).mean() / exact.var())


@pytest.mark.parametrize("bits", [2, 3])
def test_following_brings_the_output_nearer(bits: int) -> None:
    ratios = []
    for seed in range(6):
        network = lower(residual_network(seed), LOIHI2)
        calibration = calibrate(network, samples(network, 100, seed))
        x = samples(network, 20, seed + 1000)
        alone, after = (
            _output_error(network, Rounding("gptq", calibration, follow=follow), bits, x) for follow in (False, True)
        )
        ratios.append(after / alone)
    assert np.exp(np.mean(np.log(ratios))) < 0.95, ratios


def test_only_gptq_with_its_data_follows() -> None:
    network = lower(shortcut_network(0), LOIHI2)
    calibration = calibrate(network, np.zeros((3, 6)))
    assert following(network, Rounding("gptq", calibration), 4).propagation is not None
    wide = Rounding("gptq", calibration)
    assert following(network, wide, 8) is wide
    assert following(network, Rounding("gptq", calibration, bits={"l": 3}), 8).propagation is not None
    for how in (Rounding(), Rounding("activation", calibration), Rounding("gptq", calibration, follow=False)):
        assert following(network, how, 3) is how
