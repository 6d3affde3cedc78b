"""Data files: `.npz` with x and y, and folders of IDX files (the MNIST format)."""

import gzip
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snncompile.errors import CompileError

IDX_STEMS = {
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
}


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of a data set: `x` (N, ...), `y` (N,) or None where the file has no labels."""

    x: NDArray[np.generic]
    y: NDArray[np.int64] | None
    source: str

    def __len__(self) -> int:
        return len(self.x)

    def first(self, limit: int | None) -> "Samples":
        """The first `limit` samples; all where limit is None."""
        if limit is None:
            return self
        if limit < 1:
            raise CompileError("--limit", f"{limit} samples asked for", "give at least 1")
        return Samples(self.x[:limit], None if self.y is None else self.y[:limit], self.source)


def load_samples(path: str | Path, split: str = "test") -> Samples:
    """Reads `.npz` (keys x, y) or a folder of IDX files, plain or .gz; of a folder the `split` "test" or "train".

    IDX images come as (N, 1, H, W) uint8. Raises CompileError: no such file, another format, a missing key, an empty
    file, lengths of x and y that differ, values that are not numbers.
    """
    path = Path(path)
    if not path.exists():
        raise CompileError(
            str(path), "no such file or folder", "give an .npz with x (N, ...) and y (N,), or a folder of IDX files"
        )
    samples = _load_idx_folder(path, split) if path.is_dir() else _load_npz(path)
    if len(samples) == 0:
        raise CompileError(str(path), "x has no samples", "give at least one")
    if samples.y is not None and len(samples.y) != len(samples.x):
        raise CompileError(
            str(path), f"x has {len(samples.x)} samples, y has {len(samples.y)}", "give one label per sample"
        )
    return samples


def _load_npz(path: Path) -> Samples:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if key in ("x", "y")}
            keys = file.files
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise CompileError(
            str(path),
            f"not a readable .npz of plain arrays ({str(error).split('. ')[0]})",
            "save it with np.savez(path, x=x, y=y)",
        ) from error
    if "x" not in arrays:
        raise CompileError(
            str(path),
            f"has no array 'x' (it has: {', '.join(keys) or 'nothing'})",
            "save it with np.savez(path, x=x, y=y)",
        )
    x = arrays["x"]
    if x.ndim < 2 or x.dtype.kind not in "buif":
        raise CompileError(str(path), f"x has shape {x.shape} and type {x.dtype}", "x must be (N, ...) of numbers")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise CompileError(str(path), "x holds NaN or infinite values", "remove them")
    return Samples(x, _labels(arrays.get("y"), path), str(path))


def _labels(y: NDArray[np.generic] | None, path: Path) -> NDArray[np.int64] | None:
    if y is None:
        return None
    if y.ndim != 1 or y.dtype.kind not in "bui":
        raise CompileError(str(path), f"y has shape {y.shape} and type {y.dtype}", "y must be (N,) integers")
    return y.astype(np.int64)


def _load_idx_folder(folder: Path, split: str) -> Samples:
    images, labels = (_find_idx(folder, stem) for stem in IDX_STEMS[split])
    x, y = read_idx(images), read_idx(labels)
    if x.ndim != 3 or y.ndim != 1:
        raise CompileError(
            str(folder), f"images have {x.ndim} axes and labels {y.ndim}", "IDX images have 3 axes, labels 1"
        )
    return Samples(x[:, None], y.astype(np.int64), str(folder))


def _find_idx(folder: Path, stem: str) -> Path:
    for name in (stem, f"{stem}.gz", stem.replace("-idx", ".idx"), f"{stem.replace('-idx', '.idx')}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise CompileError(str(folder), f"has no {stem}[.gz]", "the folder must hold IDX files under the names MNIST uses")


def read_idx(path: str | Path) -> NDArray[np.uint8]:
    """One IDX file of unsigned bytes, plain or .gz: two zero bytes, type 8, number of axes, big-endian sizes, data."""
    path = Path(path)
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise CompileError(str(path), f"cannot be read ({error})", "fetch the file again") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or len(raw) < 4 + 4 * raw[3]:
        raise CompileError(
            str(path), "is not an IDX file of unsigned bytes", "it must start with 00 00 08 and the number of axes"
        )
    shape = tuple(int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3]))
    body = len(raw) - 4 - 4 * raw[3]
    if body != math.prod(shape):
        raise CompileError(str(path), f"declares {shape} and holds {body} bytes", "fetch the file again")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)
