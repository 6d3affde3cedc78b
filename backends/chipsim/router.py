"""A clocked mesh router: when the packets of one chip step are through, with queues, back-pressure, borders of chips.

The chips of a board are one grid of routers (as for link loads in `snncompile/mapping`), `cores_per_router` cores each.
Packets take XY routes. In every cycle, from the state at its start:

- A core writes one flit of its next packet into its injection FIFO if that has room; the flit can go on a cycle later.
- A flit at the head of an input FIFO asks for the link that XY routing gives, or for the ejection port of its core.
  A link takes one flit a cycle (one every `border_flit_cycles` at a border of chips), and only where the FIFO it leads
  to has room, flits under way to it included (credits come back in the next cycle). It arrives after the hop's cycles.
- Wormhole: an output stays with a packet from head to tail. So a packet may be longer than a FIFO is deep, and a short
  FIFO delays no head, which virtual cut-through would do; flits of two packets never mix. Free outputs serve the input
  ports in turn (round robin).
- `subnetworks` copies of the mesh share cores and ejection ports. A packet takes number (source + target) mod
  subnetworks, hence all of a flow the same, and with one FIFO a port, flows keep their order.
- A core serves packets one after the other, and may hold `receive_packets` that wait; while these are all taken, its
  ejection port, and then the mesh behind it, stands still.

XY routes have no cyclic dependency, so nothing deadlocks; if nothing could ever move again, that is an InternalError.
Cycles are the caller's: `to_cycles` makes them from times. Multicast is a packet for each target core.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from snncompile.chip import Mesh
from snncompile.errors import CompileError, InternalError
from snncompile.mapping.place import Placement, chip_positions

from .router_kernel import CORE, FAR, FIFO, OUTPUT, PACKET, SLOT, STUCK, Lists, Shape, Table, drain

Ints = NDArray[np.int64]

DIRECTIONS = ("east", "west", "south", "north")
"""Order of links, as in `link_loads` of the mapping; south is the larger row."""


@dataclass(frozen=True)
class RouterSettings:
    """What the mesh is like, in flits and cycles.

    fifo_flits: depth of every input FIFO. hop_cycles_*: from leaving a router to being at the head of the next one's
    FIFO, if that is empty. eject_cycles: from leaving the last router to being received. border_flit_cycles: a link
    from chip to chip takes one flit in so many cycles, and at least as long to cross. receive_packets: that a core
    holds besides the one it serves, None for no bound. generation_waits: the time from one packet of a core to its next
    counts from when the first has entered the mesh, so that a mesh that is full holds up the core; else every packet is
    ready when it says. Defaults are ours, a plain mesh of single-cycle hops; a chip's numbers come from its model.

    Raises CompileError where a number is below 1 (or, of receive_packets, below 1 and not None).
    """

    fifo_flits: int = 8
    subnetworks: int = 2
    hop_cycles_east_west: int = 1
    hop_cycles_north_south: int = 1
    eject_cycles: int = 1
    border_flit_cycles: int = 1
    receive_packets: int | None = None
    generation_waits: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "generation_waits" and value is not None and value < 1:
                raise CompileError(f"router.{field.name}", f"{value} is less than 1")


@dataclass(frozen=True, eq=False)
class Packets:
    """Packets of one step, (packets,) each; those of one source in the order it sends them.

    source, target: cores of the grid (`core_numbers`); a core may send to itself. ready: cycle from which a core can
    send it, not falling within a source. flits: its length. service: cycles its target is busy with it.
    subnetwork: which copy of the mesh it takes; None: (source + target) mod subnetworks.
    """

    source: Ints
    target: Ints
    ready: Ints
    flits: Ints
    service: Ints
    subnetwork: Ints | None = None

    @classmethod
    def of(
        cls,
        source: ArrayLike,
        target: ArrayLike,
        ready: ArrayLike = 0,
        flits: ArrayLike = 1,
        service: ArrayLike = 0,
        subnetwork: ArrayLike | None = None,
    ) -> "Packets":
        """Packets from numbers or arrays that broadcast to (packets,)."""
        given = [np.atleast_1d(np.asarray(values, np.int64)) for values in (source, target, ready, flits, service)]
        a, b, c, d, e = (np.ascontiguousarray(column) for column in np.broadcast_arrays(*given))
        chosen = None if subnetwork is None else np.broadcast_to(np.asarray(subnetwork, np.int64), a.shape)
        return cls(a, b, c, d, e, chosen)

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True, eq=False)
class RouterRun:
    """One step through the mesh; rows and columns are those of the board.

    cycles: when all packets are served. entered, delivered (packets,): cycle in which the last flit enters the mesh,
    and at which it is at its core. link_flits (subnetworks, 4, rows, columns): over each link, at the router left, in
    the order of DIRECTIONS. link_cycles: the same, in cycles the link is busy. fifo_peak (subnetworks, rows, columns,
    4 + cores_per_router): most flits in or on their way to each input FIFO at the start of a cycle, first those of the
    links, by the direction travelled, then those of the cores.
    """

    cycles: int
    entered: Ints
    delivered: Ints
    link_flits: Ints
    link_cycles: Ints
    fifo_peak: Ints


def route(packets: Packets, mesh: Mesh, settings: RouterSettings | None = None) -> RouterRun:
    """Runs the packets of one step through the empty mesh, cycle by cycle; the module says how.

    Raises InternalError: malformed packets, or a mesh in which nothing can move any more.
    """
    return next(route_steps([packets], mesh, settings))


def route_steps(steps: Iterable[Packets], mesh: Mesh, settings: RouterSettings | None = None) -> Iterator[RouterRun]:
    """Each step by itself through the empty mesh, as `route` does it; the tables of the mesh are made once."""
    settings = settings or RouterSettings()
    fabric = Fabric.of(mesh, settings)
    by_link = (settings.subnetworks, *board_shape(mesh), 4)
    busy = fabric.outputs["cycles"][: fabric.shape.links].reshape(by_link).transpose(0, 3, 1, 2)
    for packets in steps:
        load, order = load_of(packets, mesh, settings)
        cycles, fifos, outputs = fabric.run(load)
        if cycles == STUCK:
            left = int((load["delivered"] == 0).sum())
            raise InternalError(f"router: {left} packets are stuck, which XY routes exclude")
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        flits = outputs["flits"][: fabric.shape.links].reshape(by_link).transpose(0, 3, 1, 2)
        yield RouterRun(
            cycles=cycles,
            entered=load["entered"][back],
            delivered=load["delivered"][back],
            link_flits=flits,
            link_cycles=flits * busy,
            fifo_peak=fifos["peak"].astype(np.int64).reshape(*by_link[:3], fabric.shape.ports),
        )


def core_numbers(placement: Placement, mesh: Mesh) -> Ints:
    """Number of every logical core (cores,) on the grid of the board: router by router along the rows, then slots."""
    column, row = (position[placement.chip] for position in chip_positions(mesh))
    x, y = column * mesh.width + placement.x, row * mesh.height + placement.y
    return (y * board_shape(mesh)[1] + x) * mesh.cores_per_router + placement.slot


def board_shape(mesh: Mesh) -> tuple[int, int]:
    """Rows and columns of routers of the whole board."""
    return mesh.height * mesh.chips_down, mesh.width * mesh.chips_across


def to_cycles(times_ns: ArrayLike, cycle_ns: float) -> Ints:
    """Times in whole cycles, halves up: floor(time / cycle + 1/2)."""
    return np.floor(np.asarray(times_ns, np.float64) / cycle_ns + 0.5).astype(np.int64)


def packets_of_flow(
    source: Ints,
    target: Ints,
    packets: Ints,
    generation_ns: NDArray[np.float64],
    service_ns: NDArray[np.float64],
    cycle_ns: float,
) -> Packets:
    """Packets of a step of which only counts are known.

    source, target (pairs,): distinct pairs of cores of the grid; packets (pairs,): how many. A source sends what goes
    to its targets in even turns, and evenly over generation_ns (cores,): the k-th of n is ready at k / n of it, k from
    1. service_ns (pairs,): what a packet of the pair keeps its target busy.
    """
    pair = np.repeat(np.arange(len(packets)), packets)
    place = np.arange(len(pair)) - np.repeat(np.cumsum(packets) - packets, packets)
    pair = pair[np.lexsort((target[pair], (place + 0.5) / packets[pair], source[pair]))]
    sent = np.bincount(source, packets, len(generation_ns)).astype(np.int64)
    sender = source[pair]
    turn = np.arange(len(pair)) - (np.cumsum(sent) - sent)[sender] + 1
    ready = to_cycles(generation_ns[sender] * turn / sent[sender], cycle_ns)
    return Packets.of(sender, target[pair], ready, service=to_cycles(service_ns[pair], cycle_ns))


def load_of(packets: Packets, mesh: Mesh, settings: RouterSettings) -> tuple[Table, Ints]:
    """The packets source by source for the kernel, and the order (packets,) they are taken in.

    Raises InternalError for lengths that differ, cores off the grid, negative cycles, packets without a flit, unknown
    subnetworks, or ready cycles that fall within a source.
    """
    rows, columns = board_shape(mesh)
    cores = rows * columns * mesh.cores_per_router
    chosen = packets.subnetwork
    if chosen is None:
        chosen = (packets.source + packets.target) % settings.subnetworks
    limits = {
        "source": (packets.source, 0, cores),
        "target": (packets.target, 0, cores),
        "ready": (packets.ready, 0, FAR),
        "flits": (packets.flits, 1, FAR),
        "service": (packets.service, 0, FAR),
        "subnetwork": (chosen, 0, settings.subnetworks),
    }
    for name, (values, low, high) in limits.items():
        if values.shape != (len(packets),):
            raise InternalError(f"router: {name} has shape {values.shape}, not ({len(packets)},)")
        if len(values) and (values.min() < low or values.max() >= high):
            raise InternalError(f"router: {name} {values.min()}..{values.max()} is not in {low}..{high - 1}")
    grouped = bool((packets.source[1:] >= packets.source[:-1]).all())
    order = np.arange(len(packets)) if grouped else np.argsort(packets.source, kind="stable")
    load = np.empty(len(packets), PACKET)
    load["entered"], load["delivered"] = 0, 0
    for name, (values, _, _) in limits.items():
        load[name] = values if grouped else values[order]
    source, ready = load["source"], load["ready"]
    if ((ready[1:] < ready[:-1]) & (source[1:] == source[:-1])).any():
        raise InternalError("router: ready cycles of a source fall")
    return load, order


@dataclass(frozen=True, eq=False)
class Fabric:
    """The tables of an empty mesh, as the kernel takes them."""

    shape: Shape
    fifos: Table
    outputs: Table
    cores: Table

    @classmethod
    def of(cls, mesh: Mesh, settings: RouterSettings) -> "Fabric":
        rows, columns = board_shape(mesh)
        ports = 4 + mesh.cores_per_router
        per_subnetwork = rows * columns * ports
        shape = Shape(
            links=settings.subnetworks * rows * columns * 4,
            depth=settings.fifo_flits,
            ports=ports,
            subnetworks=settings.subnetworks,
            fifos_per_subnetwork=per_subnetwork,
            eject_cycles=settings.eject_cycles,
            receive_packets=settings.receive_packets or 0,
            generation_waits=int(settings.generation_waits),
        )
        fifos, outputs = _fifos(shape, columns), _outputs(shape, mesh, settings)
        led_to = np.flatnonzero(outputs["to"][: shape.links] >= 0)
        fifos["from_link"][outputs["to"][led_to]] = led_to
        return cls(shape, fifos, outputs, _cores(shape, mesh))

    def run(self, load: Table) -> tuple[int, Table, Table]:
        """Runs the load, whose entered and delivered are filled in: cycles or STUCK, FIFOs and outputs at the end."""
        fifos, outputs, cores = self.fifos.copy(), self.outputs.copy(), self.cores.copy()
        slots = np.zeros(len(fifos) * self.shape.depth, SLOT)
        many = len(cores)
        sizes = [len(fifos), many, many + 1, len(outputs), many * max(self.shape.receive_packets, 1), 3]
        lists = Lists(*(np.zeros(size, np.int64) for size in sizes))
        first = np.searchsorted(load["source"], np.arange(many + 1))
        cores["next_packet"], cores["end_packet"] = first[:-1], first[1:]
        return int(drain(self.shape, slots, fifos, outputs, cores, load, lists)), fifos, outputs


def _fifos(shape: Shape, columns: int) -> Table:
    fifos = np.zeros(shape.subnetworks * shape.fifos_per_subnetwork, FIFO)
    node, fifos["port"] = np.divmod(np.arange(len(fifos)), shape.ports)
    subnetwork, router = np.divmod(node, shape.fifos_per_subnetwork // shape.ports)
    fifos["y"], fifos["x"] = np.divmod(router, columns)
    fifos["first_link"] = 4 * node
    fifos["from_link"] = -1
    fifos["core_port"] = subnetwork * shape.ports + fifos["port"]
    return fifos


def _cores(shape: Shape, mesh: Mesh) -> Table:
    rows, columns = board_shape(mesh)
    cores = np.zeros(rows * columns * mesh.cores_per_router, CORE)
    router, slot = np.divmod(np.arange(len(cores)), mesh.cores_per_router)
    cores["y"], cores["x"] = np.divmod(router, columns)
    cores["first_fifo"] = router * shape.ports + 4 + slot
    return cores


def _outputs(shape: Shape, mesh: Mesh, settings: RouterSettings) -> Table:
    """Links and, behind them, ejection ports."""
    rows, columns = board_shape(mesh)
    outputs = np.zeros(shape.links + rows * columns * mesh.cores_per_router, OUTPUT)
    outputs["owner"], outputs["last"], outputs["best_rank"] = -1, -1, FAR
    links = outputs[: shape.links]
    node, direction = np.divmod(np.arange(shape.links), 4)
    to, links["latency"], links["cycles"] = (np.tile(v, shape.subnetworks) for v in link_table(mesh, settings))
    behind = (node - node % (rows * columns) + to) * shape.ports + direction
    links["room"] = shape.depth
    links["to"] = np.where(to < 0, -1, behind)
    return outputs


def link_table(mesh: Mesh, settings: RouterSettings) -> tuple[Ints, Ints, Ints]:
    """Of the links of one subnetwork (routers * 4,): router led to or -1, cycles to cross, cycles a flit."""
    rows, columns = board_shape(mesh)
    y, x = (values[:, None] for values in np.divmod(np.arange(rows * columns), columns))
    to_x, to_y = x + np.array([1, -1, 0, 0]), y + np.array([0, 0, 1, -1])
    on_board = (to_x >= 0) & (to_x < columns) & (to_y >= 0) & (to_y < rows)
    crosses = (to_x // mesh.width != x // mesh.width) | (to_y // mesh.height != y // mesh.height)
    hop = np.array([settings.hop_cycles_east_west] * 2 + [settings.hop_cycles_north_south] * 2)
    busy = np.where(crosses, settings.border_flit_cycles, 1)
    to = np.where(on_board, to_y * columns + to_x, -1)
    return to.ravel(), np.maximum(hop, busy).ravel(), busy.ravel()
