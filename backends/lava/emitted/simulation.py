"""Builds the Processes of the compiled network, runs all samples in one Lava run, collects what was asked for."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from layer import InputFrames, Stream, parameters, payload_max
from processes import Source, population_class
from watch import Journal, raise_written, shared, watch

CHANNEL_SIZE = 2
"""Messages a channel holds. One is under way a step; Lava's default of 64 takes gigabytes with wide layers."""


@dataclass(frozen=True)
class Result:
    """output (N, n): the last population's payloads summed over each sample, or, where it has no thresholds, its state
    after the sample's last step. payloads: name -> (T, N, *shape).
    """

    output: np.ndarray
    payloads: dict[str, np.ndarray]
    steps: int
    wall_s: float


class Simulation:
    """A network with payloads (N, *input shape) or frames (N, F, *input shape) on `lanes` batch lanes.

    N is filled up with zeros to whole groups. network, arrays: network.json and weights.npz. record: names of the
    populations whose payloads are kept.
    """

    def __init__(
        self,
        network: dict[str, Any],
        arrays: dict[str, np.ndarray],
        payloads: np.ndarray,
        record: Sequence[str],
        lanes: int,
    ) -> None:
        self.network, self.arrays, self.samples, self.lanes = network, arrays, len(payloads), lanes
        self.timesteps, self.populations = network["timesteps"], network["populations"]
        self.groups = -(-self.samples // lanes)
        self.stream = Stream(self.groups, lanes, self.timesteps, network["microsteps"])
        self.steps = self.stream.steps + max(spec["depth"] for spec in self.populations)
        self.senders = {spec["name"]: spec for spec in (network["input"], *self.populations)}
        self.record = {name: self._payload_memory(self.senders[name]) for name in record}
        self.output = shared(self._lane_shape(self.populations[-1]), np.int64)
        self.journals = [Journal(name) for name in self.senders]
        entry = network["input"]
        frames = InputFrames(payloads, entry["shape"], self.stream)
        self.processes = {entry["name"]: Source(name=entry["name"], frames=frames, journal=self.journals[0])}
        for spec, journal in zip(self.populations, self.journals[1:], strict=True):
            self.processes[spec["name"]] = self._population(spec, journal)

    def _lane_shape(self, spec: dict[str, Any]) -> tuple[int, int, int]:
        return self.groups, self.lanes, int(np.prod(spec["shape"]))

    def _payload_memory(self, spec: dict[str, Any]) -> Any:
        sums = spec.get("sends") == "sum"
        kind = np.dtype(np.int32) if sums else np.min_scalar_type(payload_max(spec, self.arrays))
        return shared((self.timesteps, *self._lane_shape(spec)), kind)

    def _population(self, spec: dict[str, Any], journal: Journal) -> Any:
        """The Process of a population, connected to its sources."""
        params = parameters(self.network, self.arrays, spec) | {
            "stream": self.stream,
            "output": self.output if spec is self.populations[-1] else None,
            "record": self.record.get(spec["name"]),
        }
        inputs = params["inputs"]
        process = population_class(len(inputs))(params=params, journal=journal)
        for i, connection in enumerate(inputs):
            self.processes[connection["spec"]["source"]].s_out.connect(getattr(process, f"s_in_{i}"))
        return process

    def start(self) -> None:
        """Compiles and starts Lava's processes; they wait for the first step."""
        self.first = next(iter(self.processes.values()))
        try:
            self.first.create_runtime(
                Loihi2SimCfg(select_tag="fixed_pt"), compile_config={"pypy_channel_size": CHANNEL_SIZE}
            )
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
        output = self._by_sample(self.output[None], self.populations[-1])[0]
        payloads = {name: self._by_sample(record, self.senders[name]) for name, record in self.record.items()}
        return Result(output, payloads, self.steps, wall_s)

    def done(self) -> int:
        """Samples whose last step the last population has made."""
        made = max(0, self.journals[-1].steps - self.populations[-1]["depth"])
        return int(min(self.samples, made // self.timesteps * self.lanes))

    def _by_sample(self, values: np.ndarray, spec: dict[str, Any]) -> np.ndarray:
        """(T, groups, B, n) -> (T, N, *shape)."""
        return values.reshape(len(values), -1, *spec["shape"])[:, : self.samples]
