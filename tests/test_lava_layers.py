"""The emitted program's populations on the chip's clock against the reference interpreter, without Lava."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from lava_networks import (
    emitted_module,
    mixing_network,
    random_network,
    random_payloads,
    sealed_network,
    systems_network,
    systems_payloads,
)
from random_networks import quantized
from random_networks import random_network as float_network

from snncompile.errors import CompileError
from snncompile.quant_network import IntArray, QuantNetwork
from snncompile.reference import run_integer

LOWERINGS = [("loihi2", "graded"), ("loihi2", "r1"), ("loihi2", "burst"), ("loihi2", "uniform"), ("loihi1", "r1")]


@pytest.fixture(scope="module")
def layer() -> ModuleType:
    return emitted_module("layer")


def run_layers(layer: ModuleType, network: QuantNetwork, payloads: IntArray, lanes: int) -> dict[str, IntArray]:
    """Payloads (T, N, *shape) of every population, and "output" (N, ...): what simulation.py does, in one process."""
    described, arrays = sealed_network(network)
    stream = layer.Stream(-(-len(payloads) // lanes), lanes, network.timesteps, network.microsteps)
    sizes = {p.name: (stream.groups, lanes, p.size) for p in network.populations}
    kept = {name: np.zeros((network.timesteps, *size), np.int64) for name, size in sizes.items()}
    output = np.zeros(sizes[network.readout.name], np.int64)
    frames = layer.InputFrames(payloads, network.input_shape, stream)
    layers = {
        spec["name"]: layer.Layer(
            **layer.parameters(described, arrays, spec),
            stream=stream,
            output=output if spec["name"] == network.readout.name else None,
            record=kept[spec["name"]],
        )
        for spec in described["populations"]
    }
    for c in range(stream.steps + network.depth):
        sent = {network.input_name: frames.sent(c)} | {name: one.fire(c) for name, one in layers.items()}
        for name, one in layers.items():
            one.send_itself(c, sent[name])
            for i, synapses in enumerate(s for s in network.inputs_of(network.populations_by_name[name])
                                         if s.source != name):  # fmt: skip
                one.receive(c, i, sent[synapses.source])
    shapes = network.populations_by_name
    samples = {name: k.reshape(len(k), -1, *shapes[name].shape)[:, : len(payloads)] for name, k in kept.items()}
    return {**samples, "output": output.reshape(-1, *network.readout.shape)[: len(payloads)]}


def check(layer: ModuleType, network: QuantNetwork, payloads: IntArray, lanes: int) -> None:
    ours, expected = run_layers(layer, network, payloads, lanes), run_integer(network, payloads)
    np.testing.assert_array_equal(ours["output"], expected.output)
    for population in network.populations:
        name = population.name
        np.testing.assert_array_equal(ours[name], expected.payloads[name], err_msg=name)


SYSTEMS = [(timesteps, microsteps, kind) for timesteps, microsteps in ((1, 1), (4, 1), (6, 2), (6, 3), (3, 3))
           for kind in ("spikes", "currents")]  # fmt: skip


@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize(("timesteps", "microsteps", "kind"), SYSTEMS)
@pytest.mark.parametrize("seed", range(3))
def test_systems(layer: ModuleType, seed: int, timesteps: int, microsteps: int, kind: str, frames: bool) -> None:
    """Lateral synapses, micro-steps with doors, mixing that waits less than all steps, frames, signed currents."""
    network = systems_network(seed, timesteps, microsteps, kind)
    assert {p.name: p.waits for p in network.populations if p.mixing is not None} == {
        "n2": min(1, timesteps - 1), "n3": timesteps - 1, "n5": 0
    }  # fmt: skip
    check(layer, network, systems_payloads(network, seed, 5, frames), lanes=1 + seed)


@pytest.mark.parametrize("make", [random_network, lambda seed: mixing_network(seed, 1 + seed)])
@pytest.mark.parametrize("seed", range(5))
def test_geometries(layer: ModuleType, make: Callable[[int], QuantNetwork], seed: int) -> None:
    network = make(seed)
    check(layer, network, random_payloads(seed, 4), lanes=1 + seed % 3)


@pytest.mark.parametrize(("chip", "lowering"), LOWERINGS)
def test_quantized_networks(layer: ModuleType, tmp_path: Path, chip: str, lowering: str) -> None:
    """What the compiler makes of random networks, the first six it accepts; data encoded by the emitted program."""
    accepted = 0
    for seed in range(100):
        try:
            network, host = quantized(float_network(seed), chip=chip, lowering=lowering)
        except CompileError:
            continue
        x = np.random.default_rng(seed).uniform(0, 1 / host.encoder.scale, (4, *host.encoder.shape))
        np.savez(tmp_path / "x.npz", x=x)
        sealed = sealed_network(network, host.encoder)
        payloads, _ = emitted_module("files").read_data(tmp_path / "x.npz", *sealed, None)
        np.testing.assert_array_equal(payloads, host.encoder(x))
        check(layer, network, payloads, lanes=3)
        if (accepted := accepted + 1) == 6:
            return
    pytest.fail(f"only {accepted} networks were accepted")


def test_the_systems_spike_and_cover_what_they_are_for() -> None:
    networks = [systems_network(seed, 6, 2) for seed in range(3)]
    doors = {p.open_steps for network in networks for p in network.populations}
    assert doors == {None, 1, 2}
    for seed, network in enumerate(networks):
        sent = run_integer(network, systems_payloads(network, seed, 5, frames=True)).payloads
        for name in ("n1", "n2", "n3", "n4", "n5"):
            assert len(np.unique(sent[name])) > 1, (seed, name)
            if network.populations_by_name[name].open_steps == 1:
                assert not sent[name][1::2].any()
    assert {network.readout.spiking for network in networks} == {False, True}
