"""The order of a graph's nodes."""

from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush

import nir

from snncompile.errors import CompileError
from snncompile.frontend.nir.nodes import MultiThresholdLIFGraph
from snncompile.frontend.untrusted import shown

Sources = dict[str, tuple[str, ...]]
NEURONS = (nir.LIF, nir.IF, nir.CubaLIF, MultiThresholdLIFGraph)
LINEAR = (
    nir.Affine,
    nir.Linear,
    nir.Conv1d,
    nir.Conv2d,
    nir.Scale,
    nir.Delay,
    nir.Flatten,
    nir.AvgPool2d,
    nir.SumPool2d,
)
"""What may lie on the way from a population back into it."""


def sources_of(graph: nir.NIRGraph) -> Sources:
    """For every node those it reads, by name."""
    sources: dict[str, list[str]] = {name: [] for name in sorted(graph.nodes)}
    for source, target in sorted(graph.edges):
        sources[target].append(source)
    return {name: tuple(read) for name, read in sources.items()}


def ordered(graph: nir.NIRGraph) -> list[str]:
    """Node names in topological order, the first in the alphabet of those whose inputs are all there comes next.

    So numbered names come in the order of their numbers. The one Input is first, the one Output last. What
    leads from a population back into it (`lateral`) comes after it.
    Raises CompileError: another number of inputs or outputs, nodes that lead nowhere, other cycles.
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
    back = lateral(graph)
    forward = {name: [s for s in read if (s, name) not in back] for name, read in sources_of(graph).items()}
    sorter = TopologicalSorter(forward)
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


def lateral(graph: nir.NIRGraph) -> set[tuple[str, str]]:
    """The edges that end recurrent connections: into a population, of what comes from it alone through `LINEAR`."""
    sources = sources_of(graph)
    found: set[tuple[str, str]] = set()
    for name, node in graph.nodes.items():
        if isinstance(node, NEURONS):
            found |= {(read, name) for read in sources[name] if _origins(graph, sources, read) == {name}}
    return found


def _origins(graph: nir.NIRGraph, sources: Sources, name: str) -> set[str]:
    """The nodes that are not `LINEAR` from which a node comes, itself if it is one."""
    seen: set[str] = set()
    waiting, origins = [name], set[str]()
    while waiting:
        at = waiting.pop()
        if at in seen:
            return set()  # a cycle of linear nodes, or two ways from one node
        seen.add(at)
        if isinstance(graph.nodes[at], LINEAR):
            waiting += sources[at]
        else:
            origins.add(at)
    return origins


def find_cycle(graph: nir.NIRGraph) -> list[str]:
    """Nodes that form a cycle other than a recurrent connection, in the order of the edges, the first again at the end.

    Empty where there is none.
    """
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for source, target in sorted(set(graph.edges) - lateral(graph)):
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
    hint = "a population may read itself, through synapses; feedback over several populations is not supported"
    return CompileError(prefix + shown(cycle[0]), f"is in a cycle: {path}", hint)
