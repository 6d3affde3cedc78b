"""The order of a graph's nodes."""

from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush

import nir

from snncompile.errors import CompileError
from snncompile.frontend.untrusted import shown

Sources = dict[str, tuple[str, ...]]


def sources_of(graph: nir.NIRGraph) -> Sources:
    """For every node those it reads, by name."""
    sources: dict[str, list[str]] = {name: [] for name in sorted(graph.nodes)}
    for source, target in sorted(graph.edges):
        sources[target].append(source)
    return {name: tuple(read) for name, read in sources.items()}


def ordered(graph: nir.NIRGraph) -> list[str]:
    """Node names in topological order, the first in the alphabet of those whose inputs are all there comes next.

    So numbered names come in the order of their numbers. The one Input is first, the one Output last.
    Raises CompileError: another number of inputs or outputs, nodes that lead nowhere, cycles.
    """
    inputs, outputs = sorted(graph.inputs), sorted(graph.outputs)
    if len(inputs) != 1 or len(outputs) != 1:
        found = f"{len(inputs)} inputs and {len(outputs)} outputs"
        raise CompileError("network", f"has {found}", "a network has one Input and one Output node")
    followed = {source for source, _ in graph.edges}
    if dead := sorted(graph.nodes.keys() - followed - set(outputs)):
        raise CompileError(dead[0], "its output goes nowhere", "every layer lies on a way from the input to the output")
    if outputs[0] in followed:
        raise CompileError(outputs[0], "an edge leaves the output", "the output is the last node")
    if cycle := find_cycle(graph):
        raise cyclic("", cycle)
    sorter = TopologicalSorter(sources_of(graph))
    sorter.prepare()
    waiting: list[tuple[bool, str]] = []
    order: list[str] = []
    while sorter.is_active():
        for name in sorter.get_ready():
            heappush(waiting, (name not in inputs, name))
        _, first = heappop(waiting)
        order.append(first)
        sorter.done(first)
    return order


def find_cycle(graph: nir.NIRGraph) -> list[str]:
    """Nodes of a graph that form a cycle, in the order of the edges, the first repeated at the end; else empty."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for source, target in sorted(graph.edges):
        sorter.add(target, source)
    try:
        sorter.prepare()
    except CycleError as error:
        cycle = error.args[1][:-1]
        first = cycle.index(min(cycle))
        return [*cycle[first:], *cycle[: first + 1]]
    return []


def cyclic(prefix: str, cycle: list[str]) -> CompileError:
    path = " -> ".join(map(shown, cycle))
    return CompileError(
        prefix + shown(cycle[0]), f"is in a cycle: {path}", "recurrent connections are not supported yet"
    )
