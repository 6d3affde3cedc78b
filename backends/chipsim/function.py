"""Batched exact integer function: what the chip computes, layer by layer, all T steps of a layer at once.

Steps end in a barrier, so spikes do not depend on time; costs are found afterwards from the counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from snncompile import reference
from snncompile.errors import InternalError
from snncompile.mapping.connectivity import shape3
from snncompile.quant_network import DECAY_ONE, Population, QuantNetwork, QuantSynapses

from .neurons import step

EXACT_FLOAT32 = 1 << 24
EXACT_FLOAT64 = 1 << 53
RESETS = {"none": 0, "soft": 1, "hard": 2}


@dataclass(frozen=True, eq=False)
class LayerSteps:
    """One population over a batch: payloads and which neurons were updated (T, B, C, H, W); last state (B, n)."""

    population: Population
    payloads: NDArray[Any]
    updated: NDArray[np.uint8]
    state: NDArray[np.int64]

    @property
    def output(self) -> NDArray[np.int64]:
        """What the host reads of a readout (B, *shape): summed payloads, or the state where it has no spikes."""
        if not self.population.spiking:
            return self.state
        return self.payloads.sum(axis=0, dtype=np.int64).reshape(self.state.shape)


class FunctionEngine:
    """Runs batches of input payloads through an integer network, exactly.

    Currents come from torch convolutions and products in float32 where sum |W| * payload < 2^24 is certain and a
    self-test of that very layer against the reference is bit-equal, else in float64 (exact below 2^53).
    """

    def __init__(self, network: QuantNetwork) -> None:
        self.network = network
        torch.backends.nnpack.set_flags(False)  # type: ignore[no-untyped-call]  # its Winograd transforms are not exact on integers
        self._products = {s.name: _Product(network, s) for s in network.synapses}
        for _ in self.run(np.zeros((1, *network.input_shape), np.int64)):
            pass  # numba compiles the neuron kernels of all types in use here, not within a timed run

    def run(self, payloads: NDArray[np.integer]) -> Iterator[LayerSteps]:
        """Populations in order, for input payloads (B, *input shape)."""
        steps = self.network.timesteps
        sent: dict[str, NDArray[np.generic]] = {self.network.input_name: payloads[None]}
        for population in self.network.populations:
            synapses = self.network.inputs_of(population)
            products = [self._products[s.name](sent[s.source], steps) for s in synapses]
            if len(products) == 1 and population.mixing is None:
                layer = _neurons(population, products[0], synapses[0].exponent)
            else:
                shifted = [p.astype(np.int64) << s.exponent for p, s in zip(products, synapses, strict=True)]
                layer = _neurons(population, np.sum(shifted, axis=0), 0)
            sent[population.name] = layer.payloads.reshape(steps, len(payloads), *population.shape)
            yield layer


class _Product:
    """W s of one layer of synapses, before the shift by its exponent: integers held in float32 or float64."""

    def __init__(self, network: QuantNetwork, synapses: QuantSynapses) -> None:
        self.synapses = synapses
        self.source_shape = network.shape_of(synapses.source)
        self.target_shape = network.target_of(synapses).shape
        self.payload_max = network.payload_max_of(synapses.source)
        fan_in = int(np.abs(synapses.weight).reshape(len(synapses.weight), -1).sum(1).max())
        bound = fan_in * self.payload_max * synapses.pool[0] * synapses.pool[1]
        if bound >= EXACT_FLOAT64:
            raise InternalError(f"{synapses.name}: sums up to {bound} are not exact in float64")
        self.weight = torch.from_numpy(synapses.weight.copy()).float()
        if bound >= EXACT_FLOAT32 or not self._equals_reference():
            self.weight = torch.from_numpy(synapses.weight.copy()).double()

    def _equals_reference(self) -> bool:
        """Start-up self-test on one random image of full-range payloads."""
        image = np.random.default_rng(0).integers(0, self.payload_max + 1, (1, *self.source_shape))
        return np.array_equal(self._of(image), reference.integer_current(replace(self.synapses, exponent=0), image))

    def __call__(self, payloads: NDArray[np.generic], timesteps: int) -> NDArray[np.floating[Any]]:
        """(T or 1, B, *source) -> (T, B, *target); a source that sends the same in every step is computed once."""
        product = self._of(payloads.reshape(-1, *self.source_shape))
        steps = product.reshape(*payloads.shape[:2], *self.target_shape)
        return np.broadcast_to(steps, (timesteps, *steps.shape[1:]))

    @torch.inference_mode()
    def _of(self, payloads: NDArray[np.generic]) -> NDArray[np.floating[Any]]:
        x = torch.from_numpy(np.ascontiguousarray(payloads)).to(self.weight.dtype)
        s = self.synapses
        if s.pool != (1, 1):
            # divisor_override=1 makes it a sum; the bound covers the pooled payload
            x = functional.avg_pool2d(x, s.pool, divisor_override=1)
        if s.kind == "one_to_one":
            return (x * self.weight.reshape(-1, *(1,) * (x.ndim - 2))).numpy()
        if s.kind == "linear":
            return functional.linear(x.flatten(1), self.weight).numpy()
        return functional.conv2d(x, self.weight, None, s.stride, s.padding, s.dilation, s.groups).numpy()


def _neurons(population: Population, product: NDArray[Any], exponent: int) -> LayerSteps:
    """All T steps of a population for (T, B, *shape) of input, still to be shifted left by `exponent`."""
    timesteps, batch = product.shape[:2]
    channels, height, width = shape3(population.shape)
    flat = (batch, channels, height * width)
    bias = population.bias
    if population.mixing is not None:
        product, bias = reference.input_currents(population, product), np.zeros_like(bias)
    v = np.empty(flat, np.int64)
    v[:] = population.v0[None, :, None]
    payloads = np.zeros((timesteps, *flat), np.uint8 if population.payload_max < 256 else np.int32)
    updated = np.zeros((timesteps, *flat), np.uint8)
    table = np.concatenate([np.zeros(1, np.int64), population.payload])
    for t in range(timesteps):
        step(
            v,
            product[t].reshape(flat),
            exponent,
            bias,
            population.thresholds + (population.fire == "gt"),
            population.subtract,
            table,
            DECAY_ONE - population.decay,
            RESETS[population.reset],
            payloads[t],
            updated[t],
        )
    whole = (timesteps, batch, channels, height, width)
    return LayerSteps(population, payloads.reshape(whole), updated.reshape(whole), v.reshape(batch, *population.shape))
