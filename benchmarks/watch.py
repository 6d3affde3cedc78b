"""Watches our speed: ratios to what this machine can do, measured in the same run, against those stored in ratios.json.

    OMP_NUM_THREADS=1 uv run python benchmarks/watch.py [--store] [--only router ...] [--ratios FILE]

Ratios only, larger is better; no time is stored, so another machine of the same kind serves, a busy one too: all is
CPU time of one thread, ours and the limit in turn, and the median of the rounds counts. A ratio that is below the
stored one by more than its tolerance is measured a second time; exit 1, naming it, if it is still. --store writes what
it measures (twice, the lower of the two) and keeps the tolerances.

    vgg_int8, vgg_function_int8   int8 convolutions of VGG-16's shapes alone / the simulator, its function alone
    vgg_float32                   float32 convolutions of these shapes / the simulator
    lif_float32                   float32 products of 784-512-256-10, T = 25 / function, counts, timing and energy
    lif_cycle                     a random walk over 128 KB, ten steps a packet / the same run, clocked
    router                        such a walk / uniform random packets on an 11x11 mesh
    energy                        a copy of the counts of 400 samples / pricing and timing them
    compile                       sorting a million float64 / compiling 784-512-256-10, a later time in its process
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import limits
import numba
import numpy as np
import snncompile_peer as lif
import torch
from router import uniform
from snncompile.backends.chipsim.router import RouterSettings, route
from snncompile.backends.chipsim.simulator import cost_of

from snncompile.backend import RunOptions, load_backend
from snncompile.chip import Mesh
from snncompile.program import Program

STORED = Path(__file__).with_name("ratios.json")
TOLERANCE = 0.3
"""Of a ratio that is stored for the first time."""

WALKED = 1 << 14
"""Places of 8 bytes that the random walk goes through: it waits for the cache of one core, which no other disturbs."""

Pair = tuple[Callable[[], object], Callable[[], object]]
"""What this machine can do, and what we do."""


def cpu_s(call: Callable[[], object]) -> float:
    """CPU time of all threads of the process, in s."""
    start = time.process_time()
    call()
    return time.process_time() - start


def ratio_of(pair: Pair, rounds: int) -> float:
    """Median over the rounds of limit / ours, after one round that does not count."""
    took = [(cpu_s(pair[0]), cpu_s(pair[1])) for _ in range(rounds + 1)][1:]
    return statistics.median(limit / ours for limit, ours in took)


@numba.njit(cache=True, nogil=True)
def walk(next_at: np.ndarray, steps: int) -> int:
    """Follows the links of a permutation: what a loop can do whose every step waits for the one before."""
    at = 0
    for _ in range(steps):
        at = next_at[at]
    return at


def cycle_of(size: int) -> np.ndarray:
    """A permutation (size,) that is one cycle."""
    order = np.random.default_rng(0).permutation(size)
    next_at = np.empty(size, np.int64)
    next_at[order] = np.roll(order, -1)
    return next_at


def products(program: Program, samples: int) -> Callable[[], object]:
    """All matrix products of all steps in float32, a batch at once, without a bound on memory."""
    weights = [torch.from_numpy(s.weight.astype(np.float32)) for s in program.network.synapses]
    inputs = [torch.rand(samples * lif.STEPS, w.shape[1]) for w in weights]
    return lambda: [torch.nn.functional.linear(x, w) for x, w in zip(inputs, weights, strict=True)]


def router_pair(packets: int = 100_000) -> Pair:
    mesh = Mesh(width=11, height=11, cores_per_router=4, chips_across=1, chips_down=1)
    load, memory = uniform(mesh, packets, 16), cycle_of(WALKED)
    return lambda: walk(memory, 10 * len(load)), lambda: route(load, mesh, RouterSettings())


def lif_pairs(folder: Path) -> dict[str, Pair]:
    """The network of peers.py: whole runs, clocked runs, pricing alone, compiling."""
    lif.save_model(folder / "lif.pt")
    program, sim = lif.compiled(folder), load_backend("sim")
    payloads = program.encode(lif.spikes_of(lif.SEED, 400))
    memory, unsorted = cycle_of(WALKED), np.random.default_rng(0).random(1_000_000)
    counted = counts_of(program, payloads)
    packets = int(sim.run(program, folder, payloads[:10]).cost["packets"] * 10)
    copied = [np.ascontiguousarray(part) for part in arrays_of(counted[0])]

    def clocked() -> object:
        return sim.run(program, folder, payloads[:10], options=RunOptions("cycle"))

    return {
        "lif_float32": (products(program, 100), lambda: sim.run(program, folder, payloads[:100])),
        "lif_cycle": (lambda: walk(memory, 10 * packets), clocked),
        "energy": (lambda: [part.copy() for part in copied], lambda: cost_of(program, *counted)),
        "compile": (lambda: np.sort(unsorted), lambda: lif.compiled(folder)),
    }


def counts_of(program: Program, payloads: np.ndarray) -> tuple[Any, Any]:
    """Traffic and links of a run."""
    from snncompile.backends.chipsim.breakdown import hops_of  # noqa: PLC0415 - after the simulator
    from snncompile.backends.chipsim.counting import CoreCounter  # noqa: PLC0415
    from snncompile.backends.chipsim.function import FunctionEngine  # noqa: PLC0415
    from snncompile.backends.chipsim.simulator import _Simulation  # noqa: PLC0415

    simulation = _Simulation(program, FunctionEngine(program.network), CoreCounter(program), frozenset())
    parts = [simulation.batch(payloads).parts]
    return simulation.counter.traffic(parts), hops_of(program, parts)


def arrays_of(traffic: Any) -> Iterable[np.ndarray]:
    """All counts per tile."""
    yield from (traffic.updated, traffic.fired, traffic.packets_out)
    for reception in traffic.receptions:
        yield from (reception.packets, reception.synops)


VGG = {
    "vgg_int8": "fraction_of_int8_limit",
    "vgg_function_int8": "function_fraction_of_int8_limit",
    "vgg_float32": "times_float32_limit",
}
NAMES = (*VGG, "router", "lif_float32", "lif_cycle", "energy", "compile")


def measured(names: Iterable[str], rounds: int) -> dict[str, float]:
    """The ratios of those names."""
    wanted, found = set(names), {}
    torch.set_num_threads(1)
    if wanted & VGG.keys():
        vgg = limits.measured(rounds, 16, 0.1)
        found |= {name: vgg[key] for name, key in VGG.items()}
    with tempfile.TemporaryDirectory() as folder:
        pairs = {"router": router_pair()} if "router" in wanted else {}
        if wanted - VGG.keys() - {"router"}:
            pairs |= lif_pairs(Path(folder))
        found |= {name: ratio_of(pair, rounds) for name, pair in pairs.items() if name in wanted}
    return {name: found[name] for name in NAMES if name in wanted}


def fallen(found: Mapping[str, float], stored: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Names of ratios that are below what is stored by more than their tolerance."""
    least = {name: entry["ratio"] * (1 - entry["tolerance"]) for name, entry in stored.items()}
    return [name for name, ratio in found.items() if name in least and ratio < least[name]]


def told(name: str, ratio: float, stored: Mapping[str, Mapping[str, float]]) -> str:
    if name not in stored:
        return f"{name:<20} {ratio:8.4f}  not stored"
    entry = stored[name]
    change = 100 * (ratio / entry["ratio"] - 1)
    return f"{name:<20} {ratio:8.4f}  stored {entry['ratio']:.4f} {change:+6.1f} %  (-{100 * entry['tolerance']:.0f} %)"


def kept(found: Mapping[str, float], stored: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """What to store: new ratios, old tolerances; what was not measured stays."""
    new = {name: {"ratio": float(f"{ratio:.4g}"), "tolerance": TOLERANCE} for name, ratio in found.items()}
    for name in new.keys() & stored.keys():
        new[name]["tolerance"] = stored[name]["tolerance"]
    return {**{name: dict(entry) for name, entry in stored.items()}, **new}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", action="store_true", help="store what is measured")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ratios", type=Path, default=STORED)
    asked = parser.parse_args()
    stored = json.loads(asked.ratios.read_text()) if asked.ratios.exists() else {}
    found = measured(asked.only, asked.rounds)
    again = list(found) if asked.store else fallen(found, stored)
    second = measured(again, asked.rounds) if again else {}
    better = min if asked.store else max
    found |= {name: better(found[name], ratio) for name, ratio in second.items()}
    print("\n".join(told(name, ratio, stored) for name, ratio in found.items()))
    if asked.store:
        asked.ratios.write_text(json.dumps(kept(found, stored), indent=1) + "\n")
        return 0
    below = fallen(found, stored)
    print(f"fell: {', '.join(below)}" if below else "no ratio fell", file=sys.stderr if below else sys.stdout)
    return int(bool(below))


if __name__ == "__main__":
    sys.exit(main())
