"""The emitted program encodes data by the rules of `encoding.Encoder`, bit for bit, and refuses what it refuses."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from lava_networks import emitted_module, host_layer, pixels, sealed_network, systems_network, systems_payloads
from random_networks import flat_sparse_network, quantized
from test_lowering import with_resets

from snncompile.encoding import Encoder
from snncompile.errors import CompileError
from snncompile.quant_network import IntArray, QuantNetwork


@pytest.fixture(scope="module")
def files() -> ModuleType:
    return emitted_module("files")


def case(kind: str, seed: int) -> tuple[QuantNetwork, Encoder, np.ndarray]:
    """A network, its encoder and data; 150 samples, more than are encoded at once."""
    rng = np.random.default_rng(seed)
    network = systems_network(seed, 6, 2, "currents" if kind == "currents" else "spikes")
    encoder: Encoder = {
        "pixels": Encoder("pixels", 1 / 255, network.input_shape, 3, 255),
        "events": Encoder("events", 0.5, network.input_shape, 3, 7),
        "rate": Encoder("rate", 0.25, network.input_shape, 3, 1),
        "currents": host_layer(rng),
    }[kind]
    if kind == "pixels":
        return network, encoder, rng.integers(0, 256, (150, *encoder.shape), dtype=np.uint8)
    if kind == "events":
        return network, encoder, 2 * rng.integers(0, 8, (150, 3, *encoder.shape))
    x = rng.uniform(0, 1 / encoder.scale, (150, *encoder.shape)).astype(rng.choice([np.float32, np.float64]))
    x[0], x[1] = 0, 1 / encoder.scale
    x[2] = rng.integers(0, 13, x[2].shape) / 12 / encoder.scale  # ties of the rate code
    return network, encoder, x


def read(files: ModuleType, folder: Path, network: QuantNetwork, encoder: Encoder, **data: Any) -> IntArray:
    np.savez(folder / "data.npz", **data)
    payloads, _ = files.read_data(folder / "data.npz", *sealed_network(network, encoder), None)
    return np.asarray(payloads)


@pytest.mark.parametrize("seed", range(3))
def test_currents_of_a_sparse_layer_are_encoded_like_the_encoder(files: ModuleType, tmp_path: Path, seed: int) -> None:
    network, host = quantized(with_resets(flat_sparse_network(seed), ("soft",), seed), chip="loihi1")
    assert [s.kind for s in host.encoder.synapses] == ["sparse"]
    x = np.random.default_rng(seed).uniform(0, 1, (70, *host.encoder.shape))
    expected = host.encoder(x)
    np.testing.assert_array_equal(read(files, tmp_path, network, host.encoder, x=x), expected)
    assert len(np.unique(expected)) > 10


@pytest.mark.parametrize("kind", ["pixels", "events", "rate", "currents"])
@pytest.mark.parametrize("seed", range(3))
def test_encodes_like_the_encoder(files: ModuleType, tmp_path: Path, kind: str, seed: int) -> None:
    network, encoder, x = case(kind, seed)
    ours = read(files, tmp_path, network, encoder, x=x)
    expected = encoder(x)
    assert ours.dtype == np.int32
    np.testing.assert_array_equal(ours, expected)
    assert len(np.unique(expected)) > 1
    if kind == "currents":
        assert expected.min() < 0 < expected.max()


@pytest.mark.parametrize("kind", ["pixels", "events", "rate", "currents"])
@pytest.mark.parametrize("fault", ["negative", "large", "shape", "fraction", "nan", "empty", "text"])
def test_refuses_in_one_line_what_the_encoder_refuses(files: ModuleType, tmp_path: Path, kind: str, fault: str) -> None:
    network, encoder, x = case(kind, 1)
    x = x.astype(np.float64)
    match fault:
        case "negative":
            x[5, ..., 0] = -0.01
        case "large":
            x[5, ..., 0] = (1.001 if kind != "events" else 8) / encoder.scale
        case "shape":
            x = x[..., :-1]
        case "fraction":
            x[5, ..., 0] = 0.99
        case "nan":
            x[5, ..., 0] = np.nan
        case "empty":
            x = x[:0]
        case "text":
            x = np.full(x.shape, "1")
    refused = fault != "fraction" or kind == "events"
    if fault in ("negative", "large", "shape", "fraction"):
        if refused:
            with pytest.raises(CompileError):
                encoder(x)
        else:
            encoder(x)
    if not refused:
        read(files, tmp_path, network, encoder, x=x)
        return
    with pytest.raises(SystemExit, match=r"^--data: [^\n]*data\.npz: [^\n]*$"):
        read(files, tmp_path, network, encoder, x=x)


@pytest.mark.parametrize("kind", ["spikes", "currents"])
@pytest.mark.parametrize("frames", [False, True])
def test_reads_payloads_as_sent(files: ModuleType, tmp_path: Path, kind: str, frames: bool) -> None:
    network = systems_network(1, 6, 2, kind)
    payloads = systems_payloads(network, 1, 5, frames)
    encoder = pixels(network)
    np.testing.assert_array_equal(read(files, tmp_path, network, encoder, payloads=payloads), payloads)
    low, high = (-5000, 5000) if kind == "currents" else (0, 255)
    for wrong, why in [
        (np.where(payloads == payloads.max(), high + 1, payloads), rf"allowed: {low} to {high}$"),
        (np.where(payloads == payloads.max(), low - 1, payloads), rf"allowed: {low} to {high}$"),
        (payloads + 0.5, "needs integers$"),
        (payloads[:, :1], r"needs \(N, .*\) or \(N, 3, .*\) with N > 0$"),
    ]:
        with pytest.raises(SystemExit, match=rf"^--data: [^\n]*{why}"):
            read(files, tmp_path, network, encoder, payloads=wrong)


def test_labels_must_fit(files: ModuleType, tmp_path: Path) -> None:
    network = systems_network(1, 6, 2)
    with pytest.raises(SystemExit, match=r"y has shape \(4,\); needs \(5,\)"):
        read(
            files,
            tmp_path,
            network,
            pixels(network),
            payloads=systems_payloads(network, 1, 5, False),
            y=np.zeros(4, int),
        )


def test_a_layer_called_like_the_encoder_takes_none_of_its_arrays() -> None:
    network, encoder, _ = case("currents", 1)
    _, arrays = sealed_network(network, encoder)
    assert sum("host_" in name for name in arrays) == 3
    np.testing.assert_array_equal(arrays["c1.weight"], network.synapses[0].weight)
    np.testing.assert_array_equal(arrays["c1.host_weight"], encoder.synapses[0].weight)
