"""The page, the terminal's report and their numbers: nothing invented, unknown said so, nothing fetched."""

import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from integer_networks import integer_network
from rich.console import Console
from test_chipsim_lowered import program_of_integers

from snncompile.backend import load_backend
from snncompile.errors import CompileError
from snncompile.levels import activity_of, default_levels
from snncompile.mapping.activity import packet_flow
from snncompile.program import Program
from snncompile.report.build import build_report
from snncompile.report.diff import Gates, Side, compare
from snncompile.report.figures import Board, core_figure, link_figure
from snncompile.report.page import energy_table, figures, fragment, html_page, placement_rows
from snncompile.report.recorded import Recorded, read_run, read_verification, spikes_of
from snncompile.report.steps import PARTS, estimated_steps, steps_of
from snncompile.report.terminal import print_report
from snncompile.report.text import PLAIN_BARS, number, sparkline
from snncompile.report.view import plotly_figure


class Tree(HTMLParser):
    """Tags that stand open, links out of the page, and text in table cells."""

    VOID = ("meta", "link", "br", "img", "input", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith(("#", "data:"))]
        self.targets += [v[1:] for k, v in attrs if k == "href" and v and v.startswith("#")]
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def reported(seed: int = 1, priced: bool = True) -> tuple[dict[str, Any], Program]:
    program = program_of_integers(integer_network(seed), seed)
    activity = activity_of(program.network, default_levels(program.network))
    cost = load_backend("sim").estimate(program, activity) if priced else {}
    return build_report(
        program, packet_flow(program.network, program.core_graph, activity), cost or {}, "assumed"
    ), program


def ran(program: Program, samples: int = 3) -> Recorded:
    network = program.network
    rng = np.random.default_rng(0)
    payloads = rng.integers(0, network.input_payload_max + 1, (samples, *network.input_shape))
    from snncompile.backend import RunOptions
    from snncompile.data import Samples
    from snncompile.inference import summary_of

    run = load_backend("sim").run(program, Path(), payloads, options=RunOptions(arrays=True))
    return Recorded(
        summary_of(run, Samples(payloads, None, "x.npz")), {**run.arrays, **spikes_of(program, Path(), payloads)}
    )


PROOF = {
    "samples": 3,
    "stages": ["float", "integer", "simulator"],
    "accuracy": {"float": 1.0, "integer": None, "simulator": None},
    "pairs": [
        {
            "a": "float",
            "b": "integer",
            "spikes_compared": 1000,
            "spikes_differing": 1,
            "outputs_differing": 0,
            "rate_drift": 0.001,
            "first_difference": {"layer": "<b>", "neuron": [1, 2], "sample": 0, "step": 1, "cause": "weights & <bias>"},
        }
    ],
    "equal": True,
}


def test_the_page_is_whole_closed_and_asks_for_nothing() -> None:
    report, program = reported()
    page = html_page(report, program, ran(program), PROOF)
    tree = Tree(page)
    assert tree.stack == []
    assert tree.links == []
    assert len(set(tree.ids)) == len(tree.ids)
    assert set(tree.targets) <= set(tree.ids)
    assert "default-src 'none'" in page
    assert "&lt;b&gt;, neuron 1, 2, sample 0, step 1: weights &amp; &lt;bias&gt;" in page
    assert page == html_page(report, program, ran(program), PROOF) or "wall_s" in page
    assert len(page) < 6_000_000


def test_names_of_a_model_cannot_break_out_of_the_page() -> None:
    report, program = reported()
    evil = "</script><script>alert(1)</script><b>&\u2028"
    report["provenance"] |= {"model": evil, "command": evil}
    report["layers"][0]["name"] = evil
    for core in report["cores"]:
        core["layers"][0]["name"] = evil
    page = html_page(report, program)
    assert "<script>alert" not in page
    assert "<b>&" not in page
    assert Tree(page).stack == []
    data = re.search(r'id="figures">(.*?)</script>', page, re.S)
    assert data is not None
    assert evil in json.dumps(json.loads(data[1]), ensure_ascii=False).replace('\\"', '"')


def test_what_is_unknown_is_called_so_and_never_nought() -> None:
    report, program = reported(priced=False)
    page = html_page(report, program)
    assert "Unknown: no backend models energy" in page
    assert "Its energy and latency are unknown" in page
    assert "energy" not in figures(report, program)
    assert all("unknown" in row for row in placement_rows(report["mapping"]) if row[0].startswith(("step", "ns")))
    console = Console(width=160, file=io.StringIO())
    print_report(report, console)
    assert "unknown, no backend models" in console.file.getvalue()
    assert number(None) == "unknown"
    assert number(0.0) == "0"
    priced, program = reported()
    missing = [row for row in energy_table(priced, program.chip)["rows"] if "unknown" in row]
    sets = priced["estimate"]["energy_pj"]["cost_sets"]
    assert {row[0].replace(" ", "_") for row in missing} >= {
        c for entry in sets.values() for c in entry["not_published"]
    }


def test_the_map_holds_every_core_once_with_its_number_and_layers() -> None:
    report, program = reported(9)
    figure = core_figure(report, program)
    board = Board.of(program)
    assert len(set(zip(board.row, board.column, strict=True))) == len(report["cores"])
    keys = {"neurons": 1, "synapse_words": 1, "axons_in": 1, "axons_out": 1, "busy_ns": 1e-3, "energy_pj": 1e-6}
    for view, (key, scale) in zip(figure.views, keys.items(), strict=True):
        shown = [value for row in view.values for value in row if value is not None]
        assert sorted(shown) == pytest.approx(sorted(core[key] * scale for core in report["cores"]))
        assert max(shown) <= view.most
    for core, row, column in zip(report["cores"], board.row, board.column, strict=True):
        text = figure.data[0]["text"][row][column]
        assert text.startswith(f"core {core['core']},")
        assert all(part["name"] in text for part in core["layers"])


def test_the_link_map_shows_every_used_link_and_the_busiest() -> None:
    report, _ = reported(9)
    links = report["links"]
    assert max(links["packets"]) == pytest.approx(report["mapping"]["max_link_load"])
    figure = link_figure(report)
    assert figure is not None
    told = "".join(cell for row in figure.data[0]["text"] for cell in row)
    assert sum(told.count(way) for way in ("east:", "west:", "south:", "north:")) == len(links["packets"])
    for x, y, way in zip(links["x"], links["y"], links["direction"], strict=True):
        assert f"({x},{y}) {way}:" in told
    assert max(v for row in figure.data[0]["z"] for v in row if v is not None) == max(links["packets"])


def test_parts_of_a_step_add_up_and_the_largest_bounds_it() -> None:
    report, _ = reported(9)
    steps = estimated_steps(report)
    assert steps is not None
    lines = report["estimate"]["by_step"]
    for number_, ns in enumerate(lines["ns"]):
        parts = {part: steps.parts[part][number_] for part in PARTS}
        assert sum(parts.values()) == pytest.approx(ns)
        assert parts[steps.told[number_][0]] == max(parts.values())
    assert sum(steps.bounds.values()) == len(lines["ns"])


@given(
    st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0, 100), st.floats(0, 1e5), st.booleans()
)  # fmt: skip
def test_the_mesh_gets_what_core_and_barrier_leave(
    generation: float, reception: float, barrier: float, more: float, routed: bool
) -> None:
    ns = max(generation, reception) + barrier + (more if routed else 0.0)
    core = {"layers": [{"name": "a"}]}
    lines = {
        "ns": [ns],
        "generation_ns": [generation],
        "reception_ns": [reception],
        "busiest_core": [0],
        "routed": [routed],
    }
    steps = steps_of(lines, barrier, [core], "test")
    assert steps.parts["mesh"][0] == pytest.approx(more if routed else 0.0, abs=1e-6)
    assert sum(values[0] for values in steps.parts.values()) == pytest.approx(ns)


def test_spikes_are_counted_and_thinned_with_notice() -> None:
    _, program = reported(9)
    recorded = ran(program, 30)
    spiking = [p for p in program.network.populations if p.spiking]
    assert set(recorded.layers("rate")) == {p.name for p in spiking}
    assert recorded.count("samples") == 20
    for population in spiking:
        rate = recorded.layers("rate")[population.name]
        assert rate.shape == (population.size,)
        points = recorded.layers("raster")[population.name]
        steps = recorded.count("raster_samples") * program.network.timesteps
        assert len(points) == 0 or (points[:, 0].max() < steps and points[:, 1].max() < population.size)
        assert (np.asarray(points)[:, 2] != 0).all()


def test_results_of_another_program_and_other_files_are_refused(tmp_path: Path) -> None:
    good = tmp_path / "run.npz"
    np.savez(good, summary=np.array(json.dumps({"program": "seal", "samples": 1})), prediction=np.zeros(1))
    assert read_run(good, "seal").summary["samples"] == 1
    for path, seal in ((good, "other"), (tmp_path / "none.npz", "seal"), (Path(__file__), "seal")):
        with pytest.raises(CompileError, match=r"another program|not the result"):
            read_run(path, seal)
    proof = tmp_path / "proof.json"
    proof.write_text(json.dumps({**PROOF, "program": "seal"}))
    assert read_verification(proof, "seal")["equal"] is True
    for text, seal in ((proof.read_text(), "other"), ("[]", "seal"), ("{", "seal"), ('{"pairs": []}', "seal")):
        proof.write_text(text)
        with pytest.raises(CompileError, match=r"another program|not the result"):
            read_verification(proof, seal)


def test_plotly_takes_every_figure() -> None:
    """Plotly's own check knows every key and value that its figures may have."""
    from snncompile.report.figures import raster_figures

    report, program = reported(9)
    recorded = ran(program)
    drawn = [*figures(report, program, recorded).values(), *raster_figures(recorded)]
    assert len(drawn) >= 7
    for figure in drawn:
        assert plotly_figure(figure).data
    assert Tree(fragment(report, program, recorded, PROOF)).stack == []


def test_the_terminal_tells_it_in_about_thirty_lines_and_all_when_asked() -> None:
    report, _ = reported(9)
    brief, full = (Console(width=160, file=io.StringIO()) for _ in range(2))
    print_report(report, brief)
    print_report(report, full, full=True)
    text = brief.file.getvalue()
    assert len(text.splitlines()) <= 32
    assert all(layer["name"] in text for layer in report["layers"][:10])
    assert "\x1b" not in text
    assert all(note in full.file.getvalue().replace("\n", " ") for note in report["estimate"]["provenance"])
    assert "cores (used of limit)" in full.file.getvalue()
    ascii_only = Console(width=160, file=io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace"))
    print_report(report, ascii_only)  # no UnicodeEncodeError, and bars that can be read
    ascii_only.file.flush()
    assert "?" not in ascii_only.file.buffer.getvalue().decode().partition("load of")[2].partition("placement")[0]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.integers(1, 80))
def test_a_sparkline_keeps_every_peak(values: list[float], width: int) -> None:
    most = max(values)
    line = sparkline(values, most, width, PLAIN_BARS)
    assert len(line) == min(width, len(values))
    assert (PLAIN_BARS[-1] in line) == (most > 0)


def changed(report: dict[str, Any], factor: float, name: str = "b") -> Side:
    copy = json.loads(json.dumps(report))
    for key in ("low", "nominal", "high"):
        copy["estimate"]["energy_pj"][key] *= factor
    return Side(name, copy)


@given(st.floats(0.5, 2), st.floats(0, 1))
def test_the_energy_gate_holds_up_to_its_limit(factor: float, limit: float) -> None:
    report = DIFFED
    result = compare(Side("a", report), changed(report, factor), Gates(limit))
    if abs(factor - 1 - limit) > 1e-6:
        assert result["holds"] == (factor - 1 <= limit)
    (gate,) = result["gates"]
    assert gate["value"] == pytest.approx(factor - 1)


def test_a_program_beside_itself_differs_in_nothing() -> None:
    result = compare(Side("a", DIFFED), Side("a", DIFFED), Gates(0.0))
    assert result["holds"]
    assert all(entry["change"] in (0, None) for entry in result["totals"])
    assert all(layer["in"] == "both" for layer in result["layers"])


def test_what_is_unknown_holds_no_gate() -> None:
    unpriced, _ = reported(priced=False)
    assert not compare(Side("a", DIFFED), Side("b", unpriced), Gates(1.0))["holds"]
    other = json.loads(json.dumps(DIFFED))
    other["estimate"]["activity"] = "measured elsewhere"
    result = compare(Side("a", DIFFED), Side("b", other), Gates(1.0))
    assert not result["holds"]
    assert any("different activity" in note for note in result["notes"])
    assert not compare(Side("a", DIFFED), Side("b", DIFFED), Gates(max_accuracy_drop=50.0))["holds"]
    nothing = changed(DIFFED, 0.0)
    assert not compare(nothing, Side("b", DIFFED), Gates(1e9))["holds"], "from nothing to something is no small rise"
    json.dumps(compare(nothing, Side("b", DIFFED), Gates(1e9)), allow_nan=False)


def test_layers_of_one_side_only_are_told() -> None:
    other = json.loads(json.dumps(DIFFED))
    other["layers"][0]["name"] = "renamed"
    result = compare(Side("a", DIFFED), Side("b", other))
    where = {layer["name"]: layer["in"] for layer in result["layers"]}
    assert where["renamed"] == "b"
    assert where[DIFFED["layers"][0]["name"]] == "a"
    assert math.isclose(sum(w == "both" for w in where.values()), len(DIFFED["layers"]) - 1)


DIFFED = reported(9)[0]
