"""Products of unsigned bytes with signed bytes through oneDNN, results in float32, channels innermost in memory.

torch.ops.onednn.qconv2d_pointwise and qlinear_pointwise are what torch's own quantization lowers to: sums in int32 and,
with scales of 1 and zero points of 0, float32 results without rounding below 2^24. They are internal to torch: another
build may lack them, and a CPU without VNNI adds two products in a saturating int16. Found with torch 2.13 on an AMD
EPYC 9004: wrong sums for one input channel on narrow images, for some batch sizes only; crashes where the padding is
as wide as the kernel. So `Unavailable` is raised where it cannot be or is not trusted, images come in `BLOCKS` alone,
and results hold only after the caller's self-test on blocks of each of these sizes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from snncompile.network import Pair

PAYLOAD_MAX = 255
WEIGHT_LOW, WEIGHT_HIGH = -128, 127
NO_SATURATION_MAX = 128
"""Two payloads up to this times two weights add up below 2^15, whatever the CPU."""

BLOCKS = (64, 32, 16, 8, 4, 2, 1)
"""How many images oneDNN is given at once."""

CHANNELS = 4
"""Input channels of a convolution are filled up with zeros to a multiple."""

Bytes = NDArray[np.uint8]


class Unavailable(Exception):  # noqa: N818 (a finding, named as it reads)
    """This torch build has no such product on this machine."""


@dataclass(frozen=True)
class Geometry:
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


def convolution(weight: NDArray[np.int64], geometry: Geometry) -> Callable[[Bytes], NDArray[np.float32]]:
    """x (N, H, W, C) -> (N, h, w, out) for weight (out, C / groups, kh, kw) of signed bytes. Raises Unavailable."""
    stride, padding, dilation = list(geometry.stride), list(geometry.padding), list(geometry.dilation)
    kernel = weight.shape[2:]
    whole = all(s <= k and p < k for s, k, p in zip(geometry.stride, kernel, geometry.padding, strict=True))
    if not whole or geometry.groups > 1 or geometry.dilation != (1, 1):
        raise Unavailable(f"a convolution of kernel {kernel} with {geometry}")
    missing = -weight.shape[1] % CHANNELS
    ones, zeros = torch.ones(len(weight)), torch.zeros(len(weight), dtype=torch.int64)
    signed = torch.from_numpy(np.pad(weight, ((0, 0), (0, missing), (0, 0), (0, 0))).astype(np.int8))
    prepack, product = _operation("qconv_prepack"), _operation("qconv2d_pointwise")
    packed = _tried(lambda: prepack(signed, ones, 1.0, 0, stride, padding, dilation, geometry.groups, None))

    @torch.inference_mode()
    def convolved(x: Bytes) -> NDArray[np.float32]:
        filled = np.pad(x, ((0, 0), (0, 0), (0, 0), (0, missing))) if missing else x
        images = torch.from_numpy(filled).permute(0, 3, 1, 2)
        y = product(
            images, 1.0, 0, packed, ones, zeros, None, stride, padding, dilation, geometry.groups, 1.0, 0,
            torch.float32, "none", [], "",
        )  # fmt: skip
        return np.ascontiguousarray(y.permute(0, 2, 3, 1).numpy())

    return _in_blocks(convolved)


def linear(weight: NDArray[np.int64]) -> Callable[[Bytes], NDArray[np.float32]]:
    """x (N, n) -> (N, out) for weight (out, n) of signed bytes. Raises Unavailable."""
    ones, zeros = torch.ones(len(weight)), torch.zeros(len(weight), dtype=torch.int64)
    signed = torch.from_numpy(weight.astype(np.int8))
    prepack, product = _operation("qlinear_prepack"), _operation("qlinear_pointwise")
    packed = _tried(lambda: prepack(signed, None))

    @torch.inference_mode()
    def multiplied(x: Bytes) -> NDArray[np.float32]:
        y = product(
            torch.from_numpy(x), 1.0, 0, packed, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )  # fmt: skip
        return np.asarray(y.numpy())

    return _in_blocks(multiplied)


def _in_blocks(product: Callable[[Bytes], NDArray[np.float32]]) -> Callable[[Bytes], NDArray[np.float32]]:
    """The same product of any number of images, in blocks of the tested sizes."""

    def of(x: Bytes) -> NDArray[np.float32]:
        if len(x) in BLOCKS:
            return product(x)
        parts: list[NDArray[np.float32]] = []
        first = 0
        while first < len(x):
            size = next(size for size in BLOCKS if size <= len(x) - first)
            parts.append(product(x[first : first + size]))
            first += size
        return np.concatenate(parts)

    return of


def _operation(name: str) -> Callable[..., Any]:
    """An operation of torch.ops.onednn. Raises Unavailable, also on a CPU without VNNI, where it was not tried."""
    found: Callable[..., Any] | None = getattr(torch.ops.onednn, name, None)
    has_vnni = getattr(torch.cpu, "_is_vnni_supported", lambda: False)
    if found is None or not has_vnni():
        raise Unavailable(name)
    return found


def _tried(make: Callable[[], Any]) -> Any:
    """What `make` gives; Unavailable where torch or oneDNN refuses."""
    try:
        return make()
    except (RuntimeError, NotImplementedError) as error:
        raise Unavailable(str(error)) from error
