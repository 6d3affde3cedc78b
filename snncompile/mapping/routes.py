"""Follows packets over the routers of a board: links a pair of cores is apart, loads of links, quality of a placement.

The chips of a board join into one grid of routers (our assumption), rows * chips down by columns * chips across. A
packet goes along the row of its source to the column of its target, then along that column (XY routing).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from snncompile.chip import Mesh
from snncompile.mapping.place import Placement, chip_positions
from snncompile.quant_network import IntArray

FloatArray = NDArray[np.float64]

EXACT_BITS = 50
"""All packets of a flow are counted as 2^50 units: their sums are exact in float64."""


@dataclass(frozen=True, eq=False)
class Flow:
    """Packets in one inference from core to core: source, target (pairs,) core numbers, packets (pairs,) > 0.

    Pairs are distinct and sorted by source, then target. A pair may be one core twice: packets that stay on it.
    """

    cores: int
    source: IntArray
    target: IntArray
    packets: FloatArray

    @classmethod
    def of(cls, cores: int, source: IntArray, target: IntArray, packets: FloatArray) -> "Flow":
        """From entries in any order; those of the same pair add up, and what is 0 is left out."""
        joined = csr_array((packets, (source, target)), shape=(cores, cores))
        joined.sum_duplicates()
        joined.eliminate_zeros()
        entries = joined.tocoo()
        return cls(cores, entries.row.astype(np.int64), entries.col.astype(np.int64), entries.data)

    @property
    def total(self) -> float:
        return float(self.packets.sum())

    def thinned(self, pairs: int, seed: int) -> "Flow":
        """A random part of at most about so many pairs that stands for all; itself if it has no more.

        A pair is kept with probability min(1, packets / t), t = total / pairs, and then has max(packets, t) packets: so
        every pair has its own on average, and those with most are kept as they are.
        """
        if len(self.packets) <= pairs:
            return self
        least = self.total / pairs
        kept = np.random.default_rng(seed).random(len(self.packets)) * least < self.packets
        return Flow(self.cores, self.source[kept], self.target[kept], np.maximum(self.packets[kept], least))


def router_grid(placement: Placement, mesh: Mesh) -> tuple[IntArray, IntArray]:
    """Column and row (cores,) of every core's router on the joined grid."""
    column, row = (position[placement.chip] for position in chip_positions(mesh))
    return column * mesh.width + placement.x, row * mesh.height + placement.y


@dataclass(frozen=True, eq=False)
class Hops:
    """Router-to-router links of some routes: inside chips east-west and north-south, and over borders of chips."""

    east_west: IntArray
    north_south: IntArray
    chip_border: IntArray

    @property
    def all(self) -> IntArray:
        return self.east_west + self.north_south + self.chip_border


def hops(placement: Placement, mesh: Mesh, source: IntArray, target: IntArray) -> Hops:
    """Links from core source to core target, core numbers that broadcast: (pairs,), or (n, 1) and (1, m) for all."""
    x, y = router_grid(placement, mesh)
    across, down = (
        np.abs(position[placement.chip[source]] - position[placement.chip[target]]) for position in chip_positions(mesh)
    )
    return Hops(np.abs(x[source] - x[target]) - across, np.abs(y[source] - y[target]) - down, across + down)


def link_loads(flow: Flow, placement: Placement, mesh: Mesh) -> FloatArray:
    """Packets over each directed link, (4, rows, columns of the board): east, west, south, north, at the router left.

    A route adds its packets where it begins and takes them away where it ends; running sums along rows and columns
    give the loads, exactly for `whole_units` of packets.
    """
    rows, columns = mesh.height * mesh.chips_down, mesh.width * mesh.chips_across
    x, y = router_grid(placement, mesh)
    x0, y0, x1, y1 = x[flow.source], y[flow.source], x[flow.target], y[flow.target]
    units, unit = whole_units(flow.packets, EXACT_BITS)
    east_west = _running(units, y0, x0, x1, (rows, columns))
    north_south = _running(units, x1, y0, y1, (columns, rows)).swapaxes(1, 2)
    return np.concatenate([east_west, north_south]) * unit


def _running(units: IntArray, line: IntArray, start: IntArray, end: IntArray, shape: tuple[int, int]) -> FloatArray:
    """(2, lines, places) of shape (lines, places): units (routes,) over each link of the lines that routes go along.

    Forwards those of the places start to end - 1, backwards those of start to end + 1. A route that goes nowhere adds
    and takes away at one place.
    """
    lines, places = shape
    back = end < start
    first = (back * lines + line) * (places + 1) + back
    begins = np.bincount(first + np.minimum(start, end), units, 2 * lines * (places + 1))
    ends = np.bincount(first + np.maximum(start, end), units, 2 * lines * (places + 1))
    loads: FloatArray = (begins - ends).reshape(2, lines, places + 1).cumsum(2)
    return loads[:, :, :places]


def whole_units(packets: FloatArray, bits: int) -> tuple[IntArray, float]:
    """Packets (pairs,) rounded to whole units, at least one each, and the unit: a power of 2 of which all make 2^bits.

    Sums of whole units below 2^53 are exact in float64, in any order.
    """
    total = float(packets.sum())
    unit = math.ldexp(1.0, math.frexp(total)[1] - bits) if total > 0 else 1.0
    return np.maximum(np.rint(packets / unit), 1).astype(np.int64), unit


@dataclass(frozen=True)
class RouteQuality:
    """How far packets go: mean links of a packet, those of them over borders of chips, and packets per inference on
    the busiest link.
    """

    hops_per_packet: float
    borders_per_packet: float
    max_link_load: float


def route_quality(flow: Flow, placement: Placement, mesh: Mesh) -> RouteQuality:
    """Quality of a placement for a flow; a packet between populations that share a core counts, with 0 hops."""
    links = hops(placement, mesh, flow.source, flow.target)
    total = flow.total or 1.0
    every, borders = (float(flow.packets @ counts) / total for counts in (links.all, links.chip_border))
    return RouteQuality(every, borders, float(link_loads(flow, placement, mesh).max()))
