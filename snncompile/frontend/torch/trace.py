"""A torch module -> NIR graph. What a saved module holds is read without calling any of it; a live one is traced."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import nir
from torch import nn

from snncompile.errors import CompileError
from snncompile.frontend.reading import Reading
from snncompile.frontend.torch.containers import Branch, Leaf, leaves, opened, run
from snncompile.frontend.torch.graph import GraphBuilder
from snncompile.frontend.torch.reader import CODINGS, READOUTS, Reader, layer_name
from snncompile.frontend.torch.rules import PRODUCERS, RULES, unsupported
from snncompile.frontend.torch.values import Lead, Signal
from snncompile.frontend.untrusted import check_size, input_shape_of, shown
from snncompile.network import Shape

SAY_SHAPE = "say it: --input-shape 1,28,28"
DATA_AXES = (1, 2, 3)


@dataclass(frozen=True)
class Entry:
    """How the axes of a model's input are taken: which are time and batch, the data of one step, the steps if known."""

    lead: Lead
    shape: Shape
    timesteps: int | None


def trace(
    module: nn.Module, input_shape: tuple[int, ...] | None = None, reading: Reading | None = None
) -> nir.NIRGraph:
    """The graph of a saved module in evaluation mode; nothing of the module is called.

    Needs nested nn.Sequential, the containers of `torch_containers`, and layers of `torch_rules`. Modules of
    snncompile.nn begin with one of `CODINGS` and end with one of `READOUTS`; of others, `reading` says the time steps
    and what is read. What a Residual adds goes into a neuron or the readout. `input_shape`, (C, H, W), (C, L) or
    (features,), overrides the coding's input_shape.
    Gives nodes `00_input`, `01_conv2d`, ... in float64, numbered in the order they run (a Residual's body before its
    shortcut), their types filled in; identities and dropout are removed, an identity shortcut is an edge. The metadata
    entry "contract" says how the producer's neurons were understood.
    Refuses (CompileError naming the layer by its path): everything else.
    """
    branch = opened(module)
    found = list(leaves(branch))
    shape = input_shape
    if coded := _is_coded(found):
        coding = _only(branch, found, CODINGS, 0, "first")
        _only(branch, found, READOUTS, -1, "last")
        shape = _coding_shape(coding, input_shape)
    if shape is None:
        raise CompileError("model", "says no input shape", SAY_SHAPE)
    said = reading or Reading()
    entries = [Entry(lead, tuple(shape), said.timesteps) for lead in ("step", "TB", "(BT)", "BT", "(TB)")]
    return _first_that_fits(entries, said, coded, _producer(found), lambda reader, value: run(reader, branch, value))


def trace_live(
    module: nn.Module,
    input_shape: tuple[int, ...] | None = None,
    example_shape: tuple[int, ...] | None = None,
    reading: Reading | None = None,
) -> nir.NIRGraph:
    """The graph of a module that is there, by following its forward; its layers are leaves as in `trace`.

    input_shape: of one step's data; else example_shape, of an input of the module's, says it: [B, ...], or with an axis
    of time steps. Raises CompileError naming the line of the model's source that is not understood.
    """
    from snncompile.frontend.torch.fx import run_traced  # noqa: PLC0415 - it takes a second

    said = reading or Reading()
    parts = [Leaf(path, part, False) for path, part in module.named_modules()]
    codings = [part for part in parts if isinstance(part.module, CODINGS)]
    shape = input_shape
    if shape is None and codings and vars(codings[0].module).get("input_shape") is not None:
        shape = _coding_shape(codings[0], None)
    entries = list(_entries(shape, example_shape, said))
    if not entries:
        raise CompileError("model", "says no input shape", SAY_SHAPE)
    return _first_that_fits(
        entries, said, bool(codings), _producer(parts), lambda reader, value: run_traced(reader, module, value)
    )


def _entries(shape: Shape | None, example: Shape | None, reading: Reading) -> Iterator[Entry]:
    """The ways to take a module's input, the likely ones first."""
    leads: tuple[Lead, ...] = ("step", "TB", "BT", "(BT)", "(TB)")
    for lead in leads:
        axes = 2 if lead in ("TB", "BT") else 1
        data = shape
        if example is not None and shape is not None and len(example) != axes + len(shape):
            continue
        if data is None and example is not None:
            data = example[axes:]
        if data is None or len(data) not in DATA_AXES:
            continue
        steps = reading.timesteps
        if example is not None and axes > 1 and steps is None:
            steps = example[0 if lead == "TB" else 1]
        yield Entry(lead, tuple(data), steps)


def _first_that_fits(
    entries: list[Entry], reading: Reading, coded: bool, producer: str, model: Callable[[Reader, Signal], Any]
) -> nir.NIRGraph:
    """The graph by the first entry whose axes fit all layers; else the error of the one that got furthest."""
    if reading.dt is not None:
        hint = "leave it out: their leaks are by step, or they have a dt of their own"
        raise CompileError("--dt", "is of no use to a torch module, whose layers count time steps", hint)
    furthest: tuple[int, CompileError] | None = None
    for entry in entries:
        reader = _reader(entry, reading, coded, producer)
        try:
            reader.finish(model(reader, reader.entry(entry.lead)))
            return reader.graph.graph()
        except CompileError as error:
            if furthest is None or len(reader.graph.nodes) > furthest[0]:
                furthest = (len(reader.graph.nodes), error)
    raise CompileError("model", "cannot be traced") if furthest is None else furthest[1]


def _reader(entry: Entry, reading: Reading, coded: bool, producer: str) -> Reader:
    shape, where = entry.shape, "model" if not coded else "input"
    if len(shape) not in DATA_AXES or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape):
        needed = "needed: (channels, height, width), (channels, length) or (features,)"
        raise CompileError(where, f"the input shape is {shown(shape)}", needed)
    rows = len(shape) == DATA_AXES[1]
    full = (shape[0], 1, shape[1]) if rows else shape
    reader = Reader(GraphBuilder(check_size(where, full), producer), reading, rows, coded)
    reader.timesteps = entry.timesteps
    return reader


def _producer(found: list[Leaf]) -> str:
    """The package of the neurons."""
    packages = (layer_name(leaf.module).partition(".")[0] for leaf in found)
    return next((PRODUCERS[package] for package in packages if package in PRODUCERS), "snncompile")


def _is_coded(found: list[Leaf]) -> bool:
    """Whether a module is one of snncompile.nn: it has a coding or readout, or no neurons of another package."""
    if any(isinstance(leaf.module, (*CODINGS, *READOUTS)) for leaf in found):
        return True
    return not any(layer_name(leaf.module).partition(".")[0] in PRODUCERS for leaf in found)


def _only(branch: Branch, found: list[Leaf], kinds: tuple[type[nn.Module], ...], position: int, word: str) -> Leaf:
    """The one layer of some kinds, which must stand first or last."""
    names = " or ".join(kind.__name__ for kind in kinds)
    these = [leaf for leaf in found if type(leaf.module) in kinds]
    if not these:
        known = (*CODINGS, *READOUTS)
        strange = (leaf for leaf in found if layer_name(leaf.module) not in RULES and type(leaf.module) not in known)
        if first := next(strange, None):
            more = ("Sequential", "PerStep", "Residual", *(kind.__name__ for kind in known))
            raise unsupported(first.where, type(first.module).__name__, *more)
        raise CompileError("model", f"has no {names}", f"snncompile.nn.{kinds[0].__name__} is the {word} layer")
    ends = [step for step in branch if not _is_removed(step)]
    if ends[position] is not these[0] or len(these) > 1 or these[0].inside:
        raise CompileError(these[-1].where, f"a network has one {names}, {word} and outside PerStep and Residual")
    return these[0]


def _is_removed(step: object) -> bool:
    removed = ("torch.nn.modules.linear.Identity", "torch.nn.modules.dropout.")
    return isinstance(step, Leaf) and layer_name(step.module).startswith(removed)


def _coding_shape(coding: Leaf, asked: tuple[int, ...] | None) -> Shape:
    """Of the input of a module with a coding; `asked` overrides what the coding says."""
    said = vars(coding.module).get("input_shape") if asked is None else asked
    if said is None:
        raise CompileError(coding.where, "says no input shape", SAY_SHAPE)
    return input_shape_of(coding.where, said)
