"""Timing of chip steps: flows equal brute force, the router only lengthens steps, energy adds up however it is cut."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from core_counter import owners_of, products
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import program_of
from random_networks import conv_network, images, random_network
from snncompile.backends.chipsim import clocked
from snncompile.backends.chipsim.cost import Traffic
from snncompile.backends.chipsim.counting import CoreCounter
from snncompile.backends.chipsim.flows import FlowCounter, StepFlow, mesh_synapses, most_on_a_link
from snncompile.backends.chipsim.function import FunctionEngine
from snncompile.backends.chipsim.router import RouterSettings, route
from snncompile.backends.chipsim.router_bound import router_bound
from snncompile.backends.chipsim.simulator import _Simulation

from snncompile import reference
from snncompile.backend import Run, RunOptions, load_backend
from snncompile.chip import MaxAffine, Mesh, Source, load_chip, parse_chip
from snncompile.cli import cli
from snncompile.errors import CompileError
from snncompile.mapping.place import place_random
from snncompile.program import Program
from snncompile.sealed import write_program

SIM = load_backend("sim")
HARDWARE = Path(__file__).parent.parent / "hw_models"


def with_router(program: Program, seed: int = 0, **changes: object) -> Program:
    """The program at random places of its chip, with the router of `tiny` but for changes."""
    router = load_chip("tiny").router.model_copy(update=changes)
    invented = Source(covers=("router",), source="invented for tests", basis="invented", confidence="low")
    chip = program.chip.model_copy(update={"router": router, "sources": (*program.chip.sources, invented)})
    placement = place_random(program.core_graph.core_count, chip.mesh, seed)
    return replace(program, chip=chip, placement=placement)


def timed(program: Program, x: np.ndarray, timing: str) -> Run:
    return SIM.run(program, Path(), x, options=RunOptions(timing, arrays=True))


def fired_by(program: Program, x: np.ndarray) -> Callable[[np.ndarray], list[tuple[str, np.ndarray]]]:
    """Spikes of some samples from the reference, as flows take them."""
    network = program.network
    payloads = reference.run_integer(network, x).payloads

    def spikes(samples: np.ndarray) -> list[tuple[str, np.ndarray]]:
        shapes = {p.name: (*(1,) * (3 - len(p.shape)), *p.shape)[-3:] for p in network.populations}
        shapes |= {p.name: (*p.shape, 1, 1) for p in network.populations if len(p.shape) == 1}
        found = ((p.name, payloads[p.name][:, samples] != 0) for p in network.populations)
        return [(name, values.reshape(*values.shape[:2], *shapes[name])) for name, values in found]

    return spikes


@given(st.integers(0, 10_000), st.integers(1, 4))
@settings(max_examples=15)
def test_flows_equal_brute_force(seed: int, at_once: int) -> None:
    """Neuron by neuron and synapse by synapse, in the chip step that the source's depth puts them in."""
    program = program_of(random_network(seed))
    network, cores = program.network, program.core_graph.core_count
    x = images(network, samples=3, seed=seed)
    owners, payloads = owners_of(network, program.core_graph), reference.run_integer(network, x).payloads
    steps = 3 * network.timesteps + network.depth
    packets, synops = np.zeros((2, steps, cores, cores))
    for synapses in mesh_synapses(network):
        joined = products(network, synapses, np.ones_like(synapses.weight)) != 0
        source, target = owners[synapses.source], owners[network.target_of(synapses).name]
        onto = np.stack([joined[:, target == core].sum(1) for core in range(cores)], axis=1)
        depth = network.populations_by_name[synapses.source].depth
        for t, n in np.ndindex(network.timesteps, 3):
            for neuron in np.flatnonzero(payloads[synapses.source][t, n]):
                step = n * network.timesteps + t + depth
                packets[step, source[neuron]] += onto[neuron] > 0
                synops[step, source[neuron]] += onto[neuron]
    found = list(FlowCounter(program).flows(np.arange(steps), 3, fired_by(program, x), at_once))
    assert [flow.step for flow in found] == sorted({flow.step for flow in found})
    counted, reached = np.zeros((2, steps, cores, cores))
    for flow in found:
        counted[flow.step, flow.source, flow.target] = flow.packets
        reached[flow.step, flow.source, flow.target] = flow.synops
    np.testing.assert_array_equal(counted, packets)
    np.testing.assert_array_equal(reached, synops)
    some = np.arange(1, steps, 3)
    for flow in FlowCounter(program).flows(some, 3, fired_by(program, x), at_once):
        assert flow.step in some
        np.testing.assert_array_equal(flow.packets, counted[flow.step][flow.source, flow.target])


@given(st.integers(0, 10_000))
@settings(max_examples=10)
def test_the_quick_bound_holds_for_every_link(seed: int) -> None:
    """What `auto` leaves unlooked at can never have been busy: checked link by link against the ways of all packets."""
    program = with_router(program_of(random_network(seed), "loihi2", 10), seed, subnetworks=1)
    x = images(program.network, samples=2, seed=seed)
    traffic = _traffic_of(program, x)
    board = clocked.RouterMesh.of(program)
    most = most_on_a_link(program, traffic)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("snncompile.backends.chipsim.flows.STEPS_AT_ONCE", 3)
        np.testing.assert_array_equal(most_on_a_link(program, traffic), most)
    cores = program.core_graph.core_count
    for flow in FlowCounter(program).flows(np.arange(len(most)), 2, fired_by(program, x)):
        bound = router_bound(board.packets(flow, np.zeros(cores), program.chip), board.mesh, board.settings)
        assert bound.link_cycles.max() <= most[flow.step]


def _traffic_of(program: Program, x: np.ndarray) -> Traffic:
    counter = CoreCounter(program)
    batch = _Simulation(program, FunctionEngine(program.network), counter, frozenset()).batch(x)
    return counter.traffic([batch.parts])


def test_one_packet_takes_what_its_parts_take() -> None:
    """20 ns of generation, 1 + 4 cycles a hop + 3 to be received, 16 + 10 * 3.8 ns of service: 82 cycles of 1 ns."""
    chip = load_chip("loihi1")
    mesh = chip.mesh.model_copy(update={"chips_across": 1, "chips_down": 1})
    sent = RouterSettings(hop_cycles_east_west=4, hop_cycles_north_south=4, eject_cycles=3, generation_waits=True)
    board = clocked.RouterMesh(chip.router, sent, mesh, np.array([0, 4]))
    flow = StepFlow(0, np.array([0]), np.array([1]), np.array([1]), np.array([10.0]))
    packets = board.packets(flow, np.array([20.0, 0.0]), chip)
    assert route(packets, mesh, sent).cycles == 20 + (1 + 4 + 3) + (16 + 38)


@given(st.integers(0, 10_000))
@settings(max_examples=8)
def test_the_router_makes_steps_longer_and_auto_takes_it_where_links_are_busy(seed: int) -> None:
    """Event-timed <= auto <= cycle, step by step; where auto routed it equals cycle, elsewhere the event-timed step."""
    program = with_router(program_of(random_network(seed), "loihi2", 10), seed, cycle_ns=4.0)
    x = images(program.network, samples=3, seed=seed)
    runs = {timing: timed(program, x, timing) for timing in ("event", "auto", "cycle")}
    event, auto, every = (run.arrays["step_ns"] for run in runs.values())
    routed = runs["auto"].arrays["step_routed"]
    assert (event <= every).all()
    np.testing.assert_array_equal(auto, np.where(routed, every, event))
    assert runs["cycle"].arrays["step_routed"].all()
    assert [run.cost["routed_steps"] for run in runs.values()] == [0, routed.sum(), len(every)]
    assert runs["auto"].cost["timing"] == ("event+router" if routed.any() else "event")
    assert [runs[t].cost["timing"] for t in ("event", "cycle")] == ["event", "cycle"]
    assert runs["cycle"].cost["latency_us"] >= runs["event"].cost["latency_us"]
    for run in runs.values():
        np.testing.assert_array_equal(run.output, runs["event"].output)
        assert run.cost["energy_pj"] == runs["event"].cost["energy_pj"]


def test_slow_links_are_routed_and_fast_ones_are_not() -> None:
    program = program_of(conv_network(3), "loihi2", 10)
    x = images(program.network, samples=2, seed=1)
    slow, fast = (timed(with_router(program, 1, cycle_ns=ns), x, "auto") for ns in (200.0, 1e-6))
    assert slow.cost["routed_steps"] > 0
    assert slow.arrays["step_ns"].sum() > fast.arrays["step_ns"].sum()
    assert (fast.cost["timing"], fast.cost["routed_steps"]) == ("event", 0)


def test_results_do_not_depend_on_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    program = with_router(program_of(conv_network(3), "loihi2", 10), cycle_ns=20.0)
    x = images(program.network, samples=5, seed=1)
    whole = timed(program, x, "cycle")
    monkeypatch.setattr("snncompile.backends.chipsim.simulator.BATCH_STATES", 1)
    monkeypatch.setattr(clocked, "STEPS_AT_ONCE", 1)
    parts = timed(program, x, "cycle")
    assert whole.cost == parts.cost
    for name, values in whole.arrays.items():
        np.testing.assert_array_equal(values, parts.arrays[name])


def test_a_router_nobody_published_is_refused_and_auto_says_so() -> None:
    program = program_of(conv_network(3))
    x = images(program.network, samples=1, seed=1)
    with pytest.raises(CompileError, match=r"--timing cycle: the router of loihi2 is not known \(router: null") as told:
        timed(program, x, "cycle")
    assert "--timing event" in told.value.hint
    run = timed(program, x, "auto")
    assert (run.cost["timing"], run.cost["routed_steps"]) == ("event", 0)
    assert "router of loihi2 is not known" in run.cost["timing_note"]


def test_links_between_chips_that_nobody_published_are_refused() -> None:
    program = program_of(conv_network(3), "loihi2", 10)
    mesh = Mesh(width=1, height=2, cores_per_router=2, chips_across=16, chips_down=1)
    program = replace(program, chip=program.chip.model_copy(update={"mesh": mesh}))
    unknown = with_router(program, border_flit_cycles=None)
    x = images(program.network, samples=1, seed=1)
    assert unknown.placement.chips_used > 1
    with pytest.raises(CompileError, match=r"takes \d+ chips, and what a link between chips of loihi2 takes"):
        timed(unknown, x, "cycle")
    assert "link between chips" in timed(unknown, x, "auto").cost["timing_note"]
    known = timed(with_router(program, border_flit_cycles=50), x, "cycle")
    quick = timed(with_router(program, border_flit_cycles=1), x, "cycle")
    assert known.arrays["step_ns"].sum() > quick.arrays["step_ns"].sum()


@given(st.integers(0, 10_000))
@settings(max_examples=10)
def test_energy_adds_up_over_layers_cores_and_steps(seed: int) -> None:
    program = program_of(random_network(seed))
    run = timed(program, images(program.network, samples=3, seed=seed), "event")
    energy, layers = run.cost["energy_pj"], run.cost["energy_by_layer_pj"]
    assert list(layers) == [p.name for p in program.network.populations]
    for bound in ("low", "nominal", "high"):
        assert sum(layer[bound] for layer in layers.values()) == pytest.approx(energy[bound])
    for cause, total in energy["by_cause"].items():
        parts = [layer["by_cause"][cause] for layer in layers.values()]
        assert total is None or sum(parts) == pytest.approx(total)
    arrays, sets = run.arrays, energy["cost_sets"]
    assert arrays["energy_sets"].tolist() == list(sets)
    for row, entry in enumerate(sets.values()):
        links = sum(pj or 0.0 for cause, pj in entry["by_cause"].items() if cause.startswith("hop"))
        assert arrays["core_energy_pj"][row].sum() + links == pytest.approx(entry["total"])
        assert arrays["step_energy_pj"][row].sum() / 3 == pytest.approx(entry["total"])
    assert arrays["core_synops"].sum() == pytest.approx(run.cost["synops"])
    assert arrays["step_synops"].sum() / 3 == pytest.approx(run.cost["synops"])
    assert arrays["core_packets_out"].sum() == pytest.approx(run.cost["packets"])
    assert arrays["step_packets_out"].sum() / 3 == pytest.approx(run.cost["packets"])
    assert arrays["core_packets_in"].sum() == pytest.approx(arrays["step_packets_in"].sum() / 3)
    busiest = np.maximum(arrays["step_generation_ns"], arrays["step_reception_ns"])
    np.testing.assert_allclose(arrays["step_ns"], busiest + run.cost["barrier_ns"])


def test_a_cost_that_is_not_published_is_null_in_every_layer() -> None:
    program = program_of(conv_network(4))
    chip = program.chip
    silent = chip.nominal_energy.model_copy(update={"energy_spike_pj": None})
    program = replace(program, chip=chip.model_copy(update={"energy": (silent,)}))
    run = timed(program, images(program.network, samples=1, seed=1), "event")
    assert all(layer["by_cause"]["spike"] is None for layer in run.cost["energy_by_layer_pj"].values())
    assert run.cost["energy_pj"]["cost_sets"][silent.name]["not_published"] == ["spike"]


@pytest.fixture
def sealed(tmp_path: Path) -> tuple[Path, Path]:
    """A program with a router in a folder, and data for it."""
    program = with_router(program_of(conv_network(3), "loihi2", 10))
    x = np.random.default_rng(0).integers(0, 256, (4, *program.network.input_shape))
    write_program(tmp_path / "out", program, SIM.emit(program))
    np.savez(tmp_path / "data.npz", x=x.astype(np.uint8))
    return tmp_path / "out", tmp_path / "data.npz"


def test_the_command_line_times_steps_and_saves_arrays(sealed: tuple[Path, Path], tmp_path: Path) -> None:
    directory, data = sealed
    common = ["run", str(directory), "--data", str(data), "--json"]
    done = CliRunner().invoke(cli, [*common, "--timing", "cycle", "--save", str(tmp_path / "saved.npz")])
    assert done.exception is None, done.exception
    result = json.loads(done.stdout)
    assert (result["timing"], result["routed_steps"]) == ("cycle", result["chip_steps"])
    nominal = sum(layer["nominal_uj"] for layer in result["energy_by_layer"].values())
    assert nominal == pytest.approx(result["energy_uj_per_inference"]["nominal"])
    with np.load(tmp_path / "saved.npz") as saved:
        assert saved["step_routed"].all()
        assert saved["step_ns"].shape == (result["chip_steps"],)
        assert saved["core_energy_pj"].shape[1] == len(saved["core_synops"])
    event = json.loads(CliRunner().invoke(cli, [*common, "--timing", "event"]).stdout)
    assert (event["timing"], event["routed_steps"]) == ("event", 0)
    assert event["latency_us_per_inference"] <= result["latency_us_per_inference"]
    printed = CliRunner().invoke(cli, common[:-1])
    assert all(f"energy_uj {name}" in printed.stdout for name in result["energy_by_layer"])
    refused = CliRunner().invoke(cli, [*common, "--timing", "cycle", "--backend", "reference"])
    assert isinstance(refused.exception, CompileError)
    assert "models no time" in str(refused.exception)


def test_a_router_block_needs_a_source_and_whole_cycles() -> None:
    text = (HARDWARE / "tiny.yaml").read_text()
    with pytest.raises(CompileError, match="router"):
        parse_chip(text.replace("time, router, energy]", "time, energy]"), "mine.yaml")
    with pytest.raises(CompileError, match="fifo_flits"):
        parse_chip(text.replace("fifo_flits: 4", "fifo_flits: 0"), "mine.yaml")


def test_what_the_max_affine_model_counts() -> None:
    """By brute force, core by core: synapses reached and compartments; bounds for memory reads and for links."""
    program = program_of(conv_network(3))
    network, cores = program.network, program.core_graph.core_count
    x = images(network, samples=2, seed=1)
    run = timed(program, x, "auto")
    counts = run.cost["max_affine_counts"]
    assert counts["dendrite_ops"]["max"] == program.core_graph.usage["neurons"].max()
    owners, payloads = owners_of(network, program.core_graph), reference.run_integer(network, x).payloads
    steps = 2 * network.timesteps + network.depth
    synops, depths = np.zeros((steps, cores)), {p.name: p.depth for p in network.populations}
    for synapses in network.synapses:
        joined = products(network, synapses, np.ones_like(synapses.weight)) != 0
        target = owners[network.target_of(synapses).name]
        onto = np.stack([joined[:, target == core].sum(1) for core in range(cores)], axis=1)
        for t, n in np.ndindex(network.timesteps, 2):
            fired = (payloads[synapses.source][t, n] != 0).ravel()
            synops[n * network.timesteps + t + depths.get(synapses.source, 0)] += fired @ onto
    assert counts["synops"] == pytest.approx({"mean": synops.max(1).mean(), "max": synops.max()})
    assert counts["synapse_reads_at_least"]["max"] <= counts["synops"]["max"]
    lines = SIM.run(program, Path(), x, options=RunOptions(trace=True)).trace.lines
    assert counts["link_packets_at_most"]["max"] >= lines["link_packets"].max() > 0
    assert run.cost["timing"] == "event"
    assert run.cost["timing_basis"].startswith("scaled_estimate, confidence low: Loihi 1 silicon fit")
    assert "max-affine model, arXiv:2601.10035, are not known" in run.cost["timing_basis"]


@pytest.mark.parametrize("term", ["dendrite_op", "synop", "link_packet", "barrier"])
def test_a_chip_with_all_coefficients_is_timed_by_its_slowest_term(term: str) -> None:
    program = program_of(conv_network(3))
    keys = ("dendrite_op", "synop", "synapse_read", "link_packet", "barrier")
    model = MaxAffine(**{f"time_{key}_ns": 1e6 if key == term else 1e-6 for key in keys})
    known = Source(covers=("max_affine",), source="invented", basis="invented", confidence="low")
    chip = program.chip.model_copy(update={"max_affine": model, "sources": (*program.chip.sources, known)})
    x = images(program.network, samples=2, seed=1)
    run = SIM.run(replace(program, chip=chip), Path(), x, options=RunOptions("auto", arrays=True, trace=True))
    assert (run.cost["timing"], run.cost["routed_steps"]) == ("max-affine", 0)
    assert run.cost["timing_basis"] == "invented, confidence low: invented"
    busiest = {
        "dendrite_op": run.cost["max_affine_counts"]["dendrite_ops"]["max"],
        "synop": run.cost["max_affine_counts"]["synops"]["max"],
        "link_packet": run.trace.lines["link_packets"].max(),
        "barrier": 1.0,
    }
    assert run.arrays["step_ns"].max() == pytest.approx(1e6 * busiest[term])


def test_two_layers_of_64_through_the_router() -> None:
    """SANA-FE's network: event-timed 64 * 259.2 ns; routed, the first packet's making and way come before that.

    Ready after 44.8 ns (45 cycles), 1 + 3 cycles to be received in the same router, then 64 times 259 cycles.
    """
    chip = load_chip("loihi1")
    mesh = chip.mesh.model_copy(update={"chips_across": 1, "chips_down": 1})
    sent = RouterSettings(hop_cycles_east_west=4, hop_cycles_north_south=4, eject_cycles=3, receive_packets=8)
    board = clocked.RouterMesh(chip.router, sent, mesh, np.array([0, 1]))
    flow = StepFlow(0, np.array([0]), np.array([1]), np.array([64]), np.array([64.0 * 64]))
    packets = board.packets(flow, np.array([64 * 44.8, 0.0]), chip)
    cycles = route(packets, mesh, sent).cycles
    assert cycles == 45 + (1 + 3) + 64 * 259
    assert cycles == pytest.approx(64 * 259.2, rel=0.005)
