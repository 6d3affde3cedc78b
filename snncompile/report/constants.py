"""Every number of a chip file with its source, as rows for tables."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snncompile.chip import AnyChip

UNKNOWN = "unknown"

SECTIONS = {
    "mesh": "routers and boards",
    "boards": "",
    "core": "limits of a core",
    "layer_core": "limits of a core, which holds one layer",
    "synapse_memory": "how synapses fill memory",
    "numerics": "integers",
    "time": "time of an event",
    "max_affine": "",
    "router": "clocked mesh router",
    "static_power": "power of a chip that does nothing",
}
"""Tables in the order they are printed; what has no title continues the table before."""


def constant_rows(chip: "AnyChip", section: str, value: Any) -> Iterator[tuple[str, ...]]:
    """key, value, basis, confidence and number of its source, for everything below a key."""
    for path, leaf in _leaves((section,), value):
        dotted = ".".join(path)
        source = chip.source_of(dotted)
        numbers = isinstance(leaf, int | float) and not isinstance(leaf, bool)
        listed = isinstance(leaf, list) and bool(leaf) and not isinstance(leaf[0], str)
        if source is None and listed:
            source = chip.source_of(f"{dotted}.0")
        known = source is not None and (numbers or listed)
        about = (
            (source.basis, source.confidence, f"[{chip.sources.index(source) + 1}]") if known and source else ("",) * 3
        )
        yield (dotted, shown(leaf), *about)


def energy_rows(chip: "AnyChip", sets: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """A row for every energy of an event, one column for each cost set; the last names the sets' sources."""
    for key in (key for key in sets[0] if key not in ("name", "nominal")):
        yield (key, *(shown(costs[key]) for costs in sets))
    sources = [chip.source_of(f"energy.{costs['name']}") for costs in sets]
    yield ("source", *(f"[{chip.sources.index(s) + 1}] {s.basis}, {s.confidence}" if s else "" for s in sources))


def source_rows(chip: "AnyChip") -> Iterator[tuple[str, ...]]:
    """number, what it covers, basis, confidence, source."""
    for number, source in enumerate(chip.sources, 1):
        yield f"[{number}]", ", ".join(source.covers), source.basis, source.confidence, source.source


def shown(value: Any) -> str:
    """A value of a chip file as text; null is unknown, never 0."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Everything that is no table, by its path; records of a list go by their names or numbers."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves((*path, str(key)), item)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, item in enumerate(value):
            yield from _leaves((*path, str(item.get("name", number))), {k: v for k, v in item.items() if k != "name"})
    else:
        yield path, value
