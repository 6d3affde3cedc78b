"""The numerics contract: JSON in and out, the lines people see, and its way into a sealed program."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from test_nir_standard import affine, chain, lif

from snncompile.cli import cli
from snncompile.contract import NodeContract, contract_lines, from_json, to_json
from snncompile.errors import CompileError
from snncompile.frontend import load_model
from snncompile.frontend.nir.to_network import read_network
from snncompile.frontend.nir.write import write_nir
from snncompile.sealed import read_program

CONTRACT = (
    NodeContract("a", "LIF", "nir", "faithful", "dt 1"),
    NodeContract("b", "LIF", "nir", "faithful", "dt 1"),
    NodeContract("c", "Affine", "nir", "faithful"),
    NodeContract("d", "LIF", "sinabs", "approximate", "exponential"),
    NodeContract("e", "Alpha", "norse", "unsupported"),
)


def test_json_in_and_out() -> None:
    assert from_json(to_json(CONTRACT)) == CONTRACT


OTHERS = ["", "3", "[3]", '[{"name": "a"}]', to_json(CONTRACT).replace("approximate", "exact"), "[" * 10**6]


@pytest.mark.parametrize("text", OTHERS, ids=range(len(OTHERS)))
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a contract"):
        from_json(text)


def test_nodes_alike_share_a_line() -> None:
    assert contract_lines(node.__dict__ for node in CONTRACT) == [
        "faithful: a, b (LIF of nir): dt 1",
        "approximate: d (LIF of sinabs): exponential",
        "unsupported: e (Alpha of norse)",
        "faithful: c",
    ]


def test_a_graph_that_bears_one_keeps_it() -> None:
    graph = chain(affine(np.random.default_rng(0), 3, 2), lif((3,)), shape=(2,))
    graph.nodes["00"].metadata = {"coding": "events", "scale": 1.0, "timesteps": 3}
    graph.metadata["contract"] = to_json(CONTRACT)
    assert read_network(graph)[1] == CONTRACT
    graph.metadata["contract"] = "all is well"
    with pytest.raises(CompileError, match=r"^network: its contract is malformed; export the model again$"):
        read_network(graph)


def test_a_sealed_program_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.nir").write_bytes(write_nir(chain(affine(np.random.default_rng(0), 3, 2), lif((3,)), shape=(2,))))
    said = ["--timesteps", "5", "--reset", "soft", "--dt", "5e-5"]
    command = ["compile", "a.nir", "--target", "tiny-sim", "-o", "out", *said]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    note = "Euler steps of dt = 5e-05, v > v_threshold, reset by subtraction (--dt, --reset)"
    assert f"faithful: 02 (LIF of nir): {note}" in result.output
    assert next(node for node in read_program(Path("out")).provenance.contract if node["name"] == "02")["note"] == note
    report = json.loads(Path("out/report.json").read_text())
    assert [node["name"] for node in report["contract"]] == ["00", "01", "02", "03"]
    assert read_network(load_model("out/network.nir"))[0].timesteps == 5
