"""Integer networks of lowered ones: layer by layer as on the chip's clock, within proven widths, near the floats."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import conv_network, images, quantized, random_network, shared_network
from test_lowering import single_level_readout, with_resets

from snncompile import reference
from snncompile.chip import load_chip
from snncompile.errors import CompileError
from snncompile.network import Input, MultiThresholdLIF, Network
from snncompile.pipeline import lower
from snncompile.quant_network import QuantNetwork
from snncompile.quantization.quantize import quantize
from snncompile.quantization.verify_integers import verify_integers

ROUTES = (("loihi1", "auto"), ("loihi2", "r1"), ("loihi2", "burst"), ("loihi2", "uniform"))


def lowerable(seed: int, chip: str, lowering: str) -> Network:
    """A random network that this route can take."""
    network = random_network(seed if chip == "loihi2" or seed % 4 != 3 else seed + 1)
    network = with_resets(network, ("soft",), seed)
    if chip == "loihi1":
        plain = {n.name: replace(n, mixing=None, leak=min(n.leak, 1.0)) for n in network.neurons}
        network = network.replacing(plain)
    counted = isinstance(network.by_name[network.readout.inputs[0]], MultiThresholdLIF)
    return single_level_readout(network) if counted and lowering in ("auto", "r1") else network


@settings(max_examples=150)
@given(seed=st.integers(0, 100_000), route=st.sampled_from(ROUTES))
def test_layer_by_layer_is_as_on_the_chips_clock_and_within_proven_widths(seed: int, route: tuple[str, str]) -> None:
    chip, lowering = route
    network = lowerable(seed, chip, lowering)
    integers, host = quantized(network, chip=chip, lowering=lowering)
    verify_integers(integers)
    payloads = host.encoder(images(network, 3, seed) / 255 / network.input.scale)
    one, two = reference.run_integer(integers, payloads), reference.run_on_chip_clock(integers, payloads)
    for population in integers.populations:
        name, limit = population.name, 1 << (population.state_bits - 1)
        np.testing.assert_array_equal(one.payloads[name], two.payloads[name])
        np.testing.assert_array_equal(one.membranes[name], two.membranes[name])
        assert -limit <= one.membranes[name].min() <= one.membranes[name].max() < limit
    np.testing.assert_array_equal(one.output, two.output)


@settings(max_examples=40)
@given(seed=st.integers(0, 100_000))
def test_loihi1_keeps_to_its_fields(seed: int) -> None:
    network = lowerable(seed, "loihi1", "auto")
    integers, host = quantized(network, chip="loihi1")
    payloads = host.encoder(images(network, 3, seed) / 255 / network.input.scale)
    assert integers.input_kind == "currents"
    assert np.abs(payloads).max() < 2**12
    trace = reference.run_integer(integers, payloads)
    for population in integers.populations:
        assert not (population.thresholds % 64).any()
        assert (population.thresholds >> 6 < 2**17).all()
        assert population.payload_max <= 1
        assert trace.payloads[population.name].max() <= 1
        if population.spiking:
            assert population.fire == "gt"
        shift = next(e for e in range(9) if e == 8 or np.abs(population.bias >> e).max() < 2**12)
        assert shift <= 7
        assert not (population.bias % (1 << shift)).any()
    assert all(synapses.exponent <= 14 for synapses in integers.synapses)


def _rates_of_disagreement(chip: str, seeds: range) -> list[float]:
    rates = []
    for seed in seeds:
        network = lowerable(seed, chip, "auto")
        numerics = load_chip(chip).numerics
        lowered = lower(network, numerics)
        integers, host = quantize(lowered, numerics)
        x = images(network, 4, seed) / 255 / network.input.scale
        floats, ints = reference.run_float(lowered, x), reference.run_integer(integers, host.encoder(x))
        names = [neuron.name for neuron in lowered.neurons]
        rates.append(float(np.mean([(floats.outputs[n] != ints.payloads[n]).mean() for n in names])))
    return rates


def test_rounding_moves_few_spikes_on_loihi1() -> None:
    rates = _rates_of_disagreement("loihi1", range(60))
    assert np.mean(rates) < 0.005
    assert max(rates) < 0.05


def test_the_host_current_is_the_layers_current_within_a_unit() -> None:
    network = lower(conv_network(1), load_chip("loihi2").numerics)
    numerics = load_chip("loihi1").numerics
    soft = with_resets(conv_network(1), ("soft",), 0)
    integers, host = quantize(lower(soft, numerics), numerics)
    x = np.random.default_rng(0).integers(0, 256, (5, *network.input.shape))
    first = integers.populations[0]
    current = reference.run_float(lower(soft, numerics), x).outputs["01_conv"][0]
    value = (host.encoder(x) << 6) * host.state[first.name][:, None, None]
    one = 64 * host.state[first.name][:, None, None]
    assert (np.abs(value - current) <= 0.51 * one).all()
    assert (first.bias == 0).all()


def test_two_populations_that_read_the_image_are_refused_on_a_binary_chip() -> None:
    with pytest.raises(CompileError, match=r"n2: reads the input, as n1 does; .*--input-coding rate"):
        quantized(with_resets(shared_network(3), ("soft",), 0), chip="loihi1")


def _with_input(network: Network, **changes: object) -> Network:
    return network.replacing({network.input.name: replace(network.input, **changes)})  # type: ignore[arg-type]


def _small() -> tuple[Network, QuantNetwork]:
    network = _with_input(with_resets(conv_network(2), ("soft",), 0), coding="events", scale=1.0)
    return network, quantized(network, chip="loihi1")[0]


def test_event_frames_reach_every_time_step() -> None:
    network, integers = _small()
    _, host = quantized(network, chip="loihi1")
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 2, (4, network.timesteps, *network.input.shape))
    trace = reference.run_integer(integers, host.encoder(frames))
    clock = reference.run_on_chip_clock(integers, host.encoder(frames))
    np.testing.assert_array_equal(trace.output, clock.output)
    np.testing.assert_array_equal(trace.payloads[integers.input_name], frames.swapaxes(0, 1))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (lambda shape: np.zeros((2, *shape[1:])), "samples of shape .*, the network takes .* time steps"),
        (lambda shape: np.full((2, *shape), 2), "event counts from 2 to 2; .* 0 to 1: its spikes are binary"),
        (lambda shape: np.full((2, *shape), 0.5), "event counts from 0.5 to 0.5; the network takes whole numbers"),
        (lambda shape: np.full((2, *shape), -1), "event counts from -1 to -1"),
    ],
)
def test_unfit_events_are_refused(x, message: str) -> None:
    network, _ = _small()
    _, host = quantized(network, chip="loihi1")
    with pytest.raises(CompileError, match=f"^data.npz: {message}"):
        host.encoder(x((network.timesteps, *network.input.shape)), "data.npz")


@given(st.integers(1, 40), st.floats(0, 1))
def test_rate_coding_keeps_the_mean_and_spreads_the_spikes(timesteps: int, p: float) -> None:
    spikes = reference.rate_coded(np.array([[p]]), timesteps)[0, :, 0]
    assert set(spikes.tolist()) <= {0, 1}
    assert abs(spikes.mean() - p) <= 0.5 / timesteps + 1e-12
    for width in range(1, timesteps + 1):
        windows = np.convolve(spikes, np.ones(width), "valid")
        assert windows.max() - windows.min() <= 1


def test_rate_coded_input_approximates_the_current_of_the_image() -> None:
    network = replace(conv_network(1), timesteps=32)
    lowered = lower(network, load_chip("loihi2").numerics, input_coding="rate")
    x = np.random.default_rng(0).integers(0, 256, (2, *network.input.shape))
    exact = reference.run_float(lower(network, load_chip("loihi2").numerics), x).outputs["01_conv"].mean(0)
    coded = reference.run_float(lowered, x).outputs["01_conv"].mean(0)
    assert np.abs(coded - exact).max() < 0.5
    integers, host = quantize(lowered, load_chip("loihi2").numerics)
    assert (host.encoder.kind, integers.input_payload_max) == ("rate", 1)
    assert isinstance(lowered.input, Input)
