"""Where two stages first part, and why: the first neuron that fired differently, its membranes, the cause."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snncompile.errors import InternalError
from snncompile.network import MultiThresholdLIF, Network
from snncompile.program import Program
from snncompile.quant_network import DECAY_ONE, IntArray

TIE = 1e-9
"""A float membrane closer to a threshold than this fraction of it counts as a tie."""


@dataclass(frozen=True, eq=False)
class StageRun:
    """One stage over some samples: level fired per layer (T, N, *shape), membranes where known, class (N,), readout."""

    name: str
    levels: Mapping[str, IntArray]
    membranes: Mapping[str, NDArray[np.generic]]
    prediction: NDArray[np.int64]
    output: NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Divergence:
    """Finds the first difference between two stages of one program; `folded` is its float network after the passes."""

    program: Program
    folded: Network

    def first(self, a: StageRun, b: StageRun) -> dict[str, Any] | None:
        """The first difference of the first sample that has one: earliest layer, then step, then neuron; None if equal.

        Up to there both stages saw the same spikes, so its cause lies in that very neuron.
        """
        samples = [sample for layer in a.levels for sample in _differing_samples(a.levels[layer] != b.levels[layer])]
        if not samples:
            return None
        sample = min(samples)
        layer = next(name for name in a.levels if (a.levels[name][:, sample] != b.levels[name][:, sample]).any())
        step, *neuron = (int(i) for i in np.argwhere(a.levels[layer][:, sample] != b.levels[layer][:, sample])[0])
        at = (step, sample, *neuron)
        return {
            "layer": layer,
            "neuron": neuron,
            "sample": sample,
            "step": step,
            f"level_{a.name}": int(a.levels[layer][at]),
            f"level_{b.name}": int(b.levels[layer][at]),
            **self._evidence(layer, at, a, b),
        }

    def _evidence(self, layer: str, at: tuple[int, ...], a: StageRun, b: StageRun) -> dict[str, Any]:
        """Membranes in units of the float network, the nearest threshold, and the cause."""
        if layer not in b.membranes and layer in a.membranes and a.name != "integer":
            return {"cause": "rounding to integers; add the stage integer for membranes and the exact cause"}
        if layer not in b.membranes:
            return {"cause": f"{b.name} does not compute the integer network: a fault of the backend"}
        node = self.folded.by_name[layer]
        if not isinstance(node, MultiThresholdLIF):
            raise InternalError(f"{layer} is compared and is no neuron")
        exact, value = float(a.membranes[layer][at]), float(b.membranes[layer][at])
        cause = "rounding of float64"
        if b.name == "integer":
            value *= float(self.program.host.state[layer][at[2]])
            cause = self.cause_of_rounding(node, at, a, b)
        threshold = float(node.thresholds[np.abs(node.thresholds - exact).argmin()])
        if abs(exact - threshold) <= TIE * threshold:
            cause = f"threshold tie: the float membrane lies on the threshold ({node.fire})"
        return {f"membrane_{a.name}": exact, f"membrane_{b.name}": value, "threshold": threshold, "cause": cause}

    def cause_of_rounding(self, node: MultiThresholdLIF, at: tuple[int, ...], a: StageRun, b: StageRun) -> str:
        """Runs the neuron again on its integer inputs with the untruncated leak: if that mends it, the decay did it."""
        population = self.program.network.populations_by_name[node.name]
        step, channel = at[0], at[2]
        before, exact, u_exact = int(population.v0[channel]), float(population.v0[channel]), 0.0
        for t in range(step + 1):
            u, k = int(b.membranes[node.name][(t, *at[1:])]), int(b.levels[node.name][(t, *at[1:])])
            decayed = abs(before) * (DECAY_ONE - population.decay) >> 12
            u_exact = node.leak * exact + u - (decayed if before >= 0 else -decayed)
            if k and population.reset == "soft":
                removed = int(population.subtract[k - 1, channel])
                before, exact = u - removed, u_exact - removed
            else:
                before, exact = (0, 0.0) if k and population.reset == "hard" else (u, u_exact)
        thresholds = population.thresholds[:, channel]
        level = int((u_exact >= thresholds).sum() if population.fire == "ge" else (u_exact > thresholds).sum())
        if step > 0 and level == int(a.levels[node.name][at]):
            return "decay truncation (12-bit decay, toward zero)"
        return "rounding of weights, bias and threshold"


def _differing_samples(different: NDArray[np.bool_]) -> list[int]:
    """Samples (axis 1 of (T, N, ...)) in which anything differs."""
    return [int(n) for n in np.unique(np.nonzero(different)[1])]
