"""What the host makes of a sample before the chip sees it: integer payloads. numpy only."""

from typing import Any

import numpy as np
from arithmetic import Synapses

PIXEL_MAX = 255
"""Payload of a pixel of value 1."""

BLOCK = 64
"""Samples encoded at once; bounds memory."""


def rate_coded(p: np.ndarray, timesteps: int) -> np.ndarray:
    """Spikes (N, T, ...) of values p in 0..1 (N, ...): in step t floor((t+1) p + 1/2) - floor(t p + 1/2)."""
    steps = np.arange(timesteps + 1).reshape(-1, *(1,) * p.ndim)
    return np.diff(np.floor(steps * p + 0.5), axis=0).astype(np.int32).swapaxes(0, 1)


class Encoder:
    """Data x (N, ...) to payloads (N, *shape) or, a frame a time step, (N, T, *shape). By `kind`:

        pixels    rint(scale * x * 255), 0 <= scale * x <= 1; the same in every time step
        events    scale * x, whole numbers 0..payload_max; x (N, T, *shape)
        rate      scale * x in 0..1 as spikes spread evenly over the T time steps (`rate_coded`)
        currents  (sum of W pixels + bias + 2^(shift-1)) >> shift: the input current of every neuron of the first
                  population; whole numbers throughout

    network: network.json, its entries `encoder` and `input`. arrays: weights.npz.
    """

    def __init__(self, network: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        spec, entry = network["encoder"], network["input"]
        self.kind, self.scale, self.shape = spec["kind"], spec["scale"], tuple(spec["shape"])
        self.timesteps, self.payload_max, self.shift = spec["timesteps"], spec["payload_max"], spec["shift"]
        self.sent_shape = tuple(entry["shape"])
        self.bias = arrays.get(f"{entry['name']}.host_bias", np.zeros(1, np.int64)).astype(np.int64)
        self.synapses = [
            Synapses(
                synapses,
                arrays[f"{synapses['name']}.host_weight"],
                self.shape,
                PIXEL_MAX,
                np.int64,
                *(arrays.get(f"{synapses['name']}.host_{field}") for field in ("row", "column")),
            )
            for synapses in spec["synapses"]
        ]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The payloads, int32. Raises ValueError, in one line: no samples, another shape, values out of range."""
        wanted = (self.timesteps, *self.shape) if self.kind == "events" else self.shape
        if x.shape[1:] != wanted or not len(x):
            needed = ", ".join(map(str, wanted))
            raise ValueError(f"x has shape {x.shape}; needs (N, {needed}) with N > 0")
        if x.dtype.kind not in "buif":
            raise ValueError(f"x has type {x.dtype}; needs numbers")
        low, high = float(x.min()), float(x.max())
        allowed = float(self.payload_max) if self.kind == "events" else 1.0
        slack = 0.0 if self.kind == "events" else 1e-9
        # A NaN is in no range.
        if not (low * self.scale >= 0 and high * self.scale <= allowed + slack):
            raise ValueError(f"x from {low:g} to {high:g}; the network takes 0 to {allowed / self.scale:g}")
        return np.concatenate([self.block(x[i : i + BLOCK]) for i in range(0, len(x), BLOCK)])

    def block(self, x: np.ndarray) -> Any:
        """The payloads of a few samples within range."""
        values = np.asarray(x, np.float64) * self.scale
        if self.kind == "rate":
            return rate_coded(values, self.timesteps)
        if self.kind == "events":
            if (np.abs(values - np.rint(values)) > 1e-6).any():
                raise ValueError(f"x has event counts that are not whole multiples of {1 / self.scale:g}")
            return np.rint(values).astype(np.int32)
        pixels = np.rint(values * PIXEL_MAX).astype(np.int32)
        return self.currents(pixels) if self.kind == "currents" else pixels

    def currents(self, pixels: np.ndarray) -> Any:
        """(N, *shape of the first population)."""
        flat = pixels.reshape(len(pixels), -1)
        size = int(np.prod(self.sent_shape))
        a = np.tile(np.repeat(self.bias, size // len(self.bias)), (len(pixels), 1))
        for synapses in self.synapses:
            a += synapses.current(flat)
        return ((a + (1 << self.shift >> 1)) >> self.shift).astype(np.int32).reshape(-1, *self.sent_shape)
