"""The packet flow that an activity causes."""

import numpy as np

from snncompile.backend import Activity
from snncompile.mapping.connectivity import connectivity, shape3
from snncompile.mapping.partition import CoreGraph
from snncompile.mapping.routes import Flow
from snncompile.mapping.traffic import LayerCounter
from snncompile.quant_network import QuantNetwork


def packet_flow(network: QuantNetwork, graph: CoreGraph, activity: Activity) -> Flow:
    """Packets from core to core in one inference, at that activity. What the host sends is not in it.

    packets[a, b] = T * sum of activity over (neuron on a, tile on b) where the neuron reaches a neuron of the tile:
    tiles of several populations that share a core each receive a packet of their own.
    """
    empty = np.zeros(0, np.int64)
    source, target, packets = [empty], [empty], [np.zeros(0)]
    for synapses in network.synapses:
        if synapses.source == network.input_name:
            continue
        name = network.target_of(synapses).name
        counter = LayerCounter.of(connectivity(network, synapses), graph.grids[synapses.source], graph.grids[name])
        rates = activity[synapses.source].reshape(shape3(network.shape_of(synapses.source)))
        flow = counter.tile_flow(rates)
        source.append(graph.cores_of(synapses.source)[flow.source])
        target.append(graph.cores_of(name)[flow.target])
        packets.append(flow.packets * network.timesteps)
    return Flow.of(graph.core_count, np.concatenate(source), np.concatenate(target), np.concatenate(packets))
