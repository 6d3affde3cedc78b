"""The clocked mesh router: equal to the plain one cycle by cycle; nothing lost, kept back for ever or overtaken."""

from dataclasses import replace

import numpy as np
import plain_router
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snncompile.backends.chipsim import router
from snncompile.backends.chipsim.router import DIRECTIONS, Packets, RouterSettings
from snncompile.backends.chipsim.router_bound import predicted_utilisation, router_bound

from snncompile.chip import Mesh
from snncompile.errors import CompileError, InternalError
from snncompile.mapping.place import Placement, place_hilbert, place_random


def mesh_of(width: int, height: int, cores: int = 1, across: int = 1, down: int = 1) -> Mesh:
    return Mesh(width=width, height=height, cores_per_router=cores, chips_across=across, chips_down=down)


def random_packets(seed: int, mesh: Mesh, count: int, flits: int, spread: int, service: int, crowd: int) -> Packets:
    """`crowd` of 4 packets go to core 0; ready cycles rise within a source."""
    rng = np.random.default_rng(seed)
    source, target = rng.integers(0, mesh.cores, (2, count))
    target = np.where(rng.integers(0, 4, count) < crowd, 0, target)
    ready = np.sort(rng.integers(0, spread + 1, count))
    return Packets.of(source, target, ready, rng.integers(1, flits + 1, count), rng.integers(0, service + 1, count))


meshes = st.builds(
    mesh_of, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(1, 2)
)
routers = st.builds(
    RouterSettings,
    fifo_flits=st.integers(1, 5),
    subnetworks=st.integers(1, 3),
    hop_cycles_east_west=st.integers(1, 4),
    hop_cycles_north_south=st.integers(1, 4),
    eject_cycles=st.integers(1, 3),
    border_flit_cycles=st.integers(1, 5),
    receive_packets=st.none() | st.integers(1, 3),
    generation_waits=st.booleans(),
)
loads = st.tuples(
    st.integers(0, 2**32),
    st.integers(0, 120),
    st.integers(1, 6),
    st.sampled_from([0, 20, 400]),
    st.sampled_from([0, 3, 25]),
    st.integers(0, 4),
)


def compare(packets: Packets, mesh: Mesh, how: RouterSettings) -> None:
    """Every cycle, link and FIFO is as in the plain router."""
    run, plain = router.route(packets, mesh, how), plain_router.plain_route(packets, mesh, how)
    assert run.delivered.tolist() == [plain.delivered[i] for i in range(len(packets))]
    assert run.entered.tolist() == [plain.entered[i] for i in range(len(packets))]
    assert run.cycles == plain.cycles
    used = {
        (int(s), int(x), int(y), DIRECTIONS[d]): int(run.link_flits[s, d, y, x])
        for s, d, y, x in np.argwhere(run.link_flits)
    }
    assert used == dict(plain.link_flits)
    peaks = {
        (int(s), int(x), int(y), DIRECTIONS[p] if p < 4 else int(p) - 4): int(run.fifo_peak[s, y, x, p])
        for s, y, x, p in np.argwhere(run.fifo_peak)
    }
    assert peaks == {fifo: peak for fifo, peak in plain.peak.items() if peak}


@given(meshes, routers, loads)
@settings(max_examples=60)
def test_equals_the_plain_router_cycle_by_cycle(mesh: Mesh, how: RouterSettings, load: tuple) -> None:
    compare(random_packets(load[0], mesh, *load[1:]), mesh, how)


@pytest.mark.slow
@given(meshes, routers, loads)
@settings(max_examples=600)
def test_equals_the_plain_router_on_many_meshes(mesh: Mesh, how: RouterSettings, load: tuple) -> None:
    compare(random_packets(load[0], mesh, *load[1:]), mesh, how)


@given(meshes, routers, loads)
def test_bound_is_never_above(mesh: Mesh, how: RouterSettings, load: tuple) -> None:
    packets = random_packets(load[0], mesh, *load[1:])
    run, bound = router.route(packets, mesh, how), router_bound(packets, mesh, how)
    assert bound.cycles <= run.cycles
    np.testing.assert_array_equal(bound.link_cycles, run.link_cycles)


@given(meshes, routers, loads)
def test_flows_keep_their_order_and_every_packet_arrives(mesh: Mesh, how: RouterSettings, load: tuple) -> None:
    packets = random_packets(load[0], mesh, *load[1:])
    run = router.route(packets, mesh, how)
    assert (run.delivered > run.entered).all()
    assert (run.entered >= packets.ready).all()
    for flow in {(int(s), int(t)) for s, t in zip(packets.source, packets.target, strict=True)}:
        members = (packets.source == flow[0]) & (packets.target == flow[1])
        assert (np.diff(run.delivered[members]) > 0).all()


def test_one_packet_takes_its_hops() -> None:
    """Enters in its ready cycle, can go on in the next, two hops of 4 and one of 6 cycles, 3 to be received."""
    mesh = mesh_of(3, 2)
    how = RouterSettings(hop_cycles_east_west=4, hop_cycles_north_south=6, eject_cycles=3)
    run = router.route(Packets.of(0, 5, ready=10, service=7), mesh, how)
    assert run.entered[0] == 10
    assert run.delivered[0] == 10 + 1 + 4 + 4 + 6 + 3
    assert run.cycles == run.delivered[0] + 7
    assert run.link_flits[1, :, 0, 0].tolist() == [1, 0, 0, 0]
    assert run.link_flits[1, :, 0, 2].tolist() == [0, 0, 1, 0]
    assert run.link_flits.sum() == 3


def test_a_border_is_slow_and_a_link_takes_one_flit_a_cycle() -> None:
    """20 flits over a plain link end 19 cycles after the first; over a border of 5 cycles a flit, 95."""
    packets = Packets.of(np.zeros(20, int), 1)
    plain, border = mesh_of(2, 1), mesh_of(1, 1, across=2)
    how = RouterSettings(border_flit_cycles=5)
    assert router.route(packets, plain, how).delivered.tolist() == list(range(3, 23))
    assert router.route(packets, border, how).delivered.tolist() == list(range(7, 107, 5))
    assert router.route(packets, border, how).link_cycles.sum() == 100


def test_round_robin_serves_inputs_in_turn() -> None:
    """Three cores of one router that all send to one core of the next: it hears them in turn, 10 packets each."""
    mesh = mesh_of(2, 1, cores=3)
    packets = Packets.of(np.repeat([0, 1, 2], 10), 3)
    run = router.route(packets, mesh, RouterSettings(subnetworks=1))
    order = packets.source[np.argsort(run.delivered)]
    np.testing.assert_array_equal(order, np.tile([0, 1, 2], 10))


def test_packets_are_not_mixed_on_a_link() -> None:
    """Two packets of 10 flits share a link: the second comes whole after the first, not with it."""
    mesh = mesh_of(2, 1, cores=2)
    run = router.route(Packets.of([0, 1], [2, 2], flits=10), mesh, RouterSettings(subnetworks=1, fifo_flits=2))
    assert (run.delivered[1] - run.delivered[0]) == 10


@pytest.mark.parametrize("places", [1, 2, 3])
def test_a_busy_core_holds_up_what_is_behind(places: int) -> None:
    """5 packets to a core that serves each for 100 cycles, then one to its neighbour behind the same FIFO.

    The core serves one and holds as many as it has places; the last leaves the FIFO when all others have.
    """
    mesh = mesh_of(2, 1, cores=2)
    packets = Packets.of(np.zeros(6, int), [2, 2, 2, 2, 2, 3], service=[100] * 5 + [1])
    free = router.route(packets, mesh, RouterSettings(subnetworks=1))
    held = router.route(packets, mesh, RouterSettings(subnetworks=1, receive_packets=places))
    assert free.delivered[5] == 8
    assert held.delivered[5] == held.delivered[0] + (4 - places) * 100 + 2


def test_a_full_mesh_holds_up_generation_only_where_it_says_so() -> None:
    """Ready every 10 cycles into a core of 50: behind FIFOs of 1, a core that waits sends its last later."""
    mesh = mesh_of(1, 1, cores=2)
    packets = Packets.of(np.zeros(10, int), 1, ready=np.arange(10) * 10, service=50)
    entered = [
        router.route(packets, mesh, RouterSettings(fifo_flits=1, receive_packets=1, generation_waits=waits)).entered
        for waits in (False, True)
    ]
    assert (np.diff(entered[1]) >= 10).all()
    assert entered[1][-1] >= entered[0][-1]
    np.testing.assert_array_equal(entered[0][:2], packets.ready[:2])


def test_long_pauses_cost_no_cycles_to_look_at() -> None:
    """2^50 cycles between two packets: the run jumps there."""
    run = router.route(Packets.of([0, 0], [1, 1], ready=[0, 2**50]), mesh_of(2, 1), RouterSettings())
    assert run.delivered.tolist() == [3, 2**50 + 3]


@given(meshes, routers, st.integers(0, 2**32))
def test_bound_of_a_lone_packet_is_exact(mesh: Mesh, how: RouterSettings, seed: int) -> None:
    """Of up to 6 flits, where FIFOs hold all of them: nobody to wait for but its own flits at a border."""
    packet = random_packets(seed, mesh, 1, 6, 10, 9, 0)
    how = replace(how, fifo_flits=64)
    assert router_bound(packet, mesh, how).cycles == router.route(packet, mesh, how).cycles


@pytest.mark.parametrize("gap", [16, 64])
def test_bound_is_met_by_light_load(gap: int) -> None:
    """Links a third or less busy: within 1 %; and the predicted utilisation is what the run shows."""
    mesh = mesh_of(11, 11, cores=4)
    rng = np.random.default_rng(1)
    source = np.repeat(np.arange(mesh.cores), 60)
    ready = np.tile(np.arange(60) * gap, mesh.cores)
    packets = Packets.of(source, rng.integers(0, mesh.cores, len(source)), ready)
    run, bound = router.route(packets, mesh), router_bound(packets, mesh)
    assert bound.cycles <= run.cycles <= 1.01 * bound.cycles
    assert predicted_utilisation(bound) == pytest.approx(run.link_cycles.max() / run.cycles, rel=0.011)
    assert predicted_utilisation(bound, 2 * bound.cycles) == pytest.approx(predicted_utilisation(bound) / 2)


def test_bound_knows_the_busiest_link() -> None:
    """All cores of the left column send right at once: the links into the crowded column set the time."""
    mesh = mesh_of(4, 1, cores=4)
    source = np.repeat(np.arange(12), 100)
    packets = Packets.of(source, 12 + source % 4)
    run, bound = (
        router.route(packets, mesh, RouterSettings(subnetworks=1)),
        router_bound(packets, mesh, RouterSettings(subnetworks=1)),
    )
    assert bound.by_link == bound.cycles > bound.cycles_without_links
    assert bound.cycles <= run.cycles <= 1.01 * bound.cycles
    assert predicted_utilisation(bound) > 1


def test_nothing_to_do_takes_no_time() -> None:
    packets = Packets.of(np.zeros(0, int), np.zeros(0, int))
    run, bound = router.route(packets, mesh_of(2, 2)), router_bound(packets, mesh_of(2, 2))
    assert (run.cycles, run.link_flits.sum(), len(run.delivered)) == (0, 0, 0)
    assert (bound.cycles, predicted_utilisation(bound)) == (0, 0.0)


def test_watchdog_names_a_stuck_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No XY mesh gets stuck; one whose links have no room at all would, and must say so instead of running on."""

    def without_room(self, *arguments: object) -> router.Table:
        outputs = made(self, *arguments)
        outputs["room"] = 0
        return outputs

    made = router._outputs
    monkeypatch.setattr(router, "_outputs", without_room)
    with pytest.raises(InternalError, match="2 packets are stuck"):
        router.route(Packets.of([0, 0, 0], [1, 0, 1]), mesh_of(2, 1))


@pytest.mark.parametrize(
    ("packets", "problem"),
    [
        (Packets.of([0], [4]), "target"),
        (Packets.of([-1], [0]), "source"),
        (Packets.of([0], [1], flits=0), "flits"),
        (Packets.of([0], [1], ready=-1), "ready"),
        (Packets.of([0], [1], service=-1), "service"),
        (Packets.of([0], [1], subnetwork=2), "subnetwork"),
        (Packets.of([0, 0], [1, 1], ready=[5, 4]), "fall"),
    ],
)
def test_malformed_packets_are_refused(packets: Packets, problem: str) -> None:
    with pytest.raises(InternalError, match=problem):
        router.route(packets, mesh_of(2, 2))


@pytest.mark.parametrize("name", ["fifo_flits", "subnetworks", "eject_cycles", "receive_packets"])
def test_settings_below_one_are_refused(name: str) -> None:
    with pytest.raises(CompileError, match=f"router.{name}: 0 is less than 1"):
        RouterSettings(**{name: 0})


@pytest.mark.parametrize("across", [1, 2])
def test_cores_are_numbered_along_the_rows_of_the_board(across: int) -> None:
    """Distinct; and router, column and row come back from the number."""
    mesh = mesh_of(3, 2, cores=2, across=across, down=2)
    placement = place_hilbert(mesh.cores, mesh)
    numbers = router.core_numbers(placement, mesh)
    assert sorted(numbers) == list(range(mesh.cores))
    first_chip = placement.chip == 0
    routers = numbers // 2
    np.testing.assert_array_equal(routers[first_chip] % (3 * across), placement.x[first_chip])
    np.testing.assert_array_equal(routers[first_chip] // (3 * across), placement.y[first_chip])
    np.testing.assert_array_equal(numbers % 2, placement.slot)


def test_packets_of_a_flow_are_spread_evenly() -> None:
    """Core 1 sends 4 to core 0 and 2 to core 2 in 60 ns: every 10 ns one, the rare ones in between."""
    packets = router.packets_of_flow(
        source=np.array([1, 1, 2]),
        target=np.array([0, 2, 0]),
        packets=np.array([4, 2, 1]),
        generation_ns=np.array([0.0, 60.0, 8.0]),
        service_ns=np.array([20.0, 30.0, 16.0]),
        cycle_ns=2.0,
    )
    assert packets.source.tolist() == [1] * 6 + [2]
    assert packets.target.tolist() == [0, 2, 0, 0, 2, 0, 0]
    assert packets.ready.tolist() == [5, 10, 15, 20, 25, 30, 4]
    assert packets.service.tolist() == [10, 15, 10, 10, 15, 10, 8]


def test_a_placed_program_routes_over_its_board() -> None:
    """Cores of a random placement on two chips: what crosses the border is what `hops` counts there."""
    mesh = mesh_of(2, 2, cores=2, across=2)
    placement: Placement = place_random(16, mesh, seed=3)
    numbers = router.core_numbers(placement, mesh)
    source, target = np.repeat(np.arange(16), 16), np.tile(np.arange(16), 16)
    run = router.route(Packets.of(numbers[source], numbers[target]), mesh)
    east, west = run.link_flits[:, 0, :, 1].sum(), run.link_flits[:, 1, :, 2].sum()
    assert east == west == (placement.chip[source] < placement.chip[target]).sum()
    distance = np.abs(placement.y[source] - placement.y[target]).sum()
    assert run.link_flits[:, 2:].sum() == distance
