"""The command line: what it prints, its exit codes, and one line for every kind of bad input."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nir
import numpy as np
import pytest
import torch
from programs import tree

from snncompile import nn
from snncompile.__main__ import main

Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """invoke(*args) -> exit code, standard output, standard error."""

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["snncompile", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def test_compile_prints_the_report_and_writes_equal_bytes_twice(
    invoke: Invoke, fashion_model: Path, tmp_path: Path
) -> None:
    code, out, err = invoke(fashion_model, "--target", "loihi2-sim", "-o", tmp_path / "a", "--json")
    assert (code, err) == (0, "")
    printed = json.loads(out)
    sealed = json.loads((tmp_path / "a" / "report.json").read_text())
    assert {**printed, "steps": None} == {**sealed, "steps": None}
    assert [step["name"] for step in printed["steps"]] == [step["name"] for step in sealed["steps"]]
    assert all(step["seconds"] >= 0 for step in printed["steps"])
    code, out, _ = invoke("compile", fashion_model, "--target", "loihi2-sim", "-o", tmp_path / "b")
    assert code == 0
    assert "37,770 neurons on 33 of 128 cores" in out
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_the_report_has_the_keys_tools_rely_on(invoke: Invoke, fashion_program: Path) -> None:
    code, out, _ = invoke("report", fashion_program, "--json")
    assert code == 0
    report = json.loads(out)
    assert {"target", "cores_used", "chips_used", "cores", "layers", "mapping", "estimate", "steps"} <= set(report)
    resources = ("neurons", "synapse_words", "axons_in", "axons_out")
    for core in report["cores"]:
        assert {"chip", "core", "x", "y", "layers", *resources, *(f"{r}_limit" for r in resources)} <= set(core)
        assert all(core[r] <= core[f"{r}_limit"] for r in resources)
    layer_keys = {"name", "kind", "neurons", "synapses", "weight_bits", "state_bits", "lowering", "exactness", "cores"}
    assert all(layer_keys <= set(layer) for layer in report["layers"])
    assert (
        sum(core["neurons"] for core in report["cores"])
        == sum(layer["neurons"] for layer in report["layers"])
        == 37_770
    )
    assert {"hops_per_packet", "max_link_load", "baselines"} <= set(report["mapping"])
    assert set(report["mapping"]["baselines"]) == {"random", "row_major"}
    assert {"synops", "packets", "energy_pj", "latency_us", "provenance"} <= set(report["estimate"])
    assert {"low", "nominal", "high", "by_cause"} <= set(report["estimate"]["energy_pj"])
    assert any("inherited" in note and "loihi1" in note for note in report["estimate"]["provenance"])
    code, out, _ = invoke("report", fashion_program)
    assert code == 0
    assert "hops per packet" in out


def test_run_gives_accuracy_and_cost(invoke: Invoke, fashion_program: Path, fashion_data: Path, tmp_path: Path) -> None:
    saved = tmp_path / "out.npz"
    code, out, err = invoke("run", fashion_program, "--data", fashion_data, "--limit", 200, "--json", "--save", saved)
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert {
        "accuracy",
        "samples",
        "energy_uj_per_inference",
        "latency_us_per_inference",
        "synops_per_inference",
        "wall_s",
    } <= set(result)
    assert set(result["energy_uj_per_inference"]) == {"low", "nominal", "high"}
    assert result["samples"] == 200
    assert result["accuracy"] > 0.9
    assert result["timing"] == "event"
    with np.load(saved) as arrays, np.load(fashion_data) as data:
        assert (arrays["prediction"] == data["y"][:200]).mean() == result["accuracy"]
        assert (arrays["output"].argmax(1) == arrays["prediction"]).all()
    code, out, _ = invoke(
        "run", fashion_program, "--data", fashion_data, "--limit", 200, "--backend", "reference", "--json"
    )
    exact = json.loads(out)
    assert (code, exact["accuracy"]) == (0, result["accuracy"])
    assert exact["energy_uj_per_inference"] is None  # the reference models no cost, and does not say 0


def test_verify_passes_and_names_the_first_difference(
    invoke: Invoke, fashion_program: Path, fashion_data: Path
) -> None:
    pytest.importorskip("lava", reason="lava-nc is not installed")
    code, out, _ = invoke("verify", fashion_program, "--data", fashion_data, "--limit", 3, "--json")
    result = json.loads(out)
    assert (code, result["equal"]) == (0, True)
    assert result["stages"] == ["float", "folded", "lowered", "integer", "simulator", "lava"]
    assert {(p["a"], p["b"]): p["spikes_differing"] for p in result["pairs"] if p["a"] in ("integer", "simulator")} == {
        ("integer", "simulator"): 0,
        ("simulator", "lava"): 0,
    }
    code, out, _ = invoke("verify", fashion_program, "--data", fashion_data, "--limit", 3, "--stages", "float,integer")
    assert code == 0
    assert "first difference float / integer: layer" in out


def test_calibration_sets_the_activity_of_the_estimate(
    invoke: Invoke, fashion_model: Path, fashion_data: Path, fashion_program: Path, tmp_path: Path
) -> None:
    code, out, _ = invoke(
        fashion_model, "--target", "loihi2-sim", "-o", tmp_path / "c", "--calibrate", fashion_data, "--json"
    )
    assert code == 0
    estimate = json.loads(out)["estimate"]
    assert "measured on 200 calibration samples" in estimate["activity"]
    code, out, _ = invoke("run", fashion_program, "--data", fashion_data, "--limit", 200, "--json")
    assert estimate["synops"] == pytest.approx(json.loads(out)["synops_per_inference"], rel=1e-6)


def test_targets(invoke: Invoke) -> None:
    code, out, _ = invoke("targets")
    assert code == 0
    assert "loihi2-sim" in out
    assert "128 cores" in out
    code, out, _ = invoke("targets", "loihi2-sim", "--json")
    chip = json.loads(out)
    assert (code, chip["core"]["axons_in"]) == (0, 16000)
    assert all({"covers", "source", "basis", "confidence"} == set(source) for source in chip["sources"])
    code, out, _ = invoke("targets", "loihi2-sim")
    assert code == 0
    assert re.search(r"energy_synop_pj +35\.5", out)
    assert re.search(r"synapse_memory\.words_per_axon_max +unknown", out)


@pytest.fixture
def bad_files(tmp_path: Path, fashion_data: Path) -> Path:
    """A folder of files nobody should be able to compile or run."""

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/executed",)

    torch.save(Evil(), tmp_path / "evil.pt")
    (tmp_path / "corrupt.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    layer = nn.PerStep(torch.nn.Linear(4, 2))
    torch.save(torch.nn.Sequential(nn.DirectCoding(1), layer, nn.MeanReadout()), tmp_path / "no_shape.pt")
    lif = {key: np.ones(2) for key in ("tau", "r", "v_leak", "v_threshold", "v_reset")}
    graph = nir.NIRGraph(
        {"input": nir.Input(np.array([2])), "lif": nir.LIF(**lif), "output": nir.Output(np.array([2]))},
        [("input", "lif"), ("lif", "output")],
    )
    nir.write(tmp_path / "lif.nir", graph)
    import h5py

    with h5py.File(tmp_path / "lif.nir") as source, h5py.File(tmp_path / "unknown.nir", "w") as target:
        for key in source:
            source.copy(key, target)
        del target["node/nodes/lif/type"]
        target["node/nodes/lif/type"] = "WarpDrive"
    with np.load(fashion_data) as data:
        np.savez(tmp_path / "wrong_shape.npz", x=data["x"][:3, :, :14], y=data["y"][:3])
        np.savez(tmp_path / "too_large.npz", x=data["x"][:3].astype(float) * 2, y=data["y"][:3])
        np.savez(tmp_path / "no_x.npz", images=data["x"][:3])
        np.savez(tmp_path / "lengths.npz", x=data["x"][:3], y=data["y"][:2])
    np.savez(tmp_path / "nan.npz", x=np.full((2, 1, 28, 28), np.nan))
    np.savez(tmp_path / "pickled.npz", x=np.array([{"a": 1}, None]))
    (tmp_path / "text.npz").write_text("hello")
    return tmp_path


COMPILE_ERRORS = {
    "missing.pt": "missing.pt: no such file; give a .pt saved whole with torch.save, or a .nir file",
    "evil.pt": "evil.pt: .*(os|posix).system",
    "corrupt.pt": "corrupt.pt: ",
    "no_shape.pt": "no_shape.pt|--input-shape|input shape",
    "unknown.nir": "unknown.nir: .*WarpDrive",
    "lif.nir": "lif",
    "text.npz": "is not a model file",
}


@pytest.mark.parametrize("name", COMPILE_ERRORS)
def test_a_bad_model_is_one_line(name: str, invoke: Invoke, bad_files: Path) -> None:
    import re

    code, out, err = invoke(bad_files / name, "--target", "loihi2-sim", "-o", bad_files / "out")
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert re.search(COMPILE_ERRORS[name], err), err
    assert not (bad_files / "executed").exists()
    assert not [path.name for path in bad_files.iterdir() if "out" in path.name]


RUN_ERRORS = {
    "absent.npz": "no such file or folder",
    "wrong_shape.npz": "samples of shape 1x14x28, the network takes 1x28x28; give x as (N, 1, 28, 28)",
    "too_large.npz": "the network takes 0 to 255; scale the data as in training",
    "no_x.npz": "has no array 'x' (it has: images)",
    "lengths.npz": "x has 3 samples, y has 2; give one label per sample",
    "nan.npz": "x holds NaN or infinite values",
    "pickled.npz": "not a readable .npz of plain arrays",
    "text.npz": "not a readable .npz of plain arrays",
}


@pytest.mark.parametrize("name", RUN_ERRORS)
def test_bad_data_is_one_line(name: str, invoke: Invoke, bad_files: Path, fashion_program: Path) -> None:
    code, out, err = invoke("run", fashion_program, "--data", bad_files / name)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {bad_files / name}: ")
    assert err.count("\n") == 1
    assert RUN_ERRORS[name] in err


def test_wrong_words(
    invoke: Invoke, fashion_model: Path, fashion_program: Path, fashion_data: Path, tmp_path: Path
) -> None:
    for args, code, message in (
        (
            (fashion_model, "--target", "lohi2-sim"),
            1,
            "no target 'lohi2-sim'; did you mean 'loihi2-sim'? known: loihi1-sim, loihi2-sim, tiny-sim",
        ),
        (
            (fashion_model, "--target", "loihi2"),
            1,
            "kept for the silicon, which snncompile cannot reach; use loihi2-sim",
        ),
        (
            (fashion_model, "--target", "tiny-sim", "-o", tmp_path / "t"),
            1,
            "07_mtlif needs for one neuron alone 288 axons in (limit 128); 12_mtlif needs for one neuron alone 3106 ",
        ),
        (
            (fashion_model, "--target", "loihi2-sim", "--weight-bits", 9),
            1,
            "the chip has no 9-bit weights; allowed: 2, 3, 4, 5, 6, 7, 8",
        ),
        ((fashion_model,), 2, "Missing option '--target'"),
        ((fashion_model, "--target", "loihi2-sim", "--input-shape", "1,x"), 2, "is not C,H,W or a number of features"),
        (("reprot", fashion_program), 2, "no command and no file 'reprot'; did you mean 'report'?"),
        (("--target", "loihi2-sim"), 2, "Missing argument 'MODEL'"),
        (("run", tmp_path, "--data", fashion_data), 1, "holds no program.json; give the folder that"),
        (
            ("run", fashion_program, "--data", fashion_data, "--backend", "lavva"),
            1,
            "no backend 'lavva'; did you mean 'lava'?",
        ),
        (
            ("run", fashion_program, "--data", fashion_data, "--limit", 0),
            1,
            "--limit: 0 samples asked for; give at least 1",
        ),
        (
            ("verify", fashion_program, "--data", fashion_data, "--stages", "flaot"),
            1,
            "no stage 'flaot'; did you mean 'float'?",
        ),
    ):
        ended, out, err = invoke(*args)
        assert (ended, out) == (code, ""), args
        assert message in " ".join(err.split()), (args, err)
        assert "Traceback" not in err
    assert not (tmp_path / "t").exists()


def test_a_bug_of_ours_is_one_line_with_its_place(
    invoke: Invoke, fashion_program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(directory: Path) -> None:
        raise RuntimeError("out\nof luck")

    monkeypatch.setattr("snncompile.sealed.read_report", broken)
    code, out, err = invoke("report", fashion_program)
    assert (code, out) == (1, "")
    assert err.startswith("internal error: RuntimeError at test_cli.py:")
    assert err.endswith("out of luck; this is a bug of snncompile, SNNCOMPILE_DEBUG=1 shows the trace\n")
    monkeypatch.setenv("SNNCOMPILE_DEBUG", "1")
    with pytest.raises(RuntimeError, match="out\nof luck"):
        invoke("report", fashion_program)


def test_help_and_targets_load_nothing_heavy() -> None:
    heavy = "{'torch', 'lava', 'numba', 'nir', 'h5py', 'plotly', 'scipy'}"
    script = f"import sys, snncompile, snncompile.cli, snncompile.chip; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_installed_command_answers() -> None:
    done = subprocess.run([sys.executable, "-m", "snncompile", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("snncompile, version ")
