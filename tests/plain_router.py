"""The clocked mesh router, slow and obvious: every FIFO a list, every cycle looked at, no jumps, no tables.

The definition that `backends/chipsim/router.py` states, for the tests to hold the compiled one to.
"""

from collections import defaultdict, deque
from dataclasses import dataclass, field

from snncompile.backends.chipsim.router import Packets, RouterSettings

from snncompile.chip import Mesh

STEPS = {"east": (1, 0), "west": (-1, 0), "south": (0, 1), "north": (0, -1)}
NAMES = tuple(STEPS)


@dataclass
class Flit:
    packet: int
    last: bool
    due: int


@dataclass
class PlainRun:
    cycles: int = 0
    entered: dict[int, int] = field(default_factory=dict)
    delivered: dict[int, int] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    link_flits: dict[tuple, int] = field(default_factory=lambda: defaultdict(int))
    peak: dict[tuple, int] = field(default_factory=lambda: defaultdict(int))


class PlainRouter:
    """FIFOs are named (subnetwork, x, y, input): a direction of travel, or the slot of a core as a number."""

    def __init__(self, packets: Packets, mesh: Mesh, settings: RouterSettings) -> None:
        self.packets, self.mesh, self.settings = packets, mesh, settings
        self.columns = mesh.width * mesh.chips_across
        self.fifos: dict[tuple, deque[Flit]] = defaultdict(deque)
        self.owner: dict[tuple, tuple] = {}
        self.last: dict[tuple, int] = {}
        self.free_at: dict[tuple, int] = defaultdict(int)
        self.queues = defaultdict(deque)
        for i, source in enumerate(packets.source.tolist()):
            self.queues[source].append(i)
        self.ready = {core: int(packets.ready[queue[0]]) for core, queue in self.queues.items()}
        self.sent = defaultdict(int)
        self.served_until = defaultdict(int)
        self.starts = defaultdict(list)
        self.run = PlainRun()

    def subnetwork(self, packet: int) -> int:
        if self.packets.subnetwork is not None:
            return int(self.packets.subnetwork[packet])
        return int(self.packets.source[packet] + self.packets.target[packet]) % self.settings.subnetworks

    def place(self, core: int) -> tuple[int, int, int]:
        router, slot = divmod(core, self.mesh.cores_per_router)
        return router % self.columns, router // self.columns, slot

    def output(self, fifo: tuple, flit: Flit) -> tuple:
        """("core", number), or ("link", subnetwork, x, y, direction)."""
        subnetwork, x, y, _ = fifo
        target = int(self.packets.target[flit.packet])
        to_x, to_y, _ = self.place(target)
        if (x, y) == (to_x, to_y):
            return ("core", target)
        if x != to_x:
            return ("link", subnetwork, x, y, "east" if to_x > x else "west")
        return ("link", subnetwork, x, y, "south" if to_y > y else "north")

    def crosses(self, link: tuple) -> bool:
        _, _, x, y, direction = link
        dx, dy = STEPS[direction]
        width, height = self.mesh.width, self.mesh.height
        return x // width != (x + dx) // width or y // height != (y + dy) // height

    def behind(self, link: tuple) -> tuple:
        _, subnetwork, x, y, direction = link
        dx, dy = STEPS[direction]
        return (subnetwork, x + dx, y + dy, direction)

    def turn(self, fifo: tuple, output: tuple) -> int:
        """Place of an input in the round of an output."""
        subnetwork, _, _, name = fifo
        port = NAMES.index(name) if isinstance(name, str) else 4 + name
        return port if output[0] == "link" else subnetwork * (4 + self.mesh.cores_per_router) + port

    def may_pass(self, fifo: tuple, output: tuple, cycle: int) -> bool:
        if self.fifos[fifo][0].due > cycle or self.free_at[output] > cycle:
            return False
        if self.owner.get(output, fifo) != fifo:
            return False
        return output[0] == "core" or len(self.fifos[self.behind(output)]) < self.settings.fifo_flits

    def step(self, cycle: int) -> None:
        for fifo, flits in self.fifos.items():
            self.run.peak[fifo] = max(self.run.peak[fifo], len(flits))
        requests = defaultdict(list)
        for fifo in [name for name, flits in self.fifos.items() if flits]:
            output = self.output(fifo, self.fifos[fifo][0])
            if self.may_pass(fifo, output, cycle):
                requests[output].append(fifo)
        served = {}
        for output, fifos in requests.items():
            inputs = 4 + self.mesh.cores_per_router
            inputs *= 1 if output[0] == "link" else self.settings.subnetworks
            last = self.last.get(output, inputs - 1)
            served[output] = min(fifos, key=lambda fifo: (self.turn(fifo, output) - last - 1) % inputs)
        injected = [core for core, queue in self.queues.items() if queue and self.has_room(core, cycle)]
        for output, fifo in served.items():
            self.pass_on(fifo, output, cycle)
        for core in injected:
            self.inject(core, cycle)

    def pass_on(self, fifo: tuple, output: tuple, cycle: int) -> None:
        flit = self.fifos[fifo].popleft()
        self.last[output] = self.turn(fifo, output)
        self.owner[output] = fifo
        if flit.last:
            del self.owner[output]
        if output[0] == "core":
            if flit.last:
                self.receive(flit.packet, output, cycle + self.settings.eject_cycles)
            return
        across = output[4] in ("east", "west")
        hop = self.settings.hop_cycles_east_west if across else self.settings.hop_cycles_north_south
        busy = self.settings.border_flit_cycles if self.crosses(output) else 1
        self.run.link_flits[output[1:]] += 1
        self.free_at[output] = cycle + busy
        self.fifos[self.behind(output)].append(Flit(flit.packet, flit.last, cycle + max(hop, busy)))

    def receive(self, packet: int, output: tuple, cycle: int) -> None:
        core = output[1]
        self.run.delivered[packet] = cycle
        self.run.order.append(packet)
        start = max(cycle, self.served_until[core])
        self.served_until[core] = start + int(self.packets.service[packet])
        self.starts[core].append(start)
        places = self.settings.receive_packets
        if places is not None and len(self.starts[core]) >= places:
            self.free_at[output] = self.starts[core][-places]

    def injection_fifo(self, core: int) -> tuple:
        x, y, slot = self.place(core)
        return (self.subnetwork(self.queues[core][0]), x, y, slot)

    def has_room(self, core: int, cycle: int) -> bool:
        return self.ready[core] <= cycle and len(self.fifos[self.injection_fifo(core)]) < self.settings.fifo_flits

    def inject(self, core: int, cycle: int) -> None:
        packet = self.queues[core][0]
        self.sent[core] += 1
        last = self.sent[core] == self.packets.flits[packet]
        self.fifos[self.injection_fifo(core)].append(Flit(packet, last, cycle + 1))
        if not last:
            return
        self.run.entered[packet] = cycle
        self.sent[core] = 0
        self.queues[core].popleft()
        if self.queues[core]:
            following, this = (int(self.packets.ready[p]) for p in (self.queues[core][0], packet))
            self.ready[core] = cycle + following - this if self.settings.generation_waits else following


def plain_route(packets: Packets, mesh: Mesh, settings: RouterSettings, most_cycles: int = 100_000) -> PlainRun:
    """Every cycle from 0 until all packets are at their cores; AssertionError where that takes too long."""
    router = PlainRouter(packets, mesh, settings)
    cycle = 0
    while len(router.run.delivered) < len(packets):
        assert cycle < most_cycles, "stuck"
        router.step(cycle)
        cycle += 1
    router.run.cycles = max(router.served_until.values(), default=0)
    return router.run
