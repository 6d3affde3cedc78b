"""A bound on what the clocked router takes, from loads alone: which links, ports and cores work how long.

A core sends its packets in order, a flit a cycle: packet k begins to enter at head_k = max(end of k - 1, ready_k).
Every link, ejection port and core is taken for a machine that works through its packets one at a time, each no earlier
than it could be there in an empty mesh: end = max(end, release) + work, in the order of release, is the least that any
order takes. What follows behind the machine is at least the shortest way from there to the end:

    cycles >= max over machines of (end + least cycles from there until served)

A core's machine is released when the packet could be there and works its service, so the longest way is in it, too.
No queue and no back-pressure is in the bound: it holds for every setting of them, and is met where nobody waits.
"""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from snncompile.chip import Mesh

from .router import Ints, Packets, RouterSettings, board_shape, link_table, load_of
from .router_kernel import FAR, Table


@dataclass(frozen=True, eq=False)
class RouterBound:
    """Least cycles of a step, and which resource asks for them.

    by_*: what the busiest link, the sending cores with the ways behind them, the busiest ejection port and the busiest
    receiving core ask for; cycles is the largest.
    link_cycles (subnetworks, 4, rows, columns): cycles each link is busy, as in `router.RouterRun`.
    """

    by_link: int
    by_injection: int
    by_ejection: int
    by_service: int
    link_cycles: Ints

    @property
    def cycles(self) -> int:
        return max(self.by_link, self.by_injection, self.by_ejection, self.by_service)

    @property
    def cycles_without_links(self) -> int:
        """What ports and cores alone ask for."""
        return max(self.by_injection, self.by_ejection, self.by_service)


def router_bound(packets: Packets, mesh: Mesh, settings: RouterSettings | None = None) -> RouterBound:
    """Bound for the packets of one step, as `router.route` takes them; InternalError as there."""
    settings = settings or RouterSettings()
    rows, columns = board_shape(mesh)
    load, _ = load_of(packets, mesh, settings)
    to, latency, busy = link_table(mesh, settings)
    links = np.zeros((settings.subnetworks * len(to), 3), np.int64)
    links[:, 1:] = FAR
    heads, path = _heads(load), np.ones(len(load), np.int64)
    _walk(load, columns, mesh.cores_per_router, to, latency, busy, links, path)
    eject, flits, service = settings.eject_cycles, load["flits"], load["service"]
    arrival = heads + path + flits - 1 + eject
    least = np.full(rows * columns * mesh.cores_per_router, FAR)
    np.minimum.at(least, load["target"], service)
    order = np.argsort(heads, kind="stable")
    link_end = _link_ends(load, order, heads, columns, mesh.cores_per_router, to, busy, links)
    ejected = _ends(load["target"], heads + path, flits, len(least))
    served = _ends(load["target"], arrival, service, len(least))
    linked, taken = links[:, 0] > 0, ejected > 0
    return RouterBound(
        by_link=int((link_end[linked] + links[linked, 2] + eject).max(initial=0)),
        by_injection=int((arrival + service).max(initial=0)),
        by_ejection=int((ejected[taken] + eject - 1 + least[taken]).max(initial=0)),
        by_service=int(served.max(initial=0)),
        link_cycles=links[:, 0].reshape(settings.subnetworks, rows, columns, 4).transpose(0, 3, 1, 2),
    )


def predicted_utilisation(bound: RouterBound, window_cycles: float | None = None) -> float:
    """Share of a step in which its busiest link is busy, above 1 where the links ask for more than the step has.

    window_cycles: the step without the mesh, as the event-timed model has it without the barrier; None: what ports and
    cores ask for. 0 where no link is used; above 0.5 the bound is not to be trusted and the router is to be run.
    """
    busiest = float(bound.link_cycles.max(initial=0))
    window = bound.cycles_without_links if window_cycles is None else window_cycles
    return busiest / window if busiest else 0.0


@numba.njit(cache=True, nogil=True)
def _heads(load: Table) -> Any:
    """First cycle (packets,) in which each packet can begin to enter."""
    heads = np.zeros(len(load), np.int64)
    end = 0
    for i in range(len(load)):
        if i and load[i].source != load[i - 1].source:
            end = 0
        heads[i] = max(end, load[i].ready)
        end = heads[i] + load[i].flits
    return heads


@numba.njit(cache=True, nogil=True)
def _link_on(router: int, target: int, columns: int) -> Any:
    """The link out of a router on the XY way to another one, -1 at the target."""
    across = target % columns - router % columns
    if across:
        return 4 * router + (0 if across > 0 else 1)
    if target != router:
        return 4 * router + (2 if target > router else 3)
    return -1


@numba.njit(cache=True, nogil=True)
def _walk(load: Table, columns: int, slots: int, to: Ints, latency: Ints, busy: Ints, links: Ints, path: Ints) -> None:
    """Per link cycles busy, least cycles from entering to leaving over it, least from the end of that until served.

    path (packets,), 1 before: cycles from entering to leaving the last router.
    """
    for i in range(len(load)):
        packet = load[i]
        first, target = packet.source // slots, packet.target // slots
        link = _link_on(first, target, columns)
        while link >= 0:
            path[i] += latency[link]
            link = _link_on(to[link], target, columns)
        before = 1
        link = _link_on(first, target, columns)
        while link >= 0:
            entry = links[packet.subnetwork * len(to) + link]
            entry[0] += packet.flits * busy[link]
            entry[1] = min(entry[1], before)
            entry[2] = min(entry[2], path[i] - before - busy[link] + packet.service)
            before += latency[link]
            link = _link_on(to[link], target, columns)


@numba.njit(cache=True, nogil=True)
def _link_ends(
    load: Table, order: Ints, heads: Ints, columns: int, slots: int, to: Ints, busy: Ints, links: Ints
) -> Any:
    """When every link (links,) has worked through its packets, each released at its head plus the link's least way."""
    ends = np.zeros(len(links), np.int64)
    for i in order:
        packet = load[i]
        target = packet.target // slots
        link = _link_on(packet.source // slots, target, columns)
        while link >= 0:
            at = packet.subnetwork * len(to) + link
            ends[at] = max(ends[at], heads[i] + links[at, 1]) + packet.flits * busy[link]
            link = _link_on(to[link], target, columns)
    return ends


def _ends(machine: Ints, release: Ints, work: Ints, machines: int) -> Ints:
    """When every machine (machines,) has worked through its packets in the order of release; 0 where it has none."""
    return _run_machines(machine, release, work, np.argsort(release, kind="stable"), machines)


@numba.njit(cache=True, nogil=True)
def _run_machines(machine: NDArray[Any], release: Ints, work: NDArray[Any], order: Ints, machines: int) -> Any:
    ends = np.zeros(machines, np.int64)
    for i in order:
        ends[machine[i]] = max(ends[machine[i]], release[i]) + work[i]
    return ends
