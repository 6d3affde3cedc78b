"""Puts logical cores on the mesh, and follows packets over it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snncompile.chip import Mesh
from snncompile.mapping.traffic import Counts
from snncompile.quant_network import IntArray


@dataclass(frozen=True, eq=False)
class Placement:
    """Router column `x` and row `y` of every logical core (cores,), and which of the router's cores it is (`slot`)."""

    x: IntArray
    y: IntArray
    slot: IntArray

    @property
    def routers_used(self) -> int:
        return len(set(zip(self.x.tolist(), self.y.tolist(), strict=True)))


def place_hilbert(cores: int, mesh: Mesh) -> Placement:
    """Cores in pipeline order along a Hilbert curve over the routers, so that consecutive layers are neighbours.

    Source: Jin et al., ASPLOS 2023, for the Hilbert start.
    """
    return _along(list(_hilbert_curve(mesh)), cores, mesh)


def place_row_major(cores: int, mesh: Mesh) -> Placement:
    """Cores in pipeline order, row by row. A baseline of the report."""
    return _along([(x, y) for y in range(mesh.height) for x in range(mesh.width)], cores, mesh)


def place_random(cores: int, mesh: Mesh, seed: int) -> Placement:
    """Cores at random slots. A baseline of the report."""
    slots = np.random.default_rng(seed).permutation(mesh.cores)[:cores]
    router, slot = np.divmod(slots, mesh.cores_per_router)
    return Placement(router % mesh.width, router // mesh.width, slot)


def _along(routers: list[tuple[int, int]], cores: int, mesh: Mesh) -> Placement:
    router, slot = np.divmod(np.arange(cores), mesh.cores_per_router)
    xy = np.array(routers)[router]
    return Placement(xy[:, 0], xy[:, 1], slot)


def _hilbert_curve(mesh: Mesh) -> Iterator[tuple[int, int]]:
    """Points of the width x height mesh in the order of the smallest Hilbert square around it, long side first."""
    order = (max(mesh.width, mesh.height) - 1).bit_length()
    tall = mesh.height >= mesh.width
    for index in range(4**order):
        a, b = _hilbert_point(index, order)
        x, y = (a, b) if tall else (b, a)
        if x < mesh.width and y < mesh.height:
            yield x, y


def _hilbert_point(index: int, order: int) -> tuple[int, int]:
    """(short, long) coordinates of the index-th point; the curve's first half fills the half with small `short`."""
    x = y = 0
    side = 1
    for _ in range(order):
        right = (index // 2) % 2
        up = (index ^ right) % 2
        if not up:
            if right:
                x, y = side - 1 - x, side - 1 - y
            x, y = y, x
        x, y = x + side * right, y + side * up
        index //= 4
        side *= 2
    return x, y


def hops(placement: Placement) -> tuple[IntArray, IntArray]:
    """(cores, cores) router-to-router links between two cores under XY routing: east-west, north-south."""
    return (np.abs(placement.x[:, None] - placement.x), np.abs(placement.y[:, None] - placement.y))


def link_loads(flow: Counts, placement: Placement, mesh: Mesh) -> NDArray[np.float64]:
    """Packets over each directed link, (4, height, width): east, west, south, north, at the router it leaves.

    flow (cores, cores): packets from core to core. XY: along the row of the source, then the target's column.
    """
    loads = np.zeros((4, mesh.height, mesh.width))
    for source, target in np.argwhere(flow > 0):
        x0, y0, x1, y1 = (
            int(v) for v in (placement.x[source], placement.y[source], placement.x[target], placement.y[target])
        )
        packets = flow[source, target]
        if x1 > x0:
            loads[0, y0, x0:x1] += packets
        elif x1 < x0:
            loads[1, y0, x1 + 1 : x0 + 1] += packets
        if y1 > y0:
            loads[2, y0:y1, x1] += packets
        elif y1 < y0:
            loads[3, y1 + 1 : y0 + 1, x1] += packets
    return loads


@dataclass(frozen=True)
class RouteQuality:
    """How far packets go: mean hops of a packet between cores, and packets per inference on the busiest link."""

    hops_per_packet: float
    max_link_load: float


def route_quality(flow: Counts, placement: Placement, mesh: Mesh) -> RouteQuality:
    """Quality of a placement for flow (cores, cores) in packets per inference."""
    east_west, north_south = hops(placement)
    packets = float(flow.sum())
    mean = float((flow * (east_west + north_south)).sum()) / packets if packets else 0.0
    return RouteQuality(mean, float(link_loads(flow, placement, mesh).max()))
