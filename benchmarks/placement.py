"""Placements of large networks: hops per packet, hottest link, estimated step time, and how long the search takes.

    OMP_NUM_THREADS=1 uv run python benchmarks/placement.py [--network NAME ...] [--effort 0 1 2 3] [--json FILE]

Every network is cut for cores of Loihi 2 and laid on a board of as many chips of 8 x 4 routers with 4 cores as it
takes; and for smaller cores (`SMALL`) on one mesh, as square as can be, of a core a router. Weights are 1, rates
are the stated assumption (`levels.default_levels`). Seconds are processor time of `place` alone, after numba has
compiled; the time of compiling (once a machine, then cached) is printed first.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from placement_networks import graph, resnet50, vgg16

from snncompile.backend import load_backend
from snncompile.chip import Chip, Mesh, load_chip
from snncompile.encoding import Encoder
from snncompile.levels import activity_of, default_levels
from snncompile.mapping.activity import packet_flow
from snncompile.mapping.optimise import EFFORTS, place
from snncompile.mapping.partition import CoreGraph, partition
from snncompile.mapping.place import Placement, place_random, place_row_major
from snncompile.mapping.routes import Flow, route_quality
from snncompile.program import Program, Provenance
from snncompile.quant_network import QuantNetwork
from snncompile.quantization.quantize import HostScales

NETWORKS: dict[str, Callable[[], QuantNetwork]] = {
    "vgg16_cifar": lambda: vgg16(32, (512, 10)),
    "resnet50_224": resnet50,
    "vgg16_224": lambda: vgg16(224, (4096, 4096, 1000)),
    "graph_local": lambda: graph(100_000, 90, local=True),
    "graph_random": lambda: graph(100_000, 90, local=False),
}

SMALL = {"neurons": 1024, "synapse_words": 16384, "axons_in": 8192, "axons_out": 8192}
"""Cores of the meshes with a core a router: of Loihi 1's size, but for axons, so that no layer needs remedies."""

TINY = {**SMALL, "neurons": 400}
"""Those for VGG16 on CIFAR-10, so that it fills a mesh of 29 x 28, one that others have published figures for."""

WIDE = {"synapse_words": 32000, "axons_in": 32000, "axons_out": 32000}
"""Added for VGG16-224, whose first linear layer has a fan-in of 25,088."""


def chips(network: str) -> dict[str, Chip]:
    """Chip models without a limit of cores; `meshes` gives them the mesh they need."""
    chip = load_chip("loihi2")
    wide = WIDE if network == "vgg16_224" else {}
    small = TINY if network == "vgg16_cifar" else SMALL
    free = {"width": 1000, "height": 1000, "cores_per_router": 1, "chips_across": 1, "chips_down": 1}
    return {
        name: chip.model_copy(
            update={
                "core": chip.core.model_copy(update={**core, **wide}),
                "mesh": chip.mesh.model_copy(update=free),
            }
        )
        for name, core in (("board", {}), ("mesh", small))
    }


def mesh_for(kind: str, cores: int) -> Mesh:
    if kind == "mesh":
        width = math.isqrt(cores - 1) + 1
        height = -(-cores // width)
        return Mesh(width=width, height=height, cores_per_router=1, chips_across=1, chips_down=1)
    chips = -(-cores // 128)
    across = max(1, math.isqrt(chips // 2))
    return Mesh(width=8, height=4, cores_per_router=4, chips_across=across, chips_down=-(-chips // across))


def program_of(network: QuantNetwork, chip: Chip, cores: CoreGraph, placement: Placement) -> Program:
    encoder = Encoder("events", 1.0, network.input_shape, network.timesteps, network.input_payload_max)
    host = HostScales(encoder, {p.name: np.ones(p.shape[0]) for p in network.populations}, 1.0)
    made = Provenance("0" * 64, {}, (), 8, "max", {}, "auto", "direct", {})
    return Program("benchmark", chip, network, host, cores, placement, made)


def placements(flow: Flow, mesh: Mesh, efforts: list[int]) -> Iterator[tuple[str, Placement, float]]:
    for name, make in (
        ("random", lambda: place_random(flow.cores, mesh, 0)),
        ("row-major", lambda: place_row_major(flow.cores, mesh)),
        *((f"effort {effort}", lambda effort=effort: place(flow, mesh, effort)) for effort in efforts),
    ):
        start = time.process_time()
        placement = make()
        yield name, placement, time.process_time() - start


def measure(name: str, efforts: list[int]) -> Iterator[dict[str, Any]]:
    network = NETWORKS[name]()
    activity = activity_of(network, default_levels(network))
    for kind, endless in chips(name).items():
        cores = partition(network, endless)
        mesh = mesh_for(kind, cores.core_count)
        chip = endless.model_copy(update={"mesh": mesh})
        start = time.process_time()
        flow = packet_flow(network, cores, activity)
        print(
            f"{name} on a {kind} of {mesh.chips} x {mesh.width} x {mesh.height} x {mesh.cores_per_router}: "
            f"{cores.core_count} cores, {len(flow.source)} pairs, flow in {time.process_time() - start:.2f} s"
        )
        rows = None
        for placed, placement, seconds in placements(flow, mesh, efforts):
            cost = load_backend("sim").estimate(program_of(network, chip, cores, placement), activity)
            quality = route_quality(flow, placement, mesh)
            row = {
                "network": name,
                "mesh": kind,
                "cores": cores.core_count,
                "placement": placed,
                "hops_per_packet": quality.hops_per_packet,
                "borders_per_packet": quality.borders_per_packet,
                "max_link_load": quality.max_link_load,
                "step_us": cost["step_us_mean"],
                "seconds": seconds,
            }
            rows = row if placed == "row-major" else rows
            row["of_rows"] = [row[key] / rows[key] for key in ("hops_per_packet", "max_link_load")] if rows else None
            print_row(row)
            yield row


def print_row(row: dict[str, Any]) -> None:
    of_rows = "".join(f" {100 * part:4.0f} %" for part in row["of_rows"]) if row["of_rows"] else " " * 14
    print(
        f"  {row['placement']:10s} {row['hops_per_packet']:7.2f} hops {row['borders_per_packet']:6.2f} borders "
        f"{row['max_link_load']:12,.0f} hottest{of_rows} {row['step_us']:10.3f} us a step {row['seconds']:7.2f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--effort", nargs="+", type=int, choices=range(len(EFFORTS)), default=[0, 1])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    chain = Flow.of(4, np.arange(3), np.arange(1, 4), np.ones(3))
    start = time.process_time()
    place(chain, Mesh(width=2, height=2, cores_per_router=1, chips_across=1, chips_down=1))
    print(f"numba: {time.process_time() - start:.1f} s to compile, or to load what is cached")
    rows = [row for name in args.network for row in measure(name, args.effort)]
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
