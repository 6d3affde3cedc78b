"""NeuroBench's metrics of a compiled network on data: footprint, sparsities, effective and dense operations.

Definitions as in NeuroBench (arXiv 2304.04640, and its package 2.3.0, `neurobench.metrics`), applied to the integers:

    footprint             bytes of everything the network holds, here at its widths on the chip, not of a float format
    connection sparsity   zero weights / weights, a convolution's kernel counted once, of a sparse layer its synapses
    activation sparsity   silent neuron steps / neuron steps, over all populations that fire, steps and samples
    effective operations  one for each non-zero input that meets a non-zero weight; those of a layer of synapses are
                          accumulates (AC) where all that its source sent is 0 or 1, else multiply-accumulates (MAC)
    dense operations      the same with every input and every weight taken as non-zero; no biases anywhere

The chip's simulator counts synaptic operations: synapses reached by spikes, those of weight zero too (they are stored).
So `synaptic_operations` equals effective ACs + MACs where no weight is zero. NeuroBench tells ACs from MACs anew in
every call of a layer; here, once for all data: graded neurons that send only ones in one batch are still MACs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snncompile import reference
from snncompile.backend import Progress, silent
from snncompile.mapping.connectivity import chip_synapses, shape3
from snncompile.program import Program
from snncompile.quant_network import IntArray, QuantNetwork, QuantSynapses, pooled_shape

CHUNK = 50
DECAY_BITS = 12


def metrics_of(program: Program, payloads: IntArray, progress: Progress = silent) -> dict[str, Any]:
    """The metrics on input payloads (N, *input shape) or (N, T, *input shape), from the integer reference. JSON-ready.

    footprint_bytes {weights, constants, states, total}; connection_sparsity, activation_sparsity (fractions of 1);
    effective_macs, effective_acs, dense_operations, synaptic_operations (per inference), layers [{name, source, ...}]
    with the same per layer of synapses; host_dense_macs: what the host computes of an image where the chip's spikes are
    binary; samples.
    """
    tally = Tally(program.network)
    for start in range(0, len(payloads), CHUNK):
        part = payloads[start : start + CHUNK]
        tally.add(reference.run_integer(program.network, part).payloads)
        progress(min(start + CHUNK, len(payloads)), len(payloads))
    return report(program, tally)


@dataclass(eq=False)
class Tally:
    """What was sent so far. `add` takes payloads of the input and all populations (T, N, *shape), N samples."""

    network: QuantNetwork
    samples: int = 0
    spikes: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """Per source (*shape): in how many steps, over all samples, it sent anything."""
    largest: dict[str, int] = field(default_factory=dict)

    def add(self, sent: Mapping[str, NDArray[np.integer]]) -> None:
        names = [self.network.input_name, *(p.name for p in self.network.populations if p.spiking)]
        for name in names:
            steps = sent[name]
            counted = (steps != 0).sum(axis=(0, 1), dtype=np.int64)
            self.spikes[name] = self.spikes.get(name, 0) + counted
            self.largest[name] = max(self.largest.get(name, 0), int(np.abs(steps).max(initial=0)))
        self.samples += sent[names[0]].shape[1]


def report(program: Program, tally: Tally) -> dict[str, Any]:
    """The metrics of what a tally counted."""
    network = program.network
    layers = [_layer(network, synapses, tally) for synapses in chip_synapses(network)]
    weights = [s.weight for s in chip_synapses(network)]
    firing = [p for p in network.populations if p.spiking]
    fired = sum(int(tally.spikes[p.name].sum()) for p in firing)
    neuron_steps = sum(p.size for p in firing) * network.timesteps * tally.samples
    size = sum(w.size for w in weights)
    return {
        "samples": tally.samples,
        "footprint_bytes": footprint(network),
        "connection_sparsity": sum(int((w == 0).sum()) for w in weights) / size if size else 0.0,
        "activation_sparsity": 1 - fired / neuron_steps if neuron_steps else 0.0,
        "effective_macs": sum(layer["effective"] for layer in layers if layer["operation"] == "MAC"),
        "effective_acs": sum(layer["effective"] for layer in layers if layer["operation"] == "AC"),
        "dense_operations": sum(layer["dense"] for layer in layers),
        "synaptic_operations": sum(layer["synaptic_operations"] for layer in layers),
        "layers": layers,
        "host_dense_macs": _host_macs(program),
    }


def _layer(network: QuantNetwork, synapses: QuantSynapses, tally: Tally) -> dict[str, Any]:
    """One layer of synapses, operations per inference."""
    source, spikes = synapses.source, tally.spikes[synapses.source]
    effective, stored = (fan_out(network, synapses, count) for count in (synapses.weight != 0, None))
    sending = network.timesteps // (network.microsteps if source == network.input_name else 1)
    return {
        "name": synapses.name,
        "source": source,
        "operation": "AC" if tally.largest[source] <= 1 else "MAC",
        "effective": int((spikes * effective).sum()) / tally.samples,
        "synaptic_operations": int((spikes * stored).sum()) / tally.samples,
        "dense": int(stored.sum()) * sending,
        "weights": int(synapses.weight.size),
        "zero_weights": int((synapses.weight == 0).sum()),
    }


def fan_out(network: QuantNetwork, synapses: QuantSynapses, counted: NDArray[np.bool_] | None = None) -> IntArray:
    """How many synapses each source neuron drives, (*source shape); `counted`: only those of these weights."""
    shape = network.shape_of(synapses.source)
    pooled = shape3(pooled_shape(network.read_shape(synapses), synapses.pool, synapses.members))
    ones = np.ones(synapses.weight.shape, np.int64) if counted is None else counted.astype(np.int64)
    if synapses.kind == "sparse":
        fan = np.bincount(synapses.listed[1][ones > 0], minlength=math.prod(pooled)).reshape(pooled)
    elif synapses.kind == "linear":
        fan = ones.sum(0).reshape(pooled)
    else:
        fan = _of_kernels(synapses, ones, pooled, shape3(network.target_of(synapses).shape))
    whole: IntArray = np.zeros(shape3(shape), np.int64)
    height, width = (n * w for n, w in zip(pooled[1:], synapses.pool, strict=True))
    fan = fan.repeat(synapses.members, 0).repeat(synapses.pool[0], 1).repeat(synapses.pool[1], 2)
    first, end = synapses.reads or (0, len(whole))
    whole[first:end, :height, :width] = fan  # rows and columns that fill no window drive nothing
    return whole.reshape(shape)


def _of_kernels(
    synapses: QuantSynapses, ones: IntArray, source: tuple[int, int, int], target: tuple[int, int, int]
) -> IntArray:
    """Taps (out, in/groups, kh, kw) of 0 and 1 summed over all targets that each source position reaches (C, H, W)."""
    out, fan_in = ones.shape[:2]
    grouped = ones.reshape(synapses.groups, out // synapses.groups, fan_in, *ones.shape[2:]).sum(1)
    taps = grouped.reshape(source[0], *ones.shape[2:])
    rows, columns = (_reached(synapses, axis, source[1 + axis], target[1 + axis]) for axis in (0, 1))
    return np.einsum("cij,yi,xj->cyx", taps, rows, columns)


def _reached(synapses: QuantSynapses, axis: int, size: int, targets: int) -> IntArray:
    """(size, taps): 1 where a tap of the kernel leads from a source position to some target."""
    taps = np.arange(synapses.weight.shape[2 + axis]) * synapses.dilation[axis]
    seen = np.arange(targets)[:, None] * synapses.stride[axis] - synapses.padding[axis] + taps
    found: IntArray = (np.arange(size)[:, None, None] == seen).sum(1)
    return found


def footprint(network: QuantNetwork) -> dict[str, float]:
    """Bytes at the widths that the integers need: weights, constants of neurons (one set a channel), states.

    constants: bias, v0, thresholds and what a reset subtracts at the state's width, a decay of 12 bits a population,
    and where steps are mixed their weights at 32 bits. A store-and-forward population holds the input of its steps too,
    one that sends its sum nothing.
    """
    weights = sum(s.weight.size * s.weight_bits for s in chip_synapses(network))
    constants = states = 0
    for p in (p for p in network.populations if not p.sums):
        numbers = p.bias.size + p.v0.size + p.thresholds.size + (p.subtract.size if p.reset == "soft" else 0)
        constants += numbers * p.state_bits + DECAY_BITS + (0 if p.mixing is None else 32 * p.mixing.size)
        states += p.size * (p.state_bits + (0 if p.mixing is None else (1 + p.waits) * p.input_bits))
    parts = {"weights": weights / 8, "constants": constants / 8, "states": states / 8}
    return parts | {"total": sum(parts.values())}


def _host_macs(program: Program) -> int:
    """Multiply-accumulates of the host for one image, dense; 0 where the chip gets the image itself."""
    image = np.ones((1, *program.host.encoder.shape), np.int64)
    ones = [replace(s, weight=np.ones_like(s.weight), exponent=0) for s in program.host.encoder.synapses]
    return sum(int(reference.integer_current(s, image).sum()) for s in ones)
