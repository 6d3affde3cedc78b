"""The report's figures, as Plotly figures in plain form: {"data": [...], "layout": {...}}, drawn by Plotly itself.

Nothing here needs Plotly: the page draws them with the inlined library, a notebook with `plotly.graph_objects.Figure`.
A missing number is None, which Plotly leaves blank.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from snncompile.mapping.place import chip_positions
from snncompile.mapping.routes import router_grid
from snncompile.program import Program
from snncompile.report.recorded import Recorded
from snncompile.report.steps import Steps
from snncompile.report.text import number

Report = Mapping[str, Any]
Rows = list[list[Any]]

COLOURS = {"core generates": "#4477aa", "core receives": "#66ccee", "mesh": "#aa3377", "barrier": "#bbbbbb"}
"""Of what a step waits for (Paul Tol's bright scheme, told apart by the colour-blind)."""

CAUSES = ("synop", "neuron", "update", "spike", "packet", "hop_east_west", "hop_north_south", "hop_chip_border")
CAUSE_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#222255")


@dataclass(frozen=True)
class View:
    """One quantity of a heat map. values: rows of the map from the top; most: where the colours end."""

    label: str
    unit: str
    values: Rows
    most: float
    about: str


@dataclass(frozen=True)
class Figure:
    """A figure for the page.

    views: of which one is shown at a time. about: what a reader who sees no picture is told.
    """

    name: str
    title: str
    about: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    views: list[View] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """JSON-ready; the page's script chooses the view."""
        views = [{"label": v.label, "unit": v.unit, "z": v.values, "zmax": v.most} for v in self.views]
        return {"data": self.data, "layout": self.layout, "views": views}


@dataclass(frozen=True, eq=False)
class Board:
    """Where every core is on a picture of the chips in use: row and column, a router's cores in a block of its own."""

    across: int
    down: int
    columns: int
    rows: int
    row: list[int]
    column: list[int]
    chip_columns: int
    chip_rows: int

    @classmethod
    def of(cls, program: Program) -> "Board":
        mesh, placement = program.chip.mesh, program.placement
        x, y = router_grid(placement, mesh)
        across = math.ceil(math.sqrt(mesh.cores_per_router))
        down = -(-mesh.cores_per_router // across)
        chip_x, chip_y = (position[placement.chip] for position in chip_positions(mesh))
        columns = int(chip_x.max() + 1) * mesh.width * across
        rows = int(chip_y.max() + 1) * mesh.height * down
        row, column = y * down + placement.slot // across, x * across + placement.slot % across
        return cls(across, down, columns, rows, row.tolist(), column.tolist(), mesh.width * across, mesh.height * down)

    def filled(self, values: Sequence[Any], empty: Any = None) -> Rows:
        """A map with a value for every core, and `empty` where there is none in use."""
        rows: Rows = [[empty] * self.columns for _ in range(self.rows)]
        for row, column, value in zip(self.row, self.column, values, strict=True):
            rows[row][column] = value
        return rows

    def layout(self) -> dict[str, Any]:
        """Square cells, row 0 on top, lines between chips, room for the axes' names."""
        right, bottom = self.columns - 0.5, self.rows - 0.5
        upright = [x - 0.5 for x in range(self.chip_columns, self.columns, self.chip_columns)]
        level = [y - 0.5 for y in range(self.chip_rows, self.rows, self.chip_rows)]
        lines = [(x, x, -0.5, bottom) for x in upright] + [(-0.5, right, y, y) for y in level]
        shapes = [
            {"type": "line", "x0": a, "x1": b, "y0": c, "y1": d, "line": {"width": 1, "color": "#888888"}}
            for a, b, c, d in lines
        ]
        return map_layout("columns of cores", "rows of cores", self.columns, self.rows) | {"shapes": shapes}


def map_layout(across: str, down: str, columns: int, rows: int) -> dict[str, Any]:
    """Axes of a map with square cells, its first row on top."""
    height = max(260, min(900 if columns > 60 else 480, 90 + 640 * rows // columns))
    axis = {"showgrid": False, "zeroline": False, "constrain": "domain"}
    return {
        "xaxis": {**axis, "title": {"text": across}},
        "yaxis": {**axis, "title": {"text": down}, "autorange": "reversed", "scaleanchor": "x"},
        "height": height,
    }


def heat_map(values: Rows, text: Rows, unit: str, most: float) -> dict[str, Any]:
    return {
        "type": "heatmap",
        "z": values,
        "text": text,
        "zmin": 0,
        "zmax": most,
        "colorscale": "Cividis",
        "colorbar": {"title": {"text": unit, "side": "right"}, "thickness": 14},
        "hovertemplate": "%{text}<br>%{z:,.5~g} " + unit + "<extra></extra>",
        "hoverongaps": False,
        "xgap": 1,
        "ygap": 1,
    }


def core_costs(report: Report, program: Program, recorded: Recorded | None) -> tuple[dict[str, list[Any]], str]:
    """busy_ns and energy_pj of every core per inference, of the run where it has them, and whose they are."""
    arrays = {} if recorded is None else recorded.arrays
    if "core_busy_ns" in arrays and "core_energy_pj" in arrays:
        nominal = arrays["energy_sets"].tolist().index(program.chip.nominal_energy.name)
        return {"busy_ns": arrays["core_busy_ns"].tolist(), "energy_pj": arrays["core_energy_pj"][nominal].tolist()}, (
            "counted in the run"
        )
    return {key: [core.get(key) for core in report["cores"]] for key in ("busy_ns", "energy_pj")}, "estimated"


def core_figure(report: Report, program: Program, recorded: Recorded | None = None) -> Figure:
    """Cores on the board, by what they hold, how long they are busy, and what energy they take."""
    board, cores = Board.of(program), report["cores"]
    views = [_limited(board, cores, key, unit) for key, unit in LIMITED]
    costs, whose = core_costs(report, program, recorded)
    for key, label, unit, scale in (("busy_ns", "busy time", "us", 1e-3), ("energy_pj", "energy", "uJ", 1e-6)):
        values = [None if value is None else value * scale for value in costs[key]]
        most = max((value for value in values if value is not None), default=0.0)
        about = f"{label} per inference, {whose}: at most {number(most)} {unit} on a core"
        views.append(View(label, unit, board.filled(values), most or 1.0, about))
    text = board.filled([_about_core(core, report) for core in cores], "")
    trace = heat_map(views[0].values, text, views[0].unit, views[0].most)
    gaps = 1 if board.columns <= 150 else 0
    about = "A map of the cores; every number is in the table below or in report.json under cores."
    return Figure("cores", "Cores", about, [{**trace, "xgap": gaps, "ygap": gaps}], board.layout(), views)


LIMITED = (
    ("neurons", "neurons"),
    ("synapse_words", "words of synapse memory"),
    ("axons_in", "axons in"),
    ("axons_out", "axons out"),
)


def _limited(board: Board, cores: Sequence[Mapping[str, Any]], key: str, unit: str) -> View:
    values, limit = [core[key] for core in cores], cores[0][f"{key}_limit"]
    most = max(values)
    about = f"{unit}: at most {number(most)} on a core, of {number(limit)}"
    label = "synapse memory" if key == "synapse_words" else unit
    return View(label, unit, board.filled(values), limit or most or 1, about)


def _about_core(core: Mapping[str, Any], report: Report) -> str:
    chip = f"chip {core['chip']}, " if report["chips_used"] > 1 else ""
    layers = "<br>".join(
        f"{part['name']} [{', '.join(f'{low}:{high}' for low, high in part['box'])}]" for part in core["layers"]
    )
    return f"core {core['core']}, {chip}router ({core['x']},{core['y']})<br>{layers}"


def link_figure(report: Report) -> Figure | None:
    """Packets over every link: routers at even places, between them the link that is used more of the two ways."""
    links = report.get("links")
    if not links or not links["packets"]:
        return None
    across, down = 2 * (max(links["x"]) + 2), 2 * (max(links["y"]) + 2)
    values: Rows = [[None] * across for _ in range(down)]
    text: Rows = [[""] * across for _ in range(down)]
    moves = {"east": (1, 0), "west": (-1, 0), "south": (0, 1), "north": (0, -1)}
    for way, x, y, packets in zip(links["direction"], links["x"], links["y"], links["packets"], strict=True):
        column, row = 2 * x + moves[way][0], 2 * y + moves[way][1]
        values[row][column] = max(packets, values[row][column] or 0.0)
        text[row][column] += f"{'<br>' * bool(text[row][column])}({x},{y}) {way}: {packets:,.0f}"
    used_rows = 1 + max(i for i, row in enumerate(values) if any(v is not None for v in row))
    used_columns = 1 + max(i for row in values for i, value in enumerate(row) if value is not None)
    values, text = ([row[:used_columns] for row in rows[:used_rows]] for rows in (values, text))
    most = max(links["packets"])
    trace = heat_map(values, text, "packets per inference", most)
    trace |= {"hovertemplate": "%{text}<extra></extra>", "xgap": 0, "ygap": 0}
    layout = map_layout("router column", "router row", used_columns, used_rows)
    for axis, size in (("xaxis", used_columns), ("yaxis", used_rows)):
        places = list(range(0, size, 2 * max(1, size // (40 if axis == "xaxis" else 12))))
        layout[axis] |= {"tickvals": places, "ticktext": [str(place // 2) for place in places]}
    about = (
        f"A map of the mesh: routers at the ticks, links between them. {len(links['packets']):,} links are used; the "
        f"busiest carries {number(most)} packets per inference. All of them are in report.json under links."
    )
    return Figure("links", "Links", about, [trace], layout)


def energy_figure(energy: Mapping[str, Any]) -> Figure:
    """Energy per inference of every cost set, by cause. energy: {cost_sets: {name: {by_cause, total}}} in pJ."""
    sets = energy["cost_sets"]
    data = []
    for cause, colour in zip(CAUSES, CAUSE_COLOURS, strict=True):
        values = [entry["by_cause"][cause] for entry in sets.values()]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": cause.replace("_", " "),
                "y": list(sets),
                "x": [None if value is None else value / 1e6 for value in values],
                "marker": {"color": colour},
                "hovertemplate": "%{y}, %{fullData.name}: %{x:,.4~g} uJ<extra></extra>",
            }
        )
    layout = {
        "barmode": "stack",
        "xaxis": {"title": {"text": "uJ per inference"}},
        "yaxis": {"automargin": True},
        "height": 160 + 50 * len(sets),
        "legend": {"orientation": "h", "y": -0.35},
    }
    about = "Energy per inference by cause, one bar for each published cost set; the table below has the numbers."
    return Figure("energy", "Energy by cause", about, data, layout)


def layer_energy_figure(by_layer: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Nominal energy of every layer, with the band of the cost sets."""
    nominal = [entry["nominal"] / 1e6 for entry in by_layer.values()]
    above = [entry["high"] / 1e6 - n for entry, n in zip(by_layer.values(), nominal, strict=True)]
    below = [n - entry["low"] / 1e6 for entry, n in zip(by_layer.values(), nominal, strict=True)]
    bars = {
        "type": "bar",
        "x": list(by_layer),
        "y": nominal,
        "error_y": {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1},
        "marker": {"color": CAUSE_COLOURS[0]},
        "hovertemplate": "%{x}: %{y:,.4~g} uJ<extra></extra>",
    }
    layout = {"yaxis": {"title": {"text": "uJ per inference"}}, "xaxis": {"automargin": True}, "height": 320}
    return Figure("layer-energy", "Energy by layer", "Energy of every layer; the layer table has it.", [bars], layout)


def step_figure(steps: Steps) -> Figure:
    """How long every chip step takes, and of what: the busiest core, the mesh, the barrier."""
    data = []
    hover = [f"step {n}: bound by {bound}; busiest {core}" for n, (bound, core) in enumerate(steps.told)]
    for name, values in steps.parts.items():
        data.append(
            {
                "type": "bar",
                "name": name,
                "x": list(range(len(values))),
                "y": [value / 1e3 for value in values],
                "text": hover,
                "textposition": "none",
                "marker": {"color": COLOURS[name]},
                "hovertemplate": "%{text}<br>%{fullData.name}: %{y:,.4~g} us<extra></extra>",
            }
        )
    layout = {
        "barmode": "stack",
        "bargap": 0.05,
        "xaxis": {"title": {"text": "chip step"}},
        "yaxis": {"title": {"text": "us"}},
        "height": 340,
        "legend": {"orientation": "h", "y": -0.3},
    }
    return Figure("steps", "Chip steps", steps.about, data, layout)


def placement_figure(mapping: Mapping[str, Any]) -> Figure:
    """Hops and busiest link of the placement, beside cores in rows and at random; each as a share of the random one."""
    baselines = mapping["baselines"]
    placements = {"ours": mapping, "row-major": baselines["row_major"], "random": baselines["random"]}
    data: list[dict[str, Any]] = []
    for key, name in (("hops_per_packet", "hops per packet"), ("max_link_load", "packets on the busiest link")):
        whole = baselines["random"][key] or 1.0
        values = [100 * of[key] / whole for of in placements.values()]
        said = [number(of[key]) for of in placements.values()]
        bars = {"type": "bar", "name": name, "x": list(placements), "y": values, "text": said}
        data.append({**bars, "hovertemplate": "%{x}: %{text} %{fullData.name}<extra></extra>"})
    for trace, colour in zip(data, CAUSE_COLOURS, strict=False):
        trace["marker"] = {"color": colour}
    layout = {
        "barmode": "group",
        "yaxis": {"title": {"text": "% of cores at random"}},
        "height": 320,
        "legend": {"orientation": "h", "y": -0.25},
    }
    return Figure("placement", "Placement", "The table above has the numbers.", data, layout)


def raster_figures(recorded: Recorded) -> list[Figure]:
    """A raster and a histogram of firing rates for every layer that spikes were kept of."""
    found: list[Figure] = []
    rates = recorded.layers("rate")
    for layer, points in recorded.layers("raster").items():
        step, neuron, payload = np.asarray(points, np.int64).T.tolist() if len(points) else ([], [], [])
        dots = {
            "type": "scattergl",
            "mode": "markers",
            "x": step,
            "y": neuron,
            "marker": {"size": 3, "color": payload, "colorscale": "Cividis", "cmin": 0},
            "hovertemplate": "step %{x}, neuron %{y}: payload %{marker.color}<extra></extra>",
        }
        kept = float(np.asarray(recorded.arrays[f"spikes.kept.{layer}"]))
        share = "" if kept == 1 else f"; one in {1 / kept:.0f} spikes is drawn"
        rate = np.asarray(rates[layer], np.float64)
        counts, edges = np.histogram(rate, 30, (0.0, max(float(rate.max()), 1e-9)))
        bars = {
            "type": "bar",
            "orientation": "h",
            "x": counts.tolist(),
            "y": ((edges[1:] + edges[:-1]) / 2).tolist(),
            "xaxis": "x2",
            "yaxis": "y2",
            "marker": {"color": CAUSE_COLOURS[0]},
            "hovertemplate": "rate about %{y:.3g}: %{x} neurons<extra></extra>",
        }
        layout = {
            "xaxis": {"title": {"text": "time step"}, "domain": [0, 0.68]},
            "yaxis": {"title": {"text": "neuron"}},
            "xaxis2": {"title": {"text": "neurons"}, "domain": [0.8, 1]},
            "yaxis2": {"title": {"text": "spikes per neuron and step"}, "anchor": "x2"},
            "showlegend": False,
            "height": 340,
        }
        mean, silent = number(float(rate.mean())), number(100 * float((rate == 0).mean()))
        about = f"{layer}: mean rate {mean} spikes per neuron and step, {silent} % of neurons silent{share}"
        found.append(Figure(f"spikes-{len(found)}", layer, about, [dots, bars], layout))
    return found
