"""What changed from one sealed program to another, and whether it may."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Report = Mapping[str, Any]
Summary = Mapping[str, Any]

QUANTITIES = (
    ("cores", "cores_used"),
    ("chips", "chips_used"),
    ("neurons", "neurons"),
    ("time steps", "timesteps"),
    ("depth steps", "depth_steps"),
)
"""Name and key of what report.json has at its top."""

PER_LAYER = ("neurons", "synapses", "weight_bits", "state_bits", "cores", "lowering", "exactness")


@dataclass(frozen=True)
class Gates:
    """What the second may cost more: energy as a fraction of the first's, accuracy in points. None: anything."""

    max_energy_increase: float | None = None
    max_accuracy_drop: float | None = None


@dataclass(frozen=True)
class Side:
    """One of the two: where it is, its report, and what `run --json` says of it on data that both were given."""

    name: str
    report: Report
    run: Summary | None = None


def compare(a: Side, b: Side, gates: Gates | None = None) -> dict[str, Any]:
    """{a, b, basis, totals, layers, notes, gates, holds}: what `diff --json` prints.

    totals: {name, a, b, change, relative}; relative is change / a, None where a is 0 or either is unknown. layers:
    {name, neurons: {a, b}, ...}, None where a program has no such layer. gates: {name, limit, value, holds}; a value
    that is unknown holds no gate.
    """
    gates = gates or Gates()
    notes = _notes(a, b)
    totals = _totals(a, b)
    judged = _judged(gates, {entry["name"]: entry for entry in totals}, _comparable(a, b))
    return {
        "a": _identity(a),
        "b": _identity(b),
        "basis": _basis(a, b),
        "totals": totals,
        "layers": _layers(a, b),
        "notes": notes,
        "gates": judged,
        "holds": all(gate["holds"] for gate in judged),
    }


def _identity(side: Side) -> dict[str, Any]:
    made = side.report["provenance"]
    return {"program": side.name, "target": side.report["target"], "command": made.get("command")}


def _basis(a: Side, b: Side) -> str:
    if a.run is not None and b.run is not None:
        return f"run of {a.run['samples']} samples"
    return "estimate"


def _costs(side: Side, both_ran: bool) -> dict[str, float | None]:
    """Energy in uJ, latency in us and counts per inference, of the run where both have one, else of the estimate."""
    if both_ran and side.run is not None:
        energy = side.run["energy_uj_per_inference"] or dict.fromkeys(("low", "nominal", "high"))
        latency, run = side.run["latency_us_per_inference"], side.run
        counts = {key: run[f"{key}_per_inference"] for key in ("synops", "packets")}
    else:
        estimate = side.report["estimate"]
        known = estimate.get("energy_pj")
        energy = {key: None if known is None else known[key] / 1e6 for key in ("low", "nominal", "high")}
        latency, counts = estimate.get("latency_us"), {key: estimate.get(key) for key in ("synops", "packets")}
    return {
        "energy uJ": energy["nominal"],
        "energy uJ, low": energy["low"],
        "energy uJ, high": energy["high"],
        "latency us": latency,
        **counts,
    }


def _totals(a: Side, b: Side) -> list[dict[str, Any]]:
    both_ran = a.run is not None and b.run is not None
    sides = []
    for side in (a, b):
        values: dict[str, float | None] = {name: side.report[key] for name, key in QUANTITIES}
        values["synapses"] = sum(layer["synapses"] for layer in side.report["layers"])
        values["weight bits, mean"] = _mean_bits(side.report)
        values |= _costs(side, both_ran)
        values["hops per packet"] = side.report["mapping"]["hops_per_packet"]
        values["busiest link, packets"] = side.report["mapping"]["max_link_load"]
        values["accuracy %"] = _percent(side.run) if both_ran else None
        sides.append(values)
    return [_change(name, sides[0][name], sides[1][name]) for name in sides[0]]


def _percent(run: Summary | None) -> float | None:
    return None if run is None or run["accuracy"] is None else 100 * run["accuracy"]


def _mean_bits(report: Report) -> float | None:
    """Bits of a weight, mean over the weights on the chip."""
    layers = [layer for layer in report["layers"] if layer["weight_bits"] is not None]
    weights = sum(layer["weights"] for layer in layers)
    return sum(layer["weight_bits"] * layer["weights"] for layer in layers) / weights if weights else None


def _change(name: str, a: float | None, b: float | None) -> dict[str, Any]:
    alike = a is not None and b is not None and math.isclose(a, b, rel_tol=1e-12)  # sums in another order
    change = None if a is None or b is None else 0.0 if alike else b - a
    relative = change / a if change is not None and a else None
    return {"name": name, "a": a, "b": b, "change": change, "relative": relative}


def _layers(a: Side, b: Side) -> list[dict[str, Any]]:
    """Layers of both in the first's order, then those that only the second has."""
    of_a, of_b = (_layer_values(side) for side in (a, b))
    names = [*of_a, *(name for name in of_b if name not in of_a)]
    keys = (*PER_LAYER, "energy_uj")
    return [
        {"name": name, **{key: {"a": of_a.get(name, {}).get(key), "b": of_b.get(name, {}).get(key)} for key in keys}}
        | {"in": "both" if name in of_a and name in of_b else "a" if name in of_a else "b"}
        for name in names
    ]


def _layer_values(side: Side) -> dict[str, dict[str, Any]]:
    energy = side.report["estimate"].get("energy_by_layer_pj", {})
    found = {}
    for layer in side.report["layers"]:
        own = energy.get(layer["name"])
        values = {key: layer[key] for key in PER_LAYER}
        found[layer["name"]] = {**values, "energy_uj": None if own is None else own["nominal"] / 1e6}
    return found


def _comparable(a: Side, b: Side) -> bool:
    """Whether the energies rest on the same activity: both run, or both estimates made alike."""
    if a.run is not None and b.run is not None:
        return True
    return bool(a.report["estimate"]["activity"] == b.report["estimate"]["activity"])


def _notes(a: Side, b: Side) -> list[str]:
    notes = []
    if a.report["target"] != b.report["target"]:
        notes.append(f"targets differ ({a.report['target']}, {b.report['target']}): costs are of different chips")
    if not _comparable(a, b):
        activities = " / ".join(side.report["estimate"]["activity"] for side in (a, b))
        notes.append(f"the estimates assume different activity ({activities}); --data DATA runs both on the same")
    if a.run is None or b.run is None:
        notes.append("accuracy unknown: --data DATA runs both")
    if a.report["provenance"]["model_sha256"] != b.report["provenance"]["model_sha256"]:
        notes.append("made from different model files")
    return notes


def _judged(gates: Gates, totals: Mapping[str, Mapping[str, Any]], comparable: bool) -> list[dict[str, Any]]:
    judged = []
    if gates.max_energy_increase is not None:
        entry = totals["energy uJ"]
        value = _increase(entry["a"], entry["b"]) if comparable else None
        judged.append(_gate("max_energy_increase", gates.max_energy_increase, value))
    if gates.max_accuracy_drop is not None:
        change = totals["accuracy %"]["change"]
        judged.append(_gate("max_accuracy_drop", gates.max_accuracy_drop, None if change is None else -change))
    return judged


def _increase(a: float | None, b: float | None) -> float | None:
    """As a fraction of a; from nothing to something is infinite."""
    if a is None or b is None:
        return None
    return (b - a) / a if a else (math.inf if b else 0.0)


def _gate(name: str, limit: float, value: float | None) -> dict[str, Any]:
    """An unknown value does not hold; an infinite one is printed as None, too, since JSON has none."""
    holds = value is not None and value <= limit + 1e-9
    return {
        "name": name,
        "limit": limit,
        "value": value if value is None or math.isfinite(value) else None,
        "holds": holds,
    }
