"""The data sets of the example scripts: IDX folders (MNIST, Fashion-MNIST), a CIFAR-10 JPEG copy, N-MNIST events."""

import io
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snncompile.data import load_samples

Split = Literal["train", "test"]

CIFAR_SHAPE = (3, 32, 32)
NMNIST_SHAPE = (2, 34, 34)  # polarity, y, x


def load(path: str | Path, split: Split, timesteps: int = 10) -> tuple[Tensor, Tensor]:
    """x uint8 `[N, C, H, W]`, or `[N, T, C, H, W]` of events in `timesteps` frames, and labels int64 `[N]`.

    path: a folder of IDX files; a CIFAR-10 npz with `train_jpeg`, `train_offset`, `train_label` and likewise test_*;
    an N-MNIST npz with `train_x`, `_y`, `_p`, `_t_us`, `_offset`, `_label` and likewise test_*.
    Raises CompileError where an IDX folder is missing or broken, ValueError where an npz is neither of the two.
    """
    path = Path(path)
    if path.suffix != ".npz":
        samples = load_samples(path, split)
        assert samples.y is not None  # an IDX folder always has labels
        return torch.from_numpy(samples.x.copy()), torch.from_numpy(samples.y)
    arrays = _arrays(path, split)
    labels = torch.from_numpy(arrays["label"].astype(np.int64))
    if "jpeg" in arrays:
        return torch.from_numpy(decode_jpegs(arrays["jpeg"], arrays["offset"])), labels
    return torch.from_numpy(event_frames(arrays, timesteps)), labels


def _arrays(path: Path, split: Split) -> dict[str, NDArray[np.generic]]:
    """The arrays of one split, without the split's name."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names = {name.removeprefix(f"{split}_"): name for name in file.files if name.startswith(f"{split}_")}
            arrays = {short: file[name] for short, name in names.items()}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a readable .npz of plain arrays ({error})") from error
    for needed in ({"jpeg", "offset", "label"}, {"x", "y", "p", "t_us", "offset", "label"}):
        if needed <= arrays.keys():
            return arrays
    raise ValueError(f"{path}: has neither {split}_jpeg (CIFAR-10) nor {split}_t_us (N-MNIST) with their arrays")


def decode_jpegs(data: NDArray[np.generic], offset: NDArray[np.generic]) -> NDArray[np.uint8]:
    """RGB images `[N, 3, 32, 32]` of JPEG files laid end to end, file i at data[offset[i]:offset[i + 1]].

    Raises ModuleNotFoundError without Pillow, ValueError for an image of another size.
    """
    from PIL import Image  # noqa: PLC0415  (only this data set needs it)

    images = np.empty((len(offset) - 1, *CIFAR_SHAPE), np.uint8)
    for i, (start, end) in enumerate(pairwise(offset)):
        image = np.asarray(Image.open(io.BytesIO(data[start:end].tobytes())).convert("RGB"))
        if image.shape != (32, 32, 3):
            raise ValueError(f"image {i} has shape {image.shape}, needed: (32, 32, 3)")
        images[i] = image.transpose(2, 0, 1)
    return images


def event_frames(arrays: dict[str, NDArray[np.generic]], timesteps: int) -> NDArray[np.uint8]:
    """Binary frames `[N, T, 2, 34, 34]` of recordings: 1 where a pixel has an event of that polarity in the bin.

    A recording lasts from 0 to its own last event and is cut into `timesteps` bins of equal length.
    """
    offset = arrays["offset"]
    frames = np.zeros((len(offset) - 1, timesteps, *NMNIST_SHAPE), np.uint8)
    for i, (start, end) in enumerate(pairwise(offset)):
        x, y, polarity, time = (arrays[key][start:end].astype(np.int64) for key in ("x", "y", "p", "t_us"))
        if len(time):
            frames[i, time * timesteps // (time.max() + 1), polarity, y, x] = 1
    return frames
