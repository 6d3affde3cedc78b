"""NIR files, read by ourselves.

nir.read names neither file nor node where something is wrong, and refuses correct graphs (grouped convolution, kernels
that are not square). So the file is read as plain data, checked, and only then made into nir's nodes.
"""

from collections.abc import Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import nir
import numpy as np

from snncompile.errors import CompileError, nearest
from snncompile.frontend.nir.graph_order import cyclic, find_cycle
from snncompile.frontend.nir.hdf5 import RE_EXPORT, Tree, read_tree
from snncompile.frontend.nir.inline import inlined
from snncompile.frontend.nir.nodes import lift
from snncompile.frontend.untrusted import Fields, shown
from snncompile.network import Shape

NODE_TYPES: dict[str, type[nir.NIRNode]] = {
    kind.__name__: kind
    for kind in (
        nir.Affine,
        nir.AvgPool2d,
        nir.Conv1d,
        nir.Conv2d,
        nir.CubaLI,
        nir.CubaLIF,
        nir.Delay,
        nir.Flatten,
        nir.I,
        nir.IF,
        nir.Input,
        nir.LI,
        nir.LIF,
        nir.Linear,
        nir.NIRGraph,
        nir.Output,
        nir.Scale,
        nir.SumPool2d,
        nir.Threshold,
    )
}
WEIGHT_AXES = {"Conv1d": 3, "Conv2d": 4, "Affine": 2, "Linear": 2}
OF_NEURONS = ("CubaLI", "CubaLIF", "I", "IF", "LI", "LIF", "Threshold", "Delay", "Scale")
OPTIONAL = ("input_shape", "padding")
"""Keys that may hold text or be absent although nir's constructor wants them; checked where they are used."""


def read_nir(path: Path, input_shape: Shape | None = None) -> nir.NIRGraph:
    """The graph in a NIR file; nested graphs that bear our tag are the operations of `nir_nodes`, others are opened.

    Needs NIR 0.x or 1.x, any of its node types. `input_shape`, if given, must be that of the file.
    Refuses (CompileError naming file and node): damaged files, unknown node types, missing and unknown keys, wrong
    ranks, NaN, edges to nowhere or written twice, cycles other than a population's with itself, malformed tags.
    """
    path = Path(path)
    tree = read_tree(path)
    version = tree.get("version", "1.0")
    if not isinstance(version, str) or version.partition(".")[0] not in ("0", "1"):
        raise CompileError(str(path), f"is of NIR version {shown(version)}", "supported: 0.x and 1.x")
    root = tree.get("node")
    if not isinstance(root, dict) or root.get("type") != "NIRGraph":
        raise CompileError(str(path), "holds no NIR graph", "needed: a group 'node' of type NIRGraph")
    try:
        graph = inlined(_graph(str(path), f"{path}: ", root))
    except RecursionError:
        raise CompileError(str(path), "its graphs are nested too deep", RE_EXPORT) from None
    if cycle := find_cycle(graph):
        raise cyclic(f"{path}: ", cycle)
    for name, node in graph.inputs.items():
        found = tuple(node.input_type["input"].tolist())
        if input_shape is not None and found != tuple(input_shape):
            raise CompileError(f"{path}: {name}", f"takes {found}, the input shape asked for is {tuple(input_shape)}")
    return graph


def _graph(where: str, prefix: str, tree: Tree) -> nir.NIRGraph:
    """A graph; `prefix` comes before the names of its nodes in errors."""
    _check_keys(where, tree, {"nodes", "edges"}, {"metadata"})
    if not isinstance(tree["nodes"], dict) or not tree["nodes"]:
        raise CompileError(where, "has no nodes", RE_EXPORT)
    nodes = {name: _node(prefix + shown(name), node) for name, node in tree["nodes"].items()}
    edges = _edges(where, tree["edges"], nodes)
    return nir.NIRGraph(nodes=nodes, edges=edges, metadata=_metadata(where, tree), type_check=False)


def _node(where: str, tree: Any) -> nir.NIRNode:
    kind = tree.get("type") if isinstance(tree, dict) else None
    if not isinstance(kind, str):
        raise CompileError(where, "has no type", RE_EXPORT)
    if kind not in NODE_TYPES:
        raise CompileError(where, f"is of unknown type {shown(kind)!r}", nearest(kind[:80], list(NODE_TYPES)))
    if kind == "NIRGraph":
        return lift(where, _graph(where, where + "/", tree))
    metadata = _metadata(where, tree)
    if kind in ("Input", "Output"):
        _check_keys(where, tree, {"shape"}, {"metadata"})
        return NODE_TYPES[kind](np.array(Fields(where, tree).shape("shape")), metadata=metadata)
    declared = [
        field for field in fields(NODE_TYPES[kind]) if field.name not in ("output_type", "metadata") and field.init
    ]
    required = {f.name for f in declared if f.default is MISSING and f.name not in (*OPTIONAL, "input_type")}
    values = {field.name: _parameter(where, tree, field.name) for field in declared if field.name in tree}
    _check_keys(where, tree, required, {field.name for field in declared} | {"metadata"})
    absent = {
        field.name: None for field in declared if field.name in ("input_shape", "input_type") and field.name not in tree
    }
    _check_weight(where, kind, tree)
    if kind in OF_NEURONS:
        values = _as_wide(values)
    try:
        with np.errstate(all="ignore"):
            return NODE_TYPES[kind](**values, **absent, metadata=metadata)
    except Exception as error:  # nir's constructors assert, index and multiply what they are given
        reason = shown(str(error).partition("\n")[0] or "its values do not fit each other", 160)
        raise CompileError(where, f"is not a {kind} ({reason})", RE_EXPORT) from None


def _parameter(where: str, tree: Tree, key: str) -> Any:
    value = tree[key]
    if isinstance(value, str) and key == "padding":
        return value
    Fields(where, tree).array(key)
    return value


def _as_wide(values: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a neuron, some of them one number for all, in the shape of the others, without the memory."""
    largest = max((np.shape(value) for value in values.values()), key=lambda shape: (np.prod(shape), len(shape)))
    return {
        name: np.broadcast_to(np.asarray(value), largest) if np.size(value) == 1 else np.asarray(value)
        for name, value in values.items()
    }


def _check_weight(where: str, kind: str, tree: Tree) -> None:
    if kind not in WEIGHT_AXES:
        return
    weight = Fields(where, tree).array("weight", WEIGHT_AXES[kind])
    if 0 in weight.shape:
        raise CompileError(where, f"weight has shape {weight.shape}", "a weight cannot be empty")
    if kind != "Linear" and (bias := np.shape(tree["bias"])) != weight.shape[:1]:
        raise CompileError(where, f"bias has shape {bias}, weight {weight.shape}", f"needed: bias {weight.shape[:1]}")


def _check_keys(where: str, tree: Tree, required: Iterable[str], optional: Iterable[str]) -> None:
    if missing := sorted(set(required) - tree.keys()):
        raise CompileError(where, f"lacks {missing[0]!r}", RE_EXPORT)
    if unknown := sorted(tree.keys() - set(required) - set(optional) - {"type"}):
        raise CompileError(
            where, f"has the unknown key {shown(unknown[0])!r}", f"known: {', '.join(sorted({*required, *optional}))}"
        )


def _metadata(where: str, tree: Tree) -> dict[str, Any]:
    metadata = tree.get("metadata", {})
    if not isinstance(metadata, dict):
        raise CompileError(where, "its metadata is not a group", RE_EXPORT)
    return metadata


def _edges(where: str, listed: Any, nodes: dict[str, nir.NIRNode]) -> list[tuple[str, str]]:
    pairs = listed.tolist() if isinstance(listed, np.ndarray) else listed
    if not isinstance(pairs, list) or not all(
        isinstance(p, list) and len(p) == 2 and all(isinstance(n, str) for n in p) for p in pairs
    ):
        raise CompileError(where, "edges are not pairs of node names", RE_EXPORT)
    seen: set[tuple[str, str]] = set()
    for source, target in pairs:
        if absent := [name for name in (source, target) if name not in nodes]:
            raise CompileError(
                where,
                f"an edge {shown(source)} -> {shown(target)} names {shown(absent[0])!r}, which is no node",
                RE_EXPORT,
            )
        if (source, target) in seen:
            raise CompileError(where, f"the edge {shown(source)} -> {shown(target)} is written twice", RE_EXPORT)
        seen.add((source, target))
    return [(source, target) for source, target in pairs]
