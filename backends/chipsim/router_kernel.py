"""The loop of the clocked mesh router, compiled: what moves in each cycle. `router.py` states the semantics.

Numbering. node = subnetwork * routers + router. A node has 4 + cores_per_router input FIFOs: what arrives travelling
east, west, south, north, then what its cores inject. Outputs are the links, 4 a node in the same order, and behind them
one ejection port a core, which all subnetworks share. Tables are arrays of records, so that what is used together lies
together; records, unlike arrays, are handed on without counting references, which took half of the time.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

Table = NDArray[Any]
"""Records of one of the types below."""

FAR = np.iinfo(np.int64).max
STUCK = -1

SLOT = np.dtype(
    [
        ("due", np.int64),
        ("flit", np.int64),
        ("target", np.int32),  # core
        ("x", np.int16),  # of the target's router
        ("y", np.int16),
    ]
)
"""A place in a FIFO, (fifos * depth,): the cycle its flit is there; 2 * packet + (1 for the packet's last flit)."""

FIFO = np.dtype(
    [
        ("due", np.int64),  # of the flit at the head
        ("head", np.int32),
        ("count", np.int32),
        ("want", np.int32),  # the output that the flit at the head goes to
        ("listed", np.int32),  # whether it is among `active`
        ("x", np.int32),
        ("y", np.int32),
        ("first_link", np.int32),  # of its node
        ("port", np.int32),  # among the inputs of its node
        ("core_port", np.int32),  # among the inputs of its router in all subnetworks
        ("peak", np.int32),
        ("from_link", np.int32),  # the link that leads to it, -1: a core
    ]
)
OUTPUT = np.dtype(
    [
        ("free_at", np.int64),
        ("best_rank", np.int64),
        ("flits", np.int64),
        ("best_fifo", np.int32),
        ("owner", np.int32),  # the FIFO whose packet is under way through it, -1 for none
        ("last", np.int32),  # the input port it served last
        ("to", np.int32),  # links: the FIFO it leads to, -1 off the board
        ("room", np.int32),  # links: flits that the FIFO it leads to can still take, those under way counted
        ("latency", np.int32),  # links: cycles to cross
        ("cycles", np.int32),  # links: cycles a flit
    ]
)
CORE = np.dtype(
    [
        ("served_until", np.int64),
        ("next_packet", np.int64),
        ("end_packet", np.int64),
        ("sent", np.int64),  # flits of the next packet that are sent already
        ("received", np.int64),  # packets
        ("x", np.int32),
        ("y", np.int32),
        ("first_fifo", np.int32),  # that it injects into; those of the other subnetworks are fifos_per_subnetwork apart
    ]
)
PACKET = np.dtype(
    [
        ("source", np.int64),
        ("target", np.int32),
        ("subnetwork", np.int32),
        ("flits", np.int64),
        ("ready", np.int64),
        ("service", np.int64),
        ("entered", np.int64),
        ("delivered", np.int64),
    ]
)
"""Packets of one step, those of a source together and in the order it sends them."""


class Shape(NamedTuple):
    """Sizes and rules; receive_packets 0: no bound."""

    links: int
    depth: int
    ports: int
    subnetworks: int
    fifos_per_subnetwork: int
    eject_cycles: int
    receive_packets: int
    generation_waits: int


class Lists(NamedTuple):
    """Work lists; their lengths stand in sizes: active, sending, heap.

    active: FIFOs that hold something. sending: cores with a packet ready. heap: cycle * cores + core of those that wait
    for their next packet. touched: outputs that serve somebody in this cycle. starts (cores * receive_packets,): when
    the last packets received began to be served.
    """

    active: NDArray[np.int64]
    sending: NDArray[np.int64]
    heap: NDArray[np.int64]
    touched: NDArray[np.int64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]


@numba.njit(cache=True, nogil=True)
def drain(shape: Shape, slots: Table, fifos: Table, outputs: Table, cores: Table, packets: Table, lists: Lists) -> Any:
    """Cycle at which the last packet is served, 0 without packets; STUCK where flits remain and none can ever move.

    All decisions of a cycle follow from the state at its start, so the order in which things are visited is irrelevant.
    A cycle in which nothing moves is followed by the next one in which something timed is due.
    """
    sending, heap, sizes = lists.sending, lists.heap, lists.sizes
    many = len(cores)
    for core in range(many):
        if cores[core].next_packet < cores[core].end_packet:
            _push_heap(heap, sizes, packets[cores[core].next_packet].ready * many + core)
    remaining = len(packets)
    cycle = heap[0] // many if remaining else 0
    while remaining:
        while sizes[2] and heap[0] < (cycle + 1) * many:
            sending[sizes[1]] = _pop_heap(heap, sizes) % many
            sizes[1] += 1
        winners, later = _request(shape, fifos, outputs, lists, cycle)
        moved = _inject(shape, slots, fifos, cores, packets, lists, cycle)
        remaining -= _move(shape, slots, fifos, outputs, cores, packets, lists, winners, cycle)
        if winners + moved:
            cycle += 1
            continue
        if sizes[2]:
            later = min(later, heap[0] // many)
        if remaining and later == FAR:
            return STUCK
        cycle = later
    last = 0
    for core in range(many):
        last = max(last, cores[core].served_until)
    return last


@numba.njit(cache=True, nogil=True)
def _request(shape: Shape, fifos: Table, outputs: Table, lists: Lists, cycle: int) -> Any:
    """Picks the input that every output serves; how many outputs serve one, and when the next timed wait ends."""
    active, touched, sizes = lists.active, lists.touched, lists.sizes
    kept, winners, later = 0, 0, FAR
    for i in range(sizes[0]):
        number = active[i]
        fifo = fifos[number]
        if fifo.count == 0:
            fifo.listed = 0
            continue
        active[kept] = number
        kept += 1
        fifo.peak = max(fifo.peak, fifo.count)
        output = outputs[fifo.want]
        wait = max(fifo.due, output.free_at)
        if wait > cycle:
            later = min(later, wait)
            continue
        if output.owner >= 0 and output.owner != number:
            continue
        if fifo.want < shape.links:
            if output.room == 0:
                continue
            rank = fifo.port - output.last - 1
            rank += shape.ports if rank < 0 else 0
        else:
            rank = fifo.core_port - output.last - 1
            rank += shape.ports * shape.subnetworks if rank < 0 else 0
        if output.best_rank == FAR:
            touched[winners] = fifo.want
            winners += 1
        if rank < output.best_rank:
            output.best_rank = rank
            output.best_fifo = number
    sizes[0] = kept
    return winners, later


@numba.njit(cache=True, nogil=True)
def _move(
    shape: Shape,
    slots: Table,
    fifos: Table,
    outputs: Table,
    cores: Table,
    packets: Table,
    lists: Lists,
    winners: int,
    cycle: int,
) -> Any:
    """The flits that outputs serve, out of their FIFOs and on; how many packets are complete at their cores."""
    active, touched, starts, sizes = lists.active, lists.touched, lists.starts, lists.sizes
    complete = 0
    for i in range(winners):
        number = touched[i]
        output = outputs[number]
        output.best_rank = FAR
        fifo = fifos[output.best_fifo]
        slot = slots[output.best_fifo * shape.depth + fifo.head]
        fifo.head = fifo.head + 1 if fifo.head + 1 < shape.depth else 0
        fifo.count -= 1
        if fifo.count:
            following = slots[output.best_fifo * shape.depth + fifo.head]
            fifo.due = following.due
            fifo.want = _output_of(shape, fifo, following.target, following.x, following.y)
        if fifo.from_link >= 0:
            outputs[fifo.from_link].room += 1
        output.owner = -1 if slot.flit & 1 else output.best_fifo
        if number < shape.links:
            output.last = fifo.port
            output.flits += 1
            output.room -= 1
            output.free_at = cycle + output.cycles
            to, due = fifos[output.to], cycle + output.latency
            back = slots[output.to * shape.depth + _back(shape, to)]
            if _push(shape, to, back, due, slot.flit, slot.target, slot.x, slot.y):
                active[sizes[0]] = output.to
                sizes[0] += 1
            continue
        output.last = fifo.core_port
        if slot.flit & 1:
            complete += 1
            packet = packets[slot.flit >> 1]
            core = cores[slot.target]
            start = _serve(packet, core, cycle + shape.eject_cycles)
            if shape.receive_packets:
                first = slot.target * shape.receive_packets
                starts[first + core.received % shape.receive_packets] = start
                core.received += 1
                output.free_at = starts[first + core.received % shape.receive_packets]
    return complete


@numba.njit(cache=True, nogil=True)
def _inject(shape: Shape, slots: Table, fifos: Table, cores: Table, packets: Table, lists: Lists, cycle: int) -> Any:
    """A flit of every core that has one ready and room for it; how many."""
    active, sending, heap, sizes = lists.active, lists.sending, lists.heap, lists.sizes
    kept, moved = 0, 0
    for i in range(sizes[1]):
        number = sending[i]
        core = cores[number]
        at = core.next_packet
        packet = packets[at]
        into = core.first_fifo + packet.subnetwork * shape.fifos_per_subnetwork
        fifo = fifos[into]
        following = cycle + 1
        if fifo.count < shape.depth:
            moved += 1
            core.sent += 1
            ends = core.sent == packet.flits
            target = cores[packet.target]
            back = slots[into * shape.depth + _back(shape, fifo)]
            if _push(shape, fifo, back, cycle + 1, 2 * at + (1 if ends else 0), packet.target, target.x, target.y):
                active[sizes[0]] = into
                sizes[0] += 1
            if ends:
                packet.entered = cycle
                core.sent = 0
                core.next_packet = at + 1
                if core.next_packet == core.end_packet:
                    continue
                waits = cycle + packets[at + 1].ready - packet.ready
                following = max(following, waits if shape.generation_waits else packets[at + 1].ready)
        if following == cycle + 1:
            sending[kept] = number
            kept += 1
        else:
            _push_heap(heap, sizes, following * len(cores) + number)
    sizes[1] = kept
    return moved


@numba.njit(cache=True, nogil=True, inline="always")
def _serve(packet: Any, core: Any, cycle: int) -> Any:
    """A packet complete at its core is served after those before it; when that begins."""
    packet.delivered = cycle
    start = max(cycle, core.served_until)
    core.served_until = start + packet.service
    return start


@numba.njit(cache=True, nogil=True, inline="always")
def _back(shape: Shape, fifo: Any) -> Any:
    """The place behind the last flit of a FIFO."""
    at = fifo.head + fifo.count
    return at - shape.depth if at >= shape.depth else at


@numba.njit(cache=True, nogil=True, inline="always")
def _push(shape: Shape, fifo: Any, slot: Any, due: int, flit: int, target: int, x: int, y: int) -> Any:
    """A flit into the place at the back of a FIFO; whether the FIFO is to be listed as one that holds something."""
    slot.due = due
    slot.flit = flit
    slot.target = target
    slot.x = x
    slot.y = y
    fifo.count += 1
    if fifo.count > 1:
        return False
    fifo.due = due
    fifo.want = _output_of(shape, fifo, target, x, y)
    if fifo.listed:
        return False
    fifo.listed = 1
    return True


@numba.njit(cache=True, nogil=True, inline="always")
def _output_of(shape: Shape, fifo: Any, target: int, x: int, y: int) -> Any:
    """XY: along the row to the target's column, then along it, then out."""
    if x != fifo.x:
        return fifo.first_link + (0 if x > fifo.x else 1)
    if y != fifo.y:
        return fifo.first_link + (2 if y > fifo.y else 3)
    return shape.links + target


@numba.njit(cache=True, nogil=True)
def _push_heap(heap: NDArray[np.int64], sizes: NDArray[np.int64], key: int) -> None:
    """A key into the binary heap."""
    at = sizes[2]
    sizes[2] += 1
    while at and heap[(at - 1) >> 1] > key:
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = key


@numba.njit(cache=True, nogil=True)
def _pop_heap(heap: NDArray[np.int64], sizes: NDArray[np.int64]) -> Any:
    """The smallest key, taken out of the binary heap."""
    smallest = heap[0]
    sizes[2] -= 1
    size = sizes[2]
    key, at = heap[size], 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = key
    return smallest
