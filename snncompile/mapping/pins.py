"""Cores that the user has put somewhere: `--pin layer=chip:core` or `--pin core=chip:core`."""

from collections.abc import Mapping

import numpy as np

from snncompile.chip import Mesh
from snncompile.errors import CompileError, nearest
from snncompile.mapping.partition import CoreGraph

Pins = Mapping[str, tuple[int, int]]
"""By layer (population), or by the number of a logical core: chip of the board, and core of that chip.

Cores of a chip are numbered router after router, row by row: core = (y * width + x) * cores_per_router + slot. A layer
of several cores takes as many of the chip in a row, from the one named on, in the order of its tiles.
"""


def parse_pin(text: str) -> tuple[str, tuple[int, int]]:
    """(layer or core, (chip, core)) of `NAME=CHIP:CORE`. Raises CompileError for any other text."""
    name, equals, place = text.rpartition("=")
    chip, colon, core = place.partition(":")
    if not (name and equals and colon and chip.isascii() and chip.isdigit() and core.isascii() and core.isdigit()):
        raise CompileError(f"--pin {text}", "is not LAYER=CHIP:CORE", "for example --pin 03_neuron=0:5; numbers from 0")
    return name, (int(chip), int(core))


def pinned_slots(pins: Pins, graph: CoreGraph, mesh: Mesh) -> dict[int, int]:
    """Slot (`place.Placement.at`) of every pinned logical core.

    Raises CompileError naming pin, chip, core and what is allowed: an unknown layer or core, a chip or core the board
    does not have, a layer that runs over the end of its chip, a core pinned to two places, a place taken twice.
    """
    slots: dict[int, int] = {}
    taken: dict[int, str] = {}
    for name, (chip, first) in pins.items():
        where = f"--pin {name}={chip}:{first}"
        cores = _cores_named(name, graph, where)
        _check_range(where, chip, first, len(cores), mesh)
        for core, slot in zip(cores, range(chip * mesh.cores_per_chip + first, mesh.cores), strict=False):
            at = f"{chip}:{slot % mesh.cores_per_chip}"
            if slots.get(core, slot) != slot:
                before = slots[core]
                other = f"{before // mesh.cores_per_chip}:{before % mesh.cores_per_chip}"
                problem = f"puts core {core} on {at}, and {taken[before]} on {other}"
                raise CompileError(where, problem, "drop one of them")
            if slot in taken and core not in slots:
                raise CompileError(where, f"chip:core {at} is taken by {taken[slot]}", "pin it to another core")
            slots[core] = slot
            taken[slot] = f"--pin {name}"
    return slots


def _cores_named(name: str, graph: CoreGraph, where: str) -> list[int]:
    """Logical cores of a layer, each once in the order of its tiles, or the one of that number."""
    if name in graph.grids:
        return list(dict.fromkeys(np.asarray(graph.cores_of(name)).tolist()))
    if not (name.isascii() and name.isdigit()):
        raise CompileError(where, f"no layer {name!r}", nearest(name, tuple(graph.grids)))
    if int(name) >= graph.core_count:
        raise CompileError(where, f"no core {name}", f"cores are 0 to {graph.core_count - 1}; or name a layer")
    return [int(name)]


def _check_range(where: str, chip: int, first: int, cores: int, mesh: Mesh) -> None:
    if not 0 <= chip < mesh.chips:
        raise CompileError(where, f"no chip {chip}", f"chips are 0 to {mesh.chips - 1}")
    if not 0 <= first < mesh.cores_per_chip:
        raise CompileError(where, f"no core {first} on a chip", f"cores are 0 to {mesh.cores_per_chip - 1}")
    if first + cores > mesh.cores_per_chip:
        problem = f"takes {cores} cores, and chip {chip} has {mesh.cores_per_chip - first} from core {first} on"
        last = mesh.cores_per_chip - cores
        hint = f"start at core {last} or before" if last >= 0 else "it needs more than one chip: pin core by core"
        raise CompileError(where, problem, hint)
