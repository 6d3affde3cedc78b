"""The Lava Processes of the compiled network and their fixed-point ProcessModels.

One Process per population: its synapses and its neurons together (stock Lava splits them into Dense or Conv and LIF).
Ports are shaped (B, n): B independent samples run side by side in batch lanes. A spike is its integer payload, 0: none.

What a population does in a chip step is in layer.py; here it meets Lava.
"""

import sys
from functools import lru_cache
from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from layer import InputFrames, Layer
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
    """The input: sends what the host encoded.

    On Loihi frames of kind "currents" are no spikes: the host writes them as the bias of each neuron of the first
    population, which reads them here over one connection of weight 1 a neuron.
    """

    def __init__(self, *, name: str, frames: InputFrames, journal: Journal) -> None:
        super().__init__(name=name, frames=frames, journal=journal)
        self.s_out = OutPort(shape=frames.silence.shape)


@implements(proc=Source, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class SourceModel(WatchedModel):
    """Depth 0: chip step and logical step are the same; silent once the last sample is sent."""

    s_out = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def prepare(self, params: Any) -> None:
        self.frames = params["frames"]

    def chip_step(self, c: int) -> None:
        self.s_out.send(self.frames.sent(c))


class Population(AbstractProcess):  # type: ignore[misc]
    """Neurons of one layer with the synapses into them. Port s_in_i is connection i; Var v (B, n) is the state now.

    params: the arguments of `layer.Layer`; output and record in shared memory. What the population sends itself goes
    through no port.
    """

    def __init__(self, *, params: dict[str, Any], journal: Journal) -> None:
        name, lanes = params["spec"]["name"], params["stream"].lanes
        super().__init__(name=name, params=params, journal=journal)
        shape = (lanes, int(np.prod(params["spec"]["shape"])))
        for i, synapses in enumerate(params["inputs"]):
            setattr(self, f"s_in_{i}", InPort(shape=(lanes, int(np.prod(synapses["source_shape"])))))
        self.s_out = OutPort(shape=shape)
        self.v = Var(shape=shape, init=0)


class PopulationModel(WatchedModel):
    """Fixed point, any number of connections."""

    s_out = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    v = LavaPyType(np.ndarray, np.int64)

    def prepare(self, params: Any) -> None:
        self.layer = Layer(**params["params"])

    def chip_step(self, c: int) -> None:
        payloads = self.layer.fire(c)
        # Every process sends before it receives: two that wait for each other would never end.
        self.s_out.send(payloads)
        self.v = self.layer.v
        self.layer.send_itself(c, payloads)
        for i in range(len(self.layer.synapses)):
            self.layer.receive(c, i, getattr(self, f"s_in_{i}").recv())


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
