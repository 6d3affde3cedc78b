# ruff: noqa: E501 - golden error texts are one line each
"""lava-dl's `.net`: integers kept, golden traces of published networks reproduced."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from snncompile.chip import load_target
from snncompile.errors import CompileError
from snncompile.frontend import load_model
from snncompile.frontend.nir.to_network import read_network, to_network
from snncompile.frontend.nir.write import write_nir
from snncompile.frontend.reading import Reading
from snncompile.network import SYNAPSES, Input, Network
from snncompile.pipeline import lower
from snncompile.quant_network import IntArray, QuantNetwork
from snncompile.quantization.quantize import HostScales, quantize
from snncompile.reference import integer_current, run_float, run_integer

FILE = Path("model.net")
CUBA = {"type": b"CUBA", "iDecay": 1024, "vDecay": 512, "vThMant": 40, "refDelay": 1, "gradedSpike": False}
LOIHI = {**CUBA, "type": b"LOIHI", "iDecay": 4096}


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(*layers: Mapping[str, Any], timesteps: int | None = 12) -> None:
    with h5py.File(FILE, "w") as file:
        for i, layer in enumerate(layers):
            for key, value in layer.items():
                entries = value.items() if isinstance(value, dict) else [("", value)]
                for inner, one in entries:
                    file[f"layer/{i}/{key}/{inner}".rstrip("/")] = [one] if key == "type" else one
        if timesteps is not None:
            file["simulation/tSample"] = timesteps


def integers(network: Network, state_bits: int = 24) -> tuple[QuantNetwork, HostScales]:
    numerics = load_target("loihi2-sim", None).numerics.model_copy(update={"state_bits": state_bits})
    return quantize(lower(network, numerics), numerics)


def dec(x: IntArray, rate: int) -> IntArray:
    return np.sign(x) * ((np.abs(x) * (4096 - rate)) >> 12)


class Neurons:
    """The equations of the file, on integers."""

    def __init__(self, parameters: Mapping[str, Any], bias: Any = 0) -> None:
        self.p, self.bias = parameters, np.asarray(bias, np.int64)
        self.u: Any = 0
        self.v: Any = 0

    def __call__(self, a: NDArray[Any]) -> IntArray:
        self.u = dec(np.asarray(self.u), self.p["iDecay"]) + (a.astype(np.int64) << 6)
        bias = self.bias.reshape(-1, *(1,) * (a.ndim - 1)) << 6
        v = dec(np.asarray(self.v), self.p["vDecay"]) + self.u + bias
        spikes = v > self.p["vThMant"] << 6
        self.v = np.where(spikes, 0, v)
        return spikes.astype(np.int64)


def test_dense_layers_with_recurrence_and_delays() -> None:
    rng = np.random.default_rng(0)
    first, second, back = (rng.integers(-40, 60, shape).astype(float) for shape in ((6, 4), (3, 6), (6, 6)))
    delay, bias = rng.integers(0, 4, 6).astype(float), rng.integers(-5, 9, 6).astype(float)
    rec = {"type": b"dense_rec", "shape": [6], "weight": first, "weight_rec": back, "bias": bias, "delay": delay, "neuron": CUBA}  # fmt: skip
    write(rec, {"type": b"dense", "shape": [3, 1, 1], "weight": second.ravel(), "neuron": LOIHI})
    quantized, host = integers(to_network(load_model(FILE)))
    x = (rng.random((2, 12, 4)) < 0.5).astype(int)
    traced = run_integer(quantized, host.encoder(x))
    for sample in range(2):
        one, two, sent = Neurons(CUBA, bias), Neurons(LOIHI), [np.zeros(6, np.int64)]
        for t in range(12):
            sent.append(one(first @ x[sample, t] + back @ sent[-1]))
            late = [sent[t + 1 - int(d)][i] if t + 1 - int(d) >= 1 else 0 for i, d in enumerate(delay)]
            out = two(second @ np.array(late))
            assert traced.payloads["01_dense_rec"][t, sample].tolist() == sent[-1].tolist()
            assert traced.payloads["02_dense"][t, sample].tolist() == out.tolist()
    assert traced.payloads["02_dense"].any()


def test_an_image_goes_through_pools_and_an_average() -> None:
    rng = np.random.default_rng(1)
    weight = rng.integers(-12, 20, (4, 2, 3, 3, 1)).astype(float)
    write(
        {"type": b"input", "shape": [2, 6, 5], "weight": 40.0, "bias": 3.0, "neuron": LOIHI},
        {"type": b"conv", "shape": [4, 6, 5], "weight": weight, "padding": [1, 1], "stride": [1, 1], "dilation": [1, 1], "groups": 1, "neuron": LOIHI, "bias": rng.integers(0, 9, 4).astype(float)},
        {"type": b"pool", "shape": [4, 3, 2], "weight": np.full((1, 1, 2, 2, 1), 45.0), "kernelSize": [2, 2], "stride": [2, 2], "padding": [0, 0], "dilation": [1, 1], "neuron": LOIHI},
        {"type": b"flatten", "shape": [1, 1, 24]},
        {"type": b"dense", "shape": [6, 1, 1], "weight": rng.integers(-30, 50, (6, 24)).astype(float), "neuron": LOIHI},
        {"type": b"average", "shape": [2, 1, 1]},
    )  # fmt: skip
    network = to_network(load_model(FILE))
    quantized, host = integers(network)
    x = rng.integers(1, 30, (2, 2, 6, 5))
    traced, real = run_integer(quantized, host.encoder(x)), run_float(network, x)
    assert [p.name for p in quantized.populations] == ["01_input", "02_conv", "03_pool", "05_dense", "07_output"]
    assert traced.payloads["05_dense"].any()
    neurons = Neurons(LOIHI)
    assert np.array_equal(traced.payloads["01_input"], [neurons(x) for _ in range(12)])
    counted = traced.payloads["05_dense"].sum(0).reshape(2, 2, 3).mean(2)
    real_counted = real.outputs["05_dense"].sum(0).reshape(2, 2, 3).mean(2)
    np.testing.assert_allclose(real.output, real_counted)
    np.testing.assert_allclose(traced.output * host.output_scale, counted, atol=1e-6)


def test_a_last_layer_that_never_fires_gives_its_state() -> None:
    rng = np.random.default_rng(2)
    weight = rng.integers(-20, 20, (2, 4)).astype(float)
    never = {**LOIHI, "vThMant": 131071, "vDecay": 0}
    write(
        {"type": b"dense", "shape": [2], "weight": weight, "bias": np.array([3.0, -1.0]), "neuron": never}, timesteps=None
    )  # fmt: skip
    x = (rng.random((2, 5, 4)) < 0.5).astype(int)
    network, contract = read_network(load_model(FILE, None, Reading(timesteps=5)))
    wanted = (x @ weight.T).sum(1) + 5 * np.array([3, -1])
    np.testing.assert_allclose(run_float(network, x).output, wanted)
    quantized, host = integers(network)
    np.testing.assert_allclose(run_integer(quantized, x).output * host.output_scale, wanted, atol=1)
    assert contract[0].note == "never fires: its last state is the output"


def dense(**values: Any) -> dict[str, Any]:
    return {"type": b"dense", "shape": [2], "weight": np.ones((2, 4)), "neuron": LOIHI, **values}


UNFIT: list[tuple[list[dict[str, Any]], str]] = [
    ([dense(neuron={**CUBA, "type": b"SDNN"})], "layer 0, neuron: is of type 'SDNN'; supported: CUBA and LOIHI"),
    ([dense(weight=np.full((2, 4), 0.5))], "layer 0: weight holds numbers that are no integers; export with quantize=True"),
    ([dense(weight={"real": np.ones((2, 4)), "imag": np.ones((2, 4))})], "layer 0: has complex numbers for weight; supported: real ones"),
    ([dense(weight=np.ones((3, 4)))], "layer 0: weight has shape (3, 4); needed: (2, features)"),
    ([dense(neuron={**CUBA, "refDelay": 3})], "layer 0, neuron: refDelay is 3; needed: 1: refractory times are not supported"),
    ([dense(neuron={**CUBA, "gradedSpike": True})], "layer 0, neuron: sends graded spikes; train with graded_spike=False"),
    ([dense(neuron={**CUBA, "vDecay": 5000})], "layer 0, neuron: vDecay is [5000.0]; needed: 0 to 4096, one or 2"),
    ([dense(delay=np.ones(3))], "layer 0: delay is [1.0, 1.0, 1.0]; needed: steps, one or 2"),
    ([dense(), dense(type=b"convT", weight=np.ones((2, 2)))], "layer 1: is of type 'convT'; supported: input, dense, dense_rec, conv, pool, flatten, average"),
    ([dense(type=b"conv")], "layer 0: a conv is the first layer; needed: input or dense"),
    ([{"type": b"dense", "shape": [2], "weight": np.ones((2, 4))}], "layer 0: has no group 'neuron'; export the model again"),
    ([dense(), dense(type=b"input")], "layer 1: an input layer that is not the first; a network has one input"),
]  # fmt: skip


@pytest.mark.parametrize(("layers", "message"), UNFIT, ids=[text[:40] for _, text in UNFIT])
def test_what_cannot_be_is_named(layers: list[dict[str, Any]], message: str) -> None:
    write(*layers)
    with pytest.raises(CompileError) as caught:
        load_model(FILE)
    assert str(caught.value) == f"model.net: {message}"


def test_a_file_says_its_steps() -> None:
    write(dense(), timesteps=None)
    with pytest.raises(
        CompileError, match=r"^model.net: does not say how many steps a sample has; say it: --timesteps"
    ):
        load_model(FILE)
    with h5py.File(FILE, "w") as file:
        file["layer"] = 3
    with pytest.raises(CompileError, match=r"^model.net: holds no lava-dl network"):
        load_model(FILE)


def test_the_written_graph_is_the_same_network(tmp_path: Path) -> None:
    write(dense(neuron=CUBA, delay=np.array([0.0, 2.0]), bias=np.array([1.0, 2.0])), dense(weight=np.ones((2, 2))))
    graph = load_model(FILE, None, Reading(fire="ge"))
    (tmp_path / "a.nir").write_bytes(write_nir(graph))
    again = load_model(tmp_path / "a.nir")
    assert write_nir(again) == write_nir(graph)
    (one, told), (other, told_again) = read_network(graph), read_network(again)
    assert told == told_again
    assert next(one.of_type(Input)).largest == next(other.of_type(Input)).largest == 1
    assert [n.unit for n in one.neurons] == [n.unit for n in other.neurons] == [1.0, 1.0]


@pytest.fixture
def nets(shared_data: Path) -> Path:
    return shared_data / "checkpoints" / "lava_dl"


def steps(golden: NDArray[Any]) -> NDArray[Any]:
    """(x, y, channel, t) or (features, t) as (t, channel, y, x) or (t, features)."""
    return golden.transpose(3, 2, 1, 0) if golden.ndim == 4 else golden.T


def test_tiny_golden_spikes(nets: Path) -> None:
    """Every population is a step behind the file's clock: its first recorded step is the one before."""
    quantized, host = integers(to_network(load_model(nets / "tiny.net", None, Reading(timesteps=16))))
    golden = np.load(nets / "tiny_golden.npz")
    traced = run_integer(quantized, host.encoder(golden["input_bias"].transpose(2, 1, 0)[None]))
    for population, name in zip(quantized.populations, ("input", "layer1", "output"), strict=True):
        recorded = np.moveaxis(golden[name][0], -1, 0)
        assert np.array_equal(traced.payloads[population.name][:15, 0], recorded[1:])
    assert golden["output"].sum() == 92


def test_oxford_golden_spikes(nets: Path) -> None:
    golden = np.load(nets / "oxford_golden.npz")
    x = np.zeros((1, 2000, 200))
    features, _, times = golden["input_events"].T
    x[0, np.rint(times).astype(int), features.astype(int)] = 1
    reading = Reading(timesteps=2000, fire="ge")  # as lava-dl trained it
    quantized, host = integers(to_network(load_model(nets / "oxford_200_256_200_cuba.net", None, reading)), 25)
    sent = run_integer(quantized, host.encoder(x)).payloads["02_dense"][:, 0]
    recorded = np.zeros((2000, 200), np.int64)
    features, _, times = golden["ground_truth_events"].T
    recorded[np.rint(times).astype(int), features.astype(int)] = 1
    assert sent.sum() == recorded.sum() == 10178
    assert np.array_equal(sent[:-2], recorded[2:])


def test_oxford_first_layer_fires_above_its_threshold(nets: Path) -> None:
    golden = np.load(nets / "oxford_golden.npz")
    quantized, host = integers(
        to_network(load_model(nets / "oxford_200_256_200_cuba.net", None, Reading(timesteps=2000))), 25
    )
    sent = run_integer(quantized, host.encoder(golden["layer0_in"].T[None])).payloads["01_dense"][:, 0]
    assert np.array_equal(sent[:-1], golden["layer0_out"].T[1:])
    assert sent.sum() == 1826


PILOTNET = ("input", "conv_0", "conv_1", "conv_2", "conv_3", "conv_4", "fc_0", "fc_1", "fc_2")
MARKER = 128
"""What the file has in place of the membrane where a neuron fires."""


@pytest.mark.slow
def test_pilotnet_golden_traces(nets: Path) -> None:
    """u, v and spikes of every layer and step. A population at depth d is reset before steps d and d + 17.

    Before step d it runs free of any sample: there it equals the network in which every layer acts a step later.
    """
    golden = np.load(nets / "pilotnet_lif_golden_traces.npz")
    network = to_network(load_model(nets / "pilotnet_lif.net", None, Reading(timesteps=17)))
    free = network.replacing(
        {
            node.name: replace(node, lag=1)
            for node in network.of_type(SYNAPSES)  # type: ignore[arg-type]
            if node.inputs != (network.input.name,)
        }
    )
    x = golden["image"].transpose(2, 1, 0)[None]
    compared = 0
    (whole, host), (early, _) = integers(network), integers(free)
    runs = run_integer(whole, host.encoder(x)), run_integer(early, host.encoder(x))
    for depth, name in enumerate(PILOTNET):
        population = whole.populations[depth].name
        recorded = steps(golden[name])

        def joined(values: list[NDArray[Any]], depth: int = depth, shape: Any = recorded.shape[1:]) -> NDArray[Any]:
            """The free run before the first reset, then the samples, one after the other."""
            one, before = (v.reshape(17, *shape) for v in values)
            return np.concatenate([before[:depth], one, one])[:24]

        spikes = joined([run.payloads[population][:, 0] for run in runs])
        assert np.array_equal(spikes, recorded), name
        compared += recorded.size
        if f"{name}_v" not in golden:
            continue
        u = joined([run.membranes[population][:, 0] for run in runs])
        assert np.array_equal(np.where(spikes > 0, MARKER, u), steps(golden[f"{name}_v"])), name
        current = joined(
            [currents(net, run.payloads, population) for net, run in zip((whole, early), runs, strict=True)]
        )
        assert np.array_equal(current, steps(golden[f"{name}_u"])), name
        compared += 2 * recorded.size
    assert compared == 950_400 + 1_824_768 + 3 * (635_040 + 193_536 + 135_168 + 61_440 + 2_400 + 1_200 + 240)


def currents(network: QuantNetwork, payloads: Mapping[str, IntArray], name: str) -> IntArray:
    """What a population's synapses bring it in every step, of the first sample."""
    (synapses,) = network.inputs_of(network.populations_by_name[name])
    sent = payloads[synapses.source][:, :1]
    sent = np.concatenate([np.zeros_like(sent[: synapses.lag]), sent[: len(sent) - synapses.lag]])
    return np.concatenate([integer_current(synapses, step) for step in sent])
