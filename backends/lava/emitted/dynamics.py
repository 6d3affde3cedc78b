"""Neurons of several states: synaptic currents, adaptive thresholds, floors, decays of their own for every channel."""

from typing import Any

import numpy as np
from arithmetic import DECAY_ONE, Neurons

STATES = ("current_decay", "drive", "floor", "adapt_decay", "adapt_step", "adapt_start")
"""Arrays (channels,) of a population that say what it has beyond a leaky membrane; absent where it has not."""


class GeneralNeurons(Neurons):  # type: ignore[misc]
    """One step of neurons whose state is (v, i, h, k), each (lanes, n); all integers, in int64.

    i = decay(i, current_decay) + I          i = I where there is none
    h = decay(h, adapt_decay) + adapt_step * k of the step before
    u = decay(v, decay) + i + drive          less h where it fired the step before, if adapt_resets
    k = number of j with u >= thresholds[j] + h (fire "gt": >)
    v = what `Neurons` makes of u and k, no less than floor
    """

    def __init__(self, spec: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        super().__init__(spec, arrays)
        repeats = int(np.prod(spec["shape"])) // spec["shape"][0]
        constants = {name: np.repeat(arrays[name].astype(np.int64), repeats) for name in STATES if name in arrays}
        self.rate = np.repeat(arrays["decay"].astype(np.int64), repeats)
        self.current_decay, self.drive, self.floor = (constants.get(name) for name in STATES[:3])
        self.adapt_decay, self.adapt_step, self.adapt_start = (constants.get(name) for name in STATES[3:])
        self.adapt_resets = bool(spec.get("adapt_resets", False))

    @staticmethod
    def state_type(spec: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
        """int64: thresholds, states and products with decays all fit."""
        return np.int64

    @staticmethod
    def membrane(state: Any) -> np.ndarray:
        return state[0]

    def start(self, lanes: int) -> Any:
        """v0, no current, the adaptation before the first step, and no spike before it."""
        v = super().start(lanes)
        zeros = np.zeros_like(v)
        return v, zeros, zeros if self.adapt_start is None else zeros + self.adapt_start, zeros

    def step(self, state: Any, current: Any, micro: int = 0) -> tuple[np.ndarray, Any]:
        v, i, h, k = state
        i = current if self.current_decay is None else truncated(i, self.current_decay) + current
        u = (truncated(v, self.rate) if micro == 0 else v) + i
        u = u if self.drive is None else u + self.drive
        if self.adapt_decay is not None:
            h = truncated(h, self.adapt_decay) + self.adapt_step * k
            u = u - np.where(k > 0, h, 0) if self.adapt_resets else u
        self.u, payloads, k, v = u, np.zeros(u.shape, np.int32), np.zeros(u.shape, np.int64), u
        is_open = self.open_steps is None or micro < self.open_steps
        for level, threshold in enumerate(self.thresholds if is_open else ()):
            fired = self.reached(u, threshold + h)
            payloads += fired * self.payload_steps[level]
            k += fired
            if self.reset == "soft":
                v = v - fired * self.subtract_steps[level]
        v = np.where(k > 0, 0, u) if self.reset == "hard" else v
        return payloads, (v if self.floor is None else np.maximum(v, self.floor), i, h, k)


def truncated(v: np.ndarray, rate: np.ndarray) -> Any:
    """sign(v) * ((|v| * (4096 - rate)) >> 12)."""
    return np.sign(v) * ((np.abs(v) * (DECAY_ONE - rate)) >> 12)
