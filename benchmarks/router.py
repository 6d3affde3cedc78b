"""How fast the clocked mesh router is, and how far its bound is from it, over the load.

    OMP_NUM_THREADS=1 uv run python benchmarks/router.py [--packets 500000] [--out figures.json]

Uniform random traffic on a mesh of single-flit packets, FIFOs of 8 and two subnetworks: every core sends one packet
each `gap` cycles. Per gap, medians of --repeats: packets a second of CPU time (the machine may be shared) and of wall
time, the run's cycles, the bound's, their distance, and the predicted utilisation of the busiest link.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from snncompile.backends.chipsim.router import Packets, RouterSettings, route
from snncompile.backends.chipsim.router_bound import predicted_utilisation, router_bound

from snncompile.chip import Mesh

GAPS = (64, 32, 24, 20, 16, 14, 12, 10, 8, 4)


def uniform(mesh: Mesh, packets: int, gap: int) -> Packets:
    """Every core sends the same number of packets, to cores drawn alike, one each gap cycles."""
    each = packets // mesh.cores
    source = np.repeat(np.arange(mesh.cores), each)
    target = np.random.default_rng(0).integers(0, mesh.cores, len(source))
    return Packets.of(source, target, ready=np.tile(np.arange(each) * gap, mesh.cores))


def measured(work: Any, repeats: int) -> tuple[Any, float, float]:
    """What the work gives, and the medians of its CPU and wall times in s."""
    cpu, wall = [], []
    for _ in range(repeats):
        started, began = time.process_time(), time.perf_counter()
        result = work()
        cpu.append(time.process_time() - started)
        wall.append(time.perf_counter() - began)
    return result, statistics.median(cpu), statistics.median(wall)


def at_gap(mesh: Mesh, settings: RouterSettings, packets: int, gap: int, repeats: int) -> dict[str, float]:
    load = uniform(mesh, packets, gap)
    run, cpu, wall = measured(lambda: route(load, mesh, settings), repeats)
    bound, bound_cpu, _ = measured(lambda: router_bound(load, mesh, settings), repeats)
    return {
        "gap_cycles": gap,
        "packets": len(load),
        "packets_per_cpu_s": len(load) / cpu,
        "packets_per_wall_s": len(load) / wall,
        "bound_packets_per_cpu_s": len(load) / bound_cpu,
        "cycles": run.cycles,
        "bound_cycles": bound.cycles,
        "bound_below_percent": 100 * (1 - bound.cycles / run.cycles),
        "predicted_utilisation": predicted_utilisation(bound),
        "links_a_packet": float(run.link_flits.sum()) / len(load),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=11, help="routers along each side of the mesh")
    parser.add_argument("--cores-per-router", type=int, default=4)
    parser.add_argument("--packets", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    asked = parser.parse_args()
    mesh = Mesh(
        width=asked.side, height=asked.side, cores_per_router=asked.cores_per_router, chips_across=1, chips_down=1
    )
    settings = RouterSettings()
    route(Packets.of(0, 1), mesh, settings)  # compiled before it is timed
    router_bound(Packets.of(0, 1), mesh, settings)
    figures = []
    print("gap  M packets/s CPU  wall   cycles    bound  below %  utilisation")
    for gap in GAPS:
        figures.append(at_gap(mesh, settings, asked.packets, gap, asked.repeats))
        f = figures[-1]
        rates = f"{f['packets_per_cpu_s'] / 1e6:15.2f} {f['packets_per_wall_s'] / 1e6:5.2f}"
        bounds = f"{f['cycles']:8.0f} {f['bound_cycles']:8.0f} {f['bound_below_percent']:8.2f}"
        print(f"{gap:3d} {rates} {bounds} {f['predicted_utilisation']:12.2f}")
    if asked.out:
        asked.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
