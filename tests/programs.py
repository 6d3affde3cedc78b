"""Programs for tests: a float network taken through every stage, without files."""

from pathlib import Path

from snncompile.chip import load_chip
from snncompile.lowering import resolve
from snncompile.network import Network
from snncompile.pipeline import lower, lowering_of, place_program, run_passes
from snncompile.program import Program, Provenance


def program_of(network: Network, chip: str = "loihi2", neurons_per_core: int = 40, lowering: str = "auto") -> Program:
    """A program on cores of few neurons, so that every layer is cut."""
    model = load_chip(chip)
    model = model.model_copy(update={"core": model.core.model_copy(update={"neurons": neurons_per_core})})
    mode = resolve(lowering, model.numerics)
    declared = lowering_of(run_passes(network), model.numerics, mode)
    made = Provenance("0" * 64, {"snncompile": "0"}, ("fold",), 8, "max", {}, mode, "direct", declared)
    return place_program(f"{chip}-sim", model, lower(network, model.numerics, lowering), made)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
