# ruff: noqa: E501 - golden error texts are one line each
"""NIR files of the five systems and of residuals: what plain nir makes of them, and Scale as one-to-one synapses."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nir
import numpy as np
import pytest
from test_frontend_systems import SYSTEMS
from test_nir_hostile import graph
from test_nir_round_trip import PLAIN_NIR, assert_equal
from torch import nn

from snncompile.errors import CompileError
from snncompile.frontend import load_model
from snncompile.frontend.nir.nodes import MultiThresholdLIFGraph
from snncompile.frontend.nir.to_network import to_network
from snncompile.frontend.nir.write import write_nir
from snncompile.frontend.torch.trace import trace
from snncompile.network import Conv2d, MultiThresholdLIF
from snncompile.reference import run_float


@pytest.mark.parametrize("make", [make for make, _ in SYSTEMS], ids=[make.__name__ for make, _ in SYSTEMS])
def test_other_tools_read_and_rewrite_the_file(tmp_path: Path, make: Callable[[], nn.Sequential]) -> None:
    whole = trace(make().eval())
    (tmp_path / "a.nir").write_bytes(write_nir(whole))
    command = [sys.executable, "-I", "-c", PLAIN_NIR, str(tmp_path / "a.nir"), str(tmp_path / "b.nir")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{len(whole.nodes)} ")
    again = load_model(tmp_path / "b.nir")
    assert list(again.nodes) == list(whole.nodes)
    assert write_nir(again) == write_nir(whole)
    assert_equal(to_network(again), to_network(whole))


def neuron(**values: object) -> MultiThresholdLIFGraph:
    levels = [0.5, 1.0]
    defaults = {"thresholds": levels, "payload": levels, "subtract": levels, "leak": 0.5, "reset": "soft", "fire": "ge"}
    return MultiThresholdLIFGraph((2, 4, 4), **{**defaults, **values})


LATE = "approximate: the nodes state the reset one step late"


@pytest.mark.parametrize(
    ("values", "fidelity", "version"),
    [
        ({}, LATE, 1),
        ({"leak": 1.5}, f"not expressed: leak above 1; {LATE}", 1),
        ({"mixing": np.eye(2)}, f"not expressed: mixing of time steps; {LATE}", 2),
        ({"mixing": np.eye(2), "leak": 1.5}, f"not expressed: mixing of time steps and leak above 1; {LATE}", 2),
        ({"floor": -1.0}, f"not expressed: a lower bound; {LATE}", 3),
        ({"adapt_leak": 0.5, "adapt_step": 0.1}, f"not expressed: an adaptive threshold; {LATE}", 3),
        ({"leak": 1.0, "drive": np.array([0.5, 0.0])}, f"not expressed: a drive; {LATE}", 3),
        ({"v0": np.array([0.5, 0.0])}, LATE, 3),
    ],
)
def test_the_tag_says_what_the_nodes_do_not(values: dict[str, object], fidelity: str, version: int) -> None:
    made = neuron(**values)
    assert made.metadata["fidelity"] == fidelity
    assert made.metadata["op_version"] == version
    plain = neuron(**{**values, "mixing": None, "leak": min(made.leak, 1.0)})
    assert list(made.nodes) == list(plain.nodes)
    assert isinstance(made.nodes.get("01_integrator"), nir.I) == (made.leak >= 1)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (neuron(mixing=np.eye(3)), "02_mtlif: mixes (3, 3) steps, the network has T = 2; a T-GIM is T x T, of the network's T"),
        (neuron(mixing=np.zeros((0, 0))), "02_mtlif: mixes (0, 0) steps, the network has T = 2; a T-GIM is T x T, of the network's T"),
    ],
)  # fmt: skip
def test_mixing_has_the_steps_of_the_network(node: nir.NIRNode, message: str) -> None:
    whole = graph()
    whole.nodes["02_mtlif"] = node
    assert refused(whole) == message


def output(**metadata: object) -> nir.Output:
    return nir.Output(np.array([3]), metadata={"scale": 1.0, **metadata})


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (output(readout="leaky"), "06_output: lacks 'leak'; it has scale, readout"),
        (output(readout="leaky", leak=0.0), "06_output: leak is 0.0; needed: a number in (0, 1]"),
        (output(readout="leaky", leak=3.0), "06_output: leak is 3.0; needed: a number in (0, 1]"),
        (output(readout="leaky", leak=float("nan")), "06_output: leak is nan; needed: a finite number"),
    ],
)
def test_a_leaky_readout_has_a_leak(node: nir.NIRNode, message: str) -> None:
    whole = graph()
    whole.nodes["06_output"] = node
    assert refused(whole) == message


def refused(whole: nir.NIRGraph) -> str:
    with pytest.raises(CompileError) as caught:
        to_network(whole)
    return str(caught.value)


def scaled(
    source: str = "02_mtlif", shape: tuple[int, ...] = (2, 4, 4), target: str = "02_second", scale: object = None
) -> nir.NIRGraph:
    """A second neuron that reads the first one's spikes through a Scale beside a convolution."""
    whole = graph()
    one, none = np.ones(2, np.int64), np.zeros(2, np.int64)
    convolution = nir.Conv2d(np.array([4, 4]), np.ones((2, 2, 1, 1)), one, none, one, 1, np.zeros(2))
    values = np.arange(1, shape[0] + 1).reshape(-1, *(1,) * (len(shape) - 1)) if scale is None else np.array(scale)
    nodes = {**whole.nodes, "02_a": convolution, "02_second": neuron(), "02_scale": nir.Scale(values * np.ones(shape))}
    edges = [edge for edge in whole.edges if edge != ("02_mtlif", "03_avg_pool")]
    edges += [("02_mtlif", "02_a"), ("02_a", "02_second"), ("02_second", "03_avg_pool")]
    return nir.NIRGraph(nodes, [*edges, (source, "02_scale"), ("02_scale", target)], type_check=False)


def test_a_scale_of_spikes_is_one_synapse_a_neuron(tmp_path: Path) -> None:
    (tmp_path / "model.nir").write_bytes(write_nir(scaled()))
    network = to_network(load_model(tmp_path / "model.nir"))
    synapses = network.by_name["02_scale"]
    assert isinstance(synapses, Conv2d)
    assert (synapses.inputs, synapses.groups, synapses.weight.ravel().tolist()) == (("02_mtlif",), 2, [1.0, 2.0])
    assert network.by_name["02_second"].inputs == ("02_a", "02_scale")
    x = np.random.default_rng(0).uniform(0, 1, (2, 1, 4, 4))
    traced = run_float(network, x)
    spikes, currents = traced.outputs["02_mtlif"], traced.outputs["02_scale"]
    assert spikes.any()
    assert np.array_equal(currents, spikes * np.array([1.0, 2.0])[:, None, None])


def test_a_scale_may_follow_the_input_and_go_to_the_output() -> None:
    nodes = {
        "0": nir.Input(np.array([2]), metadata={"coding": "direct", "scale": 1.0, "timesteps": 1}),
        "1": nir.Scale(np.array([1.0, -3.0])),
        "2": nir.Output(np.array([2]), metadata={"readout": "mean", "scale": 1.0}),
    }
    network = to_network(nir.NIRGraph(nodes, [("0", "1"), ("1", "2")], type_check=False))
    assert run_float(network, np.array([[0.5, 1.0]])).output.tolist() == [[0.5, -3.0]]


UNFIT = [
    (scaled(scale=np.arange(32.0).reshape(2, 4, 4)), "02_scale: scales the neurons of one channel differently; needed: one value a channel"),
    (scaled(scale=np.nan), "02_scale: scale holds NaN or infinite values; train or export the model again"),
    (scaled(shape=(2, 4, 5)), "02_scale: is made for an input of shape (2, 4, 5), gets (2, 4, 4)"),
    (scaled(shape=(2,)), "02_scale: is made for an input of shape (2,), gets (2, 4, 4)"),
    (scaled(shape=(0, 4, 4)), "02_scale: scale has shape (0, 4, 4); needed: a value for every neuron"),
]  # fmt: skip


@pytest.mark.parametrize(("whole", "message"), UNFIT, ids=[text.partition(";")[0] for _, text in UNFIT])
def test_other_scales_are_named(whole: nir.NIRGraph, message: str) -> None:
    assert refused(whole) == message


def test_nodes_come_in_the_order_of_their_numbers_whatever_the_order_in_memory() -> None:
    whole = scaled()
    other = nir.NIRGraph(dict(reversed(whole.nodes.items())), whole.edges[::-1], type_check=False)
    assert write_nir(other) == write_nir(whole)
    one, same = to_network(whole), to_network(other)
    assert_equal(one, same)
    names = [node.name for node in one.nodes]
    assert names == ["00_input", "01_conv2d", "02_mtlif", "02_a", "02_scale", "02_second", *sorted(whole.nodes)[-4:]]


def test_a_neuron_that_mixes_carries_it_into_the_network() -> None:
    whole = graph()
    mixing = np.array([[0.25, 0.5], [1.0, 0.0]])
    whole.nodes["02_mtlif"] = neuron(mixing=mixing, leak=1.25)
    found = next(to_network(whole).of_type(MultiThresholdLIF))
    assert found.mixing.tolist() == mixing.tolist()
    assert replace(found, mixing=None).leak == 1.25
