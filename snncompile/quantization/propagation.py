"""Statistics for rounding a layer whose sources are already rounded: error that came in is made up for, not added to.

Of every population, in order, two things are known on the calibration data: what the float network sends, x, and what
the network sends whose earlier layers are integers, x' (computed in float32 from what the integers stand for). A layer
of weights W should give W x and will be fed x', so what is rounded is

    W + W (E[x x'^T] - E[x' x'^T]) (E[x' x'^T] + damping)^-1          moments about the means, if the bias is corrected

the ridge regression of W x on x' that shrinks towards W, with H = E[x' x'^T], and the bias moves by W E[x] - W_q E[x'].
Where nothing is rounded before (x' = x) this is GPTQ of W itself. Regression on the rounded inputs is as in GPTAQ
(arXiv 2504.02692); the damping is ours.

Payloads of one batch after another are kept as bytes, those of the populations that are still read: memory is
N * T * (neurons of two or three populations) bytes, twice.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from snncompile.float_engine import FloatEngine, Stream
from snncompile.network import SYNAPSES, Array, MultiThresholdLIF, Network, Node, Readout, Synapses
from snncompile.quant_network import Population, QuantSynapses
from snncompile.quantization.calibration import Calibration, LayerStatistics, Moments
from snncompile.quantization.layer import floats_of

BYTE = 255


class Propagation:
    """Follows calibration data x (N, ...) through a network while its layers are rounded, population by population.

    Needs: the network that the calibration is of. `statistics` of a layer can be asked for once `advance` was called
    for its source; before that, and of lateral synapses, they are those of the float network.
    """

    def __init__(self, network: Network, calibration: Calibration, x: NDArray[np.generic]) -> None:
        self.network, self.calibration = network, calibration
        self._exact = self._rounded = FloatEngine(network)
        size = self._exact.batch
        self._data = [x[start : start + size] for start in range(0, len(x), size)]
        self._sent: list[dict[str, tuple[Stream, Stream]]] = [{} for _ in self._data]

    @torch.inference_mode()
    def statistics(self, name: str) -> LayerStatistics:
        """Moments of a layer of synapses, per unit of payload."""
        known = self.calibration.layers[name]
        node = self.network.by_name[name]
        assert isinstance(node, SYNAPSES)
        source = node.inputs[0]
        if source != self.network.input.name and not all(source in sent for sent in self._sent):
            return known
        moments = _Pairs(self.network, node)
        if known.second_moment is not None:
            moments.keep_second_moment()
        for number in range(len(self._data)):
            moments.add_pair(*self._of(number, source))
        return moments.statistics()

    @torch.inference_mode()
    def advance(
        self, node: MultiThresholdLIF | Readout, synapses: Sequence[QuantSynapses], rounded: Population, unit: Array
    ) -> None:
        """Takes the integers of the population that `node` became, its state in units of `unit` (channels,)."""
        if not isinstance(node, MultiThresholdLIF):
            return
        self._rounded = self._with(synapses, rounded, unit)
        later = self.network.nodes[self.network.nodes.index(node) + 1 :]
        read = {name for other in later for name in other.inputs}
        incoming = [n for n in self.network.nodes if n.name in node.inputs and n.inputs[0] != node.name]
        for number, sent in enumerate(self._sent):
            pairs = [self._of(number, n.inputs[0]) for n in incoming]
            exact = _fired(self._exact, node, incoming, [pair[0] for pair in pairs])
            sent[node.name] = _packed(exact), _packed(_fired(self._rounded, node, incoming, [p[1] for p in pairs]))
            for name in sent.keys() - read:
                del sent[name]

    def _of(self, number: int, source: str) -> tuple[Stream, Stream]:
        """What `source` sends for a batch: in the float and in the rounded network."""
        if source == self.network.input.name:
            stream = self._exact.input(self._data[number])
            return stream, stream
        exact, rounded = self._sent[number][source]
        return _unpacked(exact), _unpacked(rounded)

    def _with(self, synapses: Sequence[QuantSynapses], rounded: Population, unit: Array) -> FloatEngine:
        """The rounded network with one population more: the floats its integers stand for."""
        nodes: dict[str, Node] = {}
        network = self._rounded.network
        bias = rounded.bias * unit
        for s in sorted(synapses, key=lambda s: s.source == rounded.name):  # lateral ones last, they have no bias
            node = network.by_name.get(s.name)
            if not isinstance(node, SYNAPSES) or node.weight.shape != s.weight.shape:
                return self._rounded  # the host computes some of its current: as in the float network
            analog = s.source == network.input.name and network.input.coding == "direct"
            nodes[s.name] = replace(node, weight=floats_of(node, s, unit, analog), bias=bias)
            bias = np.zeros_like(bias)
        return FloatEngine(replace(network, nodes=tuple(nodes.get(node.name, node) for node in network.nodes)))


def _fired(engine: FloatEngine, node: Node, incoming: Sequence[Node], sources: Sequence[Stream]) -> Stream:
    # the engine's network has the weights
    layers = [engine.network.by_name[n.name] for n in incoming]
    currents = [engine.sent(n, [stream]) for n, stream in zip(layers, sources, strict=True)]
    return engine.sent(engine.network.by_name[node.name], currents)


def _packed(stream: Stream) -> Stream:
    fits = stream.frames.max() <= BYTE
    return Stream(stream.frames.to(torch.uint8) if fits else stream.frames, stream.of_step)


def _unpacked(stream: Stream) -> Stream:
    return Stream(stream.frames.float(), stream.of_step)


class _Pairs(Moments):
    """Moments of x', and those that tell it from x: E[x] and E[x x'^T]."""

    def __init__(self, network: Network, node: Synapses) -> None:
        super().__init__(network, node)
        self.exact_total = torch.zeros_like(self.total)
        self.cross: torch.Tensor | None = None

    def add_pair(self, exact: Stream, rounded: Stream) -> None:
        """One batch of what the float and the rounded network send."""
        self.add(rounded)
        if exact is rounded:
            return
        if self.cross is None and self.products is not None:
            self.cross = torch.zeros_like(self.products)
        for a, b in sorted(set(zip(exact.of_step, rounded.of_step, strict=True))):
            repeats = sum(pair == (a, b) for pair in zip(exact.of_step, rounded.of_step, strict=True))
            frames = [torch.round(frame * self.unit) for frame in (exact.frames[a], rounded.frames[b])]
            size = self.batch(frames[0])
            for x, other in zip(*(torch.split(frame, size) for frame in frames), strict=True):
                self._add_pair(self.patches(x), self.patches(other), repeats)

    def _add_pair(self, x: torch.Tensor, other: torch.Tensor, repeats: int) -> None:
        self.exact_total += repeats * x.sum(2, dtype=torch.float64)
        if self.cross is not None:
            if not self.exact(x.shape[2]):
                x, other = x.double(), other.double()
            self.cross += repeats * torch.bmm(x, other.transpose(1, 2))

    def statistics(self) -> LayerStatistics:
        found = super().statistics()
        if not self.exact_total.any():
            return found
        count = max(1, self.count)
        cross = None if self.cross is None else self.cross.div_(count).numpy()
        return replace(found, exact_mean=(self.exact_total / count).numpy(), cross_moment=cross)
