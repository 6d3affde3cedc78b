"""Batched exact integer function: what the chip computes, layer by layer, all T steps of a layer at once.

Steps end in a barrier, so spikes do not depend on time; costs are found afterwards from the counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from snncompile import reference
from snncompile.mapping.connectivity import shape3
from snncompile.quant_network import IntArray, Population, QuantNetwork, QuantSynapses

from .neurons import step

EXACT_FLOAT32 = 1 << 24
EXACT_FLOAT64 = 1 << 53


@dataclass(frozen=True, eq=False)
class LayerSteps:
    """One population over a batch: payloads and which neurons were updated (T, B, C, H, W); last state (B, n)."""

    population: Population
    payloads: NDArray[np.int32]
    updated: NDArray[np.uint8]
    state: NDArray[np.int64]


class FunctionEngine:
    """Runs batches of input payloads through an integer network, exactly.

    Currents come from torch convolutions and products in float32 where sum |W| * payload < 2^24 is certain and a
    self-test of that very layer against the reference is bit-equal, else in float64 (exact below 2^53).
    """

    def __init__(self, network: QuantNetwork) -> None:
        self.network = network
        torch.backends.nnpack.set_flags(False)  # type: ignore[no-untyped-call]  # its Winograd transforms are not exact on integers
        self._currents = {s.name: _Current(network, s) for s in network.synapses}

    def run(self, payloads: NDArray[np.integer]) -> Iterator[LayerSteps]:
        """Populations in order for input payloads (B, *input shape); keeps only outputs that later layers read."""
        steps = self.network.timesteps
        sent: dict[str, NDArray[np.generic]] = {self.network.input_name: payloads[None]}
        for population in self.network.populations:
            current = [self._currents[s.name].of(sent[s.source], steps) for s in self.network.inputs_of(population)]
            total = current[0] if len(current) == 1 else np.sum(current, axis=0)
            layer = _neurons(population, total, steps)
            sent[population.name] = layer.payloads.reshape(steps, len(payloads), *population.shape)
            yield layer


@dataclass(frozen=True, eq=False)
class _Current:
    """(W s) << exponent of one layer of synapses."""

    network: QuantNetwork
    synapses: QuantSynapses

    def __post_init__(self) -> None:
        largest = self.network.payload_max_of(self.synapses.source) * self.synapses.pool[0] * self.synapses.pool[1]
        fan_in = np.abs(self.synapses.weight).reshape(len(self.synapses.weight), -1).sum(1).max()
        bound = int(fan_in) * largest
        if bound >= EXACT_FLOAT64:
            raise OverflowError(f"{self.synapses.name}: sums up to {bound} are not exact in float64")
        exact = bound < EXACT_FLOAT32 and self._equals_reference(torch.float32)
        object.__setattr__(self, "dtype", torch.float32 if exact else torch.float64)
        object.__setattr__(self, "weight", torch.from_numpy(self.synapses.weight.copy()).to(self.dtype))

    dtype: torch.dtype = torch.float32
    weight: torch.Tensor | None = None

    def _equals_reference(self, dtype: torch.dtype) -> bool:
        """Start-up self-test on one random image of full-range payloads."""
        generator = np.random.default_rng(0)
        shape = self.network.shape_of(self.synapses.source)
        image = generator.integers(0, self.network.payload_max_of(self.synapses.source) + 1, (1, *shape))
        weight = torch.from_numpy(self.synapses.weight.copy()).to(dtype)
        ours = (
            self._product(torch.from_numpy(image).to(dtype), weight).numpy().astype(np.int64) << self.synapses.exponent
        )
        return np.array_equal(ours, reference.integer_current(self.synapses, image))

    def _product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        s = self.synapses
        if s.pool != (1, 1):
            # divisor_override=1 makes it a sum; the bound covers the pooled payload
            x = functional.avg_pool2d(x, s.pool, divisor_override=1)
        if s.kind == "linear":
            return functional.linear(x.flatten(1), weight)
        return functional.conv2d(x, weight, None, s.stride, s.padding, s.dilation, s.groups)

    @torch.inference_mode()
    def of(self, payloads: NDArray[np.generic], timesteps: int) -> IntArray:
        """(T or 1, B, *source) -> (T, B, *target); a source that sends the same in every step is computed once."""
        if self.weight is None:
            raise OverflowError(self.synapses.name)
        x = torch.from_numpy(np.ascontiguousarray(payloads)).to(self.dtype)
        target = self.network.target_of(self.synapses).shape
        product = self._product(x.flatten(0, 1), self.weight).reshape(*x.shape[:2], *target)
        current = product.to(torch.int64).numpy() << self.synapses.exponent
        return np.broadcast_to(current, (timesteps, *current.shape[1:]))


def _neurons(population: Population, current: IntArray, timesteps: int) -> LayerSteps:
    batch = current.shape[1]
    channels, height, width = shape3(population.shape)
    flat = (batch, channels, height * width)
    v = np.empty(flat, np.int64)
    v[:] = population.v0[None, :, None]
    payloads = np.zeros((timesteps, *flat), np.int32)
    updated = np.zeros((timesteps, *flat), np.uint8)
    table = np.concatenate([np.zeros(1, np.int64), population.payload])
    for t in range(timesteps):
        step(
            v,
            np.ascontiguousarray(current[t]).reshape(flat),
            population.bias,
            population.thresholds + (population.fire == "gt"),
            population.subtract,
            table,
            4096 - population.decay,
            {"none": 0, "soft": 1, "hard": 2}[population.reset],
            payloads[t],
            updated[t],
        )
    whole = (timesteps, batch, channels, height, width)
    return LayerSteps(population, payloads.reshape(whole), updated.reshape(whole), v.reshape(batch, *population.shape))
