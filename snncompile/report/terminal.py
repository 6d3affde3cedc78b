"""The report for people, in about thirty lines; `--full` adds every layer and core."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from snncompile.report.steps import estimated_steps
from snncompile.report.summary import weight_bits
from snncompile.report.tables import core_table, layer_table, lowering_table, placement_table
from snncompile.report.text import BARS, PLAIN_BARS, number, sparkline

MOST_LAYERS = 10

LOADS = (
    ("neurons", "neurons"),
    ("synapse memory", "synapse_words"),
    ("axons in", "axons_in"),
    ("axons out", "axons_out"),
    ("busy time", "busy_ns"),
    ("energy", "energy_pj"),
)

Report = Mapping[str, Any]


def print_report(report: Report, console: Console, full: bool = False) -> None:
    """What is on the chip, what it costs and by which model; full: with every layer, core, lowering and note."""
    plain = not console.is_terminal
    console.print(layer_table(report, plain, None if full else MOST_LAYERS))
    hidden = len(report["layers"]) - MOST_LAYERS
    if hidden > 0 and not full:
        _say(console, f"and {hidden} layers on fewer cores (--full lists all)")
    if full:
        if report.get("lowerings"):
            console.print(lowering_table(report["lowerings"], plain))
        console.print(core_table(report, plain))
    _print_size(report, console)
    for line in _loads(report, _bars(console)):
        _say(console, line)
    console.print(placement_table(report["mapping"], plain))
    for line in _costs(report):
        _say(console, line)
    estimate = report["estimate"]
    for note in estimate["provenance"] if full else ():
        _say(console, f"  - {note}", style="dim")
    if not full:
        _say(console, f"activity: {estimate['activity']}", style="dim")
        _say(
            console, "`report DIR --full` has all cores and notes, `report DIR --html` figures and sources", style="dim"
        )


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)


def _print_size(report: Report, console: Console) -> None:
    steps = str(report["timesteps"])
    if report["microsteps"] != 1:
        steps += f" ({report['microsteps']} micro-steps each time step)"
    chips = f"{report['chips_used']} of {report['chips_available']} chips, " if report["chips_available"] > 1 else ""
    _say(
        console,
        f"{report['neurons']:,} neurons on {report['cores_used']} of {report['cores_available']} cores, "
        f"{chips}{report['mapping']['routers_used']} routers; T = {steps}, depth {report['depth_steps']} steps, "
        f"{weight_bits(report)}",
    )
    for remedy in report.get("remedies", ()):
        cost = f"{remedy['neurons']:,} neurons and {remedy['steps']} steps more"
        problem = f"{remedy['used']:,} {remedy['resource'].replace('_', ' ')} (limit {remedy['limit']:,})"
        _say(console, f"{remedy['layer']} needed {problem}: {remedy['done']} ({cost})")
    _say(console, f"input: {report['input']['kind']}; {report['input']['computed']}")


def _bars(console: Console) -> str:
    try:
        BARS.encode(console.encoding)
    except UnicodeEncodeError:
        return PLAIN_BARS
    return BARS


def _loads(report: Report, bars: str) -> list[str]:
    """A line a resource: the load of every core, and that of the fullest."""
    lines, cores = [], report["cores"]
    for name, key in LOADS:
        values = [core.get(key) for core in cores]
        if None in values:
            continue
        most = max(values)
        limit = cores[0].get(f"{key}_limit")
        if key in ("busy_ns", "energy_pj"):
            mean = sum(values) / len(values)
            scale, unit = (1e-3, "us") if key == "busy_ns" else (1e-6, "uJ")
            top, said = most, f"at most {number(most * scale)} {unit}, mean {number(mean * scale)}"
        elif limit:
            top, said = limit, f"at most {most:,} of {limit:,}, {100 * most / limit:.0f} %"
        else:
            top, said = most, f"at most {most:,}, limit unknown"
        lines.append(f"{name:<15} {sparkline(values, top, bars=bars)}  {said}")
    return [f"load of the {len(cores):,} cores, in the order of the layers", *lines]


def _costs(report: Report) -> list[str]:
    """Energy and time with what they are made of; unknown where no backend models them."""
    estimate = report["estimate"]
    if "energy_pj" not in estimate:
        return ["estimate per inference: unknown, no backend models energy and time"]
    energy = estimate["energy_pj"]
    low, nominal, high = (energy[key] / 1e6 for key in ("low", "nominal", "high"))
    causes = sorted(energy["by_cause"].items(), key=lambda item: -(item[1] or 0.0))
    parts = [f"{cause.replace('_', ' ')} {_microjoule(value)}" for cause, value in causes if value != 0]
    lines = [
        f"estimate per inference: {nominal:.1f} uJ (low {low:.1f}, high {high:.1f}), "
        f"latency {estimate['latency_us']:.1f} us, "
        f"{estimate['synops']:,.0f} synops, {estimate['packets']:,.0f} packets",
        f"  uJ by cause: {', '.join(parts)}",
    ]
    inherited = [name for name, entry in energy["cost_sets"].items() if entry["inherited"]]
    source = f"cost sets inherited from another chip: {', '.join(inherited)}" if inherited else "cost sets of this chip"
    lines.append(f"  modelled, not measured; low and high: cheapest and dearest set; {source}")
    steps = estimated_steps(report)
    if steps is not None:
        lines.append(f"  {steps.about}")
    return lines


def _microjoule(value: float | None) -> str:
    return "unknown" if value is None else number(value / 1e6)
