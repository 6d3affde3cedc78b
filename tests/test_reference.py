"""The definition of what nodes mean, held against torch and against itself on the chip's clock."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_networks import images, quantized, random_network
from torch.nn import functional

from snncompile import nn
from snncompile.network import MultiThresholdLIF
from snncompile.quantization.state_bounds import decay
from snncompile.reference import convolve, float_neurons, run_integer, run_on_chip_clock, sum_pool


@given(st.integers(0, 10_000))
def test_convolve_equals_torch(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 2]))
    kernel, stride, padding, dilation = (tuple(int(n) for n in rng.integers(low, 4, 2)) for low in (1, 1, 0, 1))
    x = rng.normal(size=(2, 2 * groups, 12, 11))
    weight = rng.normal(size=(3 * groups, 2, *kernel))
    ours = convolve(x, weight, stride, padding, dilation, groups)
    theirs = functional.conv2d(torch.from_numpy(x), torch.from_numpy(weight), None, stride, padding, dilation, groups)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-12)


def test_sum_pool_leaves_out_what_fills_no_window() -> None:
    x = np.arange(2 * 5 * 7).reshape(1, 2, 5, 7)
    pooled = functional.avg_pool2d(torch.from_numpy(x).double(), (2, 3), divisor_override=1)
    np.testing.assert_array_equal(sum_pool(x, (2, 3)), pooled.numpy())


@pytest.mark.parametrize("reset", ["soft", "hard", "none"])
@pytest.mark.parametrize("fire", ["ge", "gt"])
@given(seed=st.integers(0, 1000))
def test_float_neurons_equal_the_torch_layer(reset: str, fire: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels, leak, v0 = int(rng.integers(1, 5)), float(rng.choice([0.25, 0.5, 1.0])), float(rng.choice([0.0, 0.25]))
    current = rng.integers(-4, 9, (4, 2, 6)) / 4  # quarters: sums are exact, and ties with the threshold occur
    layer = nn.MultiThresholdLIF(0.5, levels, leak, reset, fire, v0)
    thresholds = 0.5 * np.arange(1, levels + 1)
    node = MultiThresholdLIF("n", ("x",), thresholds, thresholds, thresholds, leak, reset, fire, v0)
    np.testing.assert_array_equal(float_neurons(node, current)[0], layer(torch.from_numpy(current)).numpy())


@given(st.integers(0, 10_000))
def test_the_chip_clock_gives_the_same_spikes(seed: int) -> None:
    network, _ = quantized(random_network(seed))
    x = images(network, samples=3, seed=seed)
    whole, clocked = run_integer(network, x), run_on_chip_clock(network, x)
    np.testing.assert_array_equal(whole.output, clocked.output)
    for population in network.populations:
        np.testing.assert_array_equal(whole.payloads[population.name], clocked.payloads[population.name])
        np.testing.assert_array_equal(whole.membranes[population.name], clocked.membranes[population.name])


def test_decay_truncates_toward_zero() -> None:
    v = np.array([-5, -1, 0, 1, 5, 4095])
    assert decay(v, 2048).tolist() == [-2, 0, 0, 0, 2, 2047]
    assert decay(v, 0).tolist() == v.tolist()
    assert decay(v, 4096).tolist() == [0] * 6
