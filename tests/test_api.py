"""`import snncompile as sc`, and the commands beside it: diff, report --html, --quiet."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import snncompile as sc
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


@pytest.fixture(scope="module")
def module() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        nn.DirectCoding(timesteps=2, input_shape=(1, 6, 6), scale=1 / 255),
        nn.PerStep(torch.nn.Conv2d(1, 4, 3)),
        nn.MultiThresholdLIF(threshold=0.5, levels=2, leak=0.5),
        nn.PerStep(torch.nn.Flatten(), torch.nn.Linear(4 * 16, 5)),
        nn.MeanReadout(),
    )


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (8, 1, 6, 6)).astype(np.float32), rng.integers(0, 5, 8)


@pytest.fixture(scope="module")
def programs(module: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The same module sealed with 8 and with 4 bits, and the data as a file."""
    folder = tmp_path_factory.mktemp("api")
    for bits in (8, 4):
        sc.compile(module, "loihi2-sim", output=folder / str(bits), weight_bits=bits)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (8, 1, 6, 6)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=rng.integers(0, 5, 8))
    return folder / "8", folder / "4", folder / "data.npz"


def test_a_module_is_compiled_run_verified_and_reported(module: torch.nn.Module, data: tuple[Any, Any]) -> None:
    program = sc.compile(module, target="loihi2-sim", example=data[0][:1])
    assert program.content["provenance"]["model"] == "Sequential"
    run = program.run(data)
    assert run.prediction.shape == (8,)
    assert run.accuracy == (run.prediction == data[1]).mean()
    assert run.energy_uj is not None
    assert run.energy_uj["low"] <= run.energy_uj["nominal"] <= run.energy_uj["high"]
    with torch.no_grad():
        expected = module(torch.as_tensor(data[0]))
    np.testing.assert_allclose(run.output, expected.numpy(), atol=0.02)  # weights rounded to 8 bits
    assert program.run(data[0], limit=3, backend="reference").energy_uj is None
    assert program.verify(data, limit=2, stages=("integer", "simulator")).equal is True
    program.run(data)
    view = program.report()
    assert "neurons on 1 of" in str(view) or "neurons on" in str(view)
    assert {"cores", "steps", "placement", "spikes-0"} <= set(view.figures)
    assert "agree on every spike of 2 samples" in view._repr_html_()
    directory = program.directory
    assert directory.is_dir()
    again = sc.load(directory)
    assert (again.run(data).output == run.output).all()


class OwnClass(torch.nn.Module):
    """A network as people write it: a class of their own with a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.DirectCoding(timesteps=2, input_shape=(36,), scale=1 / 255)
        self.hidden = nn.PerStep(torch.nn.Linear(36, 20))
        self.neuron = nn.MultiThresholdLIF(threshold=0.5, levels=2, leak=0.5)
        self.head, self.read = nn.PerStep(torch.nn.Linear(20, 5)), nn.MeanReadout()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.head(self.neuron(self.hidden(self.code(x)))))


def test_a_class_of_ones_own_is_followed_through_its_forward(data: tuple[Any, Any]) -> None:
    torch.manual_seed(1)
    network, x = OwnClass().eval(), data[0].reshape(8, 36)
    run = sc.compile(network, "loihi2-sim", example=x).run(x)
    with torch.no_grad():
        np.testing.assert_allclose(run.output, network(torch.as_tensor(x)).numpy(), atol=0.02)


def test_a_notebook_shows_tables_then_figures(
    programs: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import types

    shown: list[object] = []
    fake = types.ModuleType("IPython.display")
    fake.HTML, fake.display = str, shown.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    program = sc.load(programs[0])
    program.run(programs[2])
    program.report()._ipython_display_()
    assert "<table" in str(shown[0])
    assert len(shown) == 1 + len(program.report().figures) >= 6
    assert "<table" in program._repr_html_()


def test_equal_modules_seal_alike_and_differ_in_bits(
    programs: tuple[Path, Path, Path], module: torch.nn.Module
) -> None:
    eight, four, data = programs
    other = sc.compile(module, "loihi2-sim")
    assert (other.directory / "program.json").read_bytes() == (eight / "program.json").read_bytes()
    result = sc.diff(eight, four, data).result
    bits = next(entry for entry in result["totals"] if entry["name"] == "weight bits, mean")
    assert (bits["a"], bits["b"]) == (8, 4)
    assert "8 -> 4" in str(sc.diff(eight, four))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda module: sc.compile(module, "loihi3-sim"), "did you mean 'loihi2-sim'"),
        (lambda module: sc.compile(module, "loihi2-sim", weightbits=4), "did you mean 'weight_bits'"),
        (lambda module: sc.compile("none.pt", "loihi2-sim"), "no such file"),
        (lambda module: sc.compile(7, "loihi2-sim"), "is a int"),
        (lambda module: sc.compile(module, "loihi2-sim", example=3.0), "give x"),
        (lambda module: sc.load("nowhere"), "holds no program"),
    ],
)
def test_mistakes_are_compile_errors(module: torch.nn.Module, call: Callable[..., object], said: str) -> None:
    with pytest.raises(sc.CompileError, match=said):
        call(module)


def test_the_public_names_are_five_and_others_are_attribute_errors() -> None:
    assert len(sc.__all__) == 5
    assert all(callable(getattr(sc, name)) for name in sc.__all__)
    with pytest.raises(AttributeError, match="no attribute 'decompile'"):
        sc.decompile  # noqa: B018


def test_diff_is_a_gate(invoke: Invoke, programs: tuple[Path, Path, Path]) -> None:
    eight, four, data = programs
    code, out, err = invoke("diff", eight, four, "--json", "--max-energy-increase", "1000%")
    assert (code, err) == (0, "")
    assert json.loads(out)["holds"] is True
    code, out, _ = invoke(
        "diff", eight, four, "--data", data, "--max-accuracy-drop", -101, "--max-energy-increase", "5"
    )
    assert code == 1
    assert "max accuracy drop -101 points" in out
    assert "DOES NOT HOLD" in out
    assert invoke("diff", eight, four, "--max-accuracy-drop", 1)[0] == 2
    assert invoke("diff", eight, four, "--max-energy-increase", "little")[0] == 2
    assert invoke("diff", eight, four.parent / "none")[0] == 1
    assert invoke("diff", eight, four, "--quiet")[1:] == ("", "")


def test_report_writes_a_page_with_a_run_and_a_verification(
    invoke: Invoke, programs: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    eight, four, data = programs
    run, proof, page = tmp_path / "run.npz", tmp_path / "proof.json", tmp_path / "r.html"
    assert invoke("run", eight, "--data", data, "--save", run)[0] == 0
    _, out, _ = invoke("verify", eight, "--data", data, "--limit", 2, "--stages", "integer,simulator", "--json")
    proof.write_text(out)
    code, out, err = invoke("report", eight, "--html", "-o", page, "--run", run, "--verification", proof, "--json")
    assert (code, err, json.loads(out)) == (0, "", {"html": str(page)})
    text = page.read_text()
    assert "On 8 samples of data.npz its accuracy is" in text
    assert "agree on every spike of 2 samples" in text
    code, _, err = invoke("report", four, "--html", "--run", run)
    assert code == 1
    assert "another program" in err
    assert err.count("\n") == 1
    assert invoke("report", eight, "--run", run)[0] == 2
    before = (eight / "program.json").read_bytes()
    assert invoke("report", eight, "--html")[0] == 0
    assert (eight / "report.html").is_file()
    assert (eight / "program.json").read_bytes() == before
    assert invoke("report", eight, "--json")[0] == 0, "the seal still holds"


def test_the_sealed_report_tells_how_it_was_made(invoke: Invoke, programs: tuple[Path, Path, Path]) -> None:
    _, out, _ = invoke("report", programs[1], "--json")
    made = json.loads(out)["provenance"]
    assert made["command"] == "snncompile Sequential --target loihi2-sim --weight-bits 4"


def test_quiet_prints_nothing(invoke: Invoke, programs: tuple[Path, Path, Path]) -> None:
    eight, _, data = programs
    assert invoke("run", eight, "--data", data, "--quiet") == (0, "", "")
    assert invoke("verify", eight, "--data", data, "--limit", 1, "--stages", "integer,simulator", "-q") == (0, "", "")
    assert json.loads(invoke("run", eight, "--data", data, "--quiet", "--json")[1])["samples"] == 8


def test_steps_are_told_as_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from rich.console import Console

    from snncompile.cli.common import told_on
    from snncompile.pipeline import StepLog

    stream = io.StringIO()
    log = StepLog(told_on(Console(file=stream, force_terminal=True, color_system=None)))
    with log.step("frontend"):
        pass
    with pytest.raises(ValueError, match="stop"), log.step("read"):
        raise ValueError("stop")
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("step 1/10 frontend ... ")
    assert lines[0].endswith(" s")
    assert lines[1].endswith(" s"), "an error begins on a line of its own"
    assert [step["name"] for step in log.steps] == ["frontend"]
    piped = io.StringIO()
    with StepLog(told_on(Console(file=piped))).step("frontend"):
        pass
    assert piped.getvalue() == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [("snncompile re", "report"), ("snncompile check --target loi", "loihi2-sim"), ("snncompile di", "diff")],
)
def test_the_shell_completes(words: str, said: str) -> None:
    import os

    env = {
        **os.environ,
        "_SNNCOMPILE_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    command = [sys.executable, "-c", "from snncompile.__main__ import main; main()"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert f"plain,{said}" in done.stdout
