# ruff: noqa: E501 - golden error texts are one line each
"""Exported NIR: what other tools make of it, by a plain simulation of NIR's nodes, and what we read back."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from click.testing import CliRunner
from nir_simulator import simulate
from test_nir_standard import DT, NONE, STEPS, TWO, affine, chain, conv, cuba, if_, lif

from snncompile.cli import cli
from snncompile.frontend import load_model
from snncompile.frontend.nir.export import exported
from snncompile.frontend.nir.graph_order import ordered
from snncompile.frontend.nir.to_network import to_network
from snncompile.frontend.nir.write import write_nir
from snncompile.frontend.reading import Reading
from snncompile.network import Conv2d, Input, Linear, MultiThresholdLIF, Network, Readout, one_to_one, verify
from snncompile.pipeline import run_passes
from snncompile.reference import run_float


def network_of_all() -> Network:
    """Pools, groups, a kernel that is not square, delays, recurrence, currents, thresholds, and neurons of each kind."""
    rng = np.random.default_rng(0)
    wide = conv(rng, 4, 3, padding=np.array([0, 1]), groups=2, weight=rng.normal(0.2, 0.5, (4, 2, 1, 3)), bias=np.zeros(4))  # fmt: skip
    graph = chain(
        *(conv(rng, 4, 2), lif((4, 8, 8), tau=4 * DT, v_leak=0.2), nir.SumPool2d(TWO, TWO, NONE), wide),
        *(if_((4, 4, 4), 0.4 / DT), nir.SumPool2d(TWO, TWO, NONE), nir.Threshold(np.zeros((4, 2, 2)))),
        *(nir.Flatten(None, 0, -1), nir.Delay(np.full(16, 2 * DT)), affine(rng, 5, 16), cuba((5,), v_leak=0.1)),
        *(affine(rng, 3, 5), if_((3,), 0.4 / DT)),
        shape=(2, 8, 8),
    )
    graph.nodes |= {"11_rec": affine(rng, 5, 5), "11_delay": nir.Delay(np.full(5, 3 * DT))}
    graph.edges += [("11", "11_delay"), ("11_delay", "11_rec"), ("11_rec", "11")]
    return run_passes(to_network(graph, Reading(timesteps=STEPS, dt=DT)))


@pytest.mark.parametrize("r_is_one", [False, True])
def test_other_tools_compute_the_same(tmp_path: Path, r_is_one: bool) -> None:
    network = network_of_all()
    graph, told = exported(network, r_is_one)
    leaky = [node for node in graph.nodes.values() if isinstance(node, nir.LIF | nir.CubaLIF)]
    integrating = [node for node in graph.nodes.values() if isinstance(node, nir.IF)]
    assert all((node.r == 1).all() == r_is_one for node in leaky)
    assert all(np.allclose(node.r * DT, 1) for node in integrating)  # norse adds the input as it is
    assert {node.verdict for node in told} == {"faithful"}
    (tmp_path / "a.nir").write_bytes(write_nir(graph))
    plain = nir.read(tmp_path / "a.nir")
    rng = np.random.default_rng(1)
    frames = (rng.random((1, STEPS, 2, 8, 8)) < 0.4).astype(float)
    wanted = run_float(network, frames)
    found = simulate(plain, ordered(plain), frames[0], DT)
    kinds = [name.partition("_")[2] for name in found]
    assert {"lif", "if", "cuba_lif", "threshold", "delay", "sum_pool"} <= set(kinds)
    firing = [name for name in ordered(plain) if name.partition("_")[2] in ("lif", "if", "cuba_lif", "threshold")]
    for neuron, name in zip(network.neurons, firing, strict=True):
        assert wanted.outputs[neuron.name].any()
        assert np.array_equal(found[name], wanted.outputs[neuron.name][:, 0]), name


def test_what_is_exported_reads_back_the_same(tmp_path: Path) -> None:
    network = network_of_all()
    (tmp_path / "a.nir").write_bytes(write_nir(exported(network)[0]))
    again = to_network(load_model(tmp_path / "a.nir"))
    x = (np.random.default_rng(1).random((2, STEPS, 2, 8, 8)) < 0.4).astype(float)
    one, other = run_float(network, x), run_float(again, x)
    assert np.array_equal(one.output, other.output)
    for a, b in zip(network.neurons, again.neurons, strict=True):
        assert np.array_equal(one.outputs[a.name], other.outputs[b.name])


def small(**values: Any) -> Network:
    default = {"thresholds": np.ones(1), "payload": np.ones(1), "subtract": np.ones(1), "leak": 0.5, "reset": "hard", "fire": "gt"}  # fmt: skip
    nodes = (
        Input("in", (), (2,), coding="events"),
        Linear("w", ("in",), np.array([[0.75, 0.5], [0.25, 1.0]]), np.zeros(2)),
        MultiThresholdLIF("n", ("w",), **{**default, **values}),  # type: ignore[arg-type]
        Readout("out", ("n",)),
    )
    network = Network(nodes, 4)
    verify(network)
    return network


TAGGED: list[tuple[dict[str, Any], str]] = [
    ({"reset": "soft"}, "NIR has no soft reset"),
    ({"thresholds": np.array([1.0, 2.0]), "payload": np.array([1.0, 2.0]), "subtract": np.array([1.0, 2.0])}, "NIR has no multiple thresholds"),
    ({"v0": 0.5}, "NIR has no initial state"),
    ({"floor": -1.0}, "NIR has no lower bound of a state"),
    ({"leak": 1.5}, "NIR has no leak above 1"),
    ({"adapt_leak": 0.5, "adapt_step": 0.1}, "NIR has no adaptive threshold"),
    ({"leak": 1.0, "current_leak": 0.5}, "NIR has no integrator beside leaky neurons, with a current or a drive"),
    ({"unit": 0.25}, "NIR has no integers of its own"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "note"), TAGGED, ids=[note for _, note in TAGGED])
def test_what_nir_lacks_stays_ours(tmp_path: Path, values: dict[str, Any], note: str) -> None:
    network = small(**values)
    graph, told = exported(network)
    neuron = next(node for node in told if node.name == "n")
    assert (neuron.kind, neuron.verdict, neuron.note) == ("MultiThresholdLIF", "approximate", note)
    (tmp_path / "a.nir").write_bytes(write_nir(graph))
    again = to_network(load_model(tmp_path / "a.nir"))
    x = np.random.default_rng(0).integers(0, 2, (20, 4, 2))
    assert np.array_equal(run_float(again, x).output, run_float(network, x).output)
    assert np.array_equal(again.neurons[0].thresholds, network.neurons[0].thresholds)


def test_at_the_threshold_is_above_the_next_smaller_number(tmp_path: Path) -> None:
    network = small(fire="ge", leak=0.5)
    (tmp_path / "a.nir").write_bytes(write_nir(exported(network)[0]))
    again = to_network(load_model(tmp_path / "a.nir"))
    x = np.array([[[0, 1], [0, 1], [0, 0], [0, 1]]])  # the second neuron's state is 1, its threshold
    spikes = run_float(again, x).outputs[again.neurons[0].name][:, 0, 1]
    assert spikes.tolist() == run_float(network, x).outputs["n"][:, 0, 1].tolist() == [1, 1, 0, 1]


def test_one_to_one_synapses_are_scales() -> None:
    network = small()
    synapses = one_to_one("w", "in", np.array([2.0, 3.0]))
    graph, _ = exported(network.replacing({"w": synapses}))
    assert graph.nodes["01_scale"].scale.tolist() == [2.0, 3.0]
    biased = replace(synapses, bias=np.array([0.5, 0.0]))
    assert isinstance(biased, Conv2d)
    graph, _ = exported(network.replacing({"w": biased}))
    assert graph.nodes["01_affine"].weight.tolist() == [[2.0, 0.0], [0.0, 3.0]]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    graph = chain(affine(np.random.default_rng(0), 3, 2), lif((3,)), shape=(2,))
    Path("a.nir").write_bytes(write_nir(graph))
    result = CliRunner().invoke(
        cli, ["export", "a.nir", "-o", "b.nir", "--timesteps", "5", "--reset", "soft", "--json"]
    )
    assert result.exit_code == 0, result.output
    nodes = {node["name"]: node for node in json.loads(result.output)["nodes"]}
    assert nodes["02"]["note"] == "NIR has no soft reset"
    assert to_network(load_model("b.nir")).timesteps == 5
    result = CliRunner().invoke(cli, ["export", "a.nir", "-o", "b.nir", "--timesteps", "5"])
    assert "faithful: 00, 01, 02" in result.output
    assert "wrote b.nir, 4 nodes" in result.output
