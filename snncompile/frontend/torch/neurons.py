"""Neurons of other packages as ours: u = leak v + gain I + (1 - leak) v_leak, a reset to any v_reset, n spikes a step.

The input's gain is taken into the state (v / gain), and a hard reset to v_reset is one to 0 of v - v_reset:
thresholds, lower bound and start move with it. Both are exact but for rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from snncompile.errors import CompileError
from snncompile.frontend.torch.layers import Layer
from snncompile.frontend.untrusted import shown
from snncompile.network import NO_MEMORY, Array, Fire, Reset, Shape

Number = float | Array


@dataclass(frozen=True)
class Leaky:
    """u[t] = leak * v[t-1] + gain * i[t] + (1 - leak) * v_leak; fires at thresholds threshold * 1, 2, .. levels.

    v starts at v0 and goes to v_reset ("hard") or down by subtract for every level (None: threshold); every number may
    be (channels,) instead. payload: of one spike. current_leak, floor: as in `network.MultiThresholdLIF`.
    """

    threshold: Number
    leak: Number
    reset: Reset
    fire: Fire
    gain: Number = 1.0
    v_reset: Number = 0.0
    v_leak: Number = 0.0
    v0: Number = 0.0
    subtract: Number | None = None
    payload: float = 1.0
    levels: int = 1
    current_leak: Number | None = None
    floor: Number | None = None

    def parameters(self, where: str) -> dict[str, Any]:
        """Keyword arguments of `MultiThresholdLIFGraph`; raises CompileError for values that cannot be."""
        gain, leak = np.asarray(self.gain), np.asarray(self.leak)
        if not (gain > 0).all():
            raise CompileError(where, f"its input has the gain {shown(self.gain)}", "needed: a positive number")
        if not ((leak >= 0) & (leak <= 1)).all():
            raise CompileError(where, f"keeps {shown(self.leak)} of its state a step", "needed: a number from 0 to 1")
        reset_to = np.asarray(self.v_reset if self.reset == "hard" else 0.0)
        step = np.asarray(self.threshold if self.subtract is None else self.subtract) / gain
        first = (np.asarray(self.threshold) - reset_to) / gain
        if not (first > 0).all():
            problem = f"fires at {shown(self.threshold)}, resets to {shown(self.v_reset)}"
            raise CompileError(where, problem, "a neuron must fire above its reset")
        counts = np.arange(1, self.levels + 1, dtype=np.float64)
        spacing = np.asarray(self.threshold) / gain
        drive = (1 - leak) * (np.asarray(self.v_leak) - reset_to) / gain
        # thresholds by channel, too, where the leak is: a decomposition in NIR multiplies the two
        first, step, spacing, _ = (np.atleast_1d(a) for a in np.broadcast_arrays(first, step, spacing, leak))
        thresholds = first[None] + (counts - 1)[:, None] * spacing[None]
        subtract = counts[:, None] * step[None]
        by_channel = thresholds.shape[1] > 1
        floor = None if self.floor is None else (np.asarray(self.floor) - reset_to) / gain
        return {
            "thresholds": thresholds if by_channel else thresholds[:, 0],
            "subtract": subtract if by_channel else subtract[:, 0],
            "payload": self.payload * counts,
            "leak": plain(np.maximum(leak, NO_MEMORY)),
            "reset": self.reset,
            "fire": self.fire,
            "v0": plain((np.asarray(self.v0) - reset_to) / gain),
            "drive": drive if np.any(drive) else None,
            "current_leak": None if self.current_leak is None or not np.any(self.current_leak) else self.current_leak,
            "floor": None if floor is None else plain(floor),
        }


def plain(values: Any) -> Number:
    array = np.asarray(values, np.float64)
    return float(array.reshape(-1)[0]) if array.size == 1 else array


def by_channel(where: str, key: str, values: Array, shape: Shape) -> Number:
    """Values that broadcast to the neurons (C, H, W) or (features,), as one number or (channels,).

    Raises CompileError where they differ within a channel or do not broadcast.
    """
    if values.size == 1:
        return float(values.reshape(-1)[0])
    try:
        full = np.broadcast_to(values, shape)
    except ValueError:
        problem = f"{key} has shape {values.shape}"
        raise CompileError(where, problem, f"needed: one number, or a value for each of {shape}") from None
    channels = full.reshape(shape[0], -1)
    if (channels != channels[:, :1]).any():
        raise CompileError(where, f"{key} differs within a channel", "needed: one value a channel")
    return np.array(channels[:, 0])


def parameter(layer: Layer, key: str, shape: Shape) -> Number:
    """A number, a parameter or a buffer of a layer by its name, by channel of neurons of `shape`."""
    tensor = tensor_of(layer, key)
    if tensor is None:
        return layer.fields.number(key)
    return by_channel(layer.where, key, layer.values(key, tensor), shape)


def tensor_of(layer: Layer, key: str) -> torch.Tensor | None:
    """A parameter or buffer, as a floating-point tensor."""
    for group in ("_parameters", "_buffers", None):
        named = vars(layer.module) if group is None else vars(layer.module).get(group)
        found = named.get(key) if isinstance(named, dict) else None
        if isinstance(found, torch.Tensor):
            return found.detach() if found.is_floating_point() else found.detach().double()
    return None


def refuse_set(layer: Layer, keys: Sequence[str]) -> None:
    """Raises CompileError for the first of these options that is on."""
    for key in keys:
        value = vars(layer.module).get(key)
        if value is not None and value is not False:
            raise CompileError(layer.where, f"has {key} set", "this option is not supported")
