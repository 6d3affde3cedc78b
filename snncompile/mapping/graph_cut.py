"""Cuts populations that sparse synapses join into parts that few packets cross: METIS, then moves of single neurons.

METIS halves the graph of all neurons again and again (recursive bisection), so that regions of neighbouring numbers
are near each other. Within one population the objective is what the chip pays, a hypergraph's: a source of rate w whose
spikes reach neurons in p parts sends w * p packets. Sources: Karypis and Kumar, SIAM J. Sci. Comput. 20 (1998), for
METIS; Catalyurek and Aykanat, IEEE TPDS 10 (1999), for the objective (connectivity).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from snncompile.mapping.accounting import Listed
from snncompile.quant_network import IntArray

FloatArray = NDArray[np.float64]
Ints = NDArray[np.int32]

SLACK = 0.05
"""By which parts may be larger than the mean while neurons move, in neurons and in synapses."""

EDGES_EACH = 16
"""Synapses a neuron that METIS looks at, a random part of all: on a grid of 100,000 neurons with 90 synapses each, its
regions get 2 % better with all of them, and take 4 times as long."""

PASSES = 2
"""Most times that all neurons are offered a move; fewer where less than `SETTLED` of them move. On that grid they save
6 % of METIS's packets, as many again as wanted 1 % more."""

SETTLED = 0.002

ROUNDS = (0.02, 0.1, 0.3, np.inf)
"""Of a neuron's packets the part that it may cost to move it out of a part that holds too much, round by round."""

SEED = 0


@dataclass(frozen=True, eq=False)
class Nets:
    """What drives the neurons of one population: net e, one source, drives pin[start[e]:start[e + 1]] (neurons).

    start (nets + 1,), pin (synapses,), each net's pins distinct; weight (nets,) > 0: how often the source fires.
    """

    start: IntArray
    pin: Ints
    weight: FloatArray
    neurons: int

    @classmethod
    def of(cls, layers: Sequence[Listed], weights: Sequence[FloatArray], neurons: int) -> "Nets":
        """From layers of synapses into one population, weights (axons,) of each; axons without synapses drop out."""
        lengths = np.concatenate([np.zeros(0, np.int64), *(np.diff(listed.start) for listed in layers)])
        weight = np.concatenate([np.zeros(0), *weights])[lengths > 0]
        start = np.concatenate([[0], np.cumsum(lengths[lengths > 0])]).astype(np.int64)
        pin = np.concatenate([np.zeros(0, np.int32), *(listed.target for listed in layers)])
        return cls(start, pin, np.maximum(weight, np.finfo(np.float64).tiny), neurons)

    @property
    def load(self) -> IntArray:
        """(neurons,) synapses of each."""
        return np.bincount(self.pin, minlength=self.neurons)

    def packets(self, part: IntArray) -> float:
        """Sum over nets of weight * parts reached, for the part (neurons,) of each neuron."""
        _, _, reached = self.judged(part, np.zeros(2, np.int64))
        return float(self.weight @ reached)

    def judged(self, part: IntArray, words: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """(parts,) axons and words of each part, (nets,) parts that each net reaches (`cut_kernel.judged`)."""
        # numba takes half a second to load
        from snncompile.mapping.cut_kernel import judged  # noqa: PLC0415

        longest = int(np.diff(self.start).max(initial=0))
        table = np.concatenate([words, np.full(max(0, longest + 1 - len(words)), words[-1])])
        axons, total, reached = judged(self.start, self.pin, part, int(part.max(initial=0)) + 1, table)
        return axons, total, reached


def regions(vertices: int, edges: Sequence[tuple[IntArray, IntArray]], count: int, weight: IntArray) -> IntArray:
    """(vertices,) the region of each, 0..count-1: neighbours in the graph share one, or have near numbers.

    edges: pairs (source, target) of vertices, of which METIS sees `EDGES_EACH` a vertex, at random; weight (vertices,):
    of which regions hold alike, within `SLACK`. The same graph gives the same regions.
    """
    source = np.concatenate([np.zeros(0, np.int64), *(ends[0] for ends in edges)])
    target = np.concatenate([np.zeros(0, np.int64), *(ends[1] for ends in edges)])
    if count <= 1 or not len(source):
        return np.arange(vertices) * max(count, 1) // max(vertices, 1)
    import pymetis  # noqa: PLC0415 - only where there is a graph to cut

    out, into = (np.bincount(ends, minlength=vertices) for ends in (source, target))
    fewest = np.minimum(out[source], into[target])
    kept = np.random.default_rng(SEED).random(len(source)) * fewest < EDGES_EACH
    kept &= source != target
    joined = csr_array((np.ones(kept.sum(), np.int32), (source[kept], target[kept])), shape=(vertices, vertices))
    graph = csr_array(joined + joined.T)
    options = pymetis.Options(seed=SEED, ufactor=round(1000 * SLACK))
    adjacency = pymetis.CSRAdjacency(graph.indptr, graph.indices)
    parted = pymetis.part_graph(
        count, adjacency, vweights=weight.tolist(), eweights=graph.data.tolist(), recursive=True, options=options
    )
    return np.array(parted.vertex_part, np.int64)


def refined(nets: Nets, part: IntArray, size: int) -> IntArray:
    """(neurons,) parts from which fewer packets follow: of `size` neurons each, the last of what is left.

    part: where to start from, ceil(neurons / size) parts. While neurons move, parts hold up to 5 % more neurons
    (`SLACK`) and synapses than the mean, or one neuron more; at last every part holds exactly its
    neurons, and so many synapses at most wherever a neuron could be found to move.
    """
    parts = -(-nets.neurons // size)
    exact = np.full(parts, size)
    exact[-1] = nets.neurons - (parts - 1) * size
    load = nets.load
    mean = load.sum() * size / nets.neurons
    most = int(max((1 + SLACK) * mean, mean + load.max(initial=0)))
    moves = _Moves(nets, part, parts, load, most)
    order = np.argsort(part, kind="stable")  # neighbours meet the same nets: far fewer cache misses
    roomy = np.maximum(exact + 1, ((1 + SLACK) * exact).astype(np.int64))
    moves.empty(order, roomy, ROUNDS)
    for _ in range(PASSES):
        if moves.improve(order, roomy) < SETTLED * nets.neurons:
            break
    moves.empty(order, exact, ROUNDS)
    return moves.part


class _Moves:
    """Neurons on their way between parts: `part`, changed by every call, and what is kept to judge a move by."""

    def __init__(self, nets: Nets, part: IntArray, parts: int, load: IntArray, most: int) -> None:
        from snncompile.mapping.cut_kernel import inverse, tallied  # noqa: PLC0415

        self.nets, self.part, self.load = nets, part.copy(), load
        self._first, self._net = inverse(nets.start, nets.pin, nets.neurons)
        self._tally = tallied(nets.start, nets.pin, part)
        self._packets = np.bincount(nets.pin, np.repeat(nets.weight, np.diff(nets.start)), nets.neurons)
        self._sizes = np.bincount(part, minlength=parts)
        self._loads = np.stack([np.bincount(part, load, parts).astype(np.int64), np.full(parts, most)])

    def improve(self, order: IntArray, most: IntArray) -> int:
        """Every neuron once to its best part, of those below `most` (parts,) neurons. Returns how many moved."""
        return self._move(order, most, np.zeros(len(order)), crowded=False)

    def empty(self, order: IntArray, most: IntArray, rounds: Sequence[float]) -> None:
        """Neurons out of parts that hold too much, those that cost least first."""
        for cost in rounds:
            least = np.full(len(order), -np.inf) if np.isinf(cost) else -cost * self._packets
            self._move(order, most, least.astype(np.float64), crowded=True)

    def _move(self, order: IntArray, most: IntArray, least: FloatArray, crowded: bool) -> int:
        from snncompile.mapping.cut_kernel import move  # noqa: PLC0415

        nets, sizes = self.nets, np.stack([self._sizes, most])
        moved: int = move(
            nets.weight, self._first, self._net, *self._tally,
            self.part, order, self.load, sizes, self._loads, least, crowded,
        )  # fmt: skip
        self._sizes = sizes[0]
        return moved
