"""The input and a population on the chip's clock, numpy only: what arrives, when it acts, what is sent.

In chip step c (0, 1, ...) a population at depth d does logical step c - d of the sample stream: fire, then receive
what the sources sent in this same chip step and add it to the current that is due `delay_steps` later. A spike sent in
step c therefore acts in step c + delay_steps, as on the chip, and a population d connections behind the input runs d
steps behind it. Samples follow each other every T steps without a gap: a population sets its state to v0 at the first
step of each (interval T, offset d), and outside the stream, first and last steps, does nothing.

A population that mixes steps needs later inputs of a sample in its first step: it stores what arrives from chip step
d - waits on. What a population sends itself (lateral synapses) acts in its next step, but not in the next sample; nor
does what synapses with a `lag` carry out of the last steps of one. The same holds between the slices of a population
on several cores (`lateral` synapses, placement.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from arithmetic import Mixing, Neurons, Synapses
from dynamics import STATES, GeneralNeurons

FIELDS = ("bias", "v0", "thresholds", "subtract", "payload", "decay", "mixing", *STATES)
"""Arrays of a population; `mixing` only of those that mix steps, `STATES` of those that have them."""


@dataclass(frozen=True)
class Stream:
    """groups of `lanes` samples side by side, `timesteps` T chip steps each, `microsteps` of them a time step."""

    groups: int
    lanes: int
    timesteps: int
    microsteps: int

    @property
    def steps(self) -> int:
        return self.groups * self.timesteps


def payload_max(spec: dict[str, Any], arrays: dict[str, np.ndarray]) -> int:
    """Largest absolute payload that the input or a population of network.json sends."""
    if spec.get("sends") == "sum":
        return 1 << (int(spec["input_bits"]) - 1)
    table = arrays.get(f"{spec['name']}.payload")
    return int(spec["payload_max"]) if table is None else int(table.max(initial=0))


def parameters(network: dict[str, Any], arrays: dict[str, np.ndarray], spec: dict[str, Any]) -> dict[str, Any]:
    """What `Layer` needs of network.json and weights.npz for population `spec`."""
    senders = {sender["name"]: sender for sender in (network["input"], *network["populations"])}
    connections = [
        {
            "spec": synapses,
            "weight": arrays[f"{synapses['name']}.weight"],
            "source_shape": tuple(senders[synapses["source"]]["shape"]),
            "source_depth": senders[synapses["source"]].get("depth", 0),
            "payload_max": payload_max(senders[synapses["source"]], arrays),
            **{field: arrays[key] for field in ("row", "column") if (key := f"{synapses['name']}.{field}") in arrays},
        }
        for synapses in network["synapses"]
        if synapses["name"] in spec["synapses"]
    ]
    return {
        "spec": spec,
        "arrays": {field: arrays[key] for field in FIELDS if (key := f"{spec['name']}.{field}") in arrays},
        "inputs": [one for one in connections if one["spec"]["source"] != spec["name"]],
        "laterals": [one for one in connections if one["spec"]["source"] == spec["name"]],
    }


class InputFrames:
    """What the host sends: a frame in the first micro-step of each time step, else nothing.

    payloads (N, *shape), the same in every time step, or (N, T / microsteps, *shape). Filled up with zeros to whole
    groups of samples.
    """

    def __init__(self, payloads: np.ndarray, shape: Sequence[int], stream: Stream) -> None:
        size, self.stream = int(np.prod(shape)), stream
        filled = np.zeros((stream.groups * stream.lanes, payloads[0].size // size, size), payloads.dtype)
        filled[: len(payloads)] = payloads.reshape(len(payloads), -1, size)
        self.frames = filled.reshape(stream.groups, stream.lanes, -1, size)
        self.silence = np.zeros((stream.lanes, size), np.int32)

    def sent(self, c: int) -> np.ndarray:
        """The payloads of chip step c, (lanes, n) int32."""
        group, step = divmod(c, self.stream.timesteps)
        frame, micro = divmod(step, self.stream.microsteps)
        if group >= self.stream.groups or micro != 0:
            return self.silence
        frames = self.frames[group]
        return frames[:, min(frame, frames.shape[1] - 1)].astype(np.int32)


class Keeper:
    """Writes what is asked of a population of `depth` into shared memory; None: not asked.

    output (groups, B, n) of zeros: gets the sum of a sample's payloads, or v after its last step where the neurons
    never fire. record, membranes (T, groups, B, n): get every payload sent, and u of every step before firing.
    """

    def __init__(
        self, depth: int, spiking: bool, stream: Stream, output: Any = None, record: Any = None, membranes: Any = None
    ) -> None:
        self.depth, self.spiking, self.stream = depth, spiking, stream
        self.output, self.record, self.membranes = output, record, membranes

    def keep(self, c: int, payloads: np.ndarray, u: np.ndarray, v: np.ndarray) -> None:
        """What chip step c gave; outside the stream nothing is kept."""
        t = c - self.depth
        if not 0 <= t < self.stream.steps:
            return
        group, step = divmod(t, self.stream.timesteps)
        if self.record is not None:
            self.record[step, group] = payloads
        if self.membranes is not None:
            self.membranes[step, group] = u
        if self.output is not None and self.spiking:
            self.output[group] += payloads
        elif self.output is not None and step == self.stream.timesteps - 1:
            self.output[group] = v


class Layer:
    """The neurons of a population and the synapses into them; in every chip step `fire`, then `receive` of every input.

    spec, arrays: the population in network.json and weights.npz. inputs, laterals: per connection the arguments of
    `Synapses`; laterals are those whose source is the population itself. kept: arguments of `Keeper`.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        arrays: dict[str, np.ndarray],
        inputs: Sequence[dict[str, Any]],
        laterals: Sequence[dict[str, Any]],
        stream: Stream,
        **kept: Any,
    ) -> None:
        self.depth, self.waits, self.stream = spec["depth"], spec["waits"], stream
        general = any(name in arrays for name in STATES) or np.ptp(arrays["decay"]) > 0
        self.neurons = GeneralNeurons(spec, arrays) if general else Neurons(spec, arrays)
        self.mixing = Mixing(spec, arrays, stream.lanes) if "mixing" in arrays else None
        self.synapses, self.laterals = (
            [Synapses(**connection, integer=self.neurons.dtype) for connection in connections]
            for connections in (inputs, laterals)
        )
        self.keeper = Keeper(self.depth, self.neurons.spiking, stream, **kept)
        self.state = self.fresh = self.neurons.start(stream.lanes)
        self.silence = np.zeros(self.v.shape, np.int32)
        self.due: list[Any] = [0] * max(synapses.delay_steps + synapses.lag for synapses in self.synapses)
        """Ring of currents: entry c % len is due in chip step c."""
        own = [*self.laterals, *(synapses for synapses in self.synapses if synapses.lateral)]
        self.own: list[Any] = [0] * (1 + max((synapses.lag for synapses in own), default=0))
        """Ring of the currents of lateral synapses: entry c % len is due in chip step c."""

    @property
    def v(self) -> np.ndarray:
        """The membranes now, (lanes, n)."""
        return self.neurons.membrane(self.state)

    def fire(self, c: int) -> np.ndarray:
        """Makes chip step c; the payloads to send, (lanes, n) int32."""
        arriving, self.due[c % len(self.due)] = self.due[c % len(self.due)] + self.neurons.bias, 0
        t = c - self.depth
        if self.mixing and 0 <= t + self.waits < self.stream.steps:
            self.mixing.store(t + self.waits, arriving)
        if not 0 <= t < self.stream.steps:
            return self.silence
        step = t % self.stream.timesteps
        current = self.mixing.current(t) if self.mixing else arriving
        if step == 0:
            self.state, self.own = self.fresh, [0] * len(self.own)
        current, self.own[c % len(self.own)] = current + self.own[c % len(self.own)], 0
        payloads, self.state = self.neurons.step(self.state, current, step % self.stream.microsteps)
        self.keeper.keep(c, payloads, self.neurons.u, self.v)
        return payloads

    def send_itself(self, c: int, payloads: np.ndarray) -> None:
        """Carries the payloads fired in chip step c over the lateral synapses."""
        for synapses in self.laterals:
            self._receive_laterally(c, synapses, payloads)

    def _receive_laterally(self, c: int, synapses: Synapses, payloads: np.ndarray) -> None:
        when = (c + 1 + synapses.lag) % len(self.own)
        self.own[when] = self.own[when] + synapses.current(payloads)

    def receive(self, c: int, i: int, payloads: np.ndarray) -> None:
        """What connection i brings in chip step c."""
        synapses = self.synapses[i]
        if synapses.lateral:
            self._receive_laterally(c, synapses, payloads)
        elif (c - synapses.source_depth) % self.stream.timesteps + synapses.lag < self.stream.timesteps:
            when = (c + synapses.delay_steps + synapses.lag) % len(self.due)
            self.due[when] = self.due[when] + synapses.current(payloads)
