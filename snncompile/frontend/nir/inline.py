"""Nested graphs without a tag of ours are opened: their nodes take their place, joined by the same edges."""

from collections.abc import Iterator

import nir

from snncompile.errors import CompileError
from snncompile.frontend.nir.nodes import Operation
from snncompile.frontend.untrusted import shown

MOST_NODES = 50_000
DEEPEST = 16

Edges = list[tuple[str, str]]


def inlined(graph: nir.NIRGraph) -> nir.NIRGraph:
    """The graph with every plain nested graph `g` replaced by its nodes, named `g.node`.

    What enters `g` enters what follows its Input; what leaves its Output leaves `g`. Metadata of `graph` is kept.
    Raises CompileError naming the nested graph: more than one Input or Output, nesting deeper than 16.
    """
    if not any(_is_nested(node) for node in graph.nodes.values()):
        return graph
    nodes, edges = _opened("", graph, 0)
    return nir.NIRGraph(nodes, edges, metadata=dict(graph.metadata), type_check=False)


def _is_nested(node: nir.NIRNode) -> bool:
    return isinstance(node, nir.NIRGraph) and not isinstance(node, Operation)


def _opened(prefix: str, graph: nir.NIRGraph, depth: int) -> tuple[dict[str, nir.NIRNode], Edges]:
    if depth > DEEPEST:
        raise CompileError(shown(prefix), f"graphs are nested deeper than {DEEPEST}")
    nodes: dict[str, nir.NIRNode] = {}
    edges = [(prefix + source, prefix + target) for source, target in graph.edges]
    for name, node in graph.nodes.items():
        whole = prefix + name
        if not _is_nested(node):
            nodes[whole] = node
            continue
        _check_ends(whole, node)
        inner, joined = _opened(whole + ".", node, depth + 1)
        (begin,), (end,) = ([f"{whole}.{n}" for n in ends] for ends in (node.inputs, node.outputs))
        edges = list(_joined(edges, joined, whole, begin, end))
        nodes |= {name: one for name, one in inner.items() if name not in (begin, end)}
        if len(nodes) > MOST_NODES:
            raise CompileError(shown(whole), f"brings the network to more than {MOST_NODES} nodes")
    return nodes, edges


def _check_ends(where: str, graph: nir.NIRGraph) -> None:
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        ends = f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs"
        raise CompileError(shown(where), f"a nested graph with {ends}", "a nested graph has one of each")


def _joined(outer: Edges, inner: Edges, name: str, begin: str, end: str) -> Iterator[tuple[str, str]]:
    """Edges outside and inside the graph `name`, past its Input `begin` and its Output `end`."""
    entering = [source for source, target in outer if target == name]
    leaving = [target for source, target in outer if source == name]
    first = [target for source, target in inner if source == begin]
    last = [source for source, target in inner if target == end]
    yield from (edge for edge in outer if name not in edge)
    yield from (edge for edge in inner if begin not in edge and end not in edge)
    through = (begin, end) in inner
    heads = [target for target in first if target != end]
    tails = [source for source in last if source != begin]
    yield from ((source, target) for source in entering if source != name for target in heads)
    yield from ((source, target) for source in tails for target in leaving if target != name)
    if name in entering:  # what leaves it enters it again
        yield from ((source, target) for source in tails for target in heads)
    if through:
        yield from ((source, target) for source in entering for target in leaving if name not in (source, target))
