"""Renumbers the neurons of flat populations, so that ranges of neighbouring numbers are what cores should hold."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array

from snncompile.errors import InternalError
from snncompile.network import (
    SYNAPSES,
    Array,
    Conv2d,
    Linear,
    MultiThresholdLIF,
    Network,
    Node,
    Readout,
    Sparse,
    Synapses,
)
from snncompile.network_nodes import IndexArray

Orders = Mapping[str, IndexArray]
"""By population (neurons,): the trained number of the neuron that stands at each place."""


@dataclass(frozen=True, eq=False)
class OrderNeurons:
    """Puts neuron orders[name][i] of each population named at place i.

    W'[i, j] = W[order_target[i], order_source[j]] for the synapses into and out of it (lateral ones on both sides), so
    too its bias, its thresholds and all else that is given by channel. Convolutions of several groups (one to one)
    become sparse. What every neuron computes is unchanged, but for the order in which float64 adds up.

    Needs: nothing left but input, synapses, neurons, readout; no members yet (`lower_neurons` makes them in order).
    Raises InternalError: an order that is none, or of a population whose order matters (`is_free`).
    """

    orders: Orders
    name: str = "order_neurons"

    def __call__(self, network: Network) -> Network:
        for name, order in self.orders.items():
            if name not in network.by_name or not is_free(network, network.by_name[name]):
                raise InternalError(f"{name}: its neurons must stay in order")
            if order.shape != network.shapes[name] or not (np.bincount(order, minlength=len(order)) == 1).all():
                raise InternalError(f"{name}: no order of {network.shapes[name][0]} neurons")
        changed = {node.name: self._changed(network, node) for node in network.nodes}
        return network.replacing({name: node for name, node in changed.items() if node is not None})

    def _changed(self, network: Network, node: Node) -> Node | None:
        """The node in its new order; None where it stays as it is."""
        if isinstance(node, MultiThresholdLIF):
            order = self.orders.get(node.name)
            return None if order is None else _neurons_in(order, node)
        if not isinstance(node, SYNAPSES):
            return None
        (target,) = (user.name for user in network.users(node.name))
        rows, columns = self.orders.get(target), self.orders.get(node.inputs[0])
        if rows is None and columns is None:
            return None
        if isinstance(node, Conv2d) and node.groups > 1:
            node = listed(node)
        bias = node.bias if rows is None else node.bias[rows]
        if isinstance(node, Sparse):
            sources = int(np.prod(network.shapes[node.inputs[0]]))
            weight, row, column = _reordered(node, sources, rows, columns)
            return replace(node, weight=weight, bias=bias, row=row, column=column)
        weight = node.weight if rows is None else node.weight[rows]
        return replace(node, bias=bias, weight=weight if columns is None else weight[:, columns])


def _neurons_in(order: IndexArray, node: MultiThresholdLIF) -> MultiThresholdLIF:
    """The population with the parameters that it has for each neuron in another order."""
    changed = {name: getattr(node, name)[order] for name in node.by_channel}
    if node.thresholds.ndim == 2:
        changed |= {"thresholds": node.thresholds[:, order], "subtract": node.subtract[:, order]}
    return replace(node, **changed)


def is_free(network: Network, node: Node) -> bool:
    """Whether the numbers of a population's neurons mean nothing: flat, and only synapses join it to others.

    The input's and the readout's order is the user's, and so is that of neurons whose spikes the readout counts.
    """
    if not isinstance(node, MultiThresholdLIF) or len(network.shapes[node.name]) != 1 or node.members != 1:
        return False
    joined = (*(network.by_name[name] for name in node.inputs), *network.users(node.name))
    return all(isinstance(synapses, SYNAPSES) for synapses in joined)


def listed(node: Conv2d) -> Sparse:
    """A convolution from features to features, synapse by synapse: output r reads the inputs of its group."""
    outputs, fan_in = node.weight.shape[:2]
    row = np.repeat(np.arange(outputs), fan_in)
    column = row // (outputs // node.groups) * fan_in + np.tile(np.arange(fan_in), outputs)
    return Sparse(
        node.name, node.inputs, node.weight.ravel(), node.bias, row, column, delay_steps=node.delay_steps, lag=node.lag
    )


def _reordered(
    node: Sparse, sources: int, rows: IndexArray | None, columns: IndexArray | None
) -> tuple[Array, IndexArray, IndexArray]:
    """weight, row and column, in order again; by two transpositions, which take a tenth of the time of sorting."""
    row = node.row if rows is None else places(rows)[node.row]
    column = node.column if columns is None else places(columns)[node.column]
    numbered = csr_array((np.arange(len(row)), (row, column)), shape=(node.features, sources))
    matrix = numbered.tocsc().tocsr()
    row = np.repeat(np.arange(node.features), np.diff(matrix.indptr))
    return node.weight[matrix.data], row, matrix.indices.astype(np.int64)


def places(order: IndexArray) -> IndexArray:
    """(neurons,) the place at which each trained number stands; the inverse of an order."""
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place


@dataclass(frozen=True, eq=False)
class Joined:
    """The sparse synapses that orders can help: those into free populations. `names`: the populations that they join.

    names: free populations, in the order of the network; sources: what else the synapses come from.
    """

    network: Network
    names: tuple[str, ...]
    sources: tuple[str, ...]
    layers: tuple[Sparse, ...]

    @classmethod
    def of(cls, network: Network) -> "Joined":
        free = [node.name for node in network.neurons if is_free(network, node)]
        layers = [s for s in network.of_type(Sparse) if _target(network, s) in free]
        ends = {name for s in layers for name in (s.inputs[0], _target(network, s))}
        names = tuple(name for name in free if name in ends and network.shapes[name][0] > 1)
        others = tuple(sorted(ends - set(names)))
        return cls(network, names, others, tuple(s for s in layers if _target(network, s) in names))

    @property
    def vertices(self) -> dict[str, slice]:
        """The vertices of every population and source in one graph."""
        found, end = {}, 0
        for name in (*self.names, *self.sources):
            size = int(np.prod(self.network.shapes[name]))
            found[name], end = slice(end, end + size), end + size
        return found

    def edges(self) -> Iterator[tuple[IndexArray, IndexArray]]:
        """Source and target vertex of every synapse, layer by layer."""
        vertices = self.vertices
        for layer in self.layers:
            target = vertices[_target(self.network, layer)].start
            yield vertices[layer.inputs[0]].start + layer.column, target + layer.row

    def into(self, name: str) -> Sequence[Sparse]:
        return [layer for layer in self.layers if _target(self.network, layer) == name]

    def beside(self, name: str) -> Sequence[Synapses]:
        """The other synapses into a population."""
        layers = {layer.name for layer in self.layers}
        inputs = (self.network.by_name[i] for i in self.network.by_name[name].inputs if i not in layers)
        return [node for node in inputs if isinstance(node, Conv2d | Linear)]

    def targets(self, name: str) -> set[str]:
        """The free populations that a population sends to through sparse synapses."""
        return {_target(self.network, layer) for layer in self.layers if layer.inputs[0] == name}


def _target(network: Network, synapses: Synapses) -> str:
    user: Node = next(iter(network.users(synapses.name)))
    return "" if isinstance(user, Readout) else user.name
