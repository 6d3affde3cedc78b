"""Traces: the structure that Perfetto and chrome://tracing read, and arrays that say the same; probes of neurons."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from programs import program_of
from random_networks import conv_network, images, random_network
from snncompile.backends.chipsim import timeline
from test_timing import with_router

from snncompile import reference
from snncompile.backend import RunOptions, load_backend
from snncompile.cli import cli
from snncompile.errors import CompileError
from snncompile.mapping.routes import hops
from snncompile.probe import Probe, probed
from snncompile.program import Program
from snncompile.sealed import write_program

SIM = load_backend("sim")
SAMPLES = 2


def traced(program: Program, timing: str = "event") -> tuple[dict, list[dict], dict]:
    """Lines, events and cost of a run of two samples."""
    x = images(program.network, samples=SAMPLES, seed=1)
    run = SIM.run(program, Path(), x, options=RunOptions(timing, arrays=True, trace=True))
    assert run.trace is not None
    return dict(run.trace.lines), run.trace.events["traceEvents"], {**run.cost, **run.arrays}


@pytest.mark.parametrize("timing", ["event", "cycle"])
def test_the_trace_has_the_structure_that_viewers_need(timing: str) -> None:
    program = with_router(program_of(conv_network(3), "loihi2", 10), 1, cycle_ns=50.0)
    _, events, _ = traced(program, timing)
    events = json.loads(json.dumps(events))
    assert {event["ph"] for event in events} == {"M", "X", "C"}
    for event in events:
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert isinstance(event["name"], str)
        if event["ph"] == "X":
            assert event["dur"] > 0 <= event["ts"]
        if event["ph"] == "C":
            assert list(event["args"]) == ["packets"]
    named = {(e["pid"], e["tid"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert {(e["pid"], e["tid"]) for e in events if e["ph"] == "X"} <= named
    assert {e["pid"] for e in events} == set(processes)
    routers = [title for title in processes.values() if title.startswith("chip 0 router ")]
    assert len(routers) == len(set(routers)) == program.placement.routers_used
    cores = [e["args"]["name"] for e in events if e["name"] == "thread_name" and "core" in e["args"]["name"]]
    assert len(cores) == len(set(cores)) == 2 * program.core_graph.core_count
    timings = {e["args"]["timing"] for e in events if e["ph"] == "X" and e["name"].startswith("step ")}
    assert timings == {"router" if timing == "cycle" else "event"}


def test_slices_of_a_thread_do_not_overlap_and_fit_their_step() -> None:
    program = with_router(program_of(conv_network(3), "loihi2", 10), 1, cycle_ns=50.0)
    lines, events, cost = traced(program, "cycle")
    start, end = lines["step_start_ns"] / 1e3, (lines["step_start_ns"] + lines["step_ns"]) / 1e3
    np.testing.assert_allclose(start[1:], end[:-1])
    np.testing.assert_array_equal(lines["step_ns"], cost["step_ns"])
    threads: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in events:
        if event["ph"] == "X":
            threads.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    for slices in threads.values():
        assert slices == sorted(slices)
        assert all(a[1] <= b[0] + 1e-6 for a, b in pairwise(slices))
        for begins, ends in slices:
            step = np.searchsorted(start, begins + 1e-9, side="right") - 1
            assert start[step] - 1e-9 <= begins <= ends <= end[step] + 1e-6


def test_lines_and_slices_say_the_same() -> None:
    program = program_of(random_network(4))
    lines, events, cost = traced(program)
    ways = {"generate": "core_generation_ns", "receive": "core_reception_ns"}
    for name, key in ways.items():
        total = sum(event["dur"] for event in events if event["name"] == name)
        assert total == pytest.approx(lines[key].sum() / 1e3)
        np.testing.assert_allclose(lines[key].sum(0) / SAMPLES, cost[key])
    barriers = [event["dur"] for event in events if event["name"] == "barrier"]
    assert barriers == pytest.approx([float(lines["barrier_ns"]) / 1e3] * len(lines["step_ns"]))
    on_links = {(e["name"], e["ts"]): e["args"]["packets"] for e in events if e["ph"] == "C"}
    for column in range(lines["link_packets"].shape[1]):
        name = f"link {lines['link_x'][column]},{lines['link_y'][column]} {lines['link_direction'][column]}"
        level = 0.0
        for step, packets in enumerate(lines["link_packets"][:, column]):
            level = on_links.get((name, lines["step_start_ns"][step] / 1e3), level)
            assert level == packets
    # a packet is once on every link of its way
    assert lines["link_packets"].sum() / SAMPLES == pytest.approx(
        sum(cost["events"][name] for name in ("hop_east_west", "hop_north_south", "hop_chip_border"))
    )


def test_a_trace_that_no_viewer_shows_is_refused_with_the_limit_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_of(conv_network(3))
    network, cores = program.network, program.core_graph.core_count
    room = 2 * cores * (3 * network.timesteps + network.depth)
    monkeypatch.setattr(timeline, "MOST_SLICES", room)
    x = images(network, samples=4, seed=1)
    SIM.run(program, Path(), x[:3], options=RunOptions(trace=True))
    with pytest.raises(CompileError, match=r"--trace: 4 samples make .* slices, .*; use --limit 3") as told:
        SIM.run(program, Path(), x, options=RunOptions(trace=True))
    assert told.value.hint == "use --limit 3"
    monkeypatch.setattr(timeline, "MOST_SLICES", 1)
    with pytest.raises(CompileError, match="too large for a trace of one sample"):
        SIM.run(program, Path(), x, options=RunOptions(trace=True))


def test_a_program_on_one_core_has_no_links() -> None:
    program = program_of(conv_network(3), "loihi2", 4000)
    nowhere = np.zeros_like(program.placement.x)
    program = replace(program, placement=replace(program.placement, x=nowhere, y=nowhere))
    assert hops(program.placement, program.chip.mesh, np.array([0]), np.array([1])).all.sum() == 0
    lines, events, _ = traced(program)
    assert lines["link_packets"].shape[1] == 0
    assert not [event for event in events if event["ph"] == "C"]


def test_probes_are_the_references_spikes_and_membranes() -> None:
    network = program_of(conv_network(3)).network
    x = images(network, samples=3, seed=2)
    exact = reference.run_integer(network, x)
    found = probed(network, x, [Probe.parse("03_neuron:0,1,2", network), Probe.parse("11_neuron", network)])
    assert set(found) == {
        "spikes.03_neuron[0,1,2]", "membrane.03_neuron[0,1,2]", "spikes.11_neuron", "membrane.11_neuron",
    }  # fmt: skip
    np.testing.assert_array_equal(found["membrane.03_neuron[0,1,2]"], exact.membranes["03_neuron"][:, :, 0, 1, 2])
    np.testing.assert_array_equal(found["spikes.03_neuron[0,1,2]"], exact.payloads["03_neuron"][:, :, 0, 1, 2])
    np.testing.assert_array_equal(found["membrane.11_neuron"], exact.membranes["11_neuron"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("03_nuron", "no layer of neurons '03_nuron'; did you mean '03_neuron'?"),
        ("03_neuron:0,1", r"names no neuron of 03_neuron, whose shape is \d+x\d+x\d+; give 3 numbers"),
        ("03_neuron:0,99,0", "names no neuron of 03_neuron"),
        ("03_neuron:0,-1,0", "names no neuron of 03_neuron"),
        ("03_neuron:", "names no neuron of 03_neuron"),
    ],
)
def test_a_probe_of_nothing_is_refused(text: str, told: str) -> None:
    with pytest.raises(CompileError, match=f"--probe: .*{told}"):
        Probe.parse(text, program_of(conv_network(3)).network)


def test_the_command_line_writes_traces(tmp_path: Path) -> None:
    program = with_router(program_of(conv_network(3), "loihi2", 10))
    x = np.random.default_rng(0).integers(0, 256, (4, *program.network.input_shape)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x=x)
    write_program(tmp_path / "out", program, SIM.emit(program))
    common = ["run", str(tmp_path / "out"), "--data", str(tmp_path / "data.npz"), "--limit", "2", "--json"]
    probe = ["--probe", "03_neuron:0,0,0"]
    for path, written in ((tmp_path / "t", tmp_path / "t" / "trace.json"), (tmp_path / "u.json", tmp_path / "u.json")):
        done = CliRunner().invoke(cli, [*common, *probe, "--trace", str(path)])
        assert done.exception is None, done.exception
        assert json.loads(written.read_text())["traceEvents"]
        with np.load(written.with_suffix(".npz")) as lines:
            assert lines["membrane.03_neuron[0,0,0]"].shape == (program.network.timesteps, 2)
            assert lines["core_generation_ns"].shape[0] == json.loads(done.stdout)["chip_steps"]
    for args, told in (
        (probe, "is written to a trace; give --trace FOLDER, too"),
        (["--trace", str(tmp_path / "no" / "such")], "is in a folder that does not exist"),
        (["--trace", str(tmp_path / "data.npz")], "cannot be made"),
        (["--trace", str(tmp_path / "t"), "--backend", "reference"], "--trace: the backend 'reference' models no time"),
    ):
        refused = CliRunner().invoke(cli, [*common, *args])
        assert isinstance(refused.exception, CompileError), args
        assert told in str(refused.exception)
