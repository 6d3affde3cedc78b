"""Programs for tests: a float network taken through every stage, without files."""

from pathlib import Path

from random_networks import quantized

from snncompile.chip import load_chip
from snncompile.compile import lowering_of
from snncompile.mapping.partition import partition
from snncompile.mapping.place import place_hilbert
from snncompile.network import Network
from snncompile.program import Program, Provenance


def program_of(network: Network, chip: str = "loihi2", neurons_per_core: int = 40) -> Program:
    """A program on cores of few neurons, so that every layer is cut."""
    model = load_chip(chip)
    model = model.model_copy(update={"core": model.core.model_copy(update={"neurons": neurons_per_core})})
    integers, host = quantized(network)
    graph = partition(integers, model)
    placement = place_hilbert(len(graph.cores), model.mesh)
    made = Provenance("0" * 64, {"snncompile": "0"}, ("fold",), 8, lowering_of(integers))
    return Program(f"{chip}-sim", model, integers, host, graph, placement, made)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
