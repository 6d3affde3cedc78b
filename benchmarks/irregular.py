"""Irregular networks, as their neurons are numbered and in the order that `mapping.orders` chooses.

    OMP_NUM_THREADS=1 uv run python benchmarks/irregular.py [--network NAME ...] [--neurons N] [--json FILE]

A recurrent population of 100,000 neurons with 90 synapses each: to neurons anywhere (`random`), or near on a torus
(`local`, numbered square by square), and that with its numbers shuffled (`shuffled`). Each is compiled from the network
to the estimate: orders, passes, `place_program`, cost, for cores of Loihi 2 (`board`) and for smaller ones (`mesh`),
on as many chips as it takes; rates are the stated assumption. Seconds are processor time of the whole, after numba has
compiled, and `orders` of choosing them.
"""

import argparse
import json
import math
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from placement import chips, mesh_for

from snncompile.backend import load_backend
from snncompile.chip import Chip
from snncompile.levels import activity_of, default_levels
from snncompile.mapping.activity import packet_flow
from snncompile.mapping.orders import Ordering, choose_orders
from snncompile.mapping.routes import route_quality
from snncompile.network import Input, Linear, MultiThresholdLIF, Network, Readout, sparse
from snncompile.pipeline import lower, lowering_of, place_program, run_passes
from snncompile.program import Program, Provenance

SYNAPSES_EACH = 90
SPREAD = 8
"""Standard deviation of the offsets of local synapses, along both axes."""

SQUARE = 16
NETWORKS = ("random", "local", "shuffled")


def network(kind: str, neurons: int) -> Network:
    """16 inputs, the population, 10 classes that read 100 neurons each; weights are random, thresholds 1."""
    rng = np.random.default_rng(0)
    side = SQUARE * round(math.sqrt(neurons) / SQUARE)
    count = neurons if kind == "random" else side * side
    column = np.repeat(np.arange(count), SYNAPSES_EACH)
    row = rng.integers(0, count, len(column))
    if kind != "random":
        squares, within = np.divmod(np.arange(count), SQUARE * SQUARE)
        x = squares % (side // SQUARE) * SQUARE + within % SQUARE
        y = squares // (side // SQUARE) * SQUARE + within // SQUARE
        number = np.zeros((side, side), np.int64)
        number[y, x] = np.arange(count)
        dx, dy = np.rint(rng.normal(0, SPREAD, (2, len(column)))).astype(np.int64)
        row = number[(y[column] + dy) % side, (x[column] + dx) % side]
    if kind == "shuffled":
        shuffled = rng.permutation(count)
        row, column = shuffled[row], shuffled[column]
    row, column = np.divmod(np.unique(row * count + column), count)
    theta, last = np.ones(1), rng.permutation(count)[:1000]
    nodes = (
        Input("x", (), (16,), coding="events"),
        Linear("in", ("x",), rng.normal(0, 1, (count, 16)), np.zeros(count)),
        MultiThresholdLIF("n", ("in", "own"), theta, theta, theta, 0.9, "hard", "ge"),
        sparse("own", "n", rng.normal(0, SYNAPSES_EACH**-0.5, len(row)), row, column, np.zeros(count)),
        sparse("last", "n", rng.normal(0, 1, 1000), np.arange(1000) // 100, last, np.zeros(10)),
        Readout("out", ("last",)),
    )
    return Network(nodes, 4)


def compiled(net: Network, chip: Chip, ordered: bool) -> tuple[Program, Ordering, dict[str, float]]:
    start = time.process_time()
    folded = run_passes(net)
    ordering = choose_orders(folded, chip, "graded", 8) if ordered else Ordering({}, {})
    chosen = time.process_time() - start
    lowered = lower(net, chip.numerics, "graded", orders=ordering.orders)
    declared = lowering_of(folded, chip.numerics, "graded")
    made = Provenance(
        "0" * 64, {}, (), 8, "max", {}, "graded", "direct", declared, orders=ordering.orders, ordering=ordering.told
    )
    program = place_program("benchmark", chip, lowered, made)
    return program, ordering, {"orders": chosen, "so_far": time.process_time() - start}


def measure(kind: str, net: Network, core: str, ordered: bool) -> dict[str, Any]:
    chip = chips("graph_random")[core]
    mesh = mesh_for(core, 4096)
    program, ordering, seconds = compiled(net, chip.model_copy(update={"mesh": mesh}), ordered)
    start = time.process_time()
    activity = activity_of(program.network, default_levels(program.network))
    load_backend("sim").estimate(program, activity)
    seconds["whole"] = seconds.pop("so_far") + time.process_time() - start
    flow = packet_flow(program.network, program.core_graph, activity)
    own = program.core_graph.cores_of("n")
    packets = flow.packets[np.isin(flow.target, own)].sum()
    fired = activity["n"].sum() * program.network.timesteps
    return {
        "network": kind,
        "core": core,
        "order": "ordered" if ordering.orders else "left" if ordered else "as it comes",
        "targets_per_neuron": float(packets / fired),
        "packets": float(packets),
        "axons_in": float(program.core_graph.usage["axons_in"][own].mean()),
        "cores": len(own),
        "hops_per_packet": route_quality(flow, program.placement, mesh).hops_per_packet,
        **{f"{name}_s": value for name, value in seconds.items()},
        "memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--core", nargs="+", choices=("board", "mesh"), default=["board", "mesh"])
    parser.add_argument("--neurons", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    for ordered in (False, True):  # numba compiles, or loads what is cached
        measure("shuffled", network("shuffled", 4000), "mesh", ordered)
    rows = []
    print("network  core  order       targets   packets  axons in  cores   hops  orders s  whole s  peak GB")
    for kind in args.network:
        net = network(kind, args.neurons)
        for core in args.core:
            for ordered in (False, True):
                row = measure(kind, net, core, ordered)
                rows.append(row)
                print(
                    f"{kind:8s} {core:5s} {row['order']:11s} {row['targets_per_neuron']:7.2f} {row['packets']:9,.0f} "
                    f"{row['axons_in']:9,.0f} {row['cores']:6d} {row['hops_per_packet']:6.2f} {row['orders_s']:9.2f} "
                    f"{row['whole_s']:8.2f} {row['memory_gb']:8.2f}",
                    flush=True,
                )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
