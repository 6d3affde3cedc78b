"""How the compiler cut a network onto cores, as the emitted program reads it to make a Process of every slice."""

from typing import Any

import numpy as np

from snncompile.mapping.connectivity import connectivity
from snncompile.mapping.partition import CoreGraph
from snncompile.mapping.traffic import LayerCounter
from snncompile.quant_network import QuantNetwork, QuantSynapses

MOST_PROCESSES = 64
"""As in emitted/placement.py: a slice is a process of the operating system, and the input is one, too."""


def cut(network: QuantNetwork, graph: CoreGraph) -> dict[str, Any]:
    """`cores` of network.json: the number of slices, and where they are few enough to be run, all of them.

    populations: edges along channels, rows and columns, and the core of every slice. links: by layer of synapses the
    pairs of slices that exchange spikes by the compiler's rules of connectivity.
    """
    slices = sum(grid.tiles for grid in graph.grids.values())
    if slices >= MOST_PROCESSES:
        return {"slices": slices}
    populations = {
        name: {"edges": [edges.tolist() for edges in grid.axes], "cores": graph.cores_of(name).tolist()}
        for name, grid in graph.grids.items()
    }
    links = {synapses.name: _links(network, graph, synapses) for synapses in network.synapses}
    return {"slices": slices, "populations": populations, "links": links}


def _links(network: QuantNetwork, graph: CoreGraph, synapses: QuantSynapses) -> list[list[int]]:
    """(source slice, target slice); the input is one slice."""
    target = graph.grids[network.target_of(synapses).name]
    source = graph.grids.get(synapses.source)
    if target.tiles == 1 and (source is None or source.tiles == 1):
        return [[0, 0]]
    counter = LayerCounter.of(connectivity(network, synapses), source, target)
    shape = (*network.shape_of(synapses.source), 1, 1)[:3]
    flow = counter.tile_flow(np.ones(shape))
    return sorted([int(i), int(j)] for i, j in zip(flow.source, flow.target, strict=True))
