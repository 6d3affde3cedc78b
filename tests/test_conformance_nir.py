"""Published NIR graphs on published data: what their authors' tools and chips gave."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from snncompile.backend import load_backend
from snncompile.chip import load_target
from snncompile.compiler import Options, compile_file
from snncompile.float_engine import FloatEngine
from snncompile.frontend import load_model
from snncompile.frontend.nir.to_network import read_network, to_network
from snncompile.frontend.reading import Reading
from snncompile.network import Linear, MultiThresholdLIF, Network
from snncompile.pipeline import lower
from snncompile.proof.verify import verify_program
from snncompile.quantization.quantize import quantize
from snncompile.reference import run_float, run_integer
from snncompile.sealed import read_program

NORSE = [460, 510, 710, 760]


@pytest.fixture
def nir_files(shared_data: Path) -> Path:
    return shared_data / "checkpoints" / "nir"


def trace(shared_data: Path, name: str) -> Any:
    """Columns input, v and spike, a row a step."""
    columns = np.loadtxt(shared_data / "traces" / f"lif_{name}.csv", delimiter=",")
    return dict(zip(("input", "v", "spike"), columns.T, strict=True))


def test_a_lif_fires_when_norse_does(shared_data: Path, nir_files: Path) -> None:
    recorded = trace(shared_data, "norse")
    network, contract = read_network(load_model(nir_files / "lif_norse.nir", None, Reading(timesteps=1000)))
    traced = run_float(network, recorded["input"].reshape(1, 1000, 1))
    spikes = traced.outputs["1"].ravel()
    assert np.flatnonzero(spikes).tolist() == NORSE
    assert np.array_equal(spikes, recorded["spike"])
    v = np.where(spikes > 0, 0, traced.membranes["1"].ravel())
    np.testing.assert_allclose(v, recorded["v"], atol=1e-7)  # norse computes in single precision
    assert contract[2].note == "Euler steps of dt = 0.0001, v > v_threshold, reset to v_reset"


@pytest.mark.parametrize(("name", "marker"), [("lava_cpu_fixed", 0), ("lava_loihi_fixed", 128)])
def test_integers_are_those_of_lava_and_loihi(shared_data: Path, nir_files: Path, name: str, marker: int) -> None:
    """The traces count the membrane in 1/16000, the weight in 1/250, truncate the decay, and are a step behind."""
    recorded = trace(shared_data, name)
    network = to_network(load_model(nir_files / "lif_norse.nir", None, Reading(timesteps=1000)))
    (synapses,) = network.of_type(Linear)
    in_units = replace(synapses, weight=np.rint(synapses.weight * 250) / 250)  # tau is a single-precision number
    decay = np.floor(4096 * (1 - network.neurons[0].leak)) / 4096
    neuron = replace(network.neurons[0], unit=1 / 250, leak=1 - decay)
    network = network.replacing({"input": replace(network.input, largest=1), "0": in_units, "1": neuron})
    numerics = load_target("loihi2-sim", None).numerics
    quantized, host = quantize(lower(network, numerics), numerics)
    traced = run_integer(quantized, host.encoder(recorded["input"].reshape(1, 1000, 1)))
    spikes, u = traced.payloads["1"].ravel(), traced.membranes["1"].ravel()
    assert (np.flatnonzero(spikes) + 1).tolist() == [461, 511, 711, 761]
    assert np.array_equal(spikes[:-1], recorded["spike"][1:])
    assert np.array_equal(np.where(spikes > 0, marker, u)[:-1], recorded["v"][1:])


def recurrent_cuba(weights: Any, x: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """snntorch's RSynaptic and Synaptic, reset to zero at once, from the parameters it trained; spikes (T, N, n)."""
    p = {key: np.asarray(value, np.float64) for key, value in dict(weights).items()}
    current, membrane, sent = ({name: np.zeros((len(x), n)) for name, n in (("lif1", 38), ("lif2", 7))} for _ in "abc")
    spikes: dict[str, list[NDArray[np.float64]]] = {"lif1": [], "lif2": []}
    for frame in x.swapaxes(0, 1):
        back = sent["lif1"] @ p["lif1.recurrent.weight"].T + p["lif1.recurrent.bias"]
        arriving = frame @ p["fc1.weight"].T + p["fc1.bias"] + back
        for name in ("lif1", "lif2"):
            current[name] = p[f"{name}.alpha"] * current[name] + arriving
            u = p[f"{name}.beta"] * membrane[name] + current[name]
            sent[name] = (u > p[f"{name}.threshold"]).astype(np.float64)
            membrane[name] = u * (1 - sent[name])
            spikes[name].append(sent[name])
            arriving = sent["lif1"] @ p["fc2.weight"].T + p["fc2.bias"]
    return {name: np.stack(steps) for name, steps in spikes.items()}


def braille_input(samples: int, timesteps: int) -> NDArray[np.float64]:
    return (np.random.default_rng(0).random((samples, timesteps, 12)) < 0.08).astype(np.float64)


def test_the_braille_graph_is_the_trained_network(nir_files: Path) -> None:
    x = braille_input(100, 100)
    network = to_network(load_model(nir_files / "braille_noDelay_bias_zero.nir", None, Reading(timesteps=100)))
    traced = run_float(network, x)
    wanted = recurrent_cuba(np.load(nir_files / "braille_noDelay_bias_zero_snntorch.npz"), x)
    assert np.array_equal(traced.outputs["lif1.lif"], wanted["lif1"])
    assert np.array_equal(traced.outputs["lif2"], wanted["lif2"])
    assert wanted["lif1"].sum() > 1000


@pytest.mark.parametrize("target", ["loihi1-sim", "loihi2-sim"])
def test_the_braille_graph_deploys_exactly(nir_files: Path, tmp_path: Path, target: str) -> None:
    model = nir_files / "braille_noDelay_bias_zero.nir"
    compile_file(model, target, tmp_path / "out", Options(reading=Reading(timesteps=100)))
    program = read_program(tmp_path / "out")
    stages = ("float", "folded", "lowered", "integer", "simulator")
    result = verify_program(tmp_path / "out", program, braille_input(10, 100), None, stages)
    differing = {(pair["a"], pair["b"]): pair["spikes_differing"] for pair in result["pairs"]}
    assert result["equal"]
    assert differing["float", "folded"] == differing["folded", "lowered"] == differing["integer", "simulator"] == 0
    pair = next(pair for pair in result["pairs"] if (pair["a"], pair["b"]) == ("float", "integer"))
    print(f"rate drift of float against 8 bits: {pair['rate_drift']:.4f}")
    assert {node["kind"] for node in program.provenance.contract} >= {"CubaLIF", "Affine"}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["loihi1-sim", "loihi2-sim"])
def test_the_braille_graph_in_lava(nir_files: Path, tmp_path: Path, target: str) -> None:
    pytest.importorskip("lava", reason="lava-nc is not installed")
    model = nir_files / "braille_noDelay_bias_zero.nir"
    compile_file(model, target, tmp_path / "out", Options(reading=Reading(timesteps=100)))
    program = read_program(tmp_path / "out")
    stages = ("integer", "simulator", "lava")
    result = verify_program(tmp_path / "out", program, braille_input(10, 100), None, stages)
    assert result["equal"]
    assert [pair["spikes_differing"] + pair["outputs_differing"] for pair in result["pairs"]] == [0, 0]


@pytest.fixture(scope="module")
def recordings() -> Callable[[Path], tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    def load(shared_data: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The 100 test recordings of N-MNIST, 300 frames of 1 ms, and their labels."""
        events = np.load(shared_data / "events" / "nmnist_small.npz")
        x = np.zeros((100, 300, 2, 34, 34), np.uint8)
        ends = events["test_offset"]
        sample = np.repeat(np.arange(100), np.diff(ends))
        step = events["test_t_us"].astype(np.int64) // 1000
        kept = step < 300
        index = (sample, step, events["test_p"], events["test_y"], events["test_x"])
        np.add.at(x, tuple(axis[kept] for axis in index), 1)
        return x, events["test_label"]

    return load


def multi_spike(network: Network, most: int = 8) -> Network:
    """Neurons that send a spike for every threshold reached, up to `most`, and subtract them all (sinabs)."""
    levels = np.arange(1.0, most + 1)
    changed: dict[str, Any] = {}
    for node in network.of_type(MultiThresholdLIF):
        theta = float(node.thresholds[0])
        changed[node.name] = replace(node, thresholds=levels * theta, payload=levels, subtract=levels * theta)
    return network.replacing(changed)


N_MNIST = [("soft", "ge", True, 100), ("hard", "gt", False, 100), ("soft", "ge", False, 98)]


@pytest.mark.slow
@pytest.mark.parametrize(("reset", "fire", "many", "right"), N_MNIST)
def test_n_mnist(
    shared_data: Path, nir_files: Path, tmp_path: Path, recordings: Any, reset: Any, fire: Any, many: bool, right: int
) -> None:
    """Of 100 recordings, by what a neuron does where it fires; deployed within one of float. r = 1: time in steps."""
    x, y = recordings(shared_data)
    reading = Reading(timesteps=300, dt=1.0, reset=reset, fire=fire)
    model = nir_files / "nmnist_cnn_sinabs.nir"
    network = to_network(load_model(model, None, reading))
    network = multi_spike(network) if many else network
    assert int((FloatEngine(network).run(x).argmax(1) == y).sum()) == right
    if many:
        return
    compile_file(model, "loihi2-sim", tmp_path / "out", Options(reading=reading))
    program = read_program(tmp_path / "out")
    run = load_backend("sim").run(program, tmp_path / "out", program.encode(x))
    deployed = int((run.prediction == y).sum())
    print(f"{reset} {fire}: float {right}, deployed {deployed} of 100")
    assert abs(deployed - right) <= 1


def test_the_n_mnist_network_fits_speck(nir_files: Path) -> None:
    from snncompile.check import Asked, check
    from snncompile.chip import load_any
    from snncompile.pipeline import run_passes

    reading = Reading(timesteps=300, dt=1.0, reset="soft")
    network = run_passes(to_network(load_model(nir_files / "nmnist_cnn_sinabs.nir", None, reading)))
    result = check(network, load_any("speck2f"), Asked(8, "auto", "direct"), False)
    assert result["fits"]
    assert sum(layer["cores"] for layer in result["layers"]) == 5
