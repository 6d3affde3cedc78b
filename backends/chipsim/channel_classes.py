"""Channels that count alike: spikes are added up over each class of channels once, and only the sums looked at again.

Two channels of a population are alike if they lie in the same tile and have as many targets in every target tile of
every layer of synapses: then no count tells them apart, and VGG-16's 512 channels are 1 to 26 classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snncompile.mapping.traffic import Counts
from snncompile.quant_network import IntArray


@dataclass(frozen=True, eq=False)
class ChannelClasses:
    """class_of (channels,): the class of each channel; first (classes,): the first channel of each."""

    class_of: IntArray
    first: IntArray

    @classmethod
    def of(cls, masks: Sequence[Any], channels: int) -> "ChannelClasses":
        """The classes by the rows of masks (channels, any); a sparse mask tells all channels apart."""
        if not all(isinstance(mask, np.ndarray) for mask in masks):
            every = np.arange(channels)
            return cls(every, every)
        rows = np.concatenate([np.asarray(mask, np.float64) for mask in masks], axis=1)
        _, first, class_of = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        return cls(class_of.reshape(-1), first)

    @cached_property
    def _masks(self) -> tuple[IntArray, IntArray, NDArray[np.uint64]]:
        """Which bytes of eight channels are of a class: first (classes + 1,), word and mask (masks,)."""
        words = -(-len(self.class_of) // 8)
        member = np.zeros((len(self.first), words * 8), np.uint8)
        member[self.class_of, np.arange(len(self.class_of))] = 1
        masks = member.view(np.uint64)
        classes, word = np.nonzero(masks)
        return np.searchsorted(classes, np.arange(len(self.first) + 1)), word, masks[classes, word]

    def sums(self, values: NDArray[np.generic]) -> Counts:
        """(N, classes, H, W): values (T, B, C, H, W) added up by class, N = B*T with steps fastest.

        values: spikes (bool, or bytes 0 and 1), or means of those; fastest where channels are innermost in memory,
        steps second to the last.
        """
        from .neurons import count_classes  # noqa: PLC0415 - numba loads here

        x = np.ascontiguousarray(values.transpose(1, 0, 3, 4, 2))
        batch, steps, height, width, channels = x.shape
        x = x.reshape(batch * steps, height * width, channels)
        if x.dtype in (np.bool_, np.uint8):
            filled = np.pad(x, ((0, 0), (0, 0), (0, -channels % 8))) if channels % 8 else x
            totals = np.empty((len(x), len(self.first), height * width))
            count_classes(filled.view(np.uint64), *self._masks, totals)
        else:
            order = np.argsort(self.class_of, kind="stable")
            starts = np.searchsorted(self.class_of[order], np.arange(len(self.first)))
            totals = np.add.reduceat(x[..., order].astype(np.float64, copy=False), starts, axis=2).swapaxes(1, 2)
        return totals.reshape(batch * steps, len(self.first), height, width)

    def of_class(self, values: Any) -> Any:
        """What values (channels, ...) are for a channel of each class, (classes, ...)."""
        return values[self.first]
