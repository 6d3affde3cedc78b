# ruff: noqa: E501 - golden error texts are one line each
"""NIR graph -> Network: what is added up, and what has no meaning for us is named by node."""

from collections.abc import Callable
from pathlib import Path

import nir
import numpy as np
import pytest
from test_nir_hostile import NONE, ONE, graph, neuron

from snncompile.errors import CompileError
from snncompile.frontend import load_model
from snncompile.frontend.nir.nodes import BatchNormGraph
from snncompile.frontend.nir.to_network import to_network
from snncompile.frontend.nir.write import write_nir
from snncompile.network import MultiThresholdLIF, Readout


@pytest.mark.parametrize("name", ["LIF", "IF", "LI", "CubaLIF", "CubaLI", "I", "Threshold", "Delay"])
def test_parameters_have_the_shape_of_the_neurons(tmp_path: Path, name: str) -> None:
    kind = getattr(nir, name)
    parameters = {
        key: np.ones(8) for key in kind.__dataclass_fields__ if key not in ("input_type", "output_type", "metadata")
    }
    whole = graph()
    whole.nodes["04_flatten"] = kind(**parameters)
    (tmp_path / "model.nir").write_bytes(write_nir(whole))
    with pytest.raises(CompileError) as caught:
        to_network(load_model(tmp_path / "model.nir"))
    assert "has shape (8,); needed: one number or (2, 2, 2)" in str(caught.value)


def changed(key: str, value: nir.NIRNode) -> Callable[[], nir.NIRGraph]:
    def make() -> nir.NIRGraph:
        whole = graph()
        whole.nodes[key] = value
        return whole

    return make


def rewired(*replaced: tuple[str, str], without: tuple[str, ...] = ()) -> Callable[[], nir.NIRGraph]:
    def make() -> nir.NIRGraph:
        whole = graph()
        nodes = {name: item for name, item in whole.nodes.items() if name not in without}
        return nir.NIRGraph(nodes, list(replaced), type_check=False)

    return make


def conv(**values: object) -> nir.Conv2d:
    default = {
        "input_shape": np.array([4, 4]),
        "weight": np.ones((2, 1, 3, 3)),
        "stride": ONE,
        "padding": ONE,
        "dilation": ONE,
        "groups": 1,
    }
    return nir.Conv2d(**{**default, "bias": np.zeros(2), **values})


UNFIT: list[tuple[Callable[[], nir.NIRGraph], str]] = [
    (changed("00_input", nir.Input(np.array([1, 4, 4]))), "00_input: does not say how many steps a sample has; say it: --timesteps N"),
    (changed("00_input", nir.Input(np.array([1, 4, 4]), metadata={"coding": "rate"})), "00_input: coding is rate; needed: 'direct' or 'events'"),
    (changed("06_output", nir.Output(np.array([3]), metadata={"readout": "max"})), "06_output: readout is max; needed: 'mean' or 'leaky'"),
    (changed("06_output", nir.Output(np.array([4]), metadata={"readout": "mean", "scale": 1.0})), "06_output: is made for an input of shape (4,), gets (3,)"),
    (changed("01_conv2d", conv(input_shape=np.array([5, 5]))), "01_conv2d: is made for an input of shape (1, 5, 5), gets (1, 4, 4)"),
    (changed("01_conv2d", conv(weight=np.ones((2, 2, 3, 3)))), "01_conv2d: is made for an input of shape (2, 4, 4), gets (1, 4, 4)"),
    (changed("01_conv2d", conv(input_shape=None, stride=np.array([0, 1]))), "01_conv2d: stride is [0, 1]; needed: integers from 1 to 2147483647"),
    (changed("01_conv2d", conv(stride=np.array([2, 2]), padding="same")), "01_conv2d: padding 'same' with kernel (3, 3) and stride (2, 2); say the padding as numbers"),
    (changed("02_mtlif", neuron(2, 3, 4)), "02_mtlif: is made for an input of shape (2, 3, 4), gets (2, 4, 4)"),
    (changed("02_mtlif", nir.NIRGraph({"input": nir.Input(ONE), "output": nir.Output(ONE), "output2": nir.Output(ONE)}, [("input", "output")])), "02_mtlif: a nested graph with 2 inputs and 2 outputs; a nested graph has one of each"),
    (changed("03_avg_pool", nir.SumPool2d(2 * ONE, 2 * ONE, 2 * ONE)), "03_avg_pool: pads (2, 2) around windows of (2, 2); at most half a window"),
    (changed("03_avg_pool", nir.AvgPool2d(5 * ONE, ONE, NONE)), "03_avg_pool: a pool window of (5, 5) is larger than its input (2, 4, 4)"),
    (changed("04_flatten", nir.Flatten(np.array([2, 2, 2]), 2, -1)), "04_flatten: flattens axes 2 to -1; needed: all axes, start_dim=0 and end_dim=-1 (there is no batch axis)"),
    (changed("05_linear", nir.Affine(np.ones((3, 9)), np.zeros(3))), "05_linear: takes 9 features, its input (8,) gives 8"),
    (rewired(*graph().edges[:3], ("03_avg_pool", "05_linear"), ("05_linear", "06_output"), without=("04_flatten",)), "05_linear: its input has shape (2, 2, 2); needed: (features,): flatten it first"),
    (rewired(*graph().edges[1:], without=("00_input",)), "network: has 0 inputs and 1 outputs; a network has one Input and one Output node"),
    (rewired(*graph().edges[:-1]), "05_linear: its output goes nowhere; every layer lies on a way from the input to the output"),
    (rewired(*graph().edges, ("06_output", "05_linear")), "06_output: an edge leaves the output; the output is the last node"),
    (rewired(("00_input", "06_output"), *graph().edges[1:]), "01_conv2d: has no input; every layer lies on a way from the input to the output"),
    (rewired(*graph().edges, ("04_flatten", "01_conv2d")), "01_conv2d: is in a cycle: 01_conv2d -> 02_mtlif -> 03_avg_pool -> 04_flatten -> 01_conv2d; a population may read itself, through synapses; feedback over several populations is not supported"),
    (rewired(*graph().edges, ("00_input", "03_avg_pool")), "03_avg_pool: adds inputs of shapes (1, 4, 4), (2, 4, 4); inputs that add up need one shape"),
    (rewired(*graph().edges, ("01_conv2d", "03_avg_pool")), "03_avg_pool: a pool has 2 inputs, needs 1; currents add up in a neuron"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), UNFIT, ids=[text.partition(";")[0][:50] for _, text in UNFIT])
def test_what_is_no_network_of_ours_is_named(make: Callable[[], nir.NIRGraph], message: str) -> None:
    with pytest.raises(CompileError) as caught:
        to_network(make())
    assert str(caught.value) == message


def test_edges_that_meet_in_a_neuron_or_the_output_add_up() -> None:
    whole = graph()
    whole.nodes["01_conv2d_b"] = conv()
    whole.nodes["05_linear_b"] = nir.Linear(np.ones((3, 8)))
    whole.nodes["05_norm"] = BatchNormGraph(
        (8,), **{key: np.ones(8) for key in ("gamma", "beta", "mean", "var")}, eps=0.0
    )
    whole.edges += [("00_input", "01_conv2d_b"), ("01_conv2d_b", "02_mtlif")]
    whole.edges += [("04_flatten", "05_norm"), ("05_norm", "05_linear_b"), ("05_linear_b", "06_output")]
    network = to_network(whole)
    assert next(network.of_type(MultiThresholdLIF)).inputs == ("01_conv2d", "01_conv2d_b")
    assert next(network.of_type(Readout)).inputs == ("05_linear", "05_linear_b")
    assert network.nodes[-1].name == "06_output"
