"""Every checkpoint of examples/models, through the whole chain: float, folded, integer, simulator, Lava."""

from pathlib import Path

import numpy as np
import pytest
import torch

from snncompile.backend import load_backend
from snncompile.compile import compile_file
from snncompile.data import load_samples
from snncompile.frontend.checkpoint import load_module
from snncompile.sealed import read_program
from snncompile.verify import STAGES, verify_program

MODELS = sorted((Path(__file__).parent.parent / "examples" / "models").glob("*.pt"))
EXACT = (("integer", "simulator"), ("simulator", "lava"))


@pytest.fixture(scope="module", params=MODELS, ids=lambda path: path.stem)
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(checkpoint, sealed directory)."""
    directory = tmp_path_factory.mktemp("systems") / request.param.stem
    compile_file(request.param, "loihi2-sim", directory)
    return request.param, directory


def _chain(directory: Path, data: Path, samples: int, stages: tuple[str, ...]) -> dict:
    few = load_samples(data).first(samples)
    return verify_program(directory, read_program(directory), few.x, few.y, stages)


def _differing(result: dict) -> dict[tuple[str, str], int]:
    return {(pair["a"], pair["b"]): pair["spikes_differing"] + pair["outputs_differing"] for pair in result["pairs"]}


def test_folding_and_simulating_change_no_spike(compiled: tuple[Path, Path], fashion_data: Path) -> None:
    result = _chain(compiled[1], fashion_data, 5, ("float", "folded", "integer", "simulator"))
    assert _differing(result)["integer", "simulator"] == 0
    assert _differing(result)["float", "folded"] == 0
    assert all(pair["spikes_compared"] > 100 for pair in result["pairs"])


def test_the_float_reference_is_the_trained_module(compiled: tuple[Path, Path], fashion_data: Path) -> None:
    from snncompile import reference
    from snncompile.frontend import load_model
    from snncompile.frontend.to_network import to_network

    x = load_samples(fashion_data).x[:20]
    with torch.inference_mode():
        expected = load_module(compiled[0]).double().eval()(torch.from_numpy(x).double()).numpy()
    output = reference.run_float(to_network(load_model(compiled[1] / "network.nir")), x).output
    # a sum in another order may move a spike that lies on a threshold: at most one sample in twenty
    assert (np.abs(output - expected).max(axis=1) < 1e-9).sum() >= 19
    assert (output.argmax(1) == expected.argmax(1)).sum() >= 19


@pytest.mark.slow
def test_two_hundred_samples_are_equal_in_every_backend(compiled: tuple[Path, Path], fashion_data: Path) -> None:
    pytest.importorskip("lava", reason="lava-nc is not installed")
    result = _chain(compiled[1], fashion_data, 200, STAGES)
    assert {pair: _differing(result)[pair] for pair in EXACT} == dict.fromkeys(EXACT, 0)
    assert result["equal"]


@pytest.mark.slow
def test_deployed_accuracy_is_near_float(compiled: tuple[Path, Path], shared_data: Path) -> None:
    samples = load_samples(shared_data / "fashion-mnist")
    network = load_module(compiled[0]).float().eval()
    with torch.inference_mode():
        logits = [network(batch.float()) for batch in torch.from_numpy(samples.x.copy()).split(500)]
    floats = float((torch.cat(logits).argmax(1).numpy() == samples.y).mean())
    program = read_program(compiled[1])
    run = load_backend("sim").run(program, compiled[1], program.encode(samples.x))
    assert abs(float((run.prediction == samples.y).mean()) - floats) <= 0.005
