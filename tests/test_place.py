"""Placement: plain fillings, packets along their ways against brute force, the search, pins."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snncompile.chip import Mesh, load_chip
from snncompile.errors import CompileError
from snncompile.mapping import annealing
from snncompile.mapping.connectivity import Connectivity
from snncompile.mapping.optimise import BORDER_LINKS, EFFORTS, _board, _state, place
from snncompile.mapping.partition import CoreGraph
from snncompile.mapping.pins import parse_pin, pinned_slots
from snncompile.mapping.place import (
    Placement,
    block_order,
    chip_positions,
    first_chips,
    hilbert_order,
    lay,
    place_hilbert,
    place_random,
    place_row_major,
    row_order,
)
from snncompile.mapping.routes import Flow, hops, link_loads, route_quality, whole_units
from snncompile.mapping.tiles import Grid
from snncompile.mapping.traffic import LayerCounter, contract_all


def mesh_of(width: int, height: int, of_router: int = 1, across: int = 1, down: int = 1) -> Mesh:
    return Mesh(width=width, height=height, cores_per_router=of_router, chips_across=across, chips_down=down)


MESHES = (
    mesh_of(4, 4),
    mesh_of(7, 3, 2),
    mesh_of(8, 4, 4),
    mesh_of(2, 3, 2, 2, 2),
    mesh_of(3, 2, 1, 3, 2),
    mesh_of(1, 5, 3),
)


def random_flow(seed: int, cores: int) -> Flow:
    """Whole packets between a few pairs of cores; some stay on their core, some cores have none."""
    rng = np.random.default_rng(seed)
    pairs = int(rng.integers(0, 4 * cores))
    source, target = rng.integers(0, cores, (2, pairs))
    return Flow.of(cores, source, target, rng.integers(0, 9, pairs).astype(float))


def case(seed: int) -> tuple[Flow, Mesh]:
    rng = np.random.default_rng(seed)
    mesh = MESHES[int(rng.integers(len(MESHES)))]
    return random_flow(seed, int(rng.integers(1, mesh.cores + 1))), mesh


def line_flow(cores: int, seed: int = 0) -> Flow:
    """A chain of cores, numbered at random: what rows and curves lay badly."""
    order = np.random.default_rng(seed).permutation(cores)
    return Flow.of(cores, order[:-1], order[1:], np.full(cores - 1, 5.0))


def assert_every_core_has_a_slot_of_its_own(placement: Placement, cores: int, mesh: Mesh) -> None:
    slots = placement.slots(mesh)
    assert len(slots) == len(np.unique(slots)) == cores
    assert slots.min() >= 0
    assert slots.max() < mesh.cores
    for axis, size in (("x", mesh.width), ("y", mesh.height), ("slot", mesh.cores_per_router), ("chip", mesh.chips)):
        assert getattr(placement, axis).min() >= 0
        assert getattr(placement, axis).max() < size


def walked(flow: Flow, placement: Placement, mesh: Mesh) -> tuple[np.ndarray, int, int, int]:
    """Loads of all links, and packets times links east-west, north-south and over borders, one router at a time."""
    loads = np.zeros((4, mesh.height * mesh.chips_down, mesh.width * mesh.chips_across))
    column, row = chip_positions(mesh)
    taken = [0, 0, 0]
    for source, target, packets in zip(flow.source, flow.target, flow.packets, strict=True):
        x, goal_x = (int(column[placement.chip[c]] * mesh.width + placement.x[c]) for c in (source, target))
        y, goal_y = (int(row[placement.chip[c]] * mesh.height + placement.y[c]) for c in (source, target))
        while (x, y) != (goal_x, goal_y):
            dx = np.sign(goal_x - x)
            dy = 0 if dx else np.sign(goal_y - y)
            loads[{(1, 0): 0, (-1, 0): 1, (0, 1): 2, (0, -1): 3}[int(dx), int(dy)], y, x] += packets
            inside = (x // mesh.width, y // mesh.height) == ((x + dx) // mesh.width, (y + dy) // mesh.height)
            taken[(0 if dx else 1) if inside else 2] += packets
            x, y = x + dx, y + dy
    return loads, *taken


@pytest.mark.parametrize(
    ("width", "height", "across", "down"),
    [(8, 4, 1, 1), (4, 8, 1, 1), (2, 2, 1, 1), (3, 5, 1, 1), (1, 6, 1, 1), (2, 2, 3, 2), (4, 2, 2, 3)],
)
def test_plain_placements_use_every_core_once(width: int, height: int, across: int, down: int) -> None:
    mesh = mesh_of(width, height, 4, across, down)
    chips = first_chips(mesh.cores, mesh)
    block = Placement.at(lay(block_order(chips, mesh.cores, mesh), mesh.cores), mesh)
    for placement in (
        place_hilbert(mesh.cores, mesh),
        place_row_major(mesh.cores, mesh),
        place_random(mesh.cores, mesh, 0),
        block,
    ):
        assert_every_core_has_a_slot_of_its_own(placement, mesh.cores, mesh)
        assert placement.chips_used == across * down
        assert placement.routers_used == width * height * across * down
        assert placement.routers_of_a_chip == width * height


@given(st.integers(0, 10_000))
def test_orders_hold_every_slot_of_their_chips_once(seed: int) -> None:
    flow, mesh = case(seed)
    chips = first_chips(flow.cores, mesh)
    for order in (row_order(chips, mesh), hilbert_order(chips, mesh), block_order(chips, flow.cores, mesh)):
        np.testing.assert_array_equal(np.sort(order), row_order(chips, mesh))
    slots = np.random.default_rng(seed).permutation(mesh.cores)
    np.testing.assert_array_equal(Placement.at(slots, mesh).slots(mesh), slots)


def test_consecutive_routers_of_the_hilbert_curve_touch() -> None:
    placement = place_hilbert(32, mesh_of(8, 4))
    assert (np.abs(np.diff(placement.x)) + np.abs(np.diff(placement.y)) == 1).all()


def test_a_few_cores_on_a_large_chip_make_a_block() -> None:
    mesh = mesh_of(100, 100)
    placement = Placement.at(lay(block_order([0], 9, mesh), 9), mesh)
    assert placement.x.max() == placement.y.max() == 2


def test_chips_are_filled_one_after_the_other_in_snake_order() -> None:
    mesh = mesh_of(2, 1, 1, 2, 2)
    placement = place_hilbert(5, mesh)
    assert placement.chip.tolist() == [0, 0, 1, 1, 2]
    assert placement.x.tolist() == [0, 1, 0, 1, 1]  # the second row of chips runs back
    links = hops(placement, mesh, np.zeros(1, np.int64), np.arange(5))
    assert links.chip_border.tolist() == [0, 0, 1, 1, 2]
    assert links.east_west.tolist() == [0, 1, 1, 2, 2]
    assert links.north_south.sum() == 0
    assert place_random(5, mesh, 0).chips_used <= 3


@given(st.integers(0, 10_000))
def test_hops_and_link_loads_equal_a_walk_along_every_route(seed: int) -> None:
    flow, mesh = case(seed)
    placement = place_random(flow.cores, mesh, seed)
    loads, east_west, north_south, border = walked(flow, placement, mesh)
    links = hops(placement, mesh, flow.source, flow.target)
    assert flow.packets @ links.east_west == east_west
    assert flow.packets @ links.north_south == north_south
    assert flow.packets @ links.chip_border == border
    np.testing.assert_array_equal(link_loads(flow, placement, mesh), loads)
    quality = route_quality(flow, placement, mesh)
    assert quality.max_link_load == loads.max()
    assert quality.hops_per_packet * flow.total == pytest.approx(loads.sum())
    assert quality.borders_per_packet * flow.total == pytest.approx(border)


def test_xy_routes_turn_once() -> None:
    mesh = mesh_of(3, 2)
    flow = Flow.of(6, np.array([0]), np.array([5]), np.array([7.0]))  # (0, 0) to (2, 1): east, east, south at column 2
    loads = link_loads(flow, place_row_major(6, mesh), mesh)
    assert loads[0].tolist() == [[7, 7, 0], [0, 0, 0]]
    assert loads[2].tolist() == [[0, 0, 7], [0, 0, 0]]
    assert loads[1].sum() == loads[3].sum() == 0


def test_a_flow_adds_up_entries_of_one_pair_and_drops_what_is_0() -> None:
    flow = Flow.of(3, np.array([2, 0, 2, 1]), np.array([1, 0, 1, 0]), np.array([1.5, 2.0, 3.0, 0.0]))
    assert (flow.source.tolist(), flow.target.tolist(), flow.packets.tolist()) == ([0, 2], [0, 1], [2.0, 4.5])


def test_a_thinned_flow_has_few_pairs_the_heaviest_as_they_are_and_the_same_total() -> None:
    rng = np.random.default_rng(0)
    source, target = np.divmod(np.arange(250_000), 500)
    flow = Flow.of(500, source, target, np.where(rng.random(250_000) < 0.001, 1000.0, rng.random(250_000)))
    assert flow.thinned(250_000, 1) is flow
    part = flow.thinned(20_000, 1)
    assert len(part.packets) < 20_000 * 1.05
    assert part.total == pytest.approx(flow.total, rel=0.02)
    heavy = flow.packets == 1000
    assert set(zip(flow.source[heavy], flow.target[heavy], strict=True)) <= set(
        zip(part.source, part.target, strict=True)
    )
    assert (part.packets == 1000).sum() == heavy.sum()


def test_a_search_by_a_part_of_the_flow_is_judged_by_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snncompile.mapping.optimise.SEARCHED_PAIRS", 40)
    mesh = mesh_of(8, 4)
    flow = Flow.of(32, *np.divmod(np.arange(1024), 32), np.random.default_rng(3).random(1024))
    ours, rows = place(flow, mesh), place_row_major(32, mesh)
    assert route_quality(flow, ours, mesh).hops_per_packet <= route_quality(flow, rows, mesh).hops_per_packet
    assert route_quality(flow, ours, mesh).max_link_load <= route_quality(flow, rows, mesh).max_link_load


def test_whole_units_are_at_least_one_and_exact_for_whole_packets() -> None:
    units, unit = whole_units(np.array([3.0, 5.0, 1e-30]), 40)
    assert units[2] == 1
    assert (units[:2] * unit).tolist() == [3.0, 5.0]
    assert whole_units(np.zeros(0), 40)[1] == 1


@given(st.integers(0, 10_000), st.integers(0, 1))
@settings(max_examples=150)
def test_a_placement_is_a_permutation_never_worse_than_rows(seed: int, effort: int) -> None:
    flow, mesh = case(seed)
    placement = place(flow, mesh, effort)
    assert_every_core_has_a_slot_of_its_own(placement, flow.cores, mesh)
    rows = place_row_major(flow.cores, mesh)
    ours, theirs = route_quality(flow, placement, mesh), route_quality(flow, rows, mesh)
    assert ours.hops_per_packet <= theirs.hops_per_packet
    assert ours.max_link_load <= theirs.max_link_load
    assert placement.chips_used == rows.chips_used
    assert placement.routers_of_a_chip <= rows.routers_of_a_chip


@pytest.mark.parametrize("effort", [1, 2, 3])
def test_the_search_lays_a_chain_out_in_order(effort: int) -> None:
    mesh, flow = mesh_of(8, 4), line_flow(32)
    found = route_quality(flow, place(flow, mesh, effort), mesh)
    assert found.hops_per_packet < 1.5
    assert route_quality(flow, place(flow, mesh, 0), mesh).hops_per_packet > 3
    assert found.max_link_load <= 15


def test_packets_cross_fewer_borders_than_in_rows() -> None:
    """Two groups of 8 that talk among themselves, alternating in number, on two chips: each group gets one."""
    mesh = mesh_of(2, 2, 2, 2, 1)
    source, target = np.divmod(np.arange(256), 16)
    same = (source % 2 == target % 2) & (source != target)
    flow = Flow.of(16, source[same], target[same], np.ones(int(same.sum())))
    placement = place(flow, mesh)
    assert route_quality(flow, placement, mesh).borders_per_packet == 0
    assert len(set(placement.chip[::2].tolist())) == len(set(placement.chip[1::2].tolist())) == 1


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_the_same_flow_gives_the_same_placement(seed: int) -> None:
    flow, mesh = case(seed)
    again = Flow(flow.cores, flow.source.copy(), flow.target.copy(), flow.packets.copy())
    np.testing.assert_array_equal(place(flow, mesh, 1).slots(mesh), place(again, mesh, 1).slots(mesh))


def test_another_seed_takes_another_way() -> None:
    flow, mesh = line_flow(32), mesh_of(8, 4)
    found = set()
    for seed in (1, 2):
        board, state, slots = searched(flow, mesh, {}, place_row_major(32, mesh).slots(mesh))
        annealing.anneal(board, state, 500, 50.0, 3, seed)
        found.add(tuple(slots[state.slot_of].tolist()))
    assert len(found) == 2


def test_an_effort_there_is_not_is_refused() -> None:
    with pytest.raises(CompileError, match=r"--effort: 4 is not known; 0 to 3"):
        place(line_flow(4), mesh_of(2, 2), len(EFFORTS))


def searched(
    flow: Flow, mesh: Mesh, pins: Mapping[int, int], placed: np.ndarray
) -> tuple[annealing.Board, annealing.State, np.ndarray]:
    pinned = np.array(list(pins.values()), np.int64)
    slots = np.concatenate([np.setdiff1d(np.arange(mesh.cores), pinned), pinned])
    board = _board(flow, slots, mesh, pins)
    return board, _state(board, placed, slots, flow, mesh), slots


def distance(board: annealing.Board, state: annealing.State) -> int:
    """Packets in units times stretched links, from scratch; every pair has an edge at either end."""
    total = 0
    for core in range(len(state.slot_of)):
        for edge in range(board.first[core], board.first[core + 1]):
            here, there = state.slot_of[core], state.slot_of[board.other[edge] >> 1]
            apart = abs(board.far_x[here] - board.far_x[there]) + abs(board.far_y[here] - board.far_y[there])
            total += int(board.units[edge]) * int(apart)
    return total // 2


@given(st.integers(0, 10_000))
@settings(max_examples=100)
def test_what_a_swap_is_said_to_change_is_what_it_changes(seed: int) -> None:
    """Distance and soft maximum from scratch before and after; loads and both maps stay what the placement says."""
    flow, mesh = case(seed)
    board, state, slots = searched(flow, mesh, {}, place_random(flow.cores, mesh, seed).slots(mesh))
    units, _ = whole_units(flow.packets, 40)
    whole = Flow(flow.cores, flow.source, flow.target, units.astype(float))
    rng = np.random.default_rng(seed)
    for _ in range(8):
        core, slot = int(rng.integers(flow.cores)), int(rng.integers(len(slots)))
        hottest = annealing._hottest(state)
        if slot == state.slot_of[core]:
            continue
        before, pressed = distance(board, state), soft_maximum(state, hottest)
        start = state.slot_of[core]
        change = annealing._farther(board, state, core, slot)
        felt = annealing._exchange(board, state, core, slot, hottest)
        assert distance(board, state) - before == change
        assert soft_maximum(state, hottest) - pressed == pytest.approx(felt, abs=1e-9 * hottest, rel=1e-9)
        loads = link_loads(whole, Placement.at(slots[state.slot_of], mesh), mesh)
        np.testing.assert_array_equal(state.along_rows, loads[:2])
        np.testing.assert_array_equal(state.along_columns.swapaxes(1, 2), loads[2:])
        np.testing.assert_array_equal(state.core_at[state.slot_of], np.arange(flow.cores))
        assert (state.core_at >= 0).sum() == flow.cores
        refused = distance(board, state)
        back = annealing._farther(board, state, core, start)
        assert not annealing.swap_if(board, state, core, start, back - 1e-3 - 100 * hottest, hottest)
        assert distance(board, state) == refused


def soft_maximum(state: annealing.State, hottest: float) -> float:
    loads = np.concatenate([state.along_rows.ravel(), state.along_columns.ravel()])
    felt = loads[loads >= hottest / 4]
    return float(annealing.PRESSURE * (felt * (felt / hottest) ** 7).sum())


def test_borders_stretch_distances_by_their_price() -> None:
    mesh = mesh_of(2, 1, 1, 2, 1)
    flow = Flow.of(2, np.array([0]), np.array([1]), np.array([1.0]))
    board, state, _ = searched(flow, mesh, {}, np.array([1, 2]))
    assert distance(board, state) == int(board.units[0]) * BORDER_LINKS


def test_a_swap_that_only_presses_a_link_is_refused_and_undone() -> None:
    """Moving core 2 next to 3 shortens nothing but would send both flows over one link."""
    mesh = mesh_of(3, 2)
    flow = Flow.of(4, np.array([0, 2]), np.array([1, 3]), np.array([1.0, 1.0]))
    board, state, slots = searched(flow, mesh, {}, np.array([0, 2, 3, 5]))
    before = [array.copy() for array in state]
    hottest = annealing._hottest(state)
    swap = annealing._farther(board, state, 2, int(np.flatnonzero(slots == 1)[0]))
    assert swap == 0
    assert not annealing.swap_if(board, state, 2, int(np.flatnonzero(slots == 1)[0]), 0.0, hottest)
    for array, kept in zip(state, before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_no_packets_leave_cores_where_a_start_puts_them() -> None:
    empty = Flow.of(5, *np.zeros((2, 0), np.int64), np.zeros(0))
    mesh = mesh_of(4, 2)
    assert_every_core_has_a_slot_of_its_own(place(empty, mesh), 5, mesh)
    assert route_quality(empty, place(empty, mesh), mesh).hops_per_packet == 0


def graph_of(**tiles: int) -> CoreGraph:
    """Populations of so many one-neuron tiles, a core each."""
    one = np.array([0, 1])
    grids = {name: Grid(np.arange(count + 1), one, one) for name, count in tiles.items()}
    cores = np.arange(sum(tiles.values()))
    return CoreGraph(grids, cores, {"neurons": np.ones_like(cores)}, {})


@given(st.integers(0, 10_000), st.integers(0, 1))
@settings(max_examples=60)
def test_pinned_cores_are_where_they_are_pinned(seed: int, effort: int) -> None:
    flow, mesh = case(seed)
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, flow.cores + 1))
    pins = dict(
        zip(rng.permutation(flow.cores)[:count].tolist(), rng.permutation(mesh.cores)[:count].tolist(), strict=True)
    )
    placement = place(flow, mesh, effort, pins)
    assert_every_core_has_a_slot_of_its_own(placement, flow.cores, mesh)
    slots = placement.slots(mesh)
    assert {core: int(slots[core]) for core in pins} == pins
    rows = Placement.at(lay(row_order(first_chips(flow.cores, mesh, pins), mesh), flow.cores, pins), mesh)
    ours, theirs = route_quality(flow, placement, mesh), route_quality(flow, rows, mesh)
    assert ours.hops_per_packet <= theirs.hops_per_packet
    assert ours.max_link_load <= theirs.max_link_load


BOARD = mesh_of(2, 2, 2, 2, 1)


def test_a_layer_takes_cores_in_a_row_and_a_number_names_one() -> None:
    graph = graph_of(first=3, second=2, third=1)
    assert pinned_slots({"second": (1, 5), "0": (0, 7)}, graph, BOARD) == {3: 13, 4: 14, 0: 7}
    assert pinned_slots({"second": (1, 5), "4": (1, 6)}, graph, BOARD) == {3: 13, 4: 14}


@pytest.mark.parametrize(
    ("pins", "message"),
    [
        ({"frist": (0, 0)}, r"--pin frist=0:0: no layer 'frist'; did you mean 'first'\? known: first, second, third"),
        ({"6": (0, 0)}, r"--pin 6=0:0: no core 6; cores are 0 to 5; or name a layer"),
        ({"third": (2, 0)}, r"--pin third=2:0: no chip 2; chips are 0 to 1"),
        ({"third": (0, 8)}, r"--pin third=0:8: no core 8 on a chip; cores are 0 to 7"),
        (
            {"first": (0, 6)},
            r"--pin first=0:6: takes 3 cores, and chip 0 has 2 from core 6 on; start at core 5 or before",
        ),
        (
            {"first": (0, 1), "third": (0, 3)},
            r"--pin third=0:3: chip:core 0:3 is taken by --pin first; pin it to another core",
        ),
        ({"first": (0, 0), "1": (0, 4)}, r"--pin 1=0:4: puts core 1 on 0:4, and --pin first on 0:1; drop one of them"),
    ],
)
def test_a_wrong_pin_is_named_with_what_is_allowed(pins: dict[str, tuple[int, int]], message: str) -> None:
    with pytest.raises(CompileError, match=f"^{message}$"):
        pinned_slots(pins, graph_of(first=3, second=2, third=1), BOARD)


def test_a_layer_larger_than_a_chip_is_pinned_core_by_core() -> None:
    with pytest.raises(CompileError, match=r"takes 9 cores, and chip 0 has 8 .*it needs more than one chip"):
        pinned_slots({"big": (0, 0)}, graph_of(big=9), BOARD)


def test_a_pin_is_a_name_and_two_numbers() -> None:
    assert parse_pin("03_neuron=1:12") == ("03_neuron", (1, 12))
    assert parse_pin("a=b=0:0") == ("a=b", (0, 0))
    for text in ("", "a", "a=1", "a=1:", "a=:1", "=1:1", "a=-1:0", "a=1:1:1", "a=1:²"):
        with pytest.raises(CompileError, match="is not LAYER=CHIP:CORE"):
            parse_pin(text)


@given(st.integers(0, 10_000))
def test_listed_channels_count_as_dense_ones(seed: int) -> None:
    """A sparse layer between flat populations: packets, synops, sums per source and flows of tiles."""
    from scipy.sparse import csr_array

    rng = np.random.default_rng(seed)
    sources, targets = (int(n) for n in rng.integers(1, 30, 2))
    dense = (rng.random((sources, targets)) < 0.2).astype(np.int64)
    one = np.ones((1, 1), np.int64)
    cuts = [
        Grid(np.unique([0, size, *rng.integers(0, size + 1, 4)]), np.array([0, 1]), np.array([0, 1]))
        for size in (sources, targets)
    ]
    counters = [LayerCounter.of(Connectivity(channels, one, one), *cuts) for channels in (dense, csr_array(dense))]
    values = rng.integers(0, 9, (cuts[0].tiles, cuts[1].tiles)).astype(float)
    for spikes in ((rng.random((3, sources, 1, 1)) < 0.5), rng.random((3, sources, 1, 1))):
        found = []
        for counter in counters:
            sums = [each.reshape(3, -1) for each in contract_all(spikes, counter.sums)]
            flow = table(counter, spikes[0].astype(float))
            found.append([counter.synops(spikes), counter.per_source(values)[:, 0, 0], *sums, flow])
        for of_dense, of_listed in zip(*found, strict=True):
            np.testing.assert_allclose(of_listed, of_dense, rtol=1e-12)


def table(counter: LayerCounter, rates: np.ndarray) -> np.ndarray:
    """(source tiles, target tiles)"""
    flow = counter.tile_flow(rates)
    found = np.zeros((counter.source_splits[0], counter.target_splits[0]))
    found[flow.source, flow.target] = flow.packets
    assert np.count_nonzero(found) == len(flow.packets)
    return found


def test_the_chip_models_have_meshes_that_cores_fit_on() -> None:
    mesh = load_chip("loihi2").mesh
    flow = line_flow(mesh.cores)
    assert_every_core_has_a_slot_of_its_own(place(flow, mesh), mesh.cores, mesh)
