"""The simulator on what lowered networks hold: lateral synapses, micro-steps, frames, mixing, currents of the host."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_networks import integer_inputs, integer_network
from rich.console import Console
from snncompile.backends.chipsim.cost import Traffic
from snncompile.backends.chipsim.counting import CoreCounter
from snncompile.backends.chipsim.function import FunctionEngine
from snncompile.backends.chipsim.simulator import _Simulation, cost_of
from test_mapping import dense, owners_of

from snncompile import reference
from snncompile.backend import load_backend
from snncompile.chip import Chip, load_chip
from snncompile.encoding import Encoder
from snncompile.levels import activity_of, default_levels
from snncompile.mapping.activity import packet_flow
from snncompile.mapping.partition import partition, verify
from snncompile.mapping.place import Placement, chip_positions, place_random
from snncompile.program import Program, Provenance
from snncompile.quant_network import QuantNetwork
from snncompile.quantization.quantize import HostScales
from snncompile.report.build import build_report
from snncompile.report.terminal import print_report


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Small networks: threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def board() -> Chip:
    """Loihi 1 with cores of 24 compartments, on a board of 5 x 5 chips of 2 x 2 routers with 2 cores each."""
    chip = load_chip("loihi1")
    mesh = {"width": 2, "height": 2, "cores_per_router": 2, "chips_across": 5, "chips_down": 5}
    return chip.model_copy(
        update={
            "core": chip.core.model_copy(update={"neurons": 24}),
            "mesh": chip.mesh.model_copy(update=mesh),
        }
    )


def program_of_integers(network: QuantNetwork, seed: int) -> Program:
    """On the board, at random cores."""
    chip = board()
    graph = partition(network, chip)
    verify(graph, network, chip)
    kind = "currents" if network.input_kind == "currents" else "events"
    encoder = Encoder(kind, 1.0, network.input_shape, network.timesteps, network.input_payload_max)
    host = HostScales(encoder, {p.name: np.ones(p.shape[0]) for p in network.populations}, 1.0)
    lowering = {p.name: {"lowering": "by hand", "exactness": "exact"} for p in network.populations}
    made = Provenance("0" * 64, {}, (), 5, "max", {}, "auto", "direct", lowering)
    placement = place_random(len(graph.cores), chip.mesh, seed)
    return Program("loihi1-sim", chip, network, host, graph, placement, made)


def simulated(program: Program, x: np.ndarray) -> Traffic:
    counter = CoreCounter(program)
    batch = _Simulation(program, FunctionEngine(program.network), counter, frozenset()).batch(x)
    return counter.traffic([batch.parts])


@given(st.integers(0, 100_000))
@settings(max_examples=200)
def test_every_spike_and_state_equals_the_reference(seed: int) -> None:
    network = integer_network(seed)
    x = integer_inputs(network, samples=3, seed=seed)
    exact = reference.run_integer(network, x)
    for layer in FunctionEngine(network).run(x):
        name = layer.population.name
        np.testing.assert_array_equal(layer.payloads.reshape(exact.payloads[name].shape), exact.payloads[name], name)
    np.testing.assert_array_equal(layer.output, exact.output)


@given(st.integers(0, 100_000))
@settings(max_examples=200)
def test_the_chip_clock_gives_the_same(seed: int) -> None:
    network = integer_network(seed)
    x = integer_inputs(network, samples=2, seed=seed)
    exact, clocked = reference.run_integer(network, x), reference.run_on_chip_clock(network, x)
    for name, payloads in exact.payloads.items():
        np.testing.assert_array_equal(clocked.payloads[name], payloads, name)
    np.testing.assert_array_equal(clocked.output, exact.output)


@given(st.integers(0, 100_000))
@settings(max_examples=60)
def test_counts_equal_brute_force(seed: int) -> None:
    """Packets, hops and synops spike by spike along the wires; updates neuron by neuron; compartments."""
    network = integer_network(seed)
    program = program_of_integers(network, seed)
    x = integer_inputs(network, samples=2, seed=seed)
    traffic = simulated(program, x)
    exact = reference.run_integer(network, x)
    owners, cores = owners_of(network, program.core_graph), len(program.core_graph.cores)
    received = np.zeros((2, network.timesteps + network.depth, cores))
    synops = np.zeros_like(received)
    out = np.zeros((2, network.timesteps, cores))
    links = {"east_west": 0, "north_south": 0, "border": 0}
    depths = {network.input_name: 0} | {p.name: p.depth for p in network.populations}
    for synapses in network.synapses:
        from_host = synapses.source == network.input_name
        if from_host and network.input_kind == "currents":
            continue
        counts, target = dense(network, synapses), owners[network.target_of(synapses).name]
        spikes = (exact.payloads[synapses.source] != 0).reshape(network.timesteps, 2, -1)
        for t, sample, neuron in np.argwhere(spikes):
            reached = counts[neuron]
            for core in np.unique(target[reached > 0]):
                received[sample, depths[synapses.source] + t, core] += 1
                synops[sample, depths[synapses.source] + t, core] += reached[target == core].sum()
                if not from_host:
                    sender = owners[synapses.source][neuron]
                    out[sample, t, sender] += 1
                    for link in walked(program.placement, program.chip, sender, core):
                        links[link] += 1
    assert (traffic.hops_east_west.sum(), traffic.hops_north_south.sum(), traffic.hops_chip_border.sum()) == tuple(
        links.values()
    )
    np.testing.assert_array_equal(traffic.packets_out, out)
    for field, expected in (("packets", received), ("synops", synops)):
        counted = np.zeros_like(received)
        for r in traffic.receptions:
            values = getattr(r, field)
            counted[:, r.depth : r.depth + network.timesteps, r.first_tile : r.first_tile + values.shape[2]] += values
        np.testing.assert_array_equal(counted, expected)
    compartments = {"hard": 1, "soft": 2, "none": 2}
    each = {p.name: compartments[p.reset] if p.spiking else 1 for p in network.populations}
    mapped = sum(p.size * each[p.name] for p in network.populations)
    assert traffic.neurons.sum() == mapped
    assert traffic.updated.sum() == sum(updates(network, exact, x)[p.name] * each[p.name] for p in network.populations)
    assert traffic.fired.sum() == sum(int((exact.payloads[p.name] != 0).sum()) for p in network.populations)
    assert cost_of(program, traffic)["events"]["neuron"] == mapped * network.timesteps


def walked(placement: Placement, chip: Chip, source: int, target: int) -> Iterator[str]:
    """The links from core to core, one router at a time: first along the row, then along the column."""
    mesh = chip.mesh
    column, row = chip_positions(mesh)
    x, goal_x = (int(column[placement.chip[c]] * mesh.width + placement.x[c]) for c in (source, target))
    y, goal_y = (int(row[placement.chip[c]] * mesh.height + placement.y[c]) for c in (source, target))
    while (x, y) != (goal_x, goal_y):
        if x != goal_x:
            step = 1 if goal_x > x else -1
            yield "east_west" if x // mesh.width == (x + step) // mesh.width else "border"
            x += step
        else:
            step = 1 if goal_y > y else -1
            yield "north_south" if y // mesh.height == (y + step) // mesh.height else "border"
            y += step


def updates(network: QuantNetwork, exact: reference.IntegerTrace, x: np.ndarray) -> dict[str, int]:
    """Neurons whose state, bias or summed input was not 0, per population, over all samples and steps."""
    found = {}
    for population in network.populations:
        inputs = network.inputs_of(population)
        forward = [s for s in inputs if s.source != population.name]
        v, total = reference.initial_state(population, len(x)), 0
        arriving = [sum(reference.integer_current(s, exact.payloads[s.source][t]) for s in forward)
                    for t in range(network.timesteps)]  # fmt: skip
        currents = reference.input_currents(population, np.stack(arriving))
        bias = population.bias.reshape(-1, *(1,) * (v.v.ndim - 2))
        for t in range(network.timesteps):
            lateral = np.zeros_like(v.v)
            if t > 0:
                own = exact.payloads[population.name][t - 1]
                lateral = sum(
                    (reference.integer_current(s, own) for s in inputs if s.source == population.name), start=lateral
                )
            summed = lateral + (currents[t] if population.mixing is not None else arriving[t])
            biased = population.mixing is None and bias != 0
            total += int(((v.v != 0) | (summed != 0) | biased).sum())
            _, _, v = reference.step_population(population, v, currents[t] + lateral, t % network.microsteps)
        found[population.name] = total
    return found


@given(st.integers(0, 100_000))
@settings(max_examples=30)
def test_the_estimate_at_the_measured_activity_has_the_measured_counts(seed: int) -> None:
    """Counts are linear in the activity, so the means of a run give its packets, spikes and synops."""
    network = integer_network(seed)
    program = program_of_integers(network, seed)
    x = integer_inputs(network, samples=3, seed=seed)
    exact = reference.run_integer(network, x)
    recorded = {p.name: exact.payloads[p.name] for p in network.populations}
    run = cost_of(program, simulated(program, x))
    activity = {name: (steps != 0).mean(axis=(0, 1)) for name, steps in recorded.items()}
    activity[network.input_name] = (x != 0).reshape(-1, *network.input_shape).mean(axis=0)
    estimate = load_backend("sim").estimate(program, activity)
    for event in ("synop", "spike", "packet", "hop_east_west", "hop_north_south", "hop_chip_border", "neuron"):
        assert estimate["events"][event] == pytest.approx(run["events"][event])
    assert activity_of(network, default_levels(network)).keys() == recorded.keys() | {network.input_name}


def test_links_between_chips_have_no_price_and_are_named() -> None:
    programs = (program_of_integers(integer_network(seed), seed) for seed in range(100))
    program = next(p for p in programs if p.placement.chips_used > 1 and p.network.input_kind == "spikes")
    network = program.network
    x = np.full((2, *network.input_shape), network.input_payload_max)
    cost = cost_of(program, simulated(program, x))
    assert cost["events"]["hop_chip_border"] > 0
    for entry in cost["energy_pj"]["cost_sets"].values():
        assert entry["by_cause"]["hop_chip_border"] is None
        assert "hop_chip_border" in entry["not_published"]
    static = cost["static_energy_uj_during_latency"]
    assert static["low"] == pytest.approx(104.4e-3 * program.placement.chips_used * cost["latency_us"])
    assert cost["barrier_ns"] == program.chip.time.barrier_ns(program.placement.routers_of_a_chip)


def test_what_the_host_sends_alike_in_every_step_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from snncompile.backends.chipsim.products import Product

    network = next(n for n in map(integer_network, range(100)) if n.microsteps > 1 and n.timesteps > n.microsteps)
    engine = FunctionEngine(network)
    seen = []
    of = Product.of
    monkeypatch.setattr(Product, "of", lambda self, x: seen.append((self, len(x))) or of(self, x))
    first = engine._layers[0].forward[0]
    frames = network.timesteps // network.microsteps
    for x, computed in (
        (np.zeros((5, *network.input_shape)), 5),
        (np.zeros((5, frames, *network.input_shape)), 5 * frames),
    ):
        seen.clear()
        list(engine.run(x.astype(np.int64)))
        assert [n for product, n in seen if product is first] == [computed]


def test_batches_of_frames_give_what_one_batch_gives(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    network = integer_network(11)
    program = program_of_integers(network, 0)
    frames = network.timesteps // network.microsteps
    rng = np.random.default_rng(0)
    x = rng.integers(0, network.input_payload_max + 1, (7, frames, *network.input_shape))
    whole = load_backend("sim").run(program, tmp_path, x)
    monkeypatch.setattr("snncompile.backends.chipsim.simulator.BATCH_STATES", 3 * program.neurons * network.timesteps)
    parts = load_backend("sim").run(program, tmp_path, x)
    np.testing.assert_array_equal(whole.output, parts.output)
    assert whole.cost == parts.cost


def test_the_report_names_chips_members_and_what_the_host_computes() -> None:
    networks = (integer_network(seed) for seed in range(200))
    fitting = (n for n in networks if n.input_kind == "currents" and max(p.members for p in n.populations) > 1)
    programs = (program_of_integers(network, 0) for network in fitting)
    program = next(p for p in programs if p.placement.chips_used > 1)
    network = program.network
    activity = activity_of(network, default_levels(network))
    flow = packet_flow(network, program.core_graph, activity)
    report = build_report(program, flow, load_backend("sim").estimate(program, activity), "assumed")
    assert report["chips_used"] == len({core["chip"] for core in report["cores"]}) > 1
    assert (report["chips_available"], report["cores_available"]) == (25, 200)
    assert report["input"]["kind"] == "currents"
    assert "not priced" in report["input"]["computed"]
    assert any("lower bounds" in note for note in report["estimate"]["provenance"])
    assert report["mapping"]["chip_border_hops"] == pytest.approx(report["estimate"]["events"]["hop_chip_border"])
    first = report["layers"][0]
    assert first["kind"].startswith("currents")
    for layer, population in zip(report["layers"], network.populations, strict=True):
        assert layer["neurons_trained"] * layer["members"] == layer["neurons"] == population.size
        taken = sum(core["neurons"] for core in report["cores"] if core["layers"][0]["name"] == layer["name"])
        assert layer["compartments_per_neuron"] * layer["neurons"] == taken
    console = Console(width=200, record=True, file=io.StringIO())
    print_report(report, console)
    text = console.export_text()
    assert f"{report['chips_used']} of 25 chips" in text
    assert "input: currents" in text
