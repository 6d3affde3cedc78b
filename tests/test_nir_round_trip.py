# ruff: noqa: E501 - golden error texts are one line each
"""NIR files: what is written is read back bit for bit, by us and after plain nir rewrote it."""

import subprocess
import sys
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import nir
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch import nn

from snncompile.errors import CompileError
from snncompile.frontend import load_model
from snncompile.frontend.nir.file import read_nir
from snncompile.frontend.nir.nodes import STEP_S, BatchNormGraph, MultiThresholdLIFGraph, lift
from snncompile.frontend.nir.to_network import to_network
from snncompile.frontend.nir.write import write_nir
from snncompile.frontend.torch.trace import trace
from snncompile.network import MultiThresholdLIF as Neuron
from snncompile.network import Network
from snncompile.nn import DirectCoding, MeanReadout, MultiThresholdLIF, PerStep, TdBatchNorm1d, TdBatchNorm2d
from snncompile.reference import float_neurons, run_float

PLAIN_NIR = """
import sys, nir
graph = nir.read(sys.argv[1])
nir.write(sys.argv[2], graph)
assert not [name for name in sys.modules if name.startswith("snncompile")]
print(len(graph.nodes), [type(node).__name__ for node in graph.nodes.values() if isinstance(node, nir.NIRGraph)])
"""

finite = st.floats(-1e6, 1e6, allow_nan=False)
positive = st.floats(1e-6, 1e3)


@st.composite
def general(draw: st.DrawFn, channels: int) -> dict[str, object]:
    """Some of the parameters that only version 3 of the tag holds, one number or one a channel."""

    def some(low: float, high: float) -> st.SearchStrategy[object]:
        number = st.floats(low, high, exclude_max=True)
        return number | hnp.arrays(np.float64, channels, elements=number)

    offered = {
        "current_leak": some(0, 1),
        "drive": hnp.arrays(np.float64, channels, elements=finite),
        "floor": some(-9, 0),
        "leak": some(1e-3, 2),
        "v0": some(0, 9),
        "unit": positive,
    }
    adapting = {"adapt_leak": some(0, 1), "adapt_step": some(0, 2), "adapt_start": some(0, 2)}
    chosen = draw(st.sets(st.sampled_from(sorted(offered))))
    return {name: draw(offered[name]) for name in sorted(chosen)} | (
        {name: draw(values) for name, values in adapting.items()} if draw(st.booleans()) else {}
    )


@st.composite
def neurons(draw: st.DrawFn, shape: tuple[int, ...], timesteps: int) -> MultiThresholdLIFGraph:
    thresholds = np.array(sorted(draw(st.lists(positive, min_size=1, max_size=6, unique=True))))
    if draw(st.booleans()):
        by_channel = np.stack([thresholds * (1 + c) for c in range(shape[0])], axis=1)
        return MultiThresholdLIFGraph(
            shape,
            **{
                "thresholds": draw(st.sampled_from([by_channel, by_channel[:, :1] * np.ones(shape[0])])),
                "payload": thresholds,
                "subtract": by_channel,
                "leak": 0.5,
                "reset": "soft",
                "fire": draw(st.sampled_from(["ge", "gt"])),
                **draw(general(shape[0])),
            },
        )
    return MultiThresholdLIFGraph(
        shape,
        thresholds=thresholds,
        payload=[draw(finite) for _ in thresholds],
        subtract=[draw(finite) for _ in thresholds],
        leak=draw(st.floats(0, 2, exclude_min=True, exclude_max=True)),
        reset=draw(st.sampled_from(["soft", "hard", "none"])),
        fire=draw(st.sampled_from(["ge", "gt"])),
        v0=draw(finite),
        mixing=draw(st.none() | hnp.arrays(np.float64, (timesteps, timesteps), elements=finite)),
    )


@st.composite
def graphs(draw: st.DrawFn) -> nir.NIRGraph:
    """Input -> convolution (in two branches that meet) -> neuron -> batch norm -> pool -> flatten -> affine -> Output."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    channels, groups = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    shape = (channels * groups, 4, draw(st.integers(4, 6)))
    one, none = np.ones(2, np.int64), np.zeros(2, np.int64)

    def convolution() -> nir.Conv2d:
        weight, bias = rng.normal(size=(2, channels, 1, 1)), rng.normal(size=2)
        return nir.Conv2d(np.array(shape[1:]), weight, one, none, one, groups, bias)

    wide = (2, *shape[1:])
    features = 2 * 2 * (shape[2] // 2)
    norm = {key: rng.normal(size=2) for key in ("gamma", "beta", "mean")}
    timesteps = draw(st.integers(1, 9))
    metadata = {"coding": "direct", "scale": draw(positive), "timesteps": timesteps}
    readout = draw(st.sampled_from([{"readout": "mean"}, {"leak": draw(st.floats(0.01, 1)), "readout": "leaky"}]))
    nodes = {
        "00_input": nir.Input(np.array(shape), metadata=metadata),
        "01_conv2d": convolution(),
        "02_conv2d": convolution(),
        "03_mtlif": draw(neurons(wide, timesteps)),
        "04_batch_norm": BatchNormGraph(wide, **norm, var=rng.uniform(0, 1, 2), eps=draw(positive)),
        "05_avg_pool": nir.AvgPool2d(2 * one, 2 * one, none),
        "06_flatten": nir.Flatten(np.array((2, 2, shape[2] // 2)), 0, -1),
        "07_linear": nir.Affine(rng.normal(size=(3, features)), rng.normal(size=3)),
        "08_mtlif": draw(neurons((3,), timesteps)),
        "09_output": nir.Output(np.array((3,)), metadata={**readout, "scale": draw(positive)}),
    }
    names = list(nodes)
    edges = [
        *pairwise(names[2:]),
        (names[0], names[1]),
        (names[0], names[2]),
        (names[1], names[3]),
    ]
    return nir.NIRGraph(nodes, edges, type_check=False)


def assert_equal(a: Network, b: Network) -> None:
    """Two networks are equal bit for bit."""
    assert a.timesteps == b.timesteps
    assert [(type(n), n.name, n.inputs) for n in a.nodes] == [(type(n), n.name, n.inputs) for n in b.nodes]
    for one, other in zip(a.nodes, b.nodes, strict=True):
        for field in fields(one):
            left, right = getattr(one, field.name), getattr(other, field.name)
            same = left.tobytes() == right.tobytes() if isinstance(left, np.ndarray) else left == right
            assert same, (one.name, field.name)


@settings(max_examples=12, deadline=None)
@given(graphs())
def test_write_then_read_is_the_identity(tmp_path_factory: pytest.TempPathFactory, graph: nir.NIRGraph) -> None:
    folder = tmp_path_factory.mktemp("nir")
    (folder / "a.nir").write_bytes(write_nir(graph))
    again = read_nir(folder / "a.nir")
    assert_equal(to_network(graph), to_network(again))
    assert write_nir(again) == write_nir(graph)
    # type_check: nir's inference does not know groups
    nir.write(folder / "b.nir", nir.read(folder / "a.nir", type_check=False))
    assert_equal(to_network(graph), to_network(load_model(folder / "b.nir")))


def network(shape: tuple[int, ...] = (1, 8, 8)) -> nn.Sequential:
    """A network shaped like that of examples/train_fashion_mnist.py."""
    torch.manual_seed(1)
    return nn.Sequential(
        DirectCoding(2, shape, 1 / 255),
        PerStep(nn.Conv2d(1, 4, 3, padding=1, bias=False)),
        TdBatchNorm2d(4),
        MultiThresholdLIF(0.3),
        PerStep(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 6)),
        TdBatchNorm1d(6),
        MultiThresholdLIF(0.3, levels=1, leak=1, reset="hard", fire="gt"),
        PerStep(nn.Linear(6, 3)),
        MeanReadout(),
    ).half()


def test_other_tools_read_and_rewrite_the_file(tmp_path: Path) -> None:
    graph = trace(network())
    (tmp_path / "a.nir").write_bytes(write_nir(graph))
    command = [sys.executable, "-I", "-c", PLAIN_NIR, str(tmp_path / "a.nir"), str(tmp_path / "b.nir")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{len(graph.nodes)} {['NIRGraph'] * 4}\n"
    again = load_model(tmp_path / "b.nir")
    assert write_nir(again) == write_nir(graph)
    assert_equal(to_network(again), to_network(graph))


def test_a_checkpoint_and_its_file_compute_the_same(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "model.pt")
    graph = load_model(tmp_path / "model.pt")
    (tmp_path / "model.nir").write_bytes(write_nir(graph))
    x = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8))
    a, b = (run_float(to_network(load_model(tmp_path / name)), x) for name in ("model.pt", "model.nir"))
    assert np.array_equal(a.output, b.output)
    assert all(np.array_equal(a.outputs[name], b.outputs[name]) for name in a.outputs)


def test_files_do_not_depend_on_the_order_of_nodes_in_memory() -> None:
    graph = trace(network())
    other = nir.NIRGraph(
        dict(reversed(graph.nodes.items())), graph.edges[::-1], metadata=graph.metadata, type_check=False
    )
    assert write_nir(other) == write_nir(graph)


def euler(graph: nir.NIRGraph, current: NDArray[np.float64]) -> NDArray[np.float64]:
    """A plain NIR simulator: Euler steps of STEP_S, what comes back to the integrator arrives a step later."""
    nodes, sums = graph.nodes, {name: [s for s, t in graph.edges if t == name] for name in graph.nodes}
    membrane = next(name for name in sorted(nodes) if name.endswith("integrator"))
    states = {name: np.zeros_like(current[0]) for name in nodes}
    back = np.zeros_like(current[0])
    steps = []
    for x in current:
        values: dict[str, NDArray[np.float64]] = {"input": x}
        for name, node in sorted(nodes.items(), key=lambda item: (item[0] == "output", item[0])):
            drive = sum(values[s] for s in sums[name] if s in values)
            v, arriving = states[name], drive + back * (name == membrane)
            if isinstance(node, nir.LI):
                values[name] = states[name] = v + STEP_S / node.tau * (node.v_leak - v + node.r * arriving)
            elif isinstance(node, nir.I):
                values[name] = states[name] = v + STEP_S * node.r * arriving
            elif isinstance(node, nir.Threshold):
                values[name] = (drive > node.threshold).astype(float)
            elif isinstance(node, nir.Scale | nir.Output):
                values[name] = drive * getattr(node, "scale", 1.0)
        back = sum((values[s] for s in sums[membrane] if nodes[s].__class__ is nir.Scale), 0 * back)
        steps.append(values["output"])
    return np.stack(steps)


@pytest.mark.parametrize("reset", ["soft", "none"])
@pytest.mark.parametrize("leak", [0.5, 1.0])
@pytest.mark.parametrize("fire", ["ge", "gt"])
def test_the_decomposition_of_a_neuron_spikes_as_the_neuron(reset: str, leak: float, fire: str) -> None:
    levels = np.array([0.5, 1.0, 1.75])
    settings_ = {"thresholds": levels, "payload": levels**2, "subtract": levels, "leak": leak}
    graph = MultiThresholdLIFGraph((3, 2), **settings_, reset=reset, fire=fire)
    current = np.random.default_rng(3).normal(0.2, 0.6, (20, 3, 2))
    neuron = Neuron("neuron", (), *(levels, levels**2, levels), leak, reset, fire)
    assert np.allclose(euler(graph, current), float_neurons(neuron, current)[0])


def test_the_decomposition_has_the_synaptic_current_and_the_drive() -> None:
    parameters = {
        "thresholds": np.array([[0.5, 0.7, 0.9]]),
        "payload": np.ones(1),
        "subtract": np.array([[0.5, 0.7, 0.9]]),
        "leak": np.array([0.5, 0.75, 0.9]),
        "current_leak": np.array([0.25, 0.5, 0.0]),
        "drive": np.array([0.1, 0.0, -0.1]),
    }
    graph = MultiThresholdLIFGraph((3, 2), **parameters, reset="soft", fire="gt")
    assert graph.metadata["op_version"] == 3
    current = np.random.default_rng(3).normal(0.2, 0.6, (20, 3, 2))
    neuron = Neuron("neuron", (), **parameters, reset="soft", fire="gt")  # type: ignore[arg-type]
    wanted = float_neurons(neuron, current[:, None])[0][:, 0]
    assert wanted.any(axis=(0, 2)).all()
    assert np.allclose(euler(graph, current), wanted)


@pytest.mark.parametrize("shape", [(3,), (3, 2, 4)])
def test_the_decomposition_of_a_batch_norm_normalises(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    gamma, beta, mean, var = rng.normal(size=3), rng.normal(size=3), rng.normal(size=3), rng.uniform(0.1, 2, 3)
    graph = BatchNormGraph(shape, gamma=gamma, beta=beta, mean=mean, var=var, eps=1e-3)
    node = next(node for node in graph.nodes.values() if isinstance(node, nir.Affine | nir.Conv2d))
    x = rng.normal(size=shape).reshape(3, -1)
    y = node.weight.reshape(3, 3) @ x + node.bias[:, None]
    wanted = gamma[:, None] * (x - mean[:, None]) / np.sqrt(var[:, None] + 1e-3) + beta[:, None]
    np.testing.assert_allclose(y, wanted, atol=1e-12)


def tagged() -> nir.NIRGraph:
    """A nested graph as plain nir reads it: the tag, and nodes nobody knows the meaning of."""
    levels = [0.5, 1.0]
    graph = MultiThresholdLIFGraph(
        (2,), thresholds=levels, payload=levels, subtract=levels, leak=0.5, reset="soft", fire="ge"
    )
    return nir.NIRGraph(dict(graph.nodes), list(graph.edges), dict(graph.metadata), type_check=False)


TAGS = [
    ({"op": "snncompile.lif"}, "03: op is 'snncompile.lif'; known: snncompile.batch_norm, snncompile.multi_threshold_lif"),
    ({"op_version": 2}, "03: lacks 'mixing'; it has op, op_version, shape, parameters, thresholds, payload, subtract, fidelity"),
    ({"op_version": None}, "03: lacks 'op_version'; it has op, op_version, shape, parameters, thresholds, payload, subtract, fidelity"),
    ({"parameters": "{"}, "03: parameters is not JSON; export the model again"),
    ({"parameters": "[" * 10**6}, "03: parameters is not JSON; export the model again"),
    ({"parameters": "[]"}, "03: parameters is not a JSON object; export the model again"),
    ({"parameters": 3}, "03: parameters is 3; needed: a text"),
    ({"parameters": '{"reset": "soft", "fire": "ge", "leak": NaN, "v0": 0}'}, "03: leak is nan; needed: a finite number"),
    ({"parameters": '{"reset": "soft", "fire": "ge", "leak": 2, "v0": 0}'}, "03: leak is 2.0, must lie in (0, 2)"),
    ({"parameters": '{"reset": "late", "fire": "ge"}'}, "03: reset is late; needed: 'soft' or 'hard' or 'none'"),
    ({"thresholds": np.array([0.5, np.nan])}, "03: thresholds holds NaN or infinite values; train or export the model again"),
    ({"thresholds": np.array([1.0, 0.5])}, "03: thresholds are [1.0, 0.5], they must be positive and increasing"),
    ({"thresholds": np.array([[1.0]])}, "03: thresholds has shape (1, 1); needed: 1 axes"),
    ({"payload": np.array([1.0])}, "03: thresholds, payload and subtract differ in length"),
    ({"payload": "many"}, "03: payload holds no real numbers"),
    ({"mixing": np.array([[1.0, np.inf], [0, 1]])}, "03: mixing holds NaN or infinite values; train or export the model again"),
    ({"mixing": np.ones((2, 3))}, "03: mixing has shape (2, 3), needed: (T, T)"),
    ({"mixing": np.ones(4), "op_version": 2}, "03: mixing has shape (4,); needed: 2 axes"),
    ({"mixing": "none"}, "03: mixing holds no real numbers"),
    ({"op_version": 4}, "03: op_version is 4; this snncompile reads version 1, 2 or 3"),
    ({"op_version": 3, "leak": np.ones(3)}, "03: leak has shape (3,), needed: one number or (2,)"),
    ({"op_version": 3, "current_leak": np.array([0.5, 1.0])}, "03: current_leak is [0.5 1. ], must lie in [0, 1)"),
    ({"op_version": 3, "drive": np.array([0.5, np.nan])}, "03: drive holds NaN or infinite values; train or export the model again"),
    ({"shape": np.array([2**40])}, "03: puts out 1099511627776 values; a layer may put out 268435456"),
    ({"shape": np.array([-1])}, "03: shape is [-1]; needed: a shape, positive integers"),
    ({"shape": np.array([3])}, "03: its nodes are not those of its tag 'snncompile.multi_threshold_lif'; a tool changed one of them: export the model again"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), TAGS)
def test_malformed_tags_are_named(changes: dict[str, object], message: str) -> None:
    graph = tagged()
    graph.metadata |= changes
    with pytest.raises(CompileError) as caught:
        lift("03", graph)
    assert str(caught.value) == message


def test_a_changed_decomposition_is_not_taken_for_its_tag() -> None:
    graph = tagged()
    assert isinstance(lift("03", graph), MultiThresholdLIFGraph)
    graph.nodes["02_threshold"].threshold = graph.nodes["02_threshold"].threshold * 1.001
    with pytest.raises(CompileError, match="its nodes are not those of its tag"):
        lift("03", graph)
    graph.metadata = {"op": "somebody.elses"}
    assert lift("03", graph) is graph


@pytest.mark.parametrize("name", ["a/b", "", ".", "a\nb"])
def test_names_that_hdf5_cannot_hold_are_refused(name: str) -> None:
    graph = nir.NIRGraph({name: nir.Input(np.array([1])), "output": nir.Output(np.array([1]))}, [], type_check=False)
    with pytest.raises(CompileError, match="this node name cannot be written to NIR"):
        write_nir(graph)


def test_importing_the_frontend_loads_neither_torch_nor_nir() -> None:
    check = "import sys, snncompile.frontend; sys.exit(bool({'torch', 'nir', 'h5py'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
