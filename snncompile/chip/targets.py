"""Names of targets and chips, and the chips behind them: shipped ones by name, a user's own by path."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from snncompile.chip.boards import on_board
from snncompile.chip.reading import Document, Merged, read_merged, validated
from snncompile.chip.schema import AnyChip, Chip, ChipLimits, LayerChip
from snncompile.errors import CompileError, nearest

SIM_SUFFIX = "-sim"
YAML_SUFFIXES = (".yaml", ".yml")


@cache
def _shipped() -> dict[str, Path]:
    folder = Path(str(files("snncompile.hw_models")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def chip_names() -> tuple[str, ...]:
    """Every shipped chip, whether or not it can be compiled for."""
    return tuple(_shipped())


@cache
def target_names() -> tuple[str, ...]:
    """Every shipped target that can be compiled for."""
    return tuple(f"{name}{SIM_SUFFIX}" for name in chip_names() if isinstance(load_any(name), Chip))


def load_target(target: str, chips: str | None = None) -> Chip:
    """The chip of a target: `<chip>-sim`, or the path of a user's own chip file; on a board of `chips` (`on_board`).

    Raises CompileError: unknown, faulty, a chip without `-sim` (silicon is not reached), or one that a network can only
    be checked against.
    """
    chip = load_any_target(target, target_names())
    if not isinstance(chip, Chip):
        raise CompileError(
            "--target",
            f"{chip.name} cannot be compiled for: {chip.check_only}",
            f"`snncompile check` compares a network with its limits; to compile, use {', '.join(target_names())}",
        )
    return chip if chips is None else on_board(chip, chips)


def load_any_target(target: str, known: Sequence[str] | None = None) -> AnyChip:
    """The chip of a target, whether or not it can be compiled for. Raises CompileError as `load_target` does.

    known: the targets that the error for an unknown one lists; None: all.
    """
    if target.endswith(YAML_SUFFIXES):
        return _load_path(Path(target))
    name = target.removesuffix(SIM_SUFFIX)
    if name not in chip_names():
        known = known or [f"{name}{SIM_SUFFIX}" for name in chip_names()]
        hint = f"{nearest(target, known)}; or the path of a chip's .yaml"
        raise CompileError("--target", f"no target {target!r}", hint)
    if target == name:
        raise CompileError(
            "--target",
            f"{target!r} is kept for the silicon, which snncompile cannot reach",
            f"use {target}{SIM_SUFFIX}",
        )
    return load_any(name)


@cache
def load_any(name: str) -> AnyChip:
    """The shipped chip `hw_models/<name>.yaml`, of whatever kind."""
    return parse_any(_shipped()[name].read_text(), f"{name}.yaml")


def load_limits(name: str) -> ChipLimits:
    """A shipped chip with cores on a mesh, whether or not it can be compiled for."""
    chip = load_any(name)
    if not isinstance(chip, ChipLimits):
        raise CompileError(name, "holds one layer a core, on no mesh")
    return chip


def load_chip(name: str) -> Chip:
    """A shipped chip that can be compiled for."""
    chip = load_any(name)
    if not isinstance(chip, Chip):
        raise CompileError(name, f"cannot be compiled for: {chip.check_only}")
    return chip


def _load_path(path: Path) -> AnyChip:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CompileError(str(path), f"cannot be read ({error})", "--target takes a chip file's path") from error
    chip = parse_any(text, str(path), path.parent)
    if chip.name in chip_names():
        raise CompileError(str(path), f"is named {chip.name}, like a shipped chip", "give it a name of its own")
    return chip


def parse_any(text: str, where: str, folder: Path | None = None) -> AnyChip:
    """A chip of any kind from YAML text; `extends` is relative to `folder`. Raises CompileError: file, line and key."""
    merged = read_merged(Document.parse(text, where), _shipped(), folder)
    return validated(merged, _kind(merged))


def _kind(merged: Merged) -> type[Chip] | type[ChipLimits] | type[LayerChip]:
    if "layer_core" in merged.data:
        return LayerChip
    return Chip if merged.data.get("check_only") is None else ChipLimits


def parse_chip(text: str, where: str) -> Chip:
    """A chip that can be compiled for, from YAML text; raises CompileError naming file, line and key."""
    chip = parse_any(text, where)
    if not isinstance(chip, Chip):
        raise CompileError(where, f"cannot be compiled for: {chip.check_only}")
    return chip
