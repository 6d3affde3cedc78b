"""The example scripts on tiny data: loaders, augmentation, the training loop, one epoch of every script."""

import io
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snncompile.errors import CompileError
from snncompile.frontend.torch.checkpoint import load_module
from snncompile.nn import DirectCoding, MeanReadout, MultiThresholdLIF, PerStep, TdBatchNorm2d

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("train_*.py"))
OTHER_DATA = {"train_cifar10_resnet": (3, 32, 32), "train_nmnist": (10, 2, 34, 34)}


@pytest.fixture(autouse=True)
def _examples_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)


def _write_idx(path: Path, array: np.ndarray) -> None:
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes())


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for stem, count in (("train", 40), ("t10k", 10)):
        _write_idx(tmp_path / f"{stem}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28)))
        _write_idx(tmp_path / f"{stem}-labels-idx1-ubyte", rng.integers(0, 10, count))
    return tmp_path


def _event_arrays(split: str) -> dict[str, np.ndarray]:
    """Two recordings, the second empty."""
    events = {"x": [0, 33, 5, 5], "y": [0, 33, 7, 7], "p": [0, 1, 1, 1], "t_us": [0, 99, 49, 45]}
    arrays = {f"{split}_{key}": np.array(values, np.uint32) for key, values in events.items()}
    return arrays | {f"{split}_offset": np.array([0, 4, 4]), f"{split}_label": np.array([3, 9], np.uint8)}


def test_events_become_binary_frames_of_equal_bins(tmp_path: Path) -> None:
    from datasets import load

    np.savez(tmp_path / "events.npz", **_event_arrays("train"))
    x, y = load(tmp_path / "events.npz", "train", timesteps=10)
    assert x.dtype == torch.uint8
    assert x.shape == (2, 10, 2, 34, 34)
    assert x.nonzero().tolist() == [[0, 0, 0, 0, 0], [0, 4, 1, 7, 5], [0, 9, 1, 33, 33]]  # sample, bin, polarity, y, x
    assert y.tolist() == [3, 9]


def test_jpegs_are_decoded_to_channels_first(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow, which only the CIFAR-10 script needs, is not installed")
    from datasets import load

    files = []
    for color in ((200, 30, 90), (0, 255, 0)):
        buffer = io.BytesIO()
        image.new("RGB", (32, 32), color).save(buffer, "JPEG", quality=95)
        files.append(np.frombuffer(buffer.getvalue(), np.uint8))
    offset = np.cumsum([0, *map(len, files)])
    np.savez(tmp_path / "c.npz", test_jpeg=np.concatenate(files), test_offset=offset, test_label=np.array([1, 2]))
    x, y = load(tmp_path / "c.npz", "test")
    assert x.shape == (2, 3, 32, 32)
    assert y.tolist() == [1, 2]
    assert (x[0].float().mean((1, 2)) - torch.tensor([200.0, 30.0, 90.0])).abs().max() < 4


def test_data_that_is_none_of_the_three_is_refused(tmp_path: Path) -> None:
    from datasets import load

    np.savez(tmp_path / "other.npz", train_x=np.zeros(3))
    with pytest.raises(ValueError, match="has neither train_jpeg"):
        load(tmp_path / "other.npz", "train")
    (tmp_path / "broken.npz").write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match=r"not a readable \.npz"):
        load(tmp_path / "broken.npz", "train")
    with pytest.raises(CompileError, match="has no train-images"):
        load(tmp_path, "train")


def test_the_shared_events_are_read(shared_data: Path) -> None:
    from datasets import load

    x, y = load(shared_data / "events" / "nmnist_small.npz", "test")
    assert x.shape == (100, 10, 2, 34, 34)
    assert set(x.unique().tolist()) == {0, 1}
    assert sorted(set(y.tolist())) == list(range(10))


def test_augmentation_moves_and_mirrors_all_frames_of_a_sample_alike() -> None:
    from training import augmented

    torch.manual_seed(0)
    frames = torch.zeros(64, 2, 3, 9, 9, dtype=torch.uint8)
    frames[..., 4, 2] = 7
    torch.testing.assert_close(augmented(frames, shift=0, flip=False), frames)
    moved = augmented(frames, shift=2, flip=True)
    assert moved.shape == frames.shape
    assert (moved.sum((3, 4)) == 7).all()  # nothing lost or added within the margin
    assert (moved == moved[:, :1, :1]).all()
    rows, columns = moved[:, 0, 0].flatten(1).argmax(1) // 9, moved[:, 0, 0].flatten(1).argmax(1) % 9
    assert set(rows.tolist()) == {2, 3, 4, 5, 6}
    assert set(columns.tolist()) == {0, 1, 2, 3, 4, 5, 6, 7, 8}  # 2 and its mirror image 6, both by up to 2


def test_first_layers_run_once_give_the_same_logits_and_gradients() -> None:
    from training import FirstLayersOnce

    torch.manual_seed(0)
    network = nn.Sequential(
        DirectCoding(3, (1, 8, 8), 1 / 255),
        PerStep(nn.Conv2d(1, 4, 3)),
        TdBatchNorm2d(4, 0.5),
        MultiThresholdLIF(),
        PerStep(nn.Flatten(), nn.Linear(144, 5)),
        MeanReadout(),
    )
    x = torch.randint(0, 256, (6, 1, 8, 8)).float()

    def logits_and_gradients(module: nn.Module) -> tuple[Tensor, list[Tensor]]:
        logits = module(x)
        return logits, list(torch.autograd.grad(logits.square().sum(), list(network.parameters())))

    torch.testing.assert_close(logits_and_gradients(FirstLayersOnce(network)), logits_and_gradients(network))


def test_what_the_compiler_notes_on_tensors_is_not_saved(tmp_path: Path) -> None:
    from training import plain

    network = nn.Sequential(DirectCoding(2, (1, 6, 6)), PerStep(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)))
    for tensor in (*network.parameters(), *network.buffers()):
        tensor._dynamo_static_input_type = "guarded"
    with pytest.raises(CompileError, match="_rebuild_from_type_v2"):
        load_module(_saved(network, tmp_path / "noted.pt"))
    saved = load_module(_saved(plain(network), tmp_path / "plain.pt"))
    assert torch.equal(saved[1][0].weight, network[1][0].weight.half())


def _saved(network: nn.Module, path: Path) -> Path:
    torch.save(network, path)
    return path


@pytest.mark.parametrize("script", SCRIPTS)
def test_one_epoch_of_a_script_saves_a_network_that_runs(
    script: str, idx_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import training

    shape = OTHER_DATA.get(script)
    if shape:
        labels = torch.arange(12) % 10
        monkeypatch.setattr(training, "load", lambda *_: (torch.randint(0, 2, (12, *shape), dtype=torch.uint8), labels))
    out = idx_folder / "network.pt"
    given = {"data": idx_folder, "out": out, "epochs": 1, "batch": 4, "validation": 4, "shift": 1}
    monkeypatch.setattr(sys, "argv", [script, *(f"--{key}={value}" for key, value in given.items())])
    runpy.run_path(str(EXAMPLES / f"{script}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "epoch 1/1" in printed
    assert "test accuracy" in printed
    network = load_module(out).float().eval()
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    assert network(torch.zeros(2, *(shape or (1, 28, 28)))).shape == (2, 10)


def test_the_epoch_with_the_best_validation_accuracy_is_saved(
    idx_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import training

    scores = iter([50.0, 80.0, 20.0, 0.0, 0.0])  # three epochs, then the file on both sets
    monkeypatch.setattr(training, "accuracy", lambda *_: next(scores))
    out = idx_folder / "network.pt"
    monkeypatch.setattr(sys, "argv", ["x", f"--data={idx_folder}", f"--out={out}", "--epochs=3", "--validation=8"])
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--batch=8"])
    seen: list[Tensor] = []
    train = training.train

    def watched(network: nn.Sequential, *rest: object) -> None:
        *rest, after_epoch = rest

        def keep(epoch: int, line: str) -> None:
            seen.append(network[1][1].weight.detach().clone())
            after_epoch(epoch, line)

        train(network, *rest, keep)

    monkeypatch.setattr(training, "train", watched)
    training.run(lambda: nn.Sequential(DirectCoding(1, (1, 28, 28), 1 / 255), _linear(), MeanReadout()), None)
    assert "validation 80.00 %" in capsys.readouterr().out
    saved = load_module(out)[1][1].weight
    assert not torch.equal(seen[1].half(), seen[2].half())
    assert torch.equal(saved, seen[1].half())


def _linear() -> PerStep:
    return PerStep(nn.Flatten(), nn.Linear(784, 10))


def test_spike_train_learning_keeps_less_than_back_propagation_through_time_and_no_more_with_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES.parent / "benchmarks")
    from spike_train_learning import kept_bytes, network

    x = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
    stcb, bptt = ([kept_bytes(method, x, timesteps, seed=0) for timesteps in (2, 4)] for method in ("stcb", "bptt"))
    assert stcb[0] == stcb[1]
    assert stcb[0] < bptt[0] < bptt[1]
    weights = [network(method, 2, seed=0).parameters() for method in ("stcb", "bptt")]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
