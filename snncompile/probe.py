"""Spikes and membranes of chosen neurons over time: `run --probe LAYER` or `LAYER:i,j,k`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from snncompile import reference
from snncompile.backend import Progress, Run, silent
from snncompile.errors import CompileError, nearest
from snncompile.quant_network import IntArray, QuantNetwork


@dataclass(frozen=True)
class Probe:
    """A population and one of its neurons, by its place on every axis of the population's shape; None: all of them.

    Places are the program's: a neuron lowered to several members has a channel for each, and where neurons were
    renumbered, they are in the new order.
    """

    population: str
    at: tuple[int, ...] | None

    @classmethod
    def parse(cls, text: str, network: QuantNetwork) -> "Probe":
        """From `LAYER` or `LAYER:i,j,k`. Raises CompileError: no such layer, or no such neuron in it."""
        name, colon, place = text.partition(":")
        populations = network.populations_by_name
        if name not in populations:
            raise CompileError("--probe", f"no layer of neurons {name!r}", nearest(name, tuple(populations)))
        shape = populations[name].shape
        if not colon:
            return cls(name, None)
        parts = [part.strip() for part in place.split(",")]
        numbers = tuple(int(part) for part in parts if part.isdecimal())
        if len(numbers) != len(parts) or len(numbers) != len(shape) or any(np.greater_equal(numbers, shape)):
            raise CompileError(
                "--probe",
                f"{text!r} names no neuron of {name}, whose shape is {'x'.join(map(str, shape))}",
                f"give {len(shape)} numbers counted from 0, as {name}:{','.join('0' * len(shape))}",
            )
        return cls(name, numbers)

    @property
    def label(self) -> str:
        return self.population if self.at is None else f"{self.population}[{','.join(map(str, self.at))}]"


def probed(
    network: QuantNetwork, payloads: IntArray, probes: Sequence[Probe], progress: Progress = silent
) -> dict[str, IntArray]:
    """`spikes.LABEL` and `membrane.LABEL` of every probe, (T, N) or (T, N, *shape), from the integer reference.

    spikes: payloads sent in each logical step of the population. membrane: u before firing, on the integer scale of the
    chip. payloads: input (N, ...), run sample by sample.
    """
    found: dict[str, list[IntArray]] = {}
    for sample in range(len(payloads) if probes else 0):
        trace = reference.run_integer(network, payloads[sample : sample + 1])
        for probe in probes:
            for kind, values in (("spikes", trace.payloads), ("membrane", trace.membranes)):
                steps = values[probe.population]
                place: Any = (slice(None), slice(None), *(probe.at or ()))
                found.setdefault(f"{kind}.{probe.label}", []).append(steps[place])
        progress(sample + 1, len(payloads))
    return {name: np.concatenate(parts, axis=1) for name, parts in found.items()}


def recorded(result: Run, probes: Sequence[Probe]) -> dict[str, IntArray]:
    """As `probed`, of what a backend recorded itself: `Run.payloads` and `Run.membranes` hold every probed layer."""
    found = {}
    for probe in probes:
        place: Any = (slice(None), slice(None), *(probe.at or ()))
        found[f"spikes.{probe.label}"] = result.payloads[probe.population][place]
        found[f"membrane.{probe.label}"] = result.membranes[probe.population][place]
    return found
