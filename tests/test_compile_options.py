"""Options of compiling: lowering, input coding, rounding, bits chosen by a budget; what the report says of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from snncompile.backend import load_backend
from snncompile.compiler import Options, compile_file
from snncompile.data import Samples
from snncompile.errors import CompileError
from snncompile.nn import DirectCoding, MeanReadout, MultiThresholdLIF, PerStep
from snncompile.proof.verify import verify_program
from snncompile.quantization.rounding import FOLLOWED_BITS_MAX
from snncompile.sealed import read_program


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that tells a bright left half of an image from a bright right half."""
    torch.manual_seed(0)
    network = nn.Sequential(
        DirectCoding(2, input_shape=(1, 6, 6)),
        PerStep(nn.Conv2d(1, 4, 3, padding=1)),
        MultiThresholdLIF(threshold=0.25, levels=3, leak=0.5),
        PerStep(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 8)),
        MultiThresholdLIF(threshold=0.25, levels=2, leak=0.5),
        PerStep(nn.Linear(8, 2)),
        MeanReadout(),
    )
    data = samples(200, 0)
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(60):
        loss = nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("model") / "halves.pt"
    torch.save(network.eval(), path)
    return path


def samples(count: int, seed: int) -> Samples:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, count)
    x = rng.uniform(0, 0.5, (count, 1, 6, 6))
    for image, right in zip(x, y, strict=True):
        image[:, :, 3 * right : 3 * right + 3] += 0.4
    return Samples(x.astype(np.float32), y.astype(np.int64), "made")


def test_the_report_compares_the_lowerings_of_the_chip(model: Path, tmp_path: Path) -> None:
    report = compile_file(model, "loihi2-sim", tmp_path / "a").report
    by_name = {entry["lowering"]: entry for entry in report["lowerings"]}
    assert [name for name, entry in by_name.items() if entry["chosen"]] == ["graded"]
    assert all(entry["possible"] for entry in by_name.values())
    assert by_name["graded"]["neurons"] == 36 * 4 + 8 + 2
    assert by_name["r1"]["neurons"] == 36 * 4 * 3 + 8 * 2 + 2
    assert (by_name["burst"]["timesteps"], by_name["graded"]["timesteps"]) == (6, 2)
    assert by_name["graded"]["exactness"] == ["exact"]
    assert any("approximate" in exactness for exactness in by_name["uniform"]["exactness"])
    report = compile_file(model, "loihi1-sim", tmp_path / "b").report
    possible = {entry["lowering"]: entry["possible"] for entry in report["lowerings"]}
    assert possible == {"graded": False, "r1": True, "burst": False, "uniform": False}
    assert report["input"]["kind"] == "currents"
    assert {layer["lowering"] for layer in report["layers"]} == {
        "3 binary members, lateral inhibition",
        "2 binary members, lateral inhibition",
        "accumulate",
    }


@pytest.mark.parametrize(
    ("target", "lowering", "coding"),
    [
        ("loihi1-sim", "auto", "direct"),
        ("loihi1-sim", "auto", "rate"),
        ("loihi2-sim", "r1", "direct"),
        ("loihi2-sim", "burst", "direct"),
        ("loihi2-sim", "uniform", "rate"),
    ],
)
def test_every_route_runs_and_its_stages_agree(
    model: Path, tmp_path: Path, target: str, lowering: str, coding: str
) -> None:
    options = Options(lowering=lowering, input_coding=coding)  # type: ignore[arg-type]
    directory = compile_file(model, target, tmp_path / "p", options).directory
    program, data = read_program(directory), samples(40, 1)
    result = verify_program(directory, program, data.x, data.y, ("float", "folded", "lowered", "integer", "simulator"))
    pairs = {(pair["a"], pair["b"]): pair for pair in result["pairs"]}
    assert pairs["integer", "simulator"]["spikes_differing"] == 0
    assert pairs["integer", "simulator"]["outputs_differing"] == 0
    if lowering in ("auto", "r1", "burst") and coding == "direct":
        assert pairs["folded", "lowered"]["spikes_differing"] == 0
        assert result["accuracy"]["simulator"] > 0.9


def test_bits_are_chosen_within_the_budget_and_listed(model: Path, tmp_path: Path) -> None:
    compiled = compile_file(
        model, "loihi2-sim", tmp_path / "p", Options(weight_bits="auto", rounding="gptq"), samples(200, 2)
    )
    tried = compiled.report["bit_budget"]
    follows = tried["following"]["chosen"] and min(tried["chosen"].values()) <= FOLLOWED_BITS_MAX
    assert compiled.report["calibration"] == {"samples": 100, "diagonal_only": [], "follows_rounding": follows}
    assert [entry["bits"] for entry in tried["tried"] if entry["chosen"]] == [tried["chosen"]]
    widths = {s.name: s.weight_bits for s in compiled.program.network.synapses}
    assert widths == tried["chosen"] == dict(compiled.program.provenance.bits)
    assert min(widths.values()) < 8
    data = samples(200, 3)
    run = load_backend("sim").run(compiled.program, tmp_path / "p", compiled.program.encode(data.x))
    assert (run.prediction == data.y).mean() > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(weight_bits="auto"), "--weight-bits auto: needs calibration data with labels; give --calibrate DATA"),
        (Options(rounding="gptq"), "--rounding: gptq needs calibration data; give --calibrate, or use --rounding mse"),
        (Options(rounding="gtpq"), "--rounding: no method 'gtpq'; did you mean 'gptq'"),
        (Options(weight_bits=9), "--weight-bits: the chip has no 9-bit weights; allowed: 2, 3, 4, 5, 6, 7, 8"),
        (Options(lowering="r2"), "--lowering: no lowering 'r2'"),
    ],
)
def test_what_cannot_be_is_said(model: Path, tmp_path: Path, options: Options, message: str) -> None:
    with pytest.raises(CompileError, match=f"^{message}"):
        compile_file(model, "loihi2-sim", tmp_path / "p", options)
    assert not (tmp_path / "p").exists()
