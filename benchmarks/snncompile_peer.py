"""Our side of peers.py, and what makes the network that all run.

    python benchmarks/snncompile_peer.py serve FOLDER OUT.npz     makes FOLDER/lif.pt and FOLDER/case.npz, then works
    python benchmarks/snncompile_peer.py modules FOLDER           compiles FOLDER/lif.pt; the modules that this loads
    python benchmarks/snncompile_peer.py compile FOLDER           compiles it; times beyond the imports in modules.json
    python benchmarks/snncompile_peer.py memory FOLDER            compiles and runs it; peak memory beyond torch's

784-512-256-10 LIF with random weights, T = 25, input spikes at a rate of 10 %, compiled for loihi1. Work "batch":
function, counts, event timing and energy of SAMPLES samples, as `snncompile run` does it; "single": of the one sample
that the peers run; "cycle": CYCLE_SAMPLES with every chip step through the clocked router.
"""

# ruff: noqa: PLC0415 - what is imported when is measured

import contextlib
import importlib
import json
import resource
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from peer_protocol import serve

SIZES = (784, 512, 256, 10)
STEPS, RATE, LEAK, THRESHOLD = 25, 0.1, 0.875, 900
SAMPLES, CYCLE_SAMPLES = 100, 10
SEED = 0
"""Of twelve seeds tried, none had a membrane within the integers' truncation of its threshold; `peers.py` compares."""


def spikes_of(seed: int, samples: int) -> np.ndarray:
    """Input spikes (samples, T, 784); the first sample is the one that all peers run."""
    return (np.random.default_rng(seed).random((samples, STEPS, SIZES[0])) < RATE).astype(np.int64)


def save_model(path: Path, seed: int = SEED) -> None:
    """The module: weights are integers / 128, -127 to 127 with the largest in every row, so 8 bits lose nothing."""
    import torch
    from torch import nn

    from snncompile.nn import EventCoding, MeanReadout, PerStep, StbpLIF

    rng = np.random.default_rng(seed + 1)
    layers: list[nn.Module] = [EventCoding(STEPS, (SIZES[0],))]
    for fan_in, out in pairwise(SIZES):
        weight = rng.integers(-126, 127, (out, fan_in))
        weight[:, 0] = 127
        linear = nn.Linear(fan_in, out, bias=False)
        linear.weight.data = torch.tensor(weight / 128, dtype=torch.float32)
        layers += [PerStep(linear), StbpLIF(threshold=THRESHOLD / 128, leak=LEAK)]
    torch.save(nn.Sequential(*layers, MeanReadout()).eval(), path)


def compiled(folder: Path) -> Any:
    from snncompile.compiler import Options, compile_file

    return compile_file(folder / "lif.pt", "loihi1-sim", folder / "program", Options(chips="1")).program


def case_of(program: Any, events: np.ndarray) -> dict[str, Any]:
    """What peers are given: integers as deployed, spikes (T, 784), and the core of every neuron as SANA-FE numbers it.

    weights_i (out, in), threshold: in units of a weight; shift_i: bits by which our state is finer. The input, which
    our host sends, sits on a free core of a router in use, so that as many routers take part in the barrier.
    """
    mesh, place, network = program.chip.mesh, program.placement, program.network
    number = (place.x * mesh.height + place.y) * mesh.cores_per_router + place.slot
    used = set(number.tolist())
    near = [n // mesh.cores_per_router * mesh.cores_per_router + k for n in number.tolist() for k in range(4)]
    case = {"spikes": events, "leak": LEAK, "threshold": THRESHOLD, "layers": len(network.populations)}
    case["input_core"] = next(core for core in near if core not in used)
    for i, population in enumerate(network.populations):
        (synapses,) = network.inputs_of(population)
        assert (population.thresholds == THRESHOLD << synapses.exponent).all()
        edges = program.core_graph.grids[population.name].axes[0]
        tile = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
        case[f"core_{i}"] = number[program.core_graph.cores_of(population.name)[tile]]
        case[f"weights_{i}"], case[f"shift_{i}"] = synapses.weight, synapses.exponent
        case["decay"] = int(np.unique(population.decay)[0])
    return case


def serving() -> tuple[Any, Any]:
    import torch

    from snncompile.backend import RunOptions, load_backend

    torch.set_num_threads(1)
    folder = Path(sys.argv[2])
    save_model(folder / "lif.pt")
    program, sim = compiled(folder), load_backend("sim")
    payloads = program.encode(spikes_of(SEED, SAMPLES))
    np.savez(folder / "case.npz", **case_of(program, payloads[0]))

    def run(samples: int, timing: Any = "event", record: tuple[str, ...] = (), arrays: bool = False) -> Any:
        return sim.run(program, folder, payloads[:samples], record, options=RunOptions(timing, arrays))

    names = [p.name for p in program.network.populations]
    one, cycle = run(1, record=tuple(names), arrays=True), run(1, "cycle", arrays=True)
    fired = {f"fired_{i}": one.payloads[name][:, 0] != 0 for i, name in enumerate(names)}
    packets_in = float(one.arrays["core_packets_in"].sum())
    np.savez(
        sys.argv[3], **fired, synops=one.cost["synops"], packets=packets_in, step_ns=one.arrays["step_ns"],
        cycle_step_ns=cycle.arrays["step_ns"],
    )  # fmt: skip
    run(SAMPLES)
    works = {
        "single": lambda: {"engine_s": run(1).wall_s},
        "batch": lambda: {"engine_s": run(SAMPLES).wall_s / SAMPLES},
        "cycle": lambda: {"engine_s": run(CYCLE_SAMPLES, "cycle").wall_s / CYCLE_SAMPLES},
    }
    counts = {name: one.cost[name] for name in ("synops", "spikes", "packets", "step_us_mean")}
    return {"samples": SAMPLES, "cycle_samples": CYCLE_SAMPLES, "sample": counts}, works


def measure_modules(folder: Path) -> list[str]:
    """Names of all modules that are loaded once FOLDER/lif.pt is compiled."""
    compiled(folder)
    return [name for name in sys.modules if name != "__main__"]


def measure_compile(folder: Path) -> dict[str, Any]:
    """Times of the first and of later compiles in a process that has imported all that they need (modules.json)."""
    for name in json.loads((folder / "modules.json").read_text()):
        with contextlib.suppress(
            ImportError, AttributeError
        ):  # aliases in sys.modules that are no modules of their own
            importlib.import_module(name)
    seconds = []
    for _ in range(4):
        wall, cpu = time.perf_counter(), time.process_time()
        compiled(folder)
        seconds.append({"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu})
    return {"first": seconds[0], "later": seconds[1:]}


def measure_memory(folder: Path) -> dict[str, Any]:
    """Peak resident memory in MB after importing torch alone, after compiling too, after a run of SAMPLES too."""

    def peak_mb() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

    import torch  # noqa: F401

    peaks = {"torch_mb": peak_mb()}
    from snncompile.backend import load_backend

    program = compiled(folder)
    peaks["compiled_mb"] = peak_mb()
    load_backend("sim").run(program, folder, program.encode(spikes_of(SEED, SAMPLES)))
    return peaks | {"run_mb": peak_mb()}


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(serving)
    else:
        works = {"modules": measure_modules, "compile": measure_compile, "memory": measure_memory}
        print(json.dumps(works[sys.argv[1]](Path(sys.argv[2]))))
