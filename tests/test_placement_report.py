"""What the pipeline and the report make of a placement."""

import io

import numpy as np
import pytest
from integer_networks import integer_network
from rich.console import Console
from test_chipsim_lowered import program_of_integers

from snncompile.backend import load_backend
from snncompile.levels import activity_of, default_levels
from snncompile.mapping.activity import packet_flow
from snncompile.mapping.place import place_random, place_row_major
from snncompile.mapping.routes import route_quality
from snncompile.report.build import build_report
from snncompile.report.mapping import mapping_report
from snncompile.report.terminal import print_report


def test_the_report_holds_ours_beside_rows_and_random() -> None:
    programs = (program_of_integers(integer_network(seed), seed) for seed in range(100))
    program = next(p for p in programs if p.placement.chips_used > 1 and p.network.input_kind == "spikes")
    network, mesh = program.network, program.chip.mesh
    activity = activity_of(network, default_levels(network))
    flow = packet_flow(network, program.core_graph, activity)
    cost = load_backend("sim").estimate(program, activity)
    report = mapping_report(program, flow, cost)
    cores = program.core_graph.core_count
    placements = {
        "random": (place_random(cores, mesh, 0), report["baselines"]["random"]),
        "row_major": (place_row_major(cores, mesh), report["baselines"]["row_major"]),
        "ours": (program.placement, report),
    }
    for placement, figures in placements.values():
        quality = route_quality(flow, placement, mesh)
        assert figures["hops_per_packet"] == quality.hops_per_packet
        assert figures["max_link_load"] == quality.max_link_load
        assert figures["chip_border_hops"] == quality.borders_per_packet * flow.total
        barrier_us = program.chip.time.barrier_ns(placement.routers_of_a_chip) / 1e3
        busy_us = cost["step_us_mean"] - cost["barrier_ns"] / 1e3
        assert figures["step_us"] == pytest.approx(busy_us + barrier_us)
        per_step = quality.max_link_load / network.timesteps
        assert figures["link_ns_until_bound"] * per_step == pytest.approx(busy_us * 1e3)
    assert report["step_us"] == pytest.approx(cost["step_us_mean"])
    assert "not published" in report["step_bound"]


def test_without_a_cost_model_step_times_are_null_and_not_printed() -> None:
    program = program_of_integers(integer_network(1), 1)
    activity = activity_of(program.network, default_levels(program.network))
    report = build_report(program, packet_flow(program.network, program.core_graph, activity), {}, "assumed")
    assert report["mapping"]["step_us"] is None
    console = Console(width=200, record=True, file=io.StringIO())
    print_report(report, console)
    text = console.export_text()
    assert "hops per packet" in text
    assert "estimated step" not in text


def test_the_table_has_a_column_for_each_placement() -> None:
    program = program_of_integers(integer_network(3), 3)
    activity = activity_of(program.network, default_levels(program.network))
    cost = load_backend("sim").estimate(program, activity)
    flow = packet_flow(program.network, program.core_graph, activity)
    report = build_report(program, flow, cost, "assumed")
    console = Console(width=200, record=True, file=io.StringIO())
    print_report(report, console)
    lines = [line for line in console.export_text().splitlines() if "hops per packet" in line]
    figures = (report["mapping"], report["mapping"]["baselines"]["row_major"], report["mapping"]["baselines"]["random"])
    (line,) = lines
    positions = [line.find(f"{of['hops_per_packet']:.2f}") for of in figures]
    assert min(positions) > 0


def test_the_pipeline_places_by_effort_pins_and_measured_rates() -> None:
    from random_networks import conv_network

    from snncompile.chip import load_chip
    from snncompile.pipeline import Placing, lower, place_program
    from snncompile.program import Program, Provenance

    chip = load_chip("loihi2")
    small = chip.model_copy(update={"core": chip.core.model_copy(update={"neurons": 40})})
    lowered = lower(conv_network(1), small.numerics)
    made = Provenance("0" * 64, {}, (), 8, "max", {}, "auto", "direct", {})
    seen: list[Program] = []

    def silence(program: Program) -> dict[str, np.ndarray]:
        seen.append(program)
        return {
            name: 0 * rates for name, rates in activity_of(program.network, default_levels(program.network)).items()
        }

    plain, again = (place_program("loihi2-sim", small, lowered, made) for _ in range(2))
    np.testing.assert_array_equal(plain.placement.slots(small.mesh), again.placement.slots(small.mesh))
    readout = plain.network.readout.name
    pinned = place_program("loihi2-sim", small, lowered, made, placing=Placing(pins={readout: (0, 77)}))
    (last,) = pinned.core_graph.cores_of(readout)
    assert pinned.placement.slots(small.mesh)[last] == 77
    place_program("loihi2-sim", small, lowered, made, placing=Placing(activity=silence))
    assert len(seen) == 1
    assert seen[0].core_graph.core_count == plain.core_graph.core_count
