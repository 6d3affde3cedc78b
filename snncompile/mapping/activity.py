"""The packet flow that an activity causes."""

import numpy as np
from numpy.typing import NDArray

from snncompile.backend import Activity
from snncompile.mapping.connectivity import connectivity, shape3
from snncompile.mapping.partition import CoreGraph
from snncompile.mapping.traffic import LayerCounter
from snncompile.quant_network import QuantNetwork


def packet_flow(network: QuantNetwork, graph: CoreGraph, activity: Activity) -> NDArray[np.float64]:
    """(cores, cores) packets from core to core in one inference, at that activity. What the host sends is not in it."""
    flow = np.zeros((len(graph.cores), len(graph.cores)))
    for synapses in network.synapses:
        if synapses.source == network.input_name:
            continue
        target = network.target_of(synapses).name
        counter = LayerCounter.of(connectivity(network, synapses), graph.grids[synapses.source], graph.grids[target])
        rates = activity[synapses.source].reshape(1, *shape3(network.shape_of(synapses.source)))
        flow[np.ix_(graph.cores_of(synapses.source), graph.cores_of(target))] += (
            counter.packets(rates)[0] * network.timesteps
        )
    return flow
