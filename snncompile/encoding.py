"""What the host makes of a sample before the chip sees it: integer payloads, never a float on the chip."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from snncompile import reference
from snncompile.errors import CompileError
from snncompile.network import INPUT_PAYLOAD_MAX, Shape
from snncompile.quant_network import IntArray, QuantSynapses

Kind = Literal["pixels", "events", "rate", "currents"]


@dataclass(frozen=True, eq=False)
class Encoder:
    """Turns data x into the payloads of `QuantNetwork`'s input.

    pixels:   rint(scale * x * 255), the same at every time step; 0 <= scale * x <= 1.
    events:   frame t of x (N, T, *shape): scale * x, integers 0..payload_max.
    rate:     scale * x in 0..1 becomes spikes spread evenly over the time steps (`reference.rate_coded`).
    currents: (a + bias + 2^(shift-1)) >> shift with a = sum of W pixels: the input current of every neuron of the first
              population, computed here, written to the chip as its bias. All integers; `synapses` read the pixels.

    shape: of one sample (one frame). payload_max: largest payload (of currents: largest absolute value).
    """

    kind: Kind
    scale: float
    shape: Shape
    timesteps: int
    payload_max: int
    synapses: tuple[QuantSynapses, ...] = ()
    bias: IntArray | None = None
    shift: int = 0

    def __call__(self, x: NDArray[np.generic], where: str = "x") -> IntArray:
        """Payloads (N, *shape) or, a frame a time step, (N, T, *shape).

        Raises CompileError: another shape, or values outside the range (it is not fed what it was not trained on).
        """
        wanted = (self.timesteps, *self.shape) if self.kind == "events" else self.shape
        if x.shape[1:] != wanted:
            given, needed = ("x".join(map(str, s)) for s in (x.shape[1:], wanted))
            steps = f", the first of them the {self.timesteps} time steps" if self.kind == "events" else ""
            raise CompileError(
                where,
                f"samples of shape {given}, the network takes {needed}{steps}",
                f"give x as (N, {', '.join(map(str, wanted))})",
            )
        if not len(x) or not np.isfinite(values := np.asarray(x, np.float64) * self.scale).all():
            raise CompileError(where, "has no samples, or values that are not numbers", "remove NaN and infinities")
        if self.kind == "events":
            return self._events(values, x, where)
        if values.min() < 0 or values.max() > 1 + 1e-9:
            raise CompileError(
                where,
                f"values from {x.min():g} to {x.max():g}, the network takes 0 to {1 / self.scale:g}",
                "scale the data as in training",
            )
        if self.kind == "rate":
            return reference.rate_coded(values, self.timesteps)
        pixels = np.rint(values * INPUT_PAYLOAD_MAX).astype(np.int64)
        return self._currents(pixels) if self.kind == "currents" else pixels

    def _events(self, values: NDArray[np.float64], x: NDArray[np.generic], where: str) -> IntArray:
        counts = np.rint(values)
        if values.min() < 0 or values.max() > self.payload_max or (np.abs(values - counts) > 1e-6).any():
            raise CompileError(
                where,
                f"event counts from {x.min():g} to {x.max():g}",
                f"the network takes whole numbers from 0 to {self.payload_max / self.scale:g}"
                + (": its spikes are binary" if self.payload_max == 1 else ""),
            )
        return counts.astype(np.int64)

    def _currents(self, pixels: IntArray) -> IntArray:
        a = sum(reference.integer_current(s, pixels) for s in self.synapses)
        assert self.bias is not None
        biased = a + self.bias.reshape(-1, *(1,) * (np.ndim(a) - 2))
        currents: IntArray = (biased + (1 << self.shift >> 1)) >> self.shift
        return currents
