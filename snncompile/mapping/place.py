"""Puts logical cores on the chips of a board, and follows packets over their joined mesh."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snncompile.chip import Mesh
from snncompile.mapping.traffic import Counts
from snncompile.quant_network import IntArray


@dataclass(frozen=True, eq=False)
class Placement:
    """Of every logical core (cores,) its chip, its router's column `x` and row `y` on that chip, and which of the
    router's cores it is (`slot`).

    Chips are numbered in the order they are filled: along the first row of the board, back along the next, and so on.
    """

    chip: IntArray
    x: IntArray
    y: IntArray
    slot: IntArray

    @property
    def chips_used(self) -> int:
        return len(np.unique(self.chip))

    @property
    def routers_used(self) -> int:
        return sum(self._routers_by_chip())

    @property
    def routers_of_a_chip(self) -> int:
        """Routers in use on the chip that uses most."""
        return max(self._routers_by_chip())

    def _routers_by_chip(self) -> list[int]:
        routers = set(zip(self.chip.tolist(), self.x.tolist(), self.y.tolist(), strict=True))
        return [sum(router[0] == chip for router in routers) for chip in set(self.chip.tolist())]


def place_hilbert(cores: int, mesh: Mesh) -> Placement:
    """Cores in pipeline order, chip after chip, along a Hilbert curve over the routers of each: neighbours stay near.

    Every other chip has the curve upside down, and those of a row of the board that runs back have it mirrored.
    Source: Jin et al., ASPLOS 2023, for the Hilbert start.
    """
    curve = np.array(list(_hilbert_curve(mesh)))
    placement = _along(curve, cores, mesh)
    column, row = chip_positions(mesh)
    back, odd = row[placement.chip] % 2 == 1, column[placement.chip] % 2 == 1
    x = np.where(back, mesh.width - 1 - placement.x, placement.x)
    y = np.where(odd != back, mesh.height - 1 - placement.y, placement.y)
    return Placement(placement.chip, x, y, placement.slot)


def place_row_major(cores: int, mesh: Mesh) -> Placement:
    """Cores in pipeline order, chip after chip, row by row. A baseline of the report."""
    return _along(np.array([(x, y) for y in range(mesh.height) for x in range(mesh.width)]), cores, mesh)


def place_random(cores: int, mesh: Mesh, seed: int) -> Placement:
    """Cores at random slots of as few chips as hold them. A baseline of the report."""
    chips = -(-cores // mesh.cores_per_chip)
    slots = np.random.default_rng(seed).permutation(chips * mesh.cores_per_chip)[:cores]
    chip, core = np.divmod(slots, mesh.cores_per_chip)
    router, slot = np.divmod(core, mesh.cores_per_router)
    return Placement(chip, router % mesh.width, router // mesh.width, slot)


def _along(routers: IntArray, cores: int, mesh: Mesh) -> Placement:
    """Cores in order over the routers (x, y) of one chip after the other."""
    chip, core = np.divmod(np.arange(cores), mesh.cores_per_chip)
    router, slot = np.divmod(core, mesh.cores_per_router)
    return Placement(chip, routers[router, 0], routers[router, 1], slot)


def chip_positions(mesh: Mesh) -> tuple[IntArray, IntArray]:
    """Column and row on the board of every chip (chips,): row by row, every second row backwards."""
    row, along = np.divmod(np.arange(mesh.chips), mesh.chips_across)
    return np.where(row % 2 == 1, mesh.chips_across - 1 - along, along), row


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


@dataclass(frozen=True, eq=False)
class Hops:
    """(cores, cores) router-to-router links between two cores: inside chips east-west and north-south, and over the
    borders of chips.
    """

    east_west: IntArray
    north_south: IntArray
    chip_border: IntArray

    @property
    def all(self) -> IntArray:
        return self.east_west + self.north_south + self.chip_border


def hops(placement: Placement, mesh: Mesh) -> Hops:
    """Links under XY routing on the one grid that the chips of a board join into (our assumption)."""
    column, row = (position[placement.chip] for position in chip_positions(mesh))
    x, y = column * mesh.width + placement.x, row * mesh.height + placement.y
    across, down = (np.abs(chip[:, None] - chip) for chip in (column, row))
    return Hops(np.abs(x[:, None] - x) - across, np.abs(y[:, None] - y) - down, across + down)


def link_loads(flow: Counts, placement: Placement, mesh: Mesh) -> NDArray[np.float64]:
    """Packets over each directed link, (4, rows, columns of the board): east, west, south, north, at the router left.

    flow (cores, cores): packets from core to core. XY: along the row of the source, then the target's column.
    """
    loads = np.zeros((4, mesh.height * mesh.chips_down, mesh.width * mesh.chips_across))
    column, row = (position[placement.chip] for position in chip_positions(mesh))
    x, y = (column * mesh.width + placement.x).tolist(), (row * mesh.height + placement.y).tolist()
    for source, target in np.argwhere(flow > 0):
        x0, y0, x1, y1 = x[source], y[source], x[target], y[target]
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
    packets = float(flow.sum())
    mean = float((flow * hops(placement, mesh).all).sum()) / packets if packets else 0.0
    return RouteQuality(mean, float(link_loads(flow, placement, mesh).max()))
