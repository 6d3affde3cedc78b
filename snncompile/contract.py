"""What a network's producer means by its nodes, and how far our network says the same: the numerics contract.

A file of weights does not say how its neurons step through time: the time step, the comparison with the threshold, the
reset and its delay are those of the program that trained it. A `NodeContract` states for one node what we took them to
be, and how that relates to the producer: "faithful" (every spike in real arithmetic), "approximate" (the note says
where not), "unsupported" (a node that was refused).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Verdict = Literal["faithful", "approximate", "unsupported"]


@dataclass(frozen=True)
class NodeContract:
    """One node: its name in the graph, its type with the producer, the producer, the verdict, what was understood."""

    name: str
    kind: str
    producer: str
    verdict: Verdict
    note: str = ""


Contract = tuple[NodeContract, ...]


def to_json(contract: Iterable[NodeContract]) -> str:
    return json.dumps([asdict(node) for node in contract])


def from_json(text: str) -> Contract:
    """The contract in a text of `to_json`; raises ValueError for any other text."""
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("a contract is JSON") from None
    if not isinstance(listed, list):
        raise ValueError("a contract is a list of nodes")
    return tuple(_node(entry) for entry in listed)


def _node(entry: Any) -> NodeContract:
    keys = NodeContract.__dataclass_fields__.keys()
    if not isinstance(entry, dict) or entry.keys() - keys or not all(isinstance(v, str) for v in entry.values()):
        raise ValueError(f"a node of a contract has the texts {', '.join(keys)}")
    if not {"name", "kind", "producer", "verdict"} <= entry.keys() or entry["verdict"] not in get_args(Verdict):
        raise ValueError(f"a node of a contract has a verdict, one of {', '.join(get_args(Verdict))}")
    return NodeContract(**entry)


def contract_lines(contract: Iterable[Mapping[str, str]]) -> list[str]:
    """What people are told of nodes as dictionaries: a line for every note, and one for all nodes without.

    `faithful: 1, 3 (LIF of nir): Euler steps of dt = 0.0001, v > v_threshold, reset to v_reset`.
    """
    noted: dict[tuple[str, str, str, str], list[str]] = {}
    plain: dict[str, list[str]] = {}
    for node in contract:
        if node["note"] or node["verdict"] != "faithful":
            noted.setdefault((node["verdict"], node["kind"], node["producer"], node["note"]), []).append(node["name"])
        else:
            plain.setdefault(node["verdict"], []).append(node["name"])
    lines = [
        f"{verdict}: {_listed(names)} ({kind} of {producer})" + (f": {note}" if note else "")
        for (verdict, kind, producer, note), names in noted.items()
    ]
    return lines + [f"{verdict}: {_listed(names)}" for verdict, names in plain.items()]


def _listed(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
