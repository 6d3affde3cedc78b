"""What a reviewer may quote: one paragraph, and the figures it rests on."""

from collections.abc import Mapping
from typing import Any

from snncompile.chip import Chip
from snncompile.report.recorded import Recorded
from snncompile.report.text import number

Report = Mapping[str, Any]


def quotable(
    report: Report, chip: Chip, recorded: Recorded | None = None, verification: Mapping[str, Any] | None = None
) -> str:
    """The program in a paragraph: what is on the chip, what it costs by which model, what was run and compared."""
    made = report["provenance"]
    synapses = sum(layer["synapses"] for layer in report["layers"])
    sentences = [
        f"{made.get('model', 'The model')} (SHA-256 {made['model_sha256'][:12]}) was compiled with snncompile "
        f"{made['versions'].get('snncompile', '(version unknown)')} for {report['target']} ({chip.description}).",
        f"Its {report['neurons']:,} neurons and {synapses:,} synapses ({weight_bits(report)}) take "
        f"{report['cores_used']:,} of {report['cores_available']:,} cores{_chips(report)}; a sample is "
        f"{report['timesteps']} time steps, and the readout is {report['depth_steps']} steps behind the input.",
    ]
    costs = None if recorded is None else _measured_costs(recorded)
    sentences += [costs or _estimated_costs(report)]
    if recorded is not None and recorded.summary.get("accuracy") is not None:
        run = recorded.summary
        data = f" of {run['data']}" if run.get("data") else ""
        sentences.append(f"On {run['samples']:,} samples{data} its accuracy is {100 * run['accuracy']:.2f} %.")
    if verification is not None:
        sentences.append(_verified(verification))
    return " ".join(sentences)


def _chips(report: Report) -> str:
    return (
        f" on {report['chips_used']:,} of {report['chips_available']:,} chips" if report["chips_available"] > 1 else ""
    )


def weight_bits(report: Report) -> str:
    """The widths of the weights on the chip, as `8-bit weights` or `4- to 8-bit weights`."""
    bits = sorted({layer["weight_bits"] for layer in report["layers"] if layer["weight_bits"] is not None})
    if not bits:
        return "no weights on the chip"
    return f"{bits[0]}-bit weights" if len(bits) == 1 else f"{bits[0]}- to {bits[-1]}-bit weights"


def _estimated_costs(report: Report) -> str:
    estimate = report["estimate"]
    if "energy_pj" not in estimate:
        return "Its energy and latency are unknown: no backend models them."
    energy = estimate["energy_pj"]
    return (
        f"{_energy(*(energy[key] / 1e6 for key in ('nominal', 'low', 'high')))}, the latency "
        f"{number(estimate['latency_us'])} us: models, not measurements, at an activity that was "
        f"{'measured' if 'measured' in estimate['activity'] else 'assumed'}."
    )


def _measured_costs(recorded: Recorded) -> str | None:
    energy = recorded.summary.get("energy_uj_per_inference")
    if energy is None:
        return None
    timing, latency = recorded.summary["timing"], number(recorded.summary["latency_us_per_inference"])
    return (
        f"{_energy(energy['nominal'], energy['low'], energy['high'])}, the latency {latency} us ({timing} timing): "
        f"models, not measurements, applied to the exact counts of {recorded.summary['samples']:,} samples."
    )


def _energy(nominal: float, low: float, high: float) -> str:
    band = f"{number(low)} to {number(high)} over the cost sets"
    return f"The modelled energy of an inference is {number(nominal)} uJ ({band})"


def _verified(result: Mapping[str, Any]) -> str:
    exact = [stage for stage in result["stages"] if stage in ("integer", "simulator", "lava")]
    if result["equal"] is None:
        return f"The stages compared on {result['samples']} samples hold no two that must be equal."
    verdict = "agree on every spike" if result["equal"] else "do NOT agree"
    return f"The stages {', '.join(exact)} {verdict} of {result['samples']} samples."


def facts(report: Report, recorded: Recorded | None = None) -> list[tuple[str, str, str]]:
    """Name, value and what it rests on, of the figures that stand at the top."""
    estimate, run = report["estimate"], {} if recorded is None else recorded.summary
    energy = run.get("energy_uj_per_inference")
    if energy is None and "energy_pj" in estimate:
        energy = {key: estimate["energy_pj"][key] / 1e6 for key in ("low", "nominal", "high")}
    ran = run.get("energy_uj_per_inference") is not None
    basis = f"model, run of {run['samples']:,} samples" if ran else "model, estimated activity"
    latency = run["latency_us_per_inference"] if ran else estimate.get("latency_us")
    rate = run["inferences_per_s_on_chip"] if ran else estimate.get("inferences_per_s")
    synops = run["synops_per_inference"] if ran else estimate.get("synops")
    accuracy = run.get("accuracy")
    band = "" if energy is None else f" ({number(energy['low'])} to {number(energy['high'])})"
    return [
        ("cores", f"{report['cores_used']:,} of {report['cores_available']:,}", "counted, every limit checked"),
        ("energy per inference", "unknown" if energy is None else f"{number(energy['nominal'])} uJ{band}", basis),
        ("latency", "unknown" if latency is None else f"{number(latency)} us", basis),
        ("inferences per second", number(rate), basis),
        ("synaptic operations", number(synops), "per inference, " + ("counted" if ran else "estimated activity")),
        (
            "accuracy",
            "unknown" if accuracy is None else f"{100 * accuracy:.2f} %",
            "no run with labels was given" if accuracy is None else f"{run['samples']:,} samples, {run['backend']}",
        ),
    ]
