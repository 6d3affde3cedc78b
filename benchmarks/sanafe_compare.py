"""Our times, energies and counts beside SANA-FE's, on the same networks, spikes and placement; SANA-FE runs by itself.

    uv venv PEER --python 3.11 && uv pip install --python PEER/bin/python sanafe==2.2.9 numpy
    uv run python benchmarks/sanafe_compare.py --python PEER/bin/python [--case dvs] [--out figures.json]

SANA-FE (Boyle et al., IEEE TCAD 44(8) 2025; GPL-3.0) is a program of its own, in an environment of its own:
`sanafe_peer.py` drives it there through its public interface and writes what it gave. Cases:

    dense-N  two layers of N neurons on a core each, all to all, all firing in every step
    lif      784-512-256-10, leak 7/8, random 6-bit weights, input spikes at a rate of 10 %, on 1-2-1-1 cores
    dvs      the gesture network that SANA-FE's package holds, mapped as its tutorial does, on 42 cores

The networks are computed here anew (float64, sparse products), counted, and priced by `backends/chipsim/cost.py` with
hw_models/loihi1.yaml. Compared: spikes of every neuron and step, events (exactly), energy and step times with its
"simple" model (to 1e-9). Its "cycle" model (BookSim 2) and its "detailed" model are set against our clocked router; the
distance is stated. Exit 1 where what must be equal differs.

What the router is told, and where it comes from: the configuration text in SANA-FE's library (concentrated mesh 8x4,
4 cores a router, 2 subnetworks, FIFOs of 8 flits, a clock of 1 ns, one flit a packet); 4 cycles a hop and 3 to be
received, measured on single packets in the empty mesh of its cycle model (1 + 4 * hops + 3, for 0 to 10 hops); packets
of a core that alternate between the subnetworks, cores that wait while the mesh is full, and 8 packets that wait at a
core, as its sources have it (SLAM-Lab/booksim2-sanafe). All but the alternating and the waiting are options.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from snncompile.backends.chipsim.cost import Reception, Traffic, energy_report, event_counts, step_times_ns
from snncompile.backends.chipsim.router import Packets, RouterSettings, route_steps, to_cycles
from snncompile.backends.chipsim.router_bound import predicted_utilisation, router_bound

from snncompile.chip import Chip, load_chip

RELATIVE = 1e-9
CASES = {"dense-64": (100, 3), "dense-256": (20, 2), "dense-512": (10, 1), "lif": (25, 5), "dvs": (128, 64)}
"""Case and its chip steps, all of them and those that the cycle model runs (up to minutes a step)."""


@dataclass(frozen=True, eq=False)
class Layer:
    """Neurons of one layer, on consecutive cores: v <- leak * v + I + bias; fires above the threshold, then v <- 0.

    core (neurons,); spikes (T, neurons) of an input, whose neurons cost nothing; weights (neurons, next layer's).
    """

    core: np.ndarray
    threshold: float
    leak: float
    bias: np.ndarray
    spikes: np.ndarray | None
    weights: sparse.csr_array | None

    @property
    def size(self) -> int:
        return len(self.core)


@dataclass(frozen=True, eq=False)
class Trace:
    """What a layer did, (T, neurons) each.

    updated: its state or bias is not 0, or a spike arrives, as SANA-FE counts. summed_to_zero: neurons that the chip
    simulator would not count, whose arriving spikes add up to nothing.
    """

    fired: np.ndarray
    updated: np.ndarray
    summed_to_zero: np.ndarray


def layers_of(arrays: dict[str, np.ndarray], chip: Chip) -> list[Layer]:
    """The network that the peer says it ran."""
    first, layers = 0, []
    count = int(arrays["layers"])
    for i in range(count):
        split = arrays[f"cores_{i}"]
        core = first + np.repeat(np.arange(len(split)), split)
        first += len(split)
        kernel = arrays.get(f"kernel_{i}")
        weights = arrays.get(f"weights_{i}")
        if kernel is not None:
            joined = convolution(kernel, arrays[f"shape_{i}"], int(arrays[f"stride_{i}"]))
        else:
            joined = None if weights is None else dense(weights)
        spikes = arrays.get(f"spikes_{i}")
        bias = arrays[f"bias_{i}"].astype(np.float64)
        layers.append(Layer(core, float(arrays[f"threshold_{i}"]), float(arrays[f"leak_{i}"]), bias, spikes, joined))
    assert first <= chip.mesh.cores_per_chip
    return layers


def dense(weights: np.ndarray) -> sparse.csr_array:
    """All synapses of a (source, target) matrix, those of weight 0 too."""
    rows, columns = weights.shape
    indices = np.tile(np.arange(columns), rows)
    return sparse.csr_array(
        (weights.astype(np.float64).ravel(), indices, np.arange(rows + 1) * columns), shape=weights.shape
    )


def convolution(kernel: np.ndarray, shape: np.ndarray, stride: int) -> sparse.csr_array:
    """Synapses of a convolution without padding, kernel (rows, columns, in, out), input (rows, columns, channels).

    Neurons are numbered along columns, then rows, then channels. Synapses of weight 0 are synapses, too.
    """
    high, wide, channels = (int(n) for n in shape)
    k_rows, k_columns, _, out = kernel.shape
    rows, columns = (high - k_rows) // stride + 1, (wide - k_columns) // stride + 1
    y, x, ky, kx, c, o = np.indices((rows, columns, k_rows, k_columns, channels, out)).reshape(6, -1)
    source = (c * high + y * stride + ky) * wide + x * stride + kx
    target = (o * rows + y) * columns + x
    size = (high * wide * channels, rows * columns * out)
    return sparse.csr_array((kernel[ky, kx, c, o].astype(np.float64), (source, target)), shape=size)


def ones_of(weights: sparse.csr_array) -> sparse.csr_array:
    """1 for each synapse, whatever its weight."""
    return sparse.csr_array((np.ones(weights.nnz), weights.indices, weights.indptr), shape=weights.shape)


def run_network(layers: list[Layer], steps: int) -> list[Trace]:
    """Spikes of a step reach the next layer in the following one."""
    traces = [Trace(*(np.zeros((steps, layer.size), bool) for _ in range(3))) for layer in layers]
    potential = [np.zeros(layer.size) for layer in layers]
    joined = [None if layer.weights is None else ones_of(layer.weights) for layer in layers]
    for t in range(steps):
        for i, layer in enumerate(layers):
            if layer.spikes is not None:
                traces[i].fired[t] = traces[i].updated[t] = layer.spikes[t]
                continue
            current = arriving = np.zeros(layer.size)
            if i and t:
                spikes = traces[i - 1].fired[t - 1].astype(np.float64)
                current, arriving = layers[i - 1].weights.T @ spikes, joined[i - 1].T @ spikes
            alive = (potential[i] != 0) | (layer.bias != 0)
            traces[i].updated[t] = alive | (arriving != 0)
            traces[i].summed_to_zero[t] = traces[i].updated[t] & ~alive & (current == 0)
            potential[i] = layer.leak * potential[i] + current + layer.bias
            traces[i].fired[t] = potential[i] > layer.threshold
            potential[i][traces[i].fired[t]] = 0
    return traces


def synapses_at_cores(layers: list[Layer], cores: int) -> list[sparse.csr_array]:
    """(neurons, cores) synapses that a spike of each neuron reaches at each core; nothing stored where none."""
    found = []
    for layer, after in zip(layers, [*layers[1:], None], strict=True):
        if layer.weights is None or after is None:
            found.append(sparse.csr_array((layer.size, cores), dtype=np.int64))
            continue
        to_core = sparse.csr_array(
            (np.ones(after.size, np.int64), (np.arange(after.size), after.core)), (after.size, cores)
        )
        found.append(ones_of(layer.weights).astype(np.int64) @ to_core)
        found[-1].sort_indices()  # a neuron sends to its cores in order
    return found


def positions(cores: int, chip: Chip) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Column, row and place at the router of SANA-FE's cores: tile by tile, tiles down the columns."""
    tile, slot = np.divmod(np.arange(cores), chip.mesh.cores_per_router)
    return tile // chip.mesh.height, tile % chip.mesh.height, slot


def traffic_of(layers: list[Layer], traces: list[Trace], reached: list[sparse.csr_array], chip: Chip) -> Traffic:
    """Counts as the simulator's counter gives them: one sample, every core in the step it works in."""
    cores, steps = chip.mesh.cores_per_chip, len(traces[0].fired)
    x, y, _ = positions(cores, chip)
    neurons = np.zeros(cores, np.int64)
    updated, fired, sent, packets, synops = (np.zeros((steps, cores)) for _ in range(5))
    east_west, north_south = np.zeros(steps), np.zeros(steps)
    for layer, trace, reach in zip(layers, traces, reached, strict=True):
        on_core = sparse.csr_array((np.ones(layer.size), (np.arange(layer.size), layer.core)), (layer.size, cores))
        spikes = sparse.csr_array(trace.fired.astype(np.float64))
        if layer.spikes is None:
            neurons += np.bincount(layer.core, minlength=cores)
            updated += trace.updated @ on_core
            fired += spikes @ on_core
        pairs = (reach > 0).astype(np.float64)
        ways = pairs.tocoo()
        sent += spikes @ sparse.csr_array(on_core.multiply(pairs.sum(1)[:, None]))
        packets += spikes @ pairs
        synops += spikes @ reach
        home = layer.core[ways.row]
        east_west += spikes @ np.bincount(ways.row, np.abs(x[home] - x[ways.col]), layer.size)
        north_south += spikes @ np.bincount(ways.row, np.abs(y[home] - y[ways.col]), layer.size)
    reception = Reception(depth=0, first_tile=0, packets=packets[None], synops=synops[None])
    return Traffic(
        core=np.arange(cores),
        neurons=neurons,
        depth=np.zeros(cores, np.int64),
        updated=updated[None],
        fired=fired[None],
        packets_out=sent[None],
        receptions=(reception,),
        hops_east_west=east_west[None],
        hops_north_south=north_south[None],
        hops_chip_border=np.zeros((1, steps)),
    )


def messages(
    layers: list[Layer], traces: list[Trace], reached: list[sparse.csr_array], chip: Chip, cycle_ns: float
) -> Iterator[tuple[Packets, np.ndarray]]:
    """Of every step its packets in the numbering of our mesh, and what each core still generates after its last one.

    A core visits its neurons in order; a packet is ready when its neuron, and those before it, and the packets before
    it are done. Every wait is rounded to cycles by itself.
    """
    time_, cores = chip.time, chip.mesh.cores_per_chip
    x, y, slot = positions(cores, chip)
    number = (y * chip.mesh.width + x) * chip.mesh.cores_per_router + slot
    for t in range(len(traces[0].fired)):
        parts, trailing = [], np.zeros(cores, np.int64)
        for layer, trace, reach in zip(layers, traces, reached, strict=True):
            visit = np.zeros(layer.size)
            if layer.spikes is None:
                visit = time_.time_neuron_ns + time_.time_update_ns * trace.updated[t]
                visit += time_.time_spike_ns * trace.fired[t]
            rows = np.flatnonzero(trace.fired[t])
            mine = reach[rows]
            neuron = np.repeat(rows, np.diff(mine.indptr))
            for core in np.unique(layer.core):
                members = np.flatnonzero(layer.core == core)
                of_core = layer.core[neuron] == core
                passed = np.cumsum(visit[members])
                upto = passed[neuron[of_core] - members[0]]
                waits = np.diff(upto, prepend=0.0) + time_.time_packet_out_ns
                trailing[number[core]] += to_cycles(passed[-1] - (upto[-1] if len(upto) else 0.0), cycle_ns)
                service = time_.time_packet_in_ns + time_.time_synop_ns * mine.data[of_core]
                target = number[mine.indices[of_core]]
                ready = np.cumsum(to_cycles(waits, cycle_ns))
                parts.append((np.full(len(target), number[core]), target, ready, to_cycles(service, cycle_ns)))
        source, target, ready, service = (np.concatenate(column) for column in zip(*parts, strict=True))
        turn = np.concatenate([np.arange(len(part[0])) for part in parts])
        yield Packets.of(source, target, ready, service=service, subnetwork=turn % 2), trailing


def router_times(
    steps: list[tuple[Packets, np.ndarray]], chip: Chip, settings: RouterSettings, cycle_ns: float, barrier_ns: float
) -> np.ndarray:
    """Duration of every step in ns: until all packets are served and all cores have generated, and the barrier."""
    times = []
    runs = route_steps((packets for packets, _ in steps), chip.mesh, settings)
    for (packets, trailing), run in zip(steps, runs, strict=True):
        generated = np.zeros(chip.mesh.cores_per_chip, np.int64)
        np.maximum.at(generated, packets.source, run.entered)
        times.append(max(run.cycles, int((generated + trailing).max())) * cycle_ns + barrier_ns)
    return np.array(times)


@dataclass(frozen=True, eq=False)
class Ours:
    """What we make of a case: events per step, times of steps in ns, total energy in pJ, median wall times in s."""

    traces: list[Trace]
    counts: dict[str, np.ndarray]
    event_ns: np.ndarray
    clocked_ns: np.ndarray
    energy_pj: float
    utilisation: float
    walls: dict[str, float]


def ours_of(layers: list[Layer], steps: int, chip: Chip, settings: RouterSettings, cycle_ns: float) -> Ours:
    """Function, counts, event timing, energy and the clocked router, each timed."""
    tiles = -(-int(max(layer.core.max() for layer in layers) + 1) // chip.mesh.cores_per_router)
    barrier = chip.time.barrier_ns(tiles)
    walls: dict[str, float] = {}
    traces = timed(walls, "function", lambda: run_network(layers, steps))
    reached = synapses_at_cores(layers, chip.mesh.cores_per_chip)
    traffic = timed(walls, "counting", lambda: traffic_of(layers, traces, reached, chip))
    energy = timed(walls, "energy", lambda: energy_report(event_counts(traffic), chip))
    packets = timed(walls, "packets", lambda: list(messages(layers, traces, reached, chip, cycle_ns)))
    next(route_steps([packets[0][0]], chip.mesh, settings))  # compiled before it is timed
    return Ours(
        traces=traces,
        counts=counts_of(layers, traces, traffic),
        event_ns=timed(walls, "event timing", lambda: step_times_ns(traffic, chip, tiles)),
        clocked_ns=timed(walls, "router", lambda: router_times(packets, chip, settings, cycle_ns, barrier)),
        energy_pj=energy["cost_sets"][chip.nominal_energy.name]["total"],
        utilisation=max(predicted_utilisation(router_bound(p, chip.mesh, settings)) for p, _ in packets),
        walls=walls,
    )


def differences(ours: Ours, peer: dict[str, np.ndarray]) -> list[str]:
    """What must be equal to SANA-FE's simple model and is not."""
    differs = [
        f"{name} by {far(mine, theirs):.3g}"
        for name, mine, theirs in (
            ("step times", ours.event_ns, peer["simple.sim_time"] * 1e9),
            ("energy", ours.energy_pj, float(peer["simple.energy_j"]) * 1e12),
        )
        if far(mine, theirs) > RELATIVE
    ]
    for name in ("fired", "updated", "spikes", "hops"):
        if not np.array_equal(peer[f"simple.{name}"], ours.counts[name]):
            differs.append(f"{name} of steps")
    if int(peer["simple.packets"]) != ours.counts["packets"].sum():
        differs.append("packets")
    fired = {(t, i, n) for i, trace in enumerate(ours.traces) for t, n in np.argwhere(trace.fired).tolist()}
    if fired != {tuple(event) for event in peer["simple.fired_neurons"].tolist()}:
        differs.append("neurons that fire")
    return differs


def report(case: str, ours: Ours, peer: dict[str, np.ndarray]) -> dict[str, Any]:
    """Everything of one case: what differs (a list that should be empty), distances and wall times."""
    theirs = {model: peer[f"{model}.sim_time"] * 1e9 for model in ("simple", "detailed", "cycle")}
    few = len(theirs["cycle"])
    mine = {"event-timed": ours.event_ns, "clocked": ours.clocked_ns}
    return {
        "case": case,
        "steps": len(ours.event_ns),
        "steps_of_cycle_model": few,
        "differs": differences(ours, peer),
        "step_times_apart": far(ours.event_ns, theirs["simple"]),
        "energy_apart": far(ours.energy_pj, float(peer["simple.energy_j"]) * 1e12),
        "events": {name: int(values.sum()) for name, values in ours.counts.items()},
        "not_updated_by_our_rule": int(sum(trace.summed_to_zero.sum() for trace in ours.traces)),
        "energy_uj": ours.energy_pj / 1e6,
        "step_us": {f"ours {name}": float(ns.mean()) / 1e3 for name, ns in mine.items()}
        | {f"peer {model}": float(ns.mean()) / 1e3 for model, ns in theirs.items()},
        "apart": {
            "clocked from cycle": against(ours.clocked_ns[:few], theirs["cycle"]),
            "event-timed from cycle": against(ours.event_ns[:few], theirs["cycle"]),
            "detailed from cycle": against(theirs["detailed"][:few], theirs["cycle"]),
            "clocked from detailed": against(ours.clocked_ns, theirs["detailed"]),
        },
        "utilisation_max": ours.utilisation,
        "wall_ms_a_step": {f"ours {name}": 1e3 * wall / len(ours.event_ns) for name, wall in ours.walls.items()}
        | {f"peer {m}": 1e3 * float(np.median(peer[f"{m}.wall_s"])) / len(theirs[m]) for m in theirs},
        "peer_build_s": float(peer["build_s"]),
    }


def counts_of(layers: list[Layer], traces: list[Trace], traffic: Traffic) -> dict[str, np.ndarray]:
    """Events of every step under SANA-FE's names, inputs counted; its `spikes` are our synaptic operations."""
    reception = traffic.receptions[0]
    return {
        "fired": sum(trace.fired.sum(1) for trace in traces),
        "updated": sum(trace.updated.sum(1) for trace in traces),
        "spikes": reception.synops[0].sum(1).astype(np.int64),
        "hops": (traffic.hops_east_west + traffic.hops_north_south)[0].astype(np.int64),
        "packets": reception.packets[0].sum(1).astype(np.int64),
    }


def far(ours: Any, theirs: Any) -> float:
    """Largest relative distance."""
    return float(np.max(np.abs(np.asarray(ours) / np.asarray(theirs) - 1)))


def against(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Distance of all steps together, and of single steps, in per cent of the latter."""
    single = 100 * (ours / theirs - 1)
    return {
        "total_percent": float(100 * (ours.sum() / theirs.sum() - 1)),
        "step_percent_low": float(single.min()),
        "step_percent_high": float(single.max()),
    }


def timed(walls: dict[str, float], name: str, work: Any) -> Any:
    """What the work gives; its median wall time of three goes into walls."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - began)
    walls[name] = statistics.median(seconds)
    return result


def peer_arrays(python: Path, case: str, steps: int, cycle_steps: int, folder: Path) -> dict[str, np.ndarray]:
    """What sanafe_peer.py wrote, run by the other environment's Python."""
    out = folder / f"{case}.npz"
    script = Path(__file__).with_name("sanafe_peer.py")
    command = [str(python), str(script), case, str(steps), str(cycle_steps), str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return load(out)


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="Python of the environment that has SANA-FE")
    parser.add_argument("--case", choices=CASES, action="append", help="default: all")
    parser.add_argument("--cycle-steps", type=int, help="steps that its cycle model runs, where that is fewer")
    parser.add_argument("--peer-results", type=Path, help="folder of CASE.npz written by sanafe_peer.py before")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--cycle-ns", type=float, default=1.0)
    parser.add_argument("--fifo-flits", type=int, default=8)
    parser.add_argument("--hop-cycles", type=int, default=4)
    parser.add_argument("--eject-cycles", type=int, default=3)
    parser.add_argument("--receive-packets", type=int, default=8)
    return parser.parse_args()


def main() -> int:
    asked = arguments()
    if (asked.python is None) == (asked.peer_results is None):
        print("one of --python and --peer-results is needed", file=sys.stderr)
        return 2
    settings = RouterSettings(
        fifo_flits=asked.fifo_flits,
        hop_cycles_east_west=asked.hop_cycles,
        hop_cycles_north_south=asked.hop_cycles,
        eject_cycles=asked.eject_cycles,
        receive_packets=asked.receive_packets,
        generation_waits=True,
    )
    chip, figures = load_chip("loihi1"), []
    with tempfile.TemporaryDirectory() as folder:
        for case in asked.case or CASES:
            if asked.peer_results:
                arrays = load(asked.peer_results / f"{case}.npz")
            else:
                steps, few = CASES[case]
                few = min(few, asked.cycle_steps or few)
                arrays = peer_arrays(asked.python, case, steps, few, Path(folder))
            ours = ours_of(layers_of(arrays, chip), len(arrays["simple.sim_time"]), chip, settings, asked.cycle_ns)
            figures.append(report(case, ours, arrays))
            print(json.dumps(figures[-1], indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(figures, indent=1) + "\n")
    return int(any(figure["differs"] for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
