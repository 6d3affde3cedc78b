"""Builds the Processes of the compiled network, runs all samples in one Lava run, collects what was asked for."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from layer import InputFrames, Stream, parameters
from placement import placed
from processes import Source, population_class
from stock import StockPopulation, lava_proc
from watch import Journal, raise_written, shared, watch

CHANNEL_SIZE = 2
"""Messages a channel holds. One is under way a step; Lava's default of 64 takes gigabytes with wide layers."""


@dataclass(frozen=True)
class Wanted:
    """Names of the populations whose payloads, and whose membranes (u before firing), are kept."""

    payloads: Sequence[str] = ()
    membranes: Sequence[str] = ()


@dataclass(frozen=True)
class Result:
    """output (N, n): the last population's payloads summed over each sample, or, where it has no thresholds, its state
    after the sample's last step. payloads, membranes: name -> (T, N, *shape).
    """

    output: np.ndarray
    payloads: dict[str, np.ndarray]
    membranes: dict[str, np.ndarray]
    steps: int
    wall_s: float


class Memory:
    """Shared memory (..., groups, lanes, n) of one quantity of a population, a piece for each Process that holds it."""

    def __init__(self, pieces: Sequence[tuple[str, np.ndarray]], before: tuple[int, ...], kind: Any) -> None:
        self.pieces = pieces
        self.of = {name: shared((*before, len(neurons)), kind) for name, neurons in pieces}

    def by_sample(self, shape: Sequence[int], samples: int) -> np.ndarray:
        """(..., N, *shape), put together again."""
        first = next(iter(self.of.values()))
        whole = np.zeros((*first.shape[:-1], sum(len(neurons) for _, neurons in self.pieces)), first.dtype)
        for name, neurons in self.pieces:
            whole[..., neurons] = self.of[name]
        in_order = whole.reshape(-1, whole.shape[-3] * whole.shape[-2], *shape)[:, :samples]
        return in_order.reshape(*whole.shape[:-3], samples, *shape)


@dataclass(frozen=True)
class Inlet:
    """Port (lanes, n) of a fused Process."""

    port: Any

    def connect(self, outlet: Any) -> None:
        """Connects a source's port, (lanes, n) or of a stock Process (n,)."""
        (outlet if outlet.shape == self.port.shape else outlet.reshape(self.port.shape)).connect(self.port)


class Simulation:
    """A network with payloads (N, *input shape) or frames (N, F, *input shape) on `lanes` batch lanes.

    N is filled up with zeros to whole groups. network, arrays: network.json and weights.npz. style "stock": populations
    that Lava's own Processes compute exactly are made of those; one lane then. placement: a Process a core slice.
    """

    def __init__(
        self,
        network: dict[str, Any],
        arrays: dict[str, np.ndarray],
        payloads: np.ndarray,
        wanted: Wanted,
        lanes: int,
        style: str = "fused",
        placement: bool = False,
    ) -> None:
        self.whole, self.samples = {spec["name"]: spec for spec in network["populations"]}, len(payloads)
        self.readout = network["populations"][-1]
        self.network, self.arrays, self.pieces = network, arrays, _in_one_piece(network)
        if placement:
            self.network, self.arrays, self.pieces = placed(network, arrays)
        self.stock = style == "stock"
        self.stream = Stream(-(-self.samples // lanes), lanes, network["timesteps"], network["microsteps"])
        self.steps = self.stream.steps + max(spec["depth"] for spec in self.whole.values())
        self.output = self._memory(self.readout["name"], (), np.int64)
        times = (self.stream.timesteps,)
        self.record = {name: self._memory(name, times, self._payload_type(name)) for name in wanted.payloads}
        self.membranes = {name: self._memory(name, times, self._state_type(name)) for name in wanted.membranes}
        self.journals: list[Journal] = []
        self._build(payloads)

    def _memory(self, name: str, before: tuple[int, ...], kind: Any) -> Memory:
        return Memory(self.pieces[name], (*before, self.stream.groups, self.stream.lanes), kind)

    def _payload_type(self, name: str) -> Any:
        spec = self.whole[name]
        if spec.get("sends") == "sum":
            return np.dtype(np.int32)
        return np.min_scalar_type(int(self.arrays[f"{self.pieces[name][0][0]}.payload"].max(initial=0)))

    def _state_type(self, name: str) -> Any:
        return np.int32 if max(self.whole[name][bits] for bits in ("state_bits", "input_bits")) < 32 else np.int64

    def _journal(self, name: str) -> Journal:
        self.journals.append(Journal(name))
        return self.journals[-1]

    def _build(self, payloads: np.ndarray) -> None:
        """All Processes, then their connections: slices of a population may send to each other."""
        entry = self.network["input"]
        frames = InputFrames(payloads, entry["shape"], self.stream)
        self.first = Source(name=entry["name"], frames=frames, journal=self._journal(entry["name"]))
        self.outlets = {entry["name"]: self.first.s_out}
        kept: dict[str, dict[str, Any]] = {}
        for name, pieces in self.pieces.items():
            asked = {"record": self.record.get(name), "membranes": self.membranes.get(name)}
            asked["output"] = self.output if name == self.readout["name"] else None
            kept |= {piece: {key: memory and memory.of[piece] for key, memory in asked.items()} for piece, _ in pieces}
        inlets: list[tuple[str, Any]] = []
        for spec in self.network["populations"]:
            params = parameters(self.network, self.arrays, spec) | {"stream": self.stream} | kept[spec["name"]]
            inlets += self._population(params)
        for source, inlet in inlets:
            inlet.connect(self.outlets[source])
        self.last = next(
            journal for journal in self.journals if journal.layer == self.network["populations"][-1]["name"]
        )

    def _population(self, params: dict[str, Any]) -> list[tuple[str, Any]]:
        """Makes the Processes of a population; gives (name of a source, what its port is to be connected to)."""
        name = params["spec"]["name"]
        if self.stock and not params["spec"]["fused_because"]:
            population = StockPopulation(params, self._journal)
            self.outlets[name] = population.s_out
            return population.inlets
        inputs = params["inputs"]
        process = population_class(len(inputs))(params=params, journal=self._journal(name))
        self.outlets[name] = process.s_out
        return [(one["spec"]["source"], Inlet(getattr(process, f"s_in_{i}"))) for i, one in enumerate(inputs)]

    def start(self) -> None:
        """Compiles and starts Lava's processes; they wait for the first step."""
        models = lava_proc().models if self.stock else None
        config = Loihi2SimCfg(select_tag="fixed_pt", exception_proc_model_map=models)
        try:
            self.first.create_runtime(config, compile_config={"pypy_channel_size": CHANNEL_SIZE})
        except Exception:
            raise_written(self.journals)
            raise
        self.workers = multiprocessing.active_children()

    def run(self, progress: Callable[[int], None]) -> Result:
        """Runs all steps in one go; calls progress(samples done) at every look."""
        started = time.perf_counter()
        self.first.run(RunSteps(self.steps, blocking=False))
        watch(self.journals, self.workers, self.steps, lambda: progress(self.done()))
        wall_s = time.perf_counter() - started
        self.first.wait()
        self.first.stop()
        progress(self.samples)
        output = self.output.by_sample(self.readout["shape"], self.samples)
        payloads, membranes = (
            {name: memory.by_sample(self.whole[name]["shape"], self.samples) for name, memory in memories.items()}
            for memories in (self.record, self.membranes)
        )
        return Result(output, payloads, membranes, self.steps, wall_s)

    def done(self) -> int:
        """Samples whose last step the last population has made."""
        made = max(0, self.last.steps - self.readout["depth"])
        return int(min(self.samples, made // self.stream.timesteps * self.stream.lanes))


def _in_one_piece(network: dict[str, Any]) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Every population as the one piece that it is unless it is cut into slices."""
    return {spec["name"]: [(spec["name"], np.arange(int(np.prod(spec["shape"]))))] for spec in network["populations"]}
