"""Rounding to few bits: in range, ever better from method to method, one scale where one is needed."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import conv_network, images, random_network, residual_network
from test_lowering_integers import lowerable

from snncompile import reference
from snncompile.chip import load_chip
from snncompile.errors import CompileError
from snncompile.network import Network
from snncompile.pipeline import lower
from snncompile.quantization.calibration import Calibration, LayerStatistics, calibrate
from snncompile.quantization.quantize import quantize
from snncompile.quantization.rounding import (
    METHODS,
    Method,
    Moments,
    Rounding,
    descended,
    gptq,
    inverse_factor,
    nearest_integers,
    round_rows,
)
from snncompile.quantization.verify_integers import verify_integers

LOIHI2 = load_chip("loihi2").numerics


def correlated(seed: int, fan_in: int, samples: int = 200) -> np.ndarray:
    """Spikes (samples, fan-in) that come together, some inputs never."""
    rng = np.random.default_rng(seed)
    causes = rng.random((samples, 3)) < 0.4
    spikes = (causes @ rng.random((3, fan_in)) > rng.random((samples, fan_in))).astype(float)
    spikes[:, rng.random(fan_in) < 0.1] = 0
    return spikes


def statistics(spikes: np.ndarray, groups: int = 1) -> LayerStatistics:
    s = spikes.reshape(len(spikes), groups, -1)
    moment = np.einsum("bgn,bgm->gnm", s, s) / len(s)
    return LayerStatistics(s.mean(0), (s**2).mean(0), moment, len(s))


def rounding(method: Method, spikes: np.ndarray, groups: int = 1, **options: bool) -> tuple[Rounding, Moments]:
    how = Rounding(method, Calibration({"l": statistics(spikes, groups)}, len(spikes)), **options)
    fan_in = spikes.shape[1] // groups
    exact = Rounding("gptq", how.calibration, **options)
    return how, exact.moments("l", np.zeros((groups, fan_in)))


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    bits=st.integers(2, 8),
    fan_in=st.integers(1, 24),
    groups=st.sampled_from([1, 2]),
    shared=st.booleans(),
    correct_bias=st.booleans(),
)
def test_every_method_is_in_range_and_no_worse_than_the_one_before(
    seed: int, bits: int, fan_in: int, groups: int, shared: bool, correct_bias: bool
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_t(3, (4 * groups, fan_in)) * 10.0 ** rng.integers(-3, 3)
    spikes = correlated(seed, fan_in * groups)
    errors = {}
    for method in METHODS:
        how, exact = rounding(method, spikes, groups, correct_bias=correct_bias)
        rounded = round_rows([weight], [how.moments("l", weight)], [bits], how, shared)
        (q,) = rounded.integers
        assert np.abs(q).max() <= 2 ** (bits - 1) - 1
        assert rounded.exponents == [0]
        assert (rounded.scale > 0).all()
        assert len(set(rounded.scale.tolist())) == 1 or not shared
        difference = weight - q * rounded.scale[:, None]
        errors[method] = exact.error(difference).sum(), (difference**2).sum()
        assert correct_bias or not rounded.bias.any()
    slack = 1 + 1e-9
    assert errors["mse"][1] <= errors["max"][1] * slack
    assert errors["activation"][0] <= errors["max"][0] * slack
    assert errors["activation"][0] <= errors["mse"][0] * slack
    assert errors["gptq"][0] <= errors["activation"][0] * slack


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), bits=st.integers(2, 4))
def test_error_feedback_is_better_at_one_scale_and_descent_never_worse(seed: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    weight, spikes = rng.normal(size=(8, 30)), correlated(seed, 30)
    _, moments = rounding("gptq", spikes)
    assert moments.full is not None
    largest = 2 ** (bits - 1) - 1
    unit = np.abs(weight).max(1) / largest
    plain = nearest_integers(weight, unit, largest)
    start = gptq(weight, unit, largest, moments.full[0])
    q = descended(weight, unit, largest, moments, start)
    before, after = (moments.error(weight - a * unit[:, None]).sum() for a in (start, q))
    assert after <= before * (1 + 1e-9)
    assert after < moments.error(weight - plain * unit[:, None]).sum()


def test_gptq_is_the_closed_form_column_by_column() -> None:
    """Rounding one column, the others take their least-squares values given its error."""
    spikes = correlated(3, 6) + 0.1 * np.random.default_rng(3).random((200, 6))
    h = spikes.T @ spikes / 200 + 0.01 * np.eye(6)
    order = np.argsort(-h.diagonal(), kind="stable")
    upper = inverse_factor(h[np.ix_(order, order)])
    np.testing.assert_allclose(upper.T @ upper, np.linalg.inv(h[np.ix_(order, order)]), atol=1e-9)
    weight = np.random.default_rng(0).normal(size=(1, 6))
    q, w, unit = np.zeros(6, int), weight[0].copy(), 0.7
    for k, i in enumerate(order):
        q[i] = np.clip(np.rint(w[i] / unit), -3, 3)
        rest = order[k + 1 :]
        # minimise (w - a)^T H (w - a) over a_rest with a_i = q_i unit
        w[rest] += np.linalg.solve(h[np.ix_(rest, rest)], h[rest, i]) * (w[i] - q[i] * unit)
    assert gptq(weight, np.array([unit]), 3, h)[0].tolist() == q.tolist()


def test_without_a_second_moment_only_the_diagonal_weighs() -> None:
    spikes = correlated(1, 12)
    layer = statistics(spikes)
    diagonal = LayerStatistics(layer.mean, layer.square, None, 200)
    how = Rounding("gptq", Calibration({"l": diagonal}, 200))
    weight = np.random.default_rng(0).normal(size=(3, 12))
    moments = how.moments("l", weight)
    rounded = round_rows([weight], [moments], [3], how, False)
    expected = nearest_integers(weight, rounded.scale, 3)
    assert rounded.integers[0].tolist() == expected.tolist()


def test_the_bias_takes_the_mean_error() -> None:
    spikes = correlated(1, 12)
    how, _ = rounding("gptq", spikes)
    weight = np.random.default_rng(0).normal(size=(3, 12))
    rounded = round_rows([weight], [how.moments("l", weight)], [2], how, False)
    exact = spikes @ weight.T
    given_now = spikes @ (rounded.integers[0] * rounded.scale[:, None]).T + rounded.bias
    np.testing.assert_allclose(given_now.mean(0), exact.mean(0))


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), method=st.sampled_from(get_args(Method)), shared=st.booleans())
def test_layers_that_meet_have_units_in_powers_of_two(seed: int, method: Method, shared: bool) -> None:
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(4, 6)), rng.normal(size=(4, 3)) * 10.0 ** rng.integers(-2, 2)]
    spikes = [correlated(seed, 6), correlated(seed + 1, 3)]
    bits = [int(b) for b in rng.choice([2, 3, 4, 8], 2)]
    layers = {name: statistics(s) for name, s in zip("ab", spikes, strict=True)}
    how = Rounding(method, Calibration(layers, 200))
    moments = [how.moments(name, w) for name, w in zip("ab", weights, strict=True)]
    rounded = round_rows(weights, moments, bits, how, shared)
    assert min(rounded.exponents) == 0
    for w, q, e, b, m in zip(weights, rounded.integers, rounded.exponents, bits, moments, strict=True):
        assert np.abs(q).max() <= 2 ** (b - 1) - 1
        nothing = m.error(w).sum()
        assert m.error(w - q * (rounded.scale * 2.0**e)[:, None]).sum() <= nothing * (1 + 1e-9)


def calibrated(network: Network, method: Method, seed: int, **options: bool) -> Rounding:
    x = images(network, 60, seed) / 255 / network.input.scale
    return Rounding(method, calibrate(network, x), **options)


@settings(max_examples=12)
@given(
    seed=st.integers(0, 10_000),
    bits=st.sampled_from([2, 3, 4, 8]),
    method=st.sampled_from(["mse", "activation", "gptq", "percentile"]),
    chip=st.sampled_from(["loihi1", "loihi2"]),
)
def test_quantised_networks_verify_and_fit_the_chip(seed: int, bits: int, method: Method, chip: str) -> None:
    numerics = load_chip(chip).numerics
    network = lower(lowerable(seed, chip, "auto"), numerics)
    how = calibrated(network, method, seed)
    integers, host = quantize(network, numerics, bits, how)
    verify_integers(integers)
    for population in integers.populations:
        assert population.state_bits <= numerics.state_bits
        for s in integers.inputs_of(population):
            widest = s.source == population.name
            assert s.weight_bits == (8 if widest else bits)
            assert np.abs(s.weight).max() < 2 ** (s.weight_bits - 1)
            rows = s.weight.reshape(-1, population.members, *s.weight.shape[1:])
            assert widest or (rows == rows[:, :1]).all(), "members of a neuron must see the same current"
    again, _ = quantize(network, numerics, bits, how)
    for one, two in zip(integers.synapses, again.synapses, strict=True):
        np.testing.assert_array_equal(one.weight, two.weight)
    payloads = host.encoder(images(network, 2, seed) / 255 / network.input.scale)
    one, two = reference.run_integer(integers, payloads), reference.run_on_chip_clock(integers, payloads)
    np.testing.assert_array_equal(one.output, two.output)


def _current_errors(network: Network, how: Rounding | None, bits: int, seed: int) -> np.ndarray:
    """Per layer the squared error of its input current on the float network's own spikes."""
    integers, host = quantize(network, LOIHI2, bits, how)
    trace = reference.run_float(network, images(network, 40, seed) / 255 / network.input.scale)
    errors = []
    for population in integers.populations:
        unit = host.state[population.name].reshape(-1, *(1,) * (len(population.shape) - 1))
        exact = np.sum([trace.outputs[s.name] for s in integers.inputs_of(population)], axis=0)
        current = population.bias.reshape(unit.shape)
        for s in integers.inputs_of(population):
            spikes = trace.outputs[s.source] * (255 if s.source == integers.input_name else 1)
            steps = [reference.integer_current(s, np.rint(step).astype(np.int64)) for step in spikes]
            current = current + np.stack(steps)
        errors.append(((current * unit - exact) ** 2).mean())
    return np.array(errors)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_currents_of_random_networks_are_nearer_than_with_max(bits: int) -> None:
    ratios: list[float] = []
    for seed in range(8):
        network = lower(random_network(seed), LOIHI2)
        plain = _current_errors(network, None, bits, seed)
        alone = calibrated(network, "gptq", seed, follow=False)  # on the spikes that it is measured on
        ratios += list(_current_errors(network, alone, bits, seed) / (plain + 1e-15))
    assert np.median(ratios) < 0.6
    assert max(ratios) < 1.5
    assert np.mean([ratio > 1 for ratio in ratios]) < 0.2


def test_single_layers_have_bits_of_their_own() -> None:
    network = lower(residual_network(4), LOIHI2)
    integers, _ = quantize(network, LOIHI2, 8, Rounding("mse", bits={"c2": 3, "c3": 4}))
    assert {s.name: s.weight_bits for s in integers.synapses} == {
        **{s.name: 8 for s in integers.synapses}, "c2": 3, "c3": 4
    }  # fmt: skip
    assert np.abs(integers.synapses_by_name["c2"].weight).max() <= 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rounding("gptq"), "--rounding: gptq needs calibration data; give --calibrate, or use --rounding mse"),
        (lambda: Rounding("gtpq"), r"--rounding: no method 'gtpq'; did you mean 'gptq'\? .*"),  # type: ignore[arg-type]
        (
            lambda: quantize(lower(conv_network(1), LOIHI2), LOIHI2, 8, Rounding("gptq", Calibration({}, 0))),
            "01_conv: has no statistics; calibrate the network that is quantised",
        ),
        (
            lambda: quantize(lower(conv_network(1), LOIHI2), LOIHI2, 8, Rounding(bits={"01_conv": 9})),
            "01_conv: the chip has no 9-bit weights; allowed: 2, 3, 4, 5, 6, 7, 8",
        ),
        (
            lambda: quantize(lower(conv_network(1), LOIHI2), LOIHI2, 8, Rounding(bits={"01_covn": 4})),
            r"01_covn: has a number of weight bits and is no layer of weights; did you mean '01_conv'\? .*",
        ),
    ],
)
def test_what_cannot_be_rounded_is_named(make, message: str) -> None:
    with pytest.raises(CompileError, match=f"^{message}$"):
        make()


def test_statistics_of_another_network_are_refused() -> None:
    network = lower(conv_network(1), LOIHI2)
    how = calibrated(lower(conv_network(3), LOIHI2), "gptq", 0)
    with pytest.raises(CompileError, match=r"statistics of fan-in .*; calibrate the network that is quantised"):
        quantize(network, LOIHI2, 4, how)
