"""`report.html`: one file that holds the whole report, its figures and the library that draws them.

The page asks nothing of the network. The same program, run and verification give the same bytes.
"""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snncompile.chip import Chip
from snncompile.program import Program
from snncompile.report.constants import SECTIONS, constant_rows, energy_rows, source_rows
from snncompile.report.figures import (
    CAUSES,
    Figure,
    core_figure,
    energy_figure,
    layer_energy_figure,
    link_figure,
    placement_figure,
    raster_figures,
    step_figure,
)
from snncompile.report.recorded import Recorded
from snncompile.report.steps import Steps, estimated_steps, run_steps
from snncompile.report.summary import facts, quotable
from snncompile.report.text import number

if TYPE_CHECKING:
    from jinja2 import Environment

Report = Mapping[str, Any]

MOST_CORES = 256
"""Cores listed one by one in the page; beyond that, the fullest of every layer."""


def html_page(
    report: Report,
    program: Program,
    recorded: Recorded | None = None,
    verification: Mapping[str, Any] | None = None,
) -> str:
    """The page as text. report: of report.json. recorded, verification: of `recorded.read_run`, `read_verification`."""
    drawn, steps = figures(report, program, recorded), steps_shown(report, recorded)
    run = None if recorded is None else recorded.summary
    rasters = [] if recorded is None else raster_figures(recorded)
    plain = {figure.name: figure.plain() for figure in (*drawn.values(), *rasters)}
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            report=report,
            chip=program.chip,
            quote=quotable(report, program.chip, recorded, verification),
            facts=facts(report, recorded),
            figures=drawn,
            rasters=rasters,
            steps=steps,
            bounds=[] if steps is None else [(bound, number(count)) for bound, count in steps.bounds.items()],
            energy=energy_table(report, program.chip),
            layers=layer_rows(report),
            cores=core_rows(report),
            placements=placement_rows(report["mapping"]),
            verification=verification,
            proof=[] if verification is None else pair_rows(verification),
            run=run,
            run_causes=_causes(run),
            raster_samples=None if recorded is None else recorded.count("raster_samples"),
            rate_samples=None if recorded is None else recorded.count("samples"),
            made=made_rows(report),
            constants=constants(program.chip),
            sources=list(source_rows(program.chip)),
            data=_script_safe(plain),
            css=(files("snncompile.report") / "template" / "page.css").read_text(),
            script=(files("snncompile.report") / "template" / "page.js").read_text(),
            plotly=plotly_script(),
        )
    )


def fragment(
    report: Report,
    program: Program,
    recorded: Recorded | None = None,
    verification: Mapping[str, Any] | None = None,
) -> str:
    """Summary and tables alone, for a notebook: HTML without script or style."""
    return (
        _templates()
        .get_template("notebook.html.j2")
        .render(
            report=report,
            quote=quotable(report, program.chip, recorded, verification),
            facts=facts(report, recorded),
            layers=layer_rows(report),
            placements=placement_rows(report["mapping"]),
            proof=[] if verification is None else pair_rows(verification),
        )
    )


def _templates() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - only where a page is made

    loader = PackageLoader("snncompile.report", "template")
    undefined = StrictUndefined
    made = Environment(loader=loader, autoescape=True, undefined=undefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["number"] = number
    return made


def write_page(path: Path, page: str) -> None:
    """Raises CompileError where the file cannot be written."""
    from snncompile.errors import CompileError  # noqa: PLC0415

    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise CompileError(str(path), f"cannot be written ({error})", "choose another file with -o") from error


def plotly_script() -> str:
    """The library, as the plotly package ships it; nothing of Python's plotly is imported."""
    return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def _script_safe(value: Any) -> str:
    """JSON that may stand in a script element, whatever names it holds."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def steps_shown(report: Report, recorded: Recorded | None) -> Steps | None:
    """Of the run where there is one that models time, else of the estimate."""
    if recorded is not None:
        found = run_steps(recorded.arrays, report, int(recorded.summary["samples"]))
        if found is not None:
            return found
    return estimated_steps(report)


def figures(report: Report, program: Program, recorded: Recorded | None = None) -> dict[str, Figure]:
    """Every figure that there are numbers for, by name; but for those of spikes."""
    estimate = report["estimate"]
    steps = steps_shown(report, recorded)
    made = [
        core_figure(report, program, recorded),
        link_figure(report),
        energy_figure(estimate["energy_pj"]) if "energy_pj" in estimate else None,
        layer_energy_figure(estimate["energy_by_layer_pj"]) if "energy_by_layer_pj" in estimate else None,
        None if steps is None else step_figure(steps),
        placement_figure(report["mapping"]),
    ]
    return {figure.name: figure for figure in made if figure is not None}


Table = list[tuple[str, ...]]


def layer_rows(report: Report) -> Table:
    """name, kind, shape, neurons, synapses, weight bits, state bits, lowering, exactness, cores, uJ, share of it."""
    energy = report["estimate"].get("energy_by_layer_pj", {})
    whole = sum(entry["nominal"] for entry in energy.values()) or 1.0
    rows: Table = []
    for layer in report["layers"]:
        bits = "none" if layer["weight_bits"] is None else str(layer["weight_bits"])
        own = energy.get(layer["name"])
        priced = (
            ("unknown", "") if own is None else (number(own["nominal"] / 1e6), f"{100 * own['nominal'] / whole:.1f} %")
        )
        rows.append(
            (
                layer["name"],
                layer["kind"],
                " x ".join(map(str, layer["shape"])),
                number(layer["neurons"]),
                number(layer["synapses"]),
                bits,
                f"{layer['state_bits']} of {layer['state_bits_available']}",
                layer["lowering"],
                layer["exactness"],
                number(layer["cores"]),
                *priced,
            )
        )
    return rows


def core_rows(report: Report) -> Table:
    """core, chip, router, layers, four resources as used of limit, busy us, uJ; of many the fullest of every layer."""
    from snncompile.report.tables import fullest_cores  # noqa: PLC0415 - rich

    cores = report["cores"] if len(report["cores"]) <= MOST_CORES else fullest_cores(report["cores"])
    rows = []
    for core in cores:
        used = tuple(f"{core[r]:,} of {number(core[f'{r}_limit'])}" for r in RESOURCES)
        layers = ", ".join(part["name"] for part in core["layers"])
        where = (str(core["core"]), str(core["chip"]), f"({core['x']},{core['y']})", layers)
        rows.append((*where, *used, scaled(core.get("busy_ns"), 1e-3), scaled(core.get("energy_pj"), 1e-6)))
    return rows


RESOURCES = ("neurons", "synapse_words", "axons_in", "axons_out")


def scaled(value: float | None, scale: float) -> str:
    return number(None if value is None else float(value * scale))


def placement_rows(mapping: Mapping[str, Any]) -> Table:
    """A row a quantity: ours, row-major, random."""
    placements = (mapping, mapping["baselines"]["row_major"], mapping["baselines"]["random"])
    named = (
        ("hops per packet", "hops_per_packet"),
        ("packets per inference on the busiest link", "max_link_load"),
        ("packets over chip borders per inference", "chip_border_hops"),
        ("step in us, cores alone", "step_us"),
        ("ns a packet from which a link is the bound", "link_ns_until_bound"),
    )
    return [(name, *(number(of[key]) for of in placements)) for name, key in named]


def pair_rows(verification: Mapping[str, Any]) -> Table:
    """A row a pair of stages: spikes compared and differing, outputs differing, rate drift, first difference."""
    rows = []
    for pair in verification["pairs"]:
        first = pair["first_difference"]
        said = "none"
        if first is not None:
            neuron = ", ".join(map(str, first["neuron"]))
            said = (
                f"{first['layer']}, neuron {neuron}, sample {first['sample']}, step {first['step']}: {first['cause']}"
            )
        counts = (number(pair[key]) for key in ("spikes_compared", "spikes_differing", "outputs_differing"))
        rows.append((f"{pair['a']} = {pair['b']}", *counts, f"{pair['rate_drift']:.2e}", said))
    return rows


def made_rows(report: Report) -> Table:
    """The model's hash, versions and passes."""
    made = report["provenance"]
    versions = [(f"version of {name}", version) for name, version in sorted(made["versions"].items())]
    return [("SHA-256 of the model", made["model_sha256"]), *versions, ("passes", ", ".join(made["passes"]))]


def _causes(run: Mapping[str, Any] | None) -> Table:
    """Cause and uJ of a run in the nominal cost set."""
    by_cause = {} if run is None else run.get("energy_uj_by_cause") or {}
    return [(cause.replace("_", " "), number(value)) for cause, value in by_cause.items()]


def energy_table(report: Report, chip: Chip) -> dict[str, Any]:
    """By cause: events per inference, pJ of one and uJ in all for every cost set, and the sets' sources."""
    estimate = report["estimate"]
    if "energy_pj" not in estimate:
        return {"sets": [], "rows": [], "totals": [], "sources": []}
    sets = estimate["energy_pj"]["cost_sets"]
    by_name = {costs.name: costs for costs in chip.energy}
    rows = []
    for cause in CAUSES:
        count = estimate["events"][cause]
        row = [cause.replace("_", " "), number(float(count))]
        for name, entry in sets.items():
            row += [number(getattr(by_name[name], f"energy_{cause}_pj", None)), scaled(entry["by_cause"][cause], 1e-6)]
        rows.append(tuple(row))
    totals = [scaled(entry["total"], 1e-6) for entry in sets.values()]
    sources = []
    for name, entry in sets.items():
        source = chip.source_of(f"energy.{name}")
        said = (
            "source unknown" if source is None else f"{source.source} ({source.basis}, confidence {source.confidence})"
        )
        missing = ", ".join(entry["not_published"])
        left_out = f"; not published, in no sum: {missing.replace('_', ' ')}" if missing else ""
        inherited = "; inherited from another chip" if entry["inherited"] else ""
        sources.append((name, f"{said}{inherited}{left_out}"))
    return {"sets": list(sets), "rows": rows, "totals": totals, "sources": sources}


def constants(chip: Chip) -> list[tuple[str, tuple[str, ...], Table]]:
    """Tables (title, columns, rows) of every number of the chip file, each with the number of its source."""
    plain = chip.model_dump(mode="json")
    tables: list[tuple[str, tuple[str, ...], Table]] = []
    columns = ("constant", "value", "basis", "confidence", "source")
    for section, title in SECTIONS.items():
        if section not in plain:
            continue
        rows = list(constant_rows(chip, section, plain[section]))
        if title or not tables:
            tables.append((title, columns, rows))
        else:
            tables[-1][2].extend(rows)
    sets = [f"{costs['name']}{' (nominal)' if costs['nominal'] else ''}" for costs in plain["energy"]]
    tables.append(("energy of an event, by cost set", ("constant", *sets), list(energy_rows(chip, plain["energy"]))))
    return tables
