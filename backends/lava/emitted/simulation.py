"""Builds the Processes of the compiled network, runs all samples in one Lava run, collects what was asked for."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from processes import Source, population_class
from watch import Journal, raise_written, shared, watch

CHANNEL_SIZE = 2
"""Messages a channel holds. One is under way a step; Lava's default of 64 takes gigabytes with wide layers."""

POPULATION_ARRAYS = ("bias", "v0", "thresholds", "subtract", "payload", "mixing")
"""`mixing` only of populations that mix steps."""


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
    """A network with payloads (N, *input shape) on `lanes` batch lanes; N is filled up with zeros to whole groups.

    network, arrays: network.json and weights.npz. record: names of the populations whose payloads are kept.
    """

    def __init__(
        self,
        network: dict[str, Any],
        arrays: dict[str, np.ndarray],
        payloads: np.ndarray,
        record: Sequence[str],
        lanes: int,
    ) -> None:
        self.arrays, self.samples, self.lanes = arrays, len(payloads), lanes
        self.timesteps, self.populations = network["timesteps"], network["populations"]
        self.groups = -(-self.samples // lanes)
        self.steps = self.groups * self.timesteps + max(spec["depth"] for spec in self.populations)
        self.senders = {spec["name"]: spec for spec in (network["input"], *self.populations)}
        self.record = {name: self._payload_memory(self.senders[name]) for name in record}
        self.output = shared(self._lane_shape(self.populations[-1]), np.int64)
        self.journals = [Journal(name) for name in self.senders]
        self.processes = {network["input"]["name"]: self._source(network["input"], payloads)}
        for spec, journal in zip(self.populations, self.journals[1:], strict=True):
            inputs = [synapses for synapses in network["synapses"] if synapses["name"] in spec["synapses"]]
            process = self._population(spec, inputs, journal)
            for i, synapses in enumerate(inputs):
                self.processes[synapses["source"]].s_out.connect(getattr(process, f"s_in_{i}"))
            self.processes[spec["name"]] = process

    def _lane_shape(self, spec: dict[str, Any]) -> tuple[int, int, int]:
        return self.groups, self.lanes, int(np.prod(spec["shape"]))

    def _payload_memory(self, spec: dict[str, Any]) -> Any:
        return shared((self.timesteps, *self._lane_shape(spec)), np.min_scalar_type(self._payload_max(spec)))

    def _payload_max(self, spec: dict[str, Any]) -> int:
        table = self.arrays.get(f"{spec['name']}.payload")
        return int(table.max(initial=0)) if table is not None else int(spec["payload_max"])

    def _source(self, spec: dict[str, Any], payloads: np.ndarray) -> Source:
        images = np.zeros(self._lane_shape(spec), np.int32)
        images.reshape(-1, images.shape[-1])[: self.samples] = payloads.reshape(self.samples, -1)
        return Source(name=spec["name"], images=images, timesteps=self.timesteps, journal=self.journals[0])

    def _population(self, spec: dict[str, Any], inputs: Sequence[dict[str, Any]], journal: Journal) -> Any:
        return population_class(len(inputs))(
            spec=spec,
            arrays={
                name: self.arrays[key] for name in POPULATION_ARRAYS if (key := f"{spec['name']}.{name}") in self.arrays
            },
            inputs=[self._connection(synapses) for synapses in inputs],
            groups=self.groups,
            lanes=self.lanes,
            timesteps=self.timesteps,
            output=self.output if spec is self.populations[-1] else None,
            record=self.record.get(spec["name"]),
            journal=journal,
        )

    def _connection(self, synapses: dict[str, Any]) -> dict[str, Any]:
        """The arguments of `arithmetic.Synapses`."""
        source = self.senders[synapses["source"]]
        return {
            "spec": synapses,
            "weight": self.arrays[f"{synapses['name']}.weight"],
            "source_shape": tuple(source["shape"]),
            "payload_max": self._payload_max(source),
        }

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
