"""Batched exact integer function: what the chip computes, layer by layer, all T steps of a layer at once.

Only lateral synapses are computed step by step: what they carry depends on the step before.

Steps end in a barrier, so spikes do not depend on time; costs are found afterwards from the counts. In memory samples
come first, then steps, rows, columns, channels: oneDNN's order for images, and neurons of a step stand side by side.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from snncompile.errors import InternalError
from snncompile.mapping.connectivity import shape3
from snncompile.quant_network import DECAY_ONE, MIX_SHIFT, Population, QuantNetwork
from snncompile.quantization.state_bounds import prove

from .counting import frames_of
from .general_neurons import advance_general
from .neurons import add_shifted, advance, step_sum
from .products import EXACT_FLOAT64, Product, product_of

CHUNK_BYTES = 4 << 20
"""Currents of all steps of a layer at once: small enough to stay in the cache between product and neuron."""

ROW_NEURONS = 512
"""Positions are taken together until a row of the neuron kernel has about as many neurons: long enough to vectorise."""


@dataclass(frozen=True, eq=False)
class LayerSteps:
    """One population over a batch: payloads and which neurons were updated (T, B, C, H, W); last state (B, *shape).

    They are views of memory in another order: channels are innermost, samples outermost.
    """

    population: Population
    payloads: NDArray[Any]
    updated: NDArray[np.uint8]
    state: NDArray[Any]

    @property
    def fired(self) -> NDArray[Any]:
        """Which neurons sent a spike (T, B, C, H, W): 1 or True, else 0 or False; no copy where payloads are binary."""
        binary = self.population.payload_max == 1 and not self.population.sums
        return self.payloads if binary else self.payloads != 0

    @property
    def output(self) -> NDArray[np.int64]:
        """What the host reads of a readout (B, *shape): summed payloads, or the state where it has no spikes."""
        if not self.population.spiking:
            return self.state.astype(np.int64)
        return self.payloads.sum(axis=0, dtype=np.int64).reshape(self.state.shape)


States = tuple[NDArray[Any], ...]
"""The states of a population (B, rows, n): v, and of neurons of several states the current, adaptation and level."""


@dataclass(frozen=True, eq=False)
class _Arriving:
    """Input of a population: values (B, frames, n), n its neurons; frame (T,) of each step, -1: nothing arrives."""

    values: NDArray[Any]
    frame: NDArray[np.int64]
    exponent: int


class FunctionEngine:
    """Runs batches of input payloads through an integer network, exactly.

    What computes the currents of a layer is chosen in `products.choose`: of the kernels that are proven exact for it,
    the first that equals the reference in a self-test; where few neurons sent a spike, their synapses one by one.
    """

    def __init__(self, network: QuantNetwork) -> None:
        self.network = network
        torch.backends.nnpack.set_flags(False)  # type: ignore[no-untyped-call]  # its Winograd transforms are not exact on integers
        self._layers = [_Layer(network, population) for population in network.populations]
        for _ in self.run(np.zeros((1, *network.input_shape), np.int64)):
            pass  # numba compiles the neuron kernels of all types in use here, not within a timed run

    @property
    def kernels(self) -> dict[str, str]:
        """By name of a layer of synapses, what computes it."""
        return {p.synapses.name: p.kernels for layer in self._layers for p in (*layer.forward, *layer.lateral)}

    def run(self, payloads: NDArray[np.integer]) -> Iterator[LayerSteps]:
        """Populations in order, for input payloads (B, *input shape) or frames (B, time steps, *input shape).

        Raises InternalError for payloads that the network does not take.
        """
        sent = {self.network.input_name: self._sent_by_host(payloads)}
        last_read = {s.source: s.name for p in self.network.populations for s in self.network.inputs_of(p)}
        for layer in self._layers:
            steps, memory = layer.run(sent, len(payloads))
            sent[layer.population.name] = memory
            for synapses in self.network.inputs_of(layer.population):
                if last_read[synapses.source] == synapses.name:
                    del sent[synapses.source]
            yield steps

    def _sent_by_host(self, payloads: NDArray[np.integer]) -> NDArray[Any]:
        """(B, frames, H, W, C), as bytes where they are."""
        network = self.network
        low, high = int(payloads.min(initial=0)), int(payloads.max(initial=0))
        most = network.input_payload_max
        if high > most or low < (-most if network.input_kind == "currents" else 0):
            raise InternalError(f"input payloads are {low}..{high}, the network takes {network.input_kind} to {most}")
        frames = np.moveaxis(frames_of(network, payloads), 0, 1)
        images = np.moveaxis(frames.reshape(*frames.shape[:2], *shape3(network.input_shape)), 2, 4)
        small = network.input_kind != "currents" and most < 256
        return np.ascontiguousarray(images, np.uint8 if small else np.int64)


class _Layer:
    """One population and the products that feed it."""

    def __init__(self, network: QuantNetwork, population: Population) -> None:
        self.population, self.network = population, network
        self.timesteps = network.timesteps
        products = [product_of(network, s) for s in network.inputs_of(population)]
        self.forward = [p for p in products if p.synapses.source != population.name]
        self.lateral = [p for p in products if p.synapses.source == population.name]
        channels, height, width = shape3(population.shape)
        self.shape = (height, width, channels)
        self.neurons = _Neurons(network, population, height * width)

    def run(self, sent: Mapping[str, NDArray[Any]], batch: int) -> tuple[LayerSteps, NDArray[Any]]:
        """All T steps, for what its sources send (B, frames, H, W, C); and what it sends, in that order.

        In parts of the batch whose currents take `CHUNK_BYTES`.
        """
        population, steps = self.population, self.timesteps
        payloads = np.empty((batch, steps, *self.shape), self.neurons.payload_kind)
        updated = np.empty((batch, steps, *self.shape), np.uint8)
        states = self.neurons.initial(batch)
        size = max(1, CHUNK_BYTES // (4 * steps * population.size))
        for first in range(0, batch, size):
            part = slice(first, first + size)
            self._run(sent, part, tuple(state[part] for state in states), payloads[part], updated[part])
        logical = (1, 0, 4, 2, 3)
        state = np.moveaxis(states[0].reshape(batch, *self.shape), 3, 1).reshape(batch, *population.shape)
        return LayerSteps(population, payloads.transpose(logical), updated.transpose(logical), state), payloads

    def _run(
        self,
        sent: Mapping[str, NDArray[Any]],
        part: slice,
        states: States,
        payloads: NDArray[Any],
        updated: NDArray[np.uint8],
    ) -> None:
        arriving = [self._arriving(p, sent[p.synapses.source][part]) for p in self.forward]
        current = arriving[0]
        if len(arriving) > 1 or self.lateral or self.population.mixing is not None:
            current = _Arriving(self._sum(arriving, len(payloads)), np.arange(self.timesteps), 0)
        biased = self.population.mixing is not None
        if biased:
            current = self._mixed(current.values)
        if not self.lateral:
            self.neurons.advance(states, current, biased, range(self.timesteps), payloads, updated)
            return
        for t in range(self.timesteps):
            frame = int(current.frame[t])
            total = current.values[:, frame : frame + 1].astype(self.neurons.kind)
            for p in self.lateral:
                if (sent_at := t - 1 - p.synapses.lag) >= 0:
                    own = p.of(payloads[:, sent_at]).reshape(len(payloads), 1, -1)
                    add_shifted(total, own, np.zeros(1, np.int64), p.synapses.exponent)
            step = _Arriving(total, np.zeros(1, np.int64), 0)
            self.neurons.advance(states, step, biased, range(t, t + 1), payloads, updated)

    def _arriving(self, product: Product, sent: NDArray[Any]) -> _Arriving:
        """What a product gives of sent (B, frames, H, W, C); what the host sends alike in all steps, once."""
        frame = np.full(self.timesteps, -1)
        sending = product.sending
        if product.synapses.source == self.network.input_name:
            frame[sending] = np.arange(len(sending)) if sent.shape[1] > 1 else 0
        else:
            frame[sending] = np.arange(len(sending))
            sent = sent if len(sending) == self.timesteps else sent[:, sending]
        values = product.of(sent.reshape(-1, *sent.shape[2:]))
        lag = min(product.synapses.lag, self.timesteps)
        frame = np.concatenate([np.full(lag, -1), frame[: self.timesteps - lag]])
        return _Arriving(values.reshape(*sent.shape[:2], -1), frame, product.synapses.exponent)

    def _sum(self, arriving: Sequence[_Arriving], batch: int) -> NDArray[Any]:
        """(B, T, n): all that arrives, shifted by its exponents."""
        total = np.zeros((batch, self.timesteps, self.population.size), self.neurons.kind)
        for current in arriving:
            add_shifted(total, current.values, current.frame, current.exponent)
        return total

    def _mixed(self, summed: NDArray[Any]) -> _Arriving:
        """I[t] = (sum over j of mixing[t, j] * (a[j] + bias)) >> 12, rows of `mixing` that are equal computed once."""
        assert self.population.mixing is not None
        rows, row_of = np.unique(self.population.mixing, axis=0, return_inverse=True)
        needed = np.flatnonzero(rows.any(axis=0))
        if len(needed) == 0:
            return _Arriving(np.zeros_like(summed[:, :1]), np.zeros(self.timesteps, np.int64), 0)
        stored = summed[:, needed] + np.tile(self.population.bias, self.population.size // len(self.population.bias))
        weights = rows[:, needed]
        if int(np.abs(weights).sum(1).max()) * int(np.abs(stored).max(initial=0)) < EXACT_FLOAT64:
            products = (weights.astype(np.float64) @ stored.astype(np.float64)).astype(np.int64)
        else:
            products = weights @ stored
        return _Arriving(products >> MIX_SHIFT, row_of.ravel(), 0)


class _Neurons:
    """Constants of a population for the neuron kernel, in the narrowest type that is proven to hold all states."""

    def __init__(self, network: QuantNetwork, population: Population, positions: int) -> None:
        self.population = population
        bounds = prove(network, population)  # again, and for the input that this network declares
        wide = max(bounds.state_bits, bounds.input_bits) > 31 - (population.adapt_decay is not None)  # u - h, too
        self.kind: Any = np.int64 if wide else np.int32
        channels = population.shape[0]
        self.repeats = max(
            r for r in range(1, positions + 1) if positions % r == 0 and (r - 1) * channels < ROW_NEURONS
        )
        self.rows = positions // self.repeats
        micro = np.arange(network.timesteps) % network.microsteps
        self._decays = micro == 0
        keep = DECAY_ONE - (population.one_decay or 0)
        self._keep: NDArray[Any] = np.where(self._decays, keep, DECAY_ONE).astype(self.kind)
        self._opened = np.array([population.is_open(m) for m in micro.tolist()])
        small = population.payload_max < 256 and not population.sums
        self.payload_kind: Any = np.uint8 if small else self.kind if population.sums else np.int64
        self._payload: NDArray[Any] = np.diff(population.payload, prepend=0).astype(self.payload_kind)

    @cached_property
    def _bias(self) -> NDArray[Any]:
        return self._of_row(self.population.bias)

    @cached_property
    def _thresholds(self) -> NDArray[Any]:
        """(levels, n): u >= threshold fires. Those beyond the type are beyond every state, too."""
        thresholds = self.population.thresholds + (self.population.fire == "gt")
        return self._of_row(np.minimum(thresholds, np.iinfo(self.kind).max))

    @cached_property
    def _fired(self) -> NDArray[Any]:
        """(levels, n): what level k takes from the state beyond what level k - 1 takes."""
        soft = self.population.reset == "soft"
        taken = self.population.subtract if soft else np.zeros_like(self.population.thresholds)
        return self._of_row(np.diff(taken, axis=0, prepend=0))

    def _of_row(self, values: NDArray[np.int64]) -> NDArray[np.integer[Any]]:
        """(..., channels) -> (..., n) for the neurons of a row."""
        return np.tile(values, self.repeats).astype(self.kind)

    @cached_property
    def _constants(self) -> NDArray[Any]:
        """(7, n): those of `advance_general`."""
        population = self.population
        of_none = (0, 0, np.iinfo(self.kind).min, 0, DECAY_ONE, DECAY_ONE, 0)
        given = (
            population.bias, population.drive, population.floor, population.decay, population.current_decay,
            population.adapt_decay, population.adapt_step,
        )  # fmt: skip
        zeros = np.zeros(population.shape[0], np.int64)
        values = np.stack([zeros if value is None else value for value in given])
        for row, (value, none) in enumerate(zip(given, of_none, strict=True)):
            values[row] = none if value is None else value
        values[3:6] = DECAY_ONE - values[3:6]
        return self._of_row(values)

    def initial(self, batch: int) -> States:
        """(B, rows, n) states before the first step."""
        population = self.population
        v, *more = (
            np.zeros((batch, self.rows, self.repeats * population.shape[0]), self.kind)
            for _ in range(1 if population.plain else 4)
        )
        v[:] = self._of_row(population.v0)
        if population.adapt_start is not None:
            more[1][:] = self._of_row(population.adapt_start)
        return (v, *more)

    def advance(
        self,
        states: States,
        current: _Arriving,
        biased: bool,
        steps: range,
        payloads: NDArray[Any],
        updated: NDArray[np.uint8],
    ) -> None:
        """Some steps, in place on the states; writes payloads and updated (B, T, H, W, C) of those steps.

        biased: the bias is in the current already. The current has a frame for each of the steps.
        """
        v, *more = states
        batch, when = len(v), slice(steps.start, steps.stop)
        row = (self.rows, v.shape[2])
        sent = payloads[:, when].reshape(batch, len(steps), *row)
        touched = updated[:, when].reshape(batch, len(steps), *row)
        values = current.values.reshape(batch, -1, *row)
        if self.population.sums:
            flat = (batch, len(steps), -1)
            step_sum(
                values.reshape(batch, values.shape[1], -1),
                current.frame,
                current.exponent,
                sent.reshape(flat),
                touched.reshape(flat),
            )
        elif more:
            i, h, level = more
            constants = self._constants
            if biased:
                constants = constants.copy()
                constants[0] = 0
            advance_general(
                v, i, h, level, values, current.frame, current.exponent, constants, self._thresholds, self._fired,
                self._payload, self._decays[when], self._opened[when], 0 if self.population.reset == "hard" else -1,
                self.population.adapt_resets, sent, touched,
            )  # fmt: skip
        else:
            bias = np.zeros_like(self._bias) if biased else self._bias
            mask = 0 if self.population.reset == "hard" else -1
            advance(
                v, values, current.frame, current.exponent, bias, self._thresholds, self._fired, self._payload,
                self._keep[when], self._opened[when], mask, sent, touched,
            )  # fmt: skip
        if len(steps) < payloads.shape[1]:  # then the reshapes are copies
            payloads[:, when] = sent.reshape(payloads[:, when].shape)
            updated[:, when] = touched.reshape(updated[:, when].shape)
