"""The placement in report.json, beside cores at random and in rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from snncompile.mapping.optimise import BORDER_LINKS
from snncompile.mapping.place import Placement, place_random, place_row_major
from snncompile.mapping.routes import Flow, link_loads, route_quality
from snncompile.program import Program

BASELINE_SEED = 0

DIRECTIONS = ("east", "west", "south", "north")
"""Of a link, in the order of `link_loads`."""

BOUND = (
    "cores: the time that a link takes for a packet is not published for this chip, so the estimated step times hold "
    "none; below link_ns_until_bound, no link alone takes longer than the busiest core"
)


def mapping_report(program: Program, flow: Flow, cost: Mapping[str, Any]) -> dict[str, Any]:
    """How far packets go on the program's placement, and on the baselines; flow: packets per inference.

    cost: of the chip simulator, of which step_us_mean and barrier_ns are read. The event-timed step depends on the
    placement through the routers in use alone, by the barrier; a chip may come out alike on all.
    """
    mesh, cores = program.chip.mesh, program.core_graph.core_count
    baselines = {
        "random": place_random(cores, mesh, BASELINE_SEED),
        "row_major": place_row_major(cores, mesh),
    }
    return {
        **_figures(program, program.placement, flow, cost),
        "routers_used": program.placement.routers_used,
        "unit": "packets per inference",
        "step_bound": BOUND,
        "border_links": BORDER_LINKS,
        "baselines": {name: _figures(program, placement, flow, cost) for name, placement in baselines.items()},
    }


def links_report(program: Program, flow: Flow) -> dict[str, Any]:
    """Packets per inference over every used link: lists of direction, column and row of the router left, packets."""
    loads = link_loads(flow, program.placement, program.chip.mesh)
    way, row, column = np.nonzero(loads)
    return {
        "direction": [DIRECTIONS[number] for number in way.tolist()],
        "x": column.tolist(),
        "y": row.tolist(),
        "packets": loads[way, row, column].tolist(),
    }


def _figures(program: Program, placement: Placement, flow: Flow, cost: Mapping[str, Any]) -> dict[str, Any]:
    quality = route_quality(flow, placement, program.chip.mesh)
    figures: dict[str, Any] = {
        "hops_per_packet": quality.hops_per_packet,
        "max_link_load": quality.max_link_load,
        "chip_border_hops": quality.borders_per_packet * flow.total,
        "step_us": None,
        "link_ns_until_bound": None,
    }
    if "step_us_mean" in cost:
        busy_us = cost["step_us_mean"] - cost["barrier_ns"] / 1e3
        barrier_ns = program.chip.time.barrier_ns(placement.routers_of_a_chip)
        per_step = quality.max_link_load / program.network.timesteps
        figures["step_us"] = busy_us + barrier_ns / 1e3
        figures["link_ns_until_bound"] = busy_us * 1e3 / per_step if per_step else None
    return figures
