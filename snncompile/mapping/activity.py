"""How often neurons fire: assumed before any data is seen, or measured; and the packet flow that follows."""

import numpy as np
from numpy.typing import NDArray

from snncompile.backend import Activity
from snncompile.mapping.connectivity import connectivity, shape3
from snncompile.mapping.partition import CoreGraph
from snncompile.mapping.traffic import LayerCounter
from snncompile.quant_network import IntArray, QuantNetwork

DEFAULT_SPIKE_RATE = 0.15
"""Assumed fraction of neurons that fire in a step where none was measured: multi-threshold networks trained with tdBN
on Fashion-MNIST and MNIST showed 0.11 to 0.25."""

DEFAULT_INPUT_RATE = 0.5
"""Assumed fraction of input values that are not zero; 0.50 of Fashion-MNIST's test pixels are not."""


def default_activity(network: QuantNetwork) -> Activity:
    """The stated assumption for every neuron."""
    rates = {p.name: np.full(p.shape, DEFAULT_SPIKE_RATE if p.spiking else 0.0) for p in network.populations}
    return {network.input_name: np.full(network.input_shape, DEFAULT_INPUT_RATE), **rates}


def measured_activity(network: QuantNetwork, payloads: IntArray, recorded: dict[str, IntArray]) -> Activity:
    """Mean over samples and steps: input payloads (N, *shape), recorded payloads per population (T, N, *shape)."""
    rates = {p.name: np.zeros(p.shape) for p in network.populations}
    rates |= {name: (steps != 0).mean(axis=(0, 1)) for name, steps in recorded.items()}
    return {network.input_name: (payloads != 0).mean(axis=0), **rates}


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
