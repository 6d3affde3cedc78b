"""Batched exact integer function: what the chip computes, layer by layer, all T steps of a layer at once.

Only lateral synapses are computed step by step: what they carry depends on the step before.

Steps end in a barrier, so spikes do not depend on time; costs are found afterwards from the counts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from snncompile import reference
from snncompile.errors import InternalError
from snncompile.mapping.connectivity import shape3
from snncompile.quant_network import DECAY_ONE, MIX_SHIFT, Population, QuantNetwork, QuantSynapses

from .counting import frames_of
from .neurons import add_listed, add_shifted, step, step_sum

EXACT_FLOAT32 = 1 << 24
EXACT_FLOAT64 = 1 << 53
EXACT_INT64 = 1 << 63
RESETS = {"none": 0, "soft": 1, "hard": 2}

Currents = Callable[[int], NDArray[Any]]
"""Input of a population in step t, (B, *shape)."""


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
    self-test of that very layer against the reference is bit-equal, else in float64 (exact below 2^53). Sparse synapses
    are added up in int64, those of spikes alone.
    """

    def __init__(self, network: QuantNetwork) -> None:
        self.network = network
        torch.backends.nnpack.set_flags(False)  # type: ignore[no-untyped-call]  # its Winograd transforms are not exact on integers
        self._layers = [_Layer(network, population) for population in network.populations]
        for _ in self.run(np.zeros((1, *network.input_shape), np.int64)):
            pass  # numba compiles the neuron kernels of all types in use here, not within a timed run

    def run(self, payloads: NDArray[np.integer]) -> Iterator[LayerSteps]:
        """Populations in order, for input payloads (B, *input shape) or frames (B, time steps, *input shape)."""
        sent: dict[str, NDArray[np.generic]] = {self.network.input_name: frames_of(self.network, payloads)}
        for layer in self._layers:
            steps = layer.run(sent, len(payloads))
            population = steps.population
            sent[population.name] = steps.payloads.reshape(-1, len(payloads), *population.shape)
            yield steps


class _Layer:
    """One population and the products that feed it."""

    def __init__(self, network: QuantNetwork, population: Population) -> None:
        self.population = population
        self.timesteps, self.microsteps = network.timesteps, network.microsteps
        products = [
            _ListedProduct(network, s) if s.kind == "sparse" else _Product(network, s)
            for s in network.inputs_of(population)
        ]
        self.forward = [p for p in products if p.synapses.source != population.name]
        self.lateral = [p for p in products if p.synapses.source == population.name]

    def run(self, sent: Mapping[str, NDArray[np.generic]], batch: int) -> LayerSteps:
        """All T steps, for what its sources send (T, B, *source), the input (S, B, *input shape)."""
        population = self.population
        channels, height, width = shape3(population.shape)
        flat = (batch, channels, height * width)
        currents, exponent, bias = self._currents(sent)
        v = np.empty(flat, np.int64)
        v[:] = population.v0[None, :, None]
        small = population.payload_max < 256 and not population.sums
        payloads = np.zeros((self.timesteps, *flat), np.uint8 if small else np.int32)
        updated = np.zeros((self.timesteps, *flat), np.uint8)
        table = np.concatenate([np.zeros(1, np.int64), population.payload])
        thresholds = population.thresholds + (population.fire == "gt")
        for t in range(self.timesteps):
            micro = t % self.microsteps
            current = currents(t)
            if self.lateral and t > 0:
                current = _plus(current.astype(np.int64), [p.of_step(payloads[t - 1]) for p in self.lateral])
            if population.sums:
                step_sum(current.reshape(-1), exponent, payloads[t].reshape(-1), updated[t].reshape(-1))
                continue
            step(
                v,
                current.reshape(flat),
                exponent,
                bias,
                thresholds if population.is_open(micro) else thresholds[:0],
                population.subtract,
                table,
                DECAY_ONE - population.decay if micro == 0 else DECAY_ONE,
                RESETS[population.reset],
                payloads[t],
                updated[t],
            )
        whole = (self.timesteps, batch, channels, height, width)
        v = v.reshape(batch, *population.shape)
        return LayerSteps(population, payloads.reshape(whole), updated.reshape(whole), v)

    def _currents(self, sent: Mapping[str, NDArray[np.generic]]) -> tuple[Currents, int, NDArray[np.int64]]:
        """What arrives in step t (B, *shape), lateral synapses apart; the shift and the bias still to come."""
        products = [product(sent[product.synapses.source]) for product in self.forward]
        shifts = [product.synapses.exponent for product in self.forward]
        population = self.population
        if len(products) == 1 and population.mixing is None and not self.lateral:
            return products[0].__getitem__, shifts[0], population.bias

        def summed(t: int) -> NDArray[np.int64]:
            parts = [(product[t], shift) for product, shift in zip(products, shifts, strict=True)]
            return _plus(np.zeros(parts[0][0].shape, np.int64), parts)

        if population.mixing is None:
            return summed, 0, population.bias
        return _mixed(population, summed), 0, np.zeros_like(population.bias)


def _plus(total: NDArray[np.int64], parts: Sequence[tuple[NDArray[Any], int]]) -> NDArray[np.int64]:
    """total with each product << exponent added, in place."""
    for product, exponent in parts:
        add_shifted(total.reshape(-1), product.reshape(-1), exponent)
    return total


def _mixed(population: Population, summed: Currents) -> Currents:
    """I[t] = (sum over j of mixing[t, j] * (a[j] + bias)) >> 12, rows of `mixing` that are equal computed once."""
    assert population.mixing is not None
    rows, row_of = np.unique(population.mixing, axis=0, return_inverse=True)
    needed = np.flatnonzero(rows.any(axis=0))
    biased = [summed(int(j)) for j in needed] or [summed(0)]
    shape = biased[0].shape
    bias = population.bias.reshape(-1, *(1,) * (len(shape) - 2))
    stored = np.stack([a + bias for a in biased]).reshape(len(biased), -1)
    weights = rows[:, needed] if len(needed) else np.zeros((len(rows), 1), np.int64)
    if int(np.abs(weights).sum(1).max()) * int(np.abs(stored).max(initial=0)) < EXACT_FLOAT64:
        products = (weights.astype(np.float64) @ stored.astype(np.float64)).astype(np.int64)
    else:
        products = weights @ stored
    mixed = (products >> MIX_SHIFT).reshape(len(rows), *shape)
    return lambda t: mixed[row_of.ravel()[t]]


class _Product:
    """W s of one layer of dense synapses, before the shift by its exponent: integers held in float32 or float64."""

    def __init__(self, network: QuantNetwork, synapses: QuantSynapses) -> None:
        self.synapses = synapses
        self.timesteps = network.timesteps
        self.source_shape = network.shape_of(synapses.source)
        self.target_shape = network.target_of(synapses).shape
        self.sending = _sending_steps(network, synapses.source)
        payload_max = network.payload_max_of(synapses.source)
        if synapses.source == network.input_name:
            signed = network.input_kind == "currents"
        else:
            signed = network.populations_by_name[synapses.source].sums
        low, high = synapses.row_sums
        fan_in = int((high - low).max())
        bound = fan_in * payload_max * synapses.pool[0] * synapses.pool[1] * synapses.members
        self._hold(bound, -payload_max if signed else 0, payload_max)

    def _hold(self, bound: int, low: int, high: int) -> None:
        """Keeps the weights in a type in which sums up to `bound` of payloads low..high are exact."""
        weight = torch.from_numpy(self.synapses.weight.copy())
        if bound >= EXACT_FLOAT64:
            raise InternalError(f"{self.synapses.name}: sums up to {bound} are not exact in float64")
        self.weight = weight.float()
        if bound >= EXACT_FLOAT32 or not self._equals_reference(low, high):
            self.weight = weight.double()

    def _equals_reference(self, low: int, high: int) -> bool:
        """Start-up self-test on one random image of payloads low..high."""
        image = np.random.default_rng(0).integers(low, high + 1, (1, *self.source_shape))
        return np.array_equal(self._of(image), reference.integer_current(replace(self.synapses, exponent=0), image))

    def __call__(self, payloads: NDArray[np.generic]) -> list[NDArray[Any]]:
        """(B, *target) of every step, for payloads (T, B, *source) of a population or (S, B, *source) of the host.

        Zero where the source cannot send; what the host sends alike in every time step is computed once.
        """
        if len(payloads) == self.timesteps > len(self.sending):
            payloads = payloads[self.sending]
        product = self._of(payloads.reshape(-1, *self.source_shape))
        sent = product.reshape(*payloads.shape[:2], *self.target_shape)
        steps = [sent[0 if len(sent) == 1 else i] for i in range(len(self.sending))]
        if len(self.sending) == self.timesteps:
            return steps
        found = dict(zip(self.sending, steps, strict=True))
        silent = np.zeros_like(sent[0])
        return [found.get(t, silent) for t in range(self.timesteps)]

    def of_step(self, payloads: NDArray[np.generic]) -> tuple[NDArray[Any], int]:
        """W s of one step (B, *target), payloads (B, ...), and the exponent it is still to be shifted by."""
        return self._of(payloads.reshape(-1, *self.source_shape)), self.synapses.exponent

    @torch.inference_mode()
    def _of(self, payloads: NDArray[np.generic]) -> NDArray[Any]:
        s = self.synapses
        read = payloads if s.reads is None else payloads[:, slice(*s.reads)]
        x = torch.from_numpy(np.ascontiguousarray(read)).to(self.weight.dtype)
        if s.members > 1:
            x = x.reshape(len(x), -1, s.members, *x.shape[2:]).sum(2)
        if s.pool != (1, 1):
            # divisor_override=1 makes it a sum; the bound covers the pooled payload
            x = functional.avg_pool2d(x, s.pool, divisor_override=1)
        if s.kind == "linear":
            return functional.linear(x.flatten(1), self.weight).numpy()
        if x.ndim == 2:
            return self._convolved(x[..., None, None]).flatten(1).numpy()
        return self._convolved(x).numpy()

    def _convolved(self, x: torch.Tensor) -> torch.Tensor:
        s = self.synapses
        if s.groups > 1 and s.weight.shape[2:] == (1, 1) and s.stride == (1, 1) and s.padding == (0, 0):
            return self._within_groups(x)
        return functional.conv2d(x, self.weight, None, s.stride, s.padding, s.dilation, s.groups)

    def _within_groups(self, x: torch.Tensor) -> torch.Tensor:
        """A grouped 1x1 convolution as small products, which is faster by far: one to one, or members to members."""
        batch, _, height, width = x.shape
        groups, (out, fan_in) = self.synapses.groups, self.weight.shape[:2]
        if out == fan_in * groups == groups:
            return x * self.weight[:, 0]
        grouped = x.numpy().reshape(batch, groups, fan_in, height * width)
        product = np.matmul(self.weight.numpy().reshape(groups, out // groups, fan_in), grouped)
        return torch.from_numpy(product).reshape(batch, out, height, width)


class _ListedProduct(_Product):
    """W s of sparse synapses, in int64: sources in order, each with its targets, so that silence costs nothing."""

    def _hold(self, bound: int, low: int, high: int) -> None:
        if bound >= EXACT_INT64:
            raise InternalError(f"{self.synapses.name}: sums up to {bound} are not exact in int64")
        row, column = self.synapses.listed
        by_source = np.argsort(column, kind="stable")
        small = max(self.synapses.weight_bits, self.synapses.channels.bit_length()) < 32
        kind: Any = np.int32 if small else np.int64
        self._row, self._weight = row[by_source].astype(kind), self.synapses.weight[by_source].astype(kind)
        self._first = np.concatenate([[0], np.cumsum(np.bincount(column))])

    def _of(self, payloads: NDArray[np.generic]) -> NDArray[Any]:
        s = self.synapses
        summed = reference.sum_pool(reference.sum_members(payloads, s.members), s.pool).reshape(len(payloads), -1)
        total = np.zeros((len(payloads), s.channels), np.int64)
        add_listed(summed[:, : len(self._first) - 1], self._first, self._row, self._weight, total)
        return total


def _sending_steps(network: QuantNetwork, source: str) -> list[int]:
    """Steps of a sample in which a source may send: the input in first micro-steps, populations in open ones."""
    steps = range(network.timesteps)
    if source == network.input_name:
        return list(steps[:: network.microsteps])
    population = network.populations_by_name[source]
    return [t for t in steps if population.is_open(t % network.microsteps)]
