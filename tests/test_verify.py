"""The proof chain on the example model, and on programs with a planted fault."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from snncompile import reference
from snncompile.__main__ import main
from snncompile.data import load_samples
from snncompile.errors import CompileError
from snncompile.proof import traces
from snncompile.proof import verify as chain
from snncompile.sealed import read_program

STAGES = ("float", "folded", "integer", "simulator")


def _pair(result: dict, a: str, b: str) -> dict:
    return next(pair for pair in result["pairs"] if (pair["a"], pair["b"]) == (a, b))


@pytest.fixture(scope="module")
def sealed(fashion_program: Path, fashion_data: Path):
    return fashion_program, read_program(fashion_program), load_samples(fashion_data).first(6)


def test_the_chain_of_the_example_model(sealed) -> None:
    directory, program, samples = sealed
    result = chain.verify_program(directory, program, samples.x, samples.y, STAGES)
    assert result["equal"]
    assert result["stages"] == list(STAGES)
    for a, b in (("float", "folded"), ("integer", "simulator")):
        pair = _pair(result, a, b)
        assert pair["spikes_differing"] == pair["outputs_differing"] == 0
        assert pair["spikes_compared"] > 10_000
        assert pair["first_difference"] is None
    rounding = _pair(result, "float", "integer")
    assert set(rounding["layers"]) == {p.name for p in program.network.populations if p.spiking}
    assert 0 < rounding["spikes_differing"] < 0.1 * rounding["spikes_compared"]
    first = rounding["first_difference"]
    assert first["layer"] in rounding["layers"]
    assert first["level_float"] != first["level_integer"]
    assert abs(first["membrane_float"] - first["membrane_integer"]) < 0.1
    low, high = sorted((first["membrane_float"], first["membrane_integer"]))
    assert low - 0.01 <= first["threshold"] <= high + 0.01
    assert "rounding" in first["cause"] or "decay" in first["cause"]


def test_a_changed_threshold_is_found_at_its_layer(sealed) -> None:
    directory, program, samples = sealed
    faulty = program.network.populations[1]
    moved = faulty.thresholds.copy()
    moved[0, 3] *= 4
    moved[1:, 3] = moved[0, 3] + np.arange(1, len(moved))
    populations = tuple(replace(p, thresholds=moved) if p is faulty else p for p in program.network.populations)
    broken = replace(program, network=replace(program.network, populations=populations))
    result = chain.verify_program(directory, broken, samples.x, samples.y, ("folded", "integer"))
    layers = _pair(result, "folded", "integer")["layers"]
    assert layers[program.network.populations[0].name]["agreement"] > 0.99
    assert layers[faulty.name]["agreement"] < layers[program.network.populations[0].name]["agreement"]


def test_a_wrong_simulator_is_caught_and_located(sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, program, samples = sealed
    layer = program.network.populations[1].name
    real = chain.load_backend

    def faulty_backend(name: str):
        backend = real(name)

        class Faulty:
            def run(self, *args):
                run = backend.run(*args)
                payloads = {key: value.copy() for key, value in run.payloads.items()}
                payloads[layer][1, 2, 5, 3, 4] += 1
                return replace(run, payloads=payloads)

        return Faulty()

    monkeypatch.setattr(chain, "load_backend", faulty_backend)
    result = chain.verify_program(directory, program, samples.x, samples.y, ("integer", "simulator"))
    assert not result["equal"]
    pair = _pair(result, "integer", "simulator")
    assert pair["spikes_differing"] == 1
    first = pair["first_difference"]
    assert (first["layer"], first["step"], first["sample"], first["neuron"]) == (layer, 1, 2, [5, 3, 4])
    assert first["cause"].startswith("fault of simulator: does not compute the integer network")


@pytest.mark.parametrize(
    ("stages", "pairs"),
    [
        (
            chain.STAGES,
            "float-folded folded-lowered lowered-integer float-integer integer-simulator simulator-lava",
        ),
        (STAGES, "float-folded folded-integer float-integer integer-simulator"),
        (("integer", "lava"), "integer-lava"),
        (("lava", "float"), "float-lava"),
        (("float", "simulator", "lava"), "float-simulator simulator-lava"),
        (("float",), ""),
    ],
)
def test_every_chosen_stage_is_compared(stages: tuple[str, ...], pairs: str) -> None:
    assert " ".join(f"{a}-{b}" for a, b in chain.pairs_of(stages)) == pairs


def test_equal_is_not_claimed_of_what_was_not_compared(sealed) -> None:
    directory, program, samples = sealed
    result = chain.verify_program(directory, program, samples.x[:2], samples.y[:2], ("float", "simulator"))
    assert result["equal"] is None
    (pair,) = result["pairs"]
    assert pair["first_difference"]["cause"].startswith(("rounding of", "decay truncation", "several of"))
    assert "membrane_integer" in pair["first_difference"]  # of the reference, which did not have to be asked for


def test_an_unknown_stage_is_refused(sealed) -> None:
    directory, program, samples = sealed
    with pytest.raises(CompileError, match="--stages: no stage 'simulater'; did you mean 'simulator'"):
        chain.verify_program(directory, program, samples.x, samples.y, ("simulater",))


def test_what_is_required_to_be_equal(sealed) -> None:
    directory, program, samples = sealed
    x, y = samples.x[:3], samples.y[:3]
    result = chain.verify_program(directory, program, x, y, STAGES, require_equal=("folded", "integer", "simulator"))
    assert result["equal"]
    assert result["require_equal"] == {"folded": True, "integer": False, "simulator": False}
    near = chain.verify_program(directory, program, x, y, ("integer", "simulator"), require_equal=("simulator",))
    assert near["require_equal"] == {"simulator": True}


@pytest.mark.parametrize(
    ("required", "message"),
    [
        ("flaot", "--require-equal: no stage 'flaot'; did you mean 'float'"),
        ("lava", r"--require-equal: lava is not run \(stages: float, folded, integer, simulator\); add it to --stages"),
        ("float", "--require-equal: no stage before float is run"),
    ],
)
def test_what_cannot_be_required_is_refused(sealed, required: str, message: str) -> None:
    directory, program, samples = sealed
    with pytest.raises(CompileError, match=f"^{message}"):
        chain.verify_program(directory, program, samples.x, samples.y, STAGES, require_equal=(required,))


def test_traces_hold_every_stage_and_layer(sealed, tmp_path: Path) -> None:
    directory, program, samples = sealed
    path = tmp_path / "traces.npz"
    stages = ("folded", "lowered", "integer", "simulator")
    chain.verify_program(directory, program, samples.x[:3], None, stages, dump=path)
    exact = reference.run_integer(program.network, program.encode(samples.x[:3]))
    with np.load(path, allow_pickle=False) as arrays:
        assert {name.partition("/")[0] for name in arrays.files} == set(stages)
        for population in program.network.populations:
            name = population.name
            np.testing.assert_array_equal(arrays[f"integer/{name}/membranes"], exact.membranes[name])
            assert f"simulator/{name}/membranes" not in arrays.files
            if population.spiking:
                table = np.concatenate([[0], population.payload])
                np.testing.assert_array_equal(table[arrays[f"integer/{name}/levels"]], exact.payloads[name])
                np.testing.assert_array_equal(arrays[f"simulator/{name}/levels"], arrays[f"integer/{name}/levels"])
                assert arrays[f"folded/{name}/membranes"].dtype == np.float64
        np.testing.assert_array_equal(arrays["integer/output"], exact.output)
        assert arrays["lowered/prediction"].shape == (3,)
    assert [p.name for p in tmp_path.iterdir()] == ["traces.npz"]


def test_traces_that_cannot_be_written_are_refused(sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, program, samples = sealed

    def refused(dump: Path, message: str) -> None:
        with pytest.raises(CompileError, match=message):
            chain.verify_program(directory, program, samples.x, None, ("folded", "integer"), dump=dump)

    refused(tmp_path / "no" / "t.npz", "is in a folder that does not exist; make the folder first")
    refused(tmp_path, "cannot be written; give --dump a file")
    monkeypatch.setattr(traces, "BYTES_MAX", 4_000_000)
    refused(tmp_path / "t.npz", r"^--dump: traces of 6 samples take .* GB, more than .*; --limit \d fits")
    monkeypatch.setattr(traces.os, "access", lambda path, mode: False)
    refused(tmp_path / "t.npz", "cannot be written")
    assert not list(tmp_path.iterdir())


def _invoke(patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    patch.setattr(sys, "argv", ["snncompile", "verify", *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), *capsys.readouterr()


def test_the_command_exits_1_where_what_is_required_differs(
    fashion_program: Path,
    fashion_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = (fashion_program, "--data", fashion_data, "--limit", 2)
    code, out, err = _invoke(
        monkeypatch, capsys, *given, "--stages", "folded,integer", "--require-equal", "integer", "--json"
    )
    result = json.loads(out)
    assert (code, err) == (1, "")
    assert result["require_equal"] == {"integer": False}
    (pair,) = result["pairs"]
    wanted = "layer neuron sample step level_folded level_integer membrane_folded membrane_integer threshold cause"
    assert set(wanted.split()) <= set(pair["first_difference"])
    dump = (*given, "--stages", "folded,lowered", "--require-equal", "lowered", "--dump", tmp_path / "t.npz")
    code, out, _ = _invoke(monkeypatch, capsys, *dump)
    assert code == 0
    assert "required folded = lowered: equal on every spike" in out
    assert (tmp_path / "t.npz").stat().st_size > 1000
    code, out, _ = _invoke(monkeypatch, capsys, *given, "--stages", "lowered,integer")
    assert code == 0
    assert "first difference lowered / integer: layer" in out
    assert "    cause: " in out
    code, out, err = _invoke(monkeypatch, capsys, *given, "--require-equal", "simulater")
    assert (code, out) == (1, "")
    assert "--require-equal: no stage 'simulater'; did you mean 'simulator'" in err
