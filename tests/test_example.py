"""The example's model and training script, on whole data sets; minutes long, run by CI."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from snncompile.backend import load_backend
from snncompile.compiler import compile_file
from snncompile.data import load_samples
from snncompile.frontend.torch.checkpoint import load_module
from snncompile.proof.verify import verify_program
from snncompile.sealed import read_program

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_deployed_accuracy_is_within_a_third_of_a_point_of_float(
    shared_data: Path, fashion_model: Path, fashion_program: Path
) -> None:
    samples = load_samples(shared_data / "fashion-mnist")
    network = load_module(fashion_model).float().eval()
    with torch.inference_mode():
        predictions = [network(batch.float()).argmax(1) for batch in torch.from_numpy(samples.x.copy()).split(500)]
    floats = float((torch.cat(predictions).numpy() == samples.y).mean())
    program = read_program(fashion_program)
    run = load_backend("sim").run(program, fashion_program, program.encode(samples.x))
    deployed = float((run.prediction == samples.y).mean())
    assert floats >= 0.93
    assert abs(deployed - floats) <= 0.003
    stated_float, stated_deployed = _accuracies_in_readme()
    assert 100 * floats == pytest.approx(stated_float, abs=0.03)  # float32 sums differ a little between processors
    assert round(100 * deployed, 2) == stated_deployed  # integers do not


def _accuracies_in_readme() -> tuple[float, float]:
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if "accuracy (" in line]
    floats, deployed = (float(row.split("|")[2].strip().removesuffix(" %")) for row in rows)
    return floats, deployed


@pytest.mark.slow
def test_a_thousand_samples_in_lava_equal_the_simulator(fashion_program: Path, fashion_data: Path) -> None:
    pytest.importorskip("lava", reason="lava-nc is not installed")
    program = read_program(fashion_program)
    payloads = program.encode(load_samples(fashion_data).x)
    names = [p.name for p in program.network.populations if p.spiking]
    lava, sim = (load_backend(name).run(program, fashion_program, payloads, names) for name in ("lava", "sim"))
    np.testing.assert_array_equal(lava.output, sim.output)
    for name in names:
        np.testing.assert_array_equal(lava.payloads[name], sim.payloads[name])


def _write_idx(path: Path, array: np.ndarray) -> None:
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes())


OTHER_DATA = {"train_cifar10_resnet", "train_nmnist"}
SCRIPTS = sorted({path.stem for path in (ROOT / "examples").glob("train_*.py")} - OTHER_DATA)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_training_script_makes_a_network_that_deploys_exactly(
    script: str, tmp_path: Path, fashion_data: Path
) -> None:
    samples = load_samples(fashion_data)
    for stem, part in (("train", slice(0, 800)), ("t10k", slice(800, 1000))):
        _write_idx(tmp_path / f"{stem}-images-idx3-ubyte", samples.x[part, 0])
        _write_idx(tmp_path / f"{stem}-labels-idx1-ubyte", samples.y[part])
    options = {"data": tmp_path, "out": tmp_path / "m.pt", "epochs": 3, "batch": 50, "validation": 100, "shift": 1}
    given = [f"--{key}={value}" for key, value in options.items()]
    command = [sys.executable, ROOT / "examples" / f"{script}.py", *given]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    accuracy = float(done.stdout.split("test accuracy ")[1].split(" %")[0])
    assert accuracy > 30
    program = compile_file(tmp_path / "m.pt", "loihi2-sim", tmp_path / "out").program
    few = slice(800, 820)
    stages = ("float", "folded", "integer", "simulator")
    result = verify_program(tmp_path / "out", program, samples.x[few], samples.y[few], stages)
    assert result["equal"]
    assert result["pairs"][0]["spikes_differing"] == 0
    assert result["pairs"][1]["spikes_compared"] > 1000
    run = load_backend("sim").run(program, tmp_path / "out", program.encode(samples.x[800:]))
    assert abs(100 * float((run.prediction == samples.y[800:]).mean()) - accuracy) <= 5
