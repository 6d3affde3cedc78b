"""Data files: .npz and IDX."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from snncompile.data import load_samples, read_idx
from snncompile.errors import CompileError


def _idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def _write_folder(folder: Path, compress: bool) -> np.ndarray:
    x = np.arange(3 * 4 * 5).reshape(3, 4, 5).astype(np.uint8)
    for name, array in (("t10k-images-idx3-ubyte", x), ("t10k-labels-idx1-ubyte", np.array([3, 1, 2]))):
        data = gzip.compress(_idx(array)) if compress else _idx(array)
        (folder / (name + ".gz" * compress)).write_bytes(data)
    return x


@pytest.mark.parametrize("compress", [True, False])
def test_a_folder_of_idx_files(tmp_path: Path, compress: bool) -> None:
    x = _write_folder(tmp_path, compress)
    samples = load_samples(tmp_path)
    np.testing.assert_array_equal(samples.x[:, 0], x)
    assert samples.y.tolist() == [3, 1, 2]
    assert len(samples.first(2)) == 2
    assert len(samples.first(None)) == 3
    with pytest.raises(CompileError, match="has no train-images-idx3-ubyte"):
        load_samples(tmp_path, "train")


def test_the_shared_data_is_read(shared_data: Path) -> None:
    samples = load_samples(shared_data / "fashion-mnist")
    assert samples.x.shape == (10_000, 1, 28, 28)
    assert np.bincount(samples.y).tolist() == [1000] * 10


def test_the_example_data_is_the_start_of_the_test_set(shared_data: Path, fashion_data: Path) -> None:
    ours, whole = load_samples(fashion_data), load_samples(shared_data / "fashion-mnist").first(1000)
    np.testing.assert_array_equal(ours.x, whole.x)
    np.testing.assert_array_equal(ours.y, whole.y)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an IDX file of unsigned bytes"),
        (b"\x00\x00\x0d\x01" + bytes(4), "is not an IDX file of unsigned bytes"),
        (_idx(np.zeros((2, 3)))[:-1], r"declares \(2, 3\) and holds 5 bytes"),
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CompileError, match=message):
        read_idx(path)
    (tmp_path / "file.gz").write_bytes(b"no gzip")
    with pytest.raises(CompileError, match="cannot be read"):
        read_idx(tmp_path / "file.gz")


def test_labels_may_be_missing_but_not_wrong(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 3)))
    assert load_samples(tmp_path / "x.npz").y is None
    np.savez(tmp_path / "y.npz", x=np.zeros((2, 3)), y=np.zeros((2, 3)))
    with pytest.raises(CompileError, match=r"y has shape \(2, 3\)"):
        load_samples(tmp_path / "y.npz")
    np.savez(tmp_path / "empty.npz", x=np.zeros((0, 3)))
    with pytest.raises(CompileError, match="x has no samples"):
        load_samples(tmp_path / "empty.npz")
