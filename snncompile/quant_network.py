"""The integer network: what the chip holds. No float anywhere; scales stay on the host (`quantize.HostScales`).

Per population, per step (all integers, `>>` and `//` round toward minus infinity):

    a    = sum over its synapses of  (W s) << exponent        s: payloads of the source's spikes `lag` steps before; of
                                                              lateral synapses its own one step before that; 0 before
                                                              a sample's first step
    I[t] = a[t] + bias                                        mixing: (sum_j mixing[t, j] * (a[j] + bias)) >> 12
    i[t] = decay(i[t-1], current_decay) + I[t]                i = I without; 0 before the sample
    h[t] = decay(h[t-1], adapt_decay) + adapt_step * k[t-1]   0 without; before the sample h is adapt_start, k is 0
    u[t] = decay(v[t-1], decay) + i[t] + drive                decay(v, d) = sign(v) * ((|v| * (4096 - d)) >> 12)
           - h[t] where k[t-1] > 0                            only if adapt_resets
    k[t] = number of j with u[t] >= thresholds[j] + h[t]      (fire "gt": >)
    y[t] = payload[k-1], 0 where k = 0
    v[t] = u[t] - subtract[k-1] ("soft") | 0 where k > 0 ("hard") | u[t] ("none"), no less than floor

Where a time step has several micro-steps, the decay acts in the first, and k is 0 after the first `open_steps`; such
populations have no current, adaptation or floor.
The decay truncates toward zero in 12-bit fixed point, as Loihi's does (lava-nc 0.10.0, proc/lif/models.py). A
population without thresholds never fires: it sums its input, and the host reads its state after the sample's last
step. If the last population fires, the host sums its payloads over the sample instead.

A population that `sends` its sum keeps no state, and has no bias: y[t] = u[t] = a[t], any integer; 0 is no spike. It
passes on what several cores added up in parts, or spikes to more cores than their source reaches (`mapping.remedies`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from snncompile.errors import InternalError
from snncompile.network import Fire, Pair, Reset, Shape, frozen, waits

IntArray = NDArray[np.int64]

DECAY_ONE = 4096
"""Denominator of the 12-bit decay."""

MIX_SHIFT = 12
"""Fractional bits of `Population.mixing`."""


def _freeze(value: object) -> None:
    """Makes the arrays of a frozen dataclass read-only int64; refuses any float."""
    for field in fields(value):  # type: ignore[arg-type]
        item = getattr(value, field.name)
        if isinstance(item, float):
            raise InternalError(f"{type(value).__name__}.{field.name} is a float: {item}")
        if isinstance(item, np.ndarray):
            if item.dtype.kind not in "iu":
                raise InternalError(f"{type(value).__name__}.{field.name} is {item.dtype}, must be integer")
            object.__setattr__(value, field.name, frozen(item, np.dtype(np.int64)))


@dataclass(frozen=True, eq=False)
class QuantSynapses:
    """Integer synapses from `source` into the population that lists them.

    weight: conv (out, in/groups, kh, kw), features (n,) taken as (n, 1, 1); linear (out, in); sparse (synapses,), each
    from source `column` (of the flattened source) to target `row`, sorted by row, then column, of `features` targets.
    `pool`: payloads of one window add up before the weight (one axon for the window), as do those of `members`
    consecutive channels. `reads`: the first channel of the source that they read and the first that they do not; None:
    all. `lag`: steps of the sample that a spike takes beyond the one of the pipeline; what is sent in the last ones of
    a sample is lost. `weight_bits`: signed width that holds every weight. `part_of`: the trained layer that they are a
    part or a copy of, None: that of their own name.
    """

    name: str
    source: str
    kind: Literal["conv", "linear", "sparse"]
    weight: IntArray
    weight_bits: int
    exponent: int
    pool: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    delay_steps: int = 1
    lag: int = 0
    members: int = 1
    row: IntArray | None = None
    column: IntArray | None = None
    features: int | None = None
    reads: Pair | None = None
    part_of: str | None = None

    def __post_init__(self) -> None:
        _freeze(self)
        if (self.kind == "sparse") != (self.features is not None and self.row is not None and self.column is not None):
            raise InternalError(f"{self.name}: {self.kind} synapses, and rows and columns or not")

    @property
    def extra_steps(self) -> int:
        """Steps that a spike takes beyond the usual one, as the chip counts its delays."""
        return self.delay_steps - 1 + self.lag

    @property
    def channels(self) -> int:
        """Output channels."""
        return len(self.weight) if self.features is None else self.features

    @property
    def listed(self) -> tuple[IntArray, IntArray]:
        """row and column of every synapse of a sparse layer."""
        assert self.row is not None
        assert self.column is not None
        return self.row, self.column

    @cached_property
    def row_sums(self) -> tuple[IntArray, IntArray]:
        """(out,) sums of the negative and of the positive weights of every output channel."""
        if self.kind == "sparse":
            low, high = np.zeros((2, self.channels), np.int64)
            np.add.at(low, self.listed[0], np.minimum(self.weight, 0))
            np.add.at(high, self.listed[0], np.maximum(self.weight, 0))
            return low, high
        flat = self.weight.reshape(len(self.weight), -1)
        positive = np.maximum(flat, 0).sum(1)
        return flat.sum(1) - positive, positive

    def shifted(self, exponent: int) -> "QuantSynapses":
        """The same synapses with another exponent."""
        other = replace(self, exponent=exponent)
        if "row_sums" in self.__dict__:
            other.__dict__["row_sums"] = self.row_sums
        return other


@dataclass(frozen=True, eq=False)
class Population:
    """Integer neurons of one layer. bias, v0 (channels,); thresholds, subtract (levels, channels); payload (levels,).

    decay (channels,), given as one number where all are alike. current_decay, drive, floor, adapt_decay, adapt_step,
    adapt_start (channels,) or None: without (the last three are there together).

    `input_bits`, `state_bits`: signed widths proven to hold every sum of input and every u and v
    (`state_bounds.prove`). `depth`: chip steps behind the input. `mixing` (T, T) in units of 1/4096, or None; a
    population that mixes stores the input of the steps it needs before its first (store and forward). `members`
    consecutive channels stand for one neuron of the trained network; of the micro-steps of a time step the decay acts
    in the first, and the population fires in the first `open_steps` (None: all). `sends` "sum": its input, not levels;
    no thresholds, bias, v0, mixing, decay and open_steps then, reset "hard".
    """

    name: str
    shape: Shape
    synapses: tuple[str, ...]
    bias: IntArray
    v0: IntArray
    thresholds: IntArray
    payload: IntArray
    subtract: IntArray
    decay: IntArray
    reset: Reset
    fire: Fire
    depth: int
    input_bits: int
    state_bits: int
    mixing: IntArray | None = None
    members: int = 1
    open_steps: int | None = None
    sends: Literal["levels", "sum"] = "levels"
    current_decay: IntArray | None = None
    drive: IntArray | None = None
    floor: IntArray | None = None
    adapt_decay: IntArray | None = None
    adapt_step: IntArray | None = None
    adapt_start: IntArray | None = None
    adapt_resets: bool = False

    def __post_init__(self) -> None:
        if np.ndim(self.decay) == 0:
            object.__setattr__(self, "decay", np.full(self.shape[0], self.decay, np.int64))
        _freeze(self)

    @property
    def one_decay(self) -> int | None:
        """The decay of all channels; None where they differ."""
        return int(self.decay[0]) if (self.decay == self.decay[0]).all() else None

    @property
    def rounds(self) -> bool:
        """Whether a decay truncates one of its states."""
        rates = (self.decay, self.current_decay, self.adapt_decay)
        return any(rate is not None and rate.any() for rate in rates)

    @property
    def plain(self) -> bool:
        """Whether it is a multi-threshold LIF neuron of one state, with one decay for all."""
        more = (self.current_decay, self.drive, self.floor, self.adapt_decay)
        return self.one_decay is not None and all(values is None for values in more)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def spiking(self) -> bool:
        return self.sums or len(self.thresholds) > 0

    @property
    def sums(self) -> bool:
        """Whether it sends its summed input."""
        return self.sends == "sum"

    @property
    def payload_max(self) -> int:
        """Largest |payload|; of a sum what its proven width holds."""
        if self.sums:
            return 1 << (self.input_bits - 1)
        return int(self.payload.max()) if self.spiking else 0

    @cached_property
    def waits(self) -> int:
        """Steps between the arrival of a sample's first input and the population's first step on it."""
        return waits(self.mixing)

    def is_open(self, micro: int) -> bool:
        """Whether the population may fire in this micro-step of a time step."""
        return self.open_steps is None or micro < self.open_steps


@dataclass(frozen=True, eq=False)
class QuantNetwork:
    """Input, synapses and populations in topological order; the last population is the readout.

    Input payloads are sent by the host in the first micro-step of each time step (`reference.input_steps`);
    `microsteps` of the `timesteps` steps of a sample make a time step. input_kind "spikes": integers
    0..input_payload_max. "currents": what the host computes of the input and writes as the bias of each neuron of the
    first population, integers -input_payload_max..input_payload_max; no spikes, no synapses on the chip.
    Synapses whose source is the population they end in are lateral: sent in step t they act in t + 1 of the sample.
    """

    input_name: str
    input_shape: Shape
    input_payload_max: int
    synapses: tuple[QuantSynapses, ...]
    populations: tuple[Population, ...]
    timesteps: int
    microsteps: int = 1
    input_kind: Literal["spikes", "currents"] = "spikes"

    @cached_property
    def synapses_by_name(self) -> Mapping[str, QuantSynapses]:
        return {synapses.name: synapses for synapses in self.synapses}

    @cached_property
    def populations_by_name(self) -> Mapping[str, Population]:
        return {population.name: population for population in self.populations}

    @property
    def readout(self) -> Population:
        return self.populations[-1]

    @property
    def depth(self) -> int:
        return max(population.depth for population in self.populations)

    def shape_of(self, name: str) -> Shape:
        return self.input_shape if name == self.input_name else self.populations_by_name[name].shape

    def payload_max_of(self, name: str) -> int:
        return self.input_payload_max if name == self.input_name else self.populations_by_name[name].payload_max

    def inputs_of(self, population: Population) -> tuple[QuantSynapses, ...]:
        return tuple(self.synapses_by_name[name] for name in population.synapses)

    def outputs_of(self, name: str) -> tuple[QuantSynapses, ...]:
        """Synapses whose source is `name`."""
        return tuple(synapses for synapses in self.synapses if synapses.source == name)

    def target_of(self, synapses: QuantSynapses) -> Population:
        return self._target_of[synapses.name]

    @cached_property
    def _target_of(self) -> Mapping[str, Population]:
        return {name: population for population in self.populations for name in population.synapses}

    def read_shape(self, synapses: QuantSynapses) -> Shape:
        """Shape of what synapses read of their source, before members and windows add up."""
        shape = self.shape_of(synapses.source)
        return shape if synapses.reads is None else (synapses.reads[1] - synapses.reads[0], *shape[1:])


def pooled_shape(shape: Shape, pool: Pair, members: int = 1) -> Shape:
    """(C, H, W) after summing `pool` windows and `members` channels; unchanged for (1, 1) and 1."""
    channels = shape[0] // members
    return (channels, *shape[1:]) if pool == (1, 1) else (channels, shape[1] // pool[0], shape[2] // pool[1])
