"""Every checkpoint of examples/models on both chips, through the whole chain: float to lowered, integers, sim, Lava."""

from pathlib import Path

import numpy as np
import pytest
import torch

from snncompile.backend import load_backend
from snncompile.compiler import compile_file
from snncompile.data import load_samples
from snncompile.errors import CompileError
from snncompile.frontend.torch.checkpoint import load_module
from snncompile.proof.verify import verify_program
from snncompile.sealed import read_program

MODELS = sorted((Path(__file__).parent.parent / "examples" / "models").glob("*.pt"))
TARGETS = ("loihi2-sim", "loihi1-sim")
REFUSED = {
    ("fashion_lm_ht", "loihi1-sim"): r"03_lm_ht: leak is .*|.*T-GIM",
    ("mnist_lm_ht", "loihi1-sim"): r"03_lm_ht: leak is .*|.*T-GIM",
}
"""What a chip cannot do, and the error that says so: T-GIM over two steps needs neurons that store their input."""
TWINS = ("mnist_group_neurons", "mnist_lm_ht", "mnist_stbp_tdbn", "mnist_stcb")
EXACT = (("integer", "simulator"), ("simulator", "lava"))
LIMIT = {"loihi2-sim": 10_000, "loihi1-sim": 1_000}
"""Samples that accuracy is compared on: a network of several chips takes minutes for a whole test set."""
LARGE = 500_000
"""Neurons from which on a few samples must do: the ResNet on 17 chips of Loihi 1."""
QUICK = ("fashion_residual", "fashion_stbp_tdbn")
"""What every run of the tests looks at; the others take minutes together."""
PAIRS = [
    pytest.param((model, target), marks=() if model.stem in QUICK else pytest.mark.slow)
    for model in MODELS
    for target in TARGETS
    if (model.stem, target) not in REFUSED
]


@pytest.fixture(scope="module", params=PAIRS, ids=[f"{p.values[0][0].stem}-{p.values[0][1]}" for p in PAIRS])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(checkpoint, sealed directory)."""
    model, target = request.param
    directory = tmp_path_factory.mktemp("systems") / model.stem
    compile_file(model, target, directory)
    return model, directory


@pytest.fixture
def data(compiled: tuple[Path, Path], fashion_data: Path, request: pytest.FixtureRequest) -> Path:
    """A file or folder of samples of what the checkpoint was trained on."""
    kind = compiled[0].stem.partition("_")[0]
    if kind == "fashion":
        return fashion_data
    return request.getfixturevalue("test_sets")[kind]


def _chain(directory: Path, data: Path, samples: int, stages: tuple[str, ...]) -> dict:
    few = load_samples(data).first(samples)
    return verify_program(directory, read_program(directory), few.x, few.y, stages)


def _differing(result: dict) -> dict[tuple[str, str], int]:
    return {(pair["a"], pair["b"]): pair["spikes_differing"] + pair["outputs_differing"] for pair in result["pairs"]}


def test_passes_and_simulating_change_no_spike(compiled: tuple[Path, Path], data: Path) -> None:
    result = _chain(compiled[1], data, 3, ("float", "folded", "lowered", "integer", "simulator"))
    differing = _differing(result)
    assert differing["integer", "simulator"] == 0
    assert differing["float", "folded"] == 0
    assert differing["folded", "lowered"] == 0
    assert all(pair["spikes_compared"] > 50 for pair in result["pairs"])


@pytest.mark.parametrize(("model", "target"), REFUSED)
def test_what_a_chip_cannot_do_is_refused(model: str, target: str, tmp_path: Path) -> None:
    path = next(found for found in MODELS if found.stem == model)
    with pytest.raises(CompileError, match=REFUSED[model, target]):
        compile_file(path, target, tmp_path / "out")


def test_the_float_reference_is_the_trained_module(compiled: tuple[Path, Path], data: Path) -> None:
    from snncompile import reference
    from snncompile.frontend import load_model
    from snncompile.frontend.nir.to_network import to_network

    if read_program(compiled[1]).chip.name != "loihi2":
        pytest.skip("the float network is the same for every chip")
    x = load_samples(data).x[:20]
    with torch.inference_mode():
        expected = load_module(compiled[0]).double().eval()(torch.from_numpy(x.copy()).double()).numpy()
    output = reference.run_float(to_network(load_model(compiled[1] / "network.nir")), x).output
    # a sum in another order may move a spike that lies on a threshold: at most one sample in twenty
    assert (np.abs(output - expected).max(axis=1) < 1e-6).sum() >= 19
    assert (output.argmax(1) == expected.argmax(1)).sum() >= 19


@pytest.mark.slow
def test_two_hundred_samples_are_equal_in_every_backend(compiled: tuple[Path, Path], data: Path) -> None:
    pytest.importorskip("lava", reason="lava-nc is not installed")
    if compiled[0].stem in TWINS:
        pytest.skip("the same system and layers as the checkpoint of Fashion-MNIST")
    large = read_program(compiled[1]).neurons > LARGE
    result = _chain(compiled[1], data, 20 if large else 200, ("integer", "simulator", "lava"))
    assert {pair: _differing(result)[pair] for pair in EXACT} == dict.fromkeys(EXACT, 0)
    assert result["equal"]


@pytest.mark.slow
def test_deployed_accuracy_is_near_float(compiled: tuple[Path, Path], test_sets: dict[str, Path]) -> None:
    program = read_program(compiled[1])
    samples = load_samples(test_sets[compiled[0].stem.partition("_")[0]]).first(LIMIT[program.target])
    if program.neurons > LARGE // 4:
        samples = samples.first(200)
    network = load_module(compiled[0]).float().eval()
    with torch.inference_mode():
        logits = [network(batch.float()) for batch in torch.from_numpy(samples.x.copy()).split(250)]
    floats = float((torch.cat(logits).argmax(1).numpy() == samples.y).mean())
    run = load_backend("sim").run(program, compiled[1], program.encode(samples.x))
    deployed = float((run.prediction == samples.y).mean())
    print(f"{compiled[0].stem} {program.target}: float {100 * floats:.2f} %, deployed {100 * deployed:.2f} %")
    assert abs(deployed - floats) <= 0.005 + 2 / len(samples)
