"""Lava = integer reference with mixing, shortcuts, lateral synapses, micro-steps, frames and currents."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from lava_networks import (
    mixing_network,
    pixels,
    program_of,
    random_cut,
    random_payloads,
    seal,
    systems_network,
    systems_payloads,
)
from random_networks import images, quantized, residual_network
from snncompile.backends.lava import LavaBackend
from snncompile.backends.lava.emit import emit

from snncompile.quant_network import QuantNetwork
from snncompile.reference import run_integer, run_on_chip_clock

needs_lava = pytest.mark.skipif(importlib.util.find_spec("lava") is None, reason="lava-nc is not installed")

NETWORKS = [(1, 3), (2, 4), (3, 2)]
"""Seeds and timesteps."""


def check(directory: Path, network: QuantNetwork, payloads: np.ndarray, batch: int) -> None:
    """Every payload and every output of a Lava run equals the reference, which the chip's clock does not change."""
    seal(directory, network)
    names = [population.name for population in network.populations]
    run = LavaBackend(batch).run(program_of(network), directory, payloads, names)
    for expected in (run_integer(network, payloads), run_on_chip_clock(network, payloads)):
        np.testing.assert_array_equal(run.output, expected.output)
        for name in names:
            np.testing.assert_array_equal(run.payloads[name], expected.payloads[name], err_msg=name)


@needs_lava
def test_lava_equals_integer_reference(tmp_path: Path) -> None:
    seed, timesteps = NETWORKS[1]
    check(tmp_path, mixing_network(seed, timesteps), random_payloads(seed, 5), 3)


@needs_lava
@pytest.mark.parametrize(
    ("timesteps", "microsteps", "kind", "frames", "batch"),
    [(4, 1, "spikes", False, 1), (6, 2, "spikes", True, 3), (6, 3, "currents", False, 16)],
)
def test_lava_equals_integer_reference_of_lowered_networks(
    tmp_path: Path, timesteps: int, microsteps: int, kind: str, frames: bool, batch: int
) -> None:
    network = systems_network(1, timesteps, microsteps, kind)
    check(tmp_path, network, systems_payloads(network, 1, 5, frames), batch)


@needs_lava
def test_lava_equals_reference_of_a_quantized_residual_network(tmp_path: Path) -> None:
    network, _ = quantized(residual_network(13))
    assert any(s.weight.shape[1:] == (1, 1, 1) and s.groups > 1 for s in network.synapses)
    assert any(p.waits > 0 for p in network.populations)
    assert any(p.one_decay < 0 for p in network.populations)
    assert network.readout.spiking
    check(tmp_path, network, images(network, 5, seed=8), 3)


def test_the_networks_spike_and_cover_what_they_are_for() -> None:
    networks = [mixing_network(*made) for made in NETWORKS]
    for network, (seed, _) in zip(networks, NETWORKS, strict=True):
        sent = run_integer(network, random_payloads(seed, 5)).payloads
        for name in ("n1", "n2", "n3", "n4"):
            assert len(np.unique(sent[name])) > 1, (seed, name)
        assert (sent["n1"][0] != sent["n1"][1]).any(), seed
    assert {network.readout.spiking for network in networks} == {False, True}
    assert {p.one_decay < 0 for network in networks for p in network.populations if p.mixing is not None} == {
        False,
        True,
    }


def test_mixing_is_written_only_where_a_population_mixes(tmp_path: Path) -> None:
    network = mixing_network(1, 3)
    seal(tmp_path, network)
    with np.load(tmp_path / "lava" / "weights.npz", allow_pickle=False) as arrays:
        assert [name for name in arrays.files if name.endswith(".mixing")] == ["n1.mixing", "n2.mixing"]
        np.testing.assert_array_equal(arrays["n1.mixing"], network.populations[0].mixing)
    assert "mixing" not in (tmp_path / "lava" / "network.json").read_text()
    described = json.loads(emit(network, pixels(network), random_cut(network, 0))["lava/network.json"])
    assert all(None not in node.values() for node in (*described["populations"], *described["synapses"]))
