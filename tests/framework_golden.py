"""What frameworks computed (benchmarks/frameworks/make_golden.py), and that our reference computes the same."""

from pathlib import Path
from typing import Any

import numpy as np

from snncompile.frontend import load_model
from snncompile.frontend.nir.to_network import to_network
from snncompile.frontend.reading import Reading
from snncompile.network import Network
from snncompile.reference import FloatTrace, run_float

FOLDER = Path(__file__).parent / "golden" / "frameworks"
MODELS = Path(__file__).parent.parent / "benchmarks" / "frameworks"
NAMES = ("mlp", "conv", "residual", "recurrent")
MAX_POOL = "max_pool"


def read(name: str, folder: Path = FOLDER, factory: str | None = None, **said: Any) -> tuple[Network, dict[str, Any]]:
    """The network of a golden model, and what its framework computed."""
    with np.load(folder / f"{name}.npz") as file:
        golden = dict(file)
    frames = bool(golden["frames"])
    reading = Reading(timesteps=int(golden["steps"]), coding="events" if frames else "direct", factory=factory, **said)
    shape = golden["x"].shape[2 if frames else 1 :]
    return to_network(load_model(folder / f"{name}.pt", shape, reading)), golden


def run(network: Network, golden: dict[str, Any]) -> FloatTrace:
    x = golden["x"] if golden["frames"] else golden["x"] / 256
    return run_float(network, x)


def spikes_of(golden: dict[str, Any], number: int) -> np.ndarray:
    """What a layer of neurons sent, (T, N, ...)."""
    shape, stored = tuple(golden[f"shape_{number}"]), golden[f"spikes_{number}"]
    counts = np.unpackbits(stored, count=int(np.prod(shape))) if stored.size < np.prod(shape) else stored
    return counts.reshape(shape) * float(golden[f"unit_{number}"])


def assert_every_spike(network: Network, golden: dict[str, Any]) -> FloatTrace:
    """Every layer of neurons sends in every step and sample what the framework's did."""
    result = run(network, golden)
    layers = [neuron for neuron in network.neurons if MAX_POOL not in neuron.name]
    assert f"spikes_{len(layers)}" not in golden
    for number, neuron in enumerate(layers):
        expected = spikes_of(golden, number)
        assert expected.any()
        sent = result.outputs[neuron.name].reshape(expected.shape)
        assert np.array_equal(sent, expected), f"{neuron.name}: {(sent != expected).sum()} of {expected.size} differ"
    return result
