"""The Lava Processes of the compiled network and their fixed-point ProcessModels.

One Process per population: its synapses and its neurons together (stock Lava splits them into Dense or Conv and LIF).
Ports are shaped (B, n): B independent samples run side by side in batch lanes. A spike is its integer payload, 0: none.

Time. In chip step c (0, 1, ...) a population at depth d does logical step c - d of the sample stream: fire, send, then
receive what the sources sent in this same chip step and add it to the current that is due `delay_steps` later. A spike
sent in step c therefore acts in step c + delay_steps, as on the chip, and a population d connections behind the input
runs d steps behind it. Samples follow each other every T steps without a gap: a population sets its state to v0 at the
first step of each (interval T, offset d), and outside the stream, first and last steps, does nothing. A population that
mixes steps needs a sample's last input in its first step: it stores what arrives from chip step d - (T - 1) on.
"""

import sys
from functools import lru_cache
from typing import Any

import numpy as np
from arithmetic import Mixing, Neurons, Synapses
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from watch import Journal


class WatchedModel(PyLoihiProcessModel):  # type: ignore[misc]
    """A ProcessModel whose exceptions the main process gets to read (`watch.Journal`); Lava itself hides them."""

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.journal = proc_params["journal"]
        self.journal.begin()
        with self.journal:
            self.prepare(proc_params)

    def run_spk(self) -> None:
        with self.journal:
            self.chip_step(self.time_step - 1)
        self.journal.made(self.time_step)

    def prepare(self, params: Any) -> None:
        """Called once, in the process of its own, before the first step."""

    def chip_step(self, c: int) -> None:
        """Makes chip step c = 0, 1, ..."""


class Source(AbstractProcess):  # type: ignore[misc]
    """Direct-coded input: sends the payloads of a sample in each of its T steps.

    images (groups, B, n): groups of B samples, one group after the other.
    """

    def __init__(self, *, name: str, images: np.ndarray, timesteps: int, journal: Journal) -> None:
        super().__init__(name=name, images=images, timesteps=timesteps, journal=journal)
        self.s_out = OutPort(shape=images.shape[1:])


@implements(proc=Source, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class SourceModel(WatchedModel):
    """Depth 0: chip step and logical step are the same; silent once the last sample is sent."""

    s_out = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def prepare(self, params: Any) -> None:
        self.images, self.timesteps = params["images"], params["timesteps"]
        self.silence = np.zeros_like(self.images[0])

    def chip_step(self, c: int) -> None:
        group = c // self.timesteps
        self.s_out.send(self.images[group] if group < len(self.images) else self.silence)


class Population(AbstractProcess):  # type: ignore[misc]
    """Neurons of one layer with the synapses into them. Port s_in_i is connection i; Var v (B, n) is the state now.

    spec, arrays: the population in network.json and weights.npz. inputs: per connection the arguments of `Synapses`.
    groups, lanes, timesteps: groups of B samples, T steps each. output (groups, B, n) of zeros or None: gets the sum
    of a sample's payloads, or v after its last step where the neurons never fire; record (T, groups, B, n) or None:
    gets every payload sent; both in shared memory. journal.
    """

    def __init__(self, *, spec: dict[str, Any], inputs: list[dict[str, Any]], lanes: int, **params: Any) -> None:
        super().__init__(name=spec["name"], spec=spec, inputs=inputs, lanes=lanes, **params)
        shape = (lanes, int(np.prod(spec["shape"])))
        for i, synapses in enumerate(inputs):
            setattr(self, f"s_in_{i}", InPort(shape=(lanes, int(np.prod(synapses["source_shape"])))))
        self.s_out = OutPort(shape=shape)
        self.v = Var(shape=shape, init=0)


class PopulationModel(WatchedModel):
    """Fixed point, any number of connections; `arithmetic.Synapses`, `.Mixing` and `.Neurons` hold the equations."""

    s_out = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    v = LavaPyType(np.ndarray, np.int64)

    def prepare(self, params: Any) -> None:
        spec, inputs = params["spec"], params["inputs"]
        self.depth, self.timesteps = spec["depth"], params["timesteps"]
        self.logical_steps = params["groups"] * self.timesteps
        self.output, self.record = params["output"], params["record"]
        self.neurons = Neurons(spec, params["arrays"])
        self.mixing = Mixing(spec, params["arrays"], params["lanes"]) if "mixing" in params["arrays"] else None
        self.synapses = [Synapses(**synapses, integer=self.neurons.dtype) for synapses in inputs]
        self.fresh = self.neurons.start(params["lanes"])
        self.silence = np.zeros(self.fresh.shape, np.int32)
        self.due = [0] * max(synapses.delay_steps for synapses in self.synapses)
        """Ring of currents: entry c % len is due in chip step c."""

    def chip_step(self, c: int) -> None:
        current, self.due[c % len(self.due)] = self.due[c % len(self.due)], 0
        t = c - self.depth
        current = current + self.neurons.bias
        if self.mixing and 0 <= (arriving := t + self.timesteps - 1) < self.logical_steps:
            self.mixing.store(arriving, current)
        # Every process sends before it receives: two that wait for each other would never end.
        self.s_out.send(self.fire(t, current) if 0 <= t < self.logical_steps else self.silence)
        for i, synapses in enumerate(self.synapses):
            when = (c + synapses.delay_steps) % len(self.due)
            self.due[when] = self.due[when] + synapses.current(getattr(self, f"s_in_{i}").recv())

    def fire(self, t: int, current: Any) -> Any:
        """Logical step t: the payloads to send. current: a + bias that arrive now, of no use to neurons that mix."""
        group, step = divmod(t, self.timesteps)
        if self.mixing:
            current = self.mixing.current(t)
        payloads, self.v = self.neurons.step(self.fresh if step == 0 else self.v, current)
        if self.record is not None:
            self.record[step, group] = payloads
        if self.output is not None and self.neurons.spiking:
            self.output[group] += payloads
        elif self.output is not None and step == self.timesteps - 1:
            self.output[group] = self.v
        return payloads


@lru_cache
def population_class(connections: int) -> Any:
    """The Process class for populations with so many connections, its ProcessModel declared with it.

    Lava wants every port as a class attribute of the model and finds models among the names of the Process's module.
    """
    process = type(f"Population{connections}", (Population,), {"__module__": __name__})
    ports = {f"s_in_{i}": LavaPyType(PyInPort.VEC_DENSE, np.int32) for i in range(connections)}
    model = type(f"Population{connections}Model", (PopulationModel,), {"__module__": __name__, **ports})
    model = implements(proc=process, protocol=LoihiProtocol)(requires(CPU)(tag("fixed_pt")(model)))
    for declared in (process, model):
        setattr(sys.modules[__name__], declared.__name__, declared)
    return process
