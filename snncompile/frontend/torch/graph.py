"""The NIR graph a torch model becomes, node by node; sums and concatenations are carried along until synapses end them.

    conv(a + b)       = conv(a) + conv'(b)             conv' without bias
    conv([a, b])      = conv_a(a) + conv_b'(b)         weights split along the input channels
    conv(g * a + o)   = conv''(a)                      g into the weights, o into the bias (no zero padding)

so that every node reads one node, and what adds up meets in a neuron or in the output.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

import nir
import numpy as np

from snncompile.contract import NodeContract, Verdict, to_json
from snncompile.errors import CompileError
from snncompile.frontend.nir.nodes import BatchNormGraph, MultiThresholdLIFGraph, numbered
from snncompile.frontend.torch.values import Part, Term, channels_of, spread
from snncompile.frontend.untrusted import check_size
from snncompile.network import Array, Pair, Shape

MOST_ADDED = 256
LARGEST_DIAGONAL = 4096
"""Features that a gain and an offset between them and a neuron may have: as a matrix."""
LARGEST_SPREAD = 2**24
"""Features that may have a gain each, those of a batch norm before the flattening."""

Parts = tuple[Part, ...]
Synapse: TypeAlias = nir.Conv2d | nir.Affine
SYNAPSES = (nir.Conv2d, nir.Affine)
Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Population:
    """What a layer of neurons is: keyword arguments of `MultiThresholdLIFGraph`, and what the contract says of it.

    lateral: synapses from the population into itself, and what they are called.
    """

    slug: str
    parameters: dict[str, Any]
    kind: str
    producer: str
    note: str = ""
    verdict: Verdict = "faithful"
    lateral: tuple[str, Synapse] | None = None


@dataclass(frozen=True)
class Window:
    """A pooling window: rows and columns of each."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)


@dataclass
class GraphBuilder:
    """Nodes in the order they are made, the shape each puts out, and the edges to it.

    Everything is made once: `once(key, make)` gives what it gave before for an equal key.
    """

    shape: Shape
    producer: str = "torch"
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.slugs, self.shapes, self.edges = ["input"], [self.shape], list[tuple[int, int]]()
        self.nodes: list[nir.NIRNode] = [nir.Input(np.array(self.shape), metadata=self.metadata)]
        self.said: dict[int, tuple[str, str, Verdict, str]] = {}
        self._made: dict[Hashable, Any] = {}
        self.input: Parts = (Part((Term(0),), self.shape),)

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        if key not in self._made:
            self._made[key] = make()
        made: Made = self._made[key]
        return made

    def add(self, slug: str, node: nir.NIRNode, sources: Sequence[int], shape: Shape) -> int:
        self.edges += [(source, len(self.nodes)) for source in sorted(sources)]
        self.slugs.append(slug)
        self.nodes.append(node)
        self.shapes.append(shape)
        return len(self.nodes) - 1

    def moved(self, old: int, new: int) -> None:
        """What reads node `old` reads `new`."""
        self.edges = [(new if source == old else source, target) for source, target in self.edges]

    def readers(self, node: int) -> list[int]:
        return [target for source, target in self.edges if source == node]

    def synapses(self, where: str, slug: str, parts: Parts, template: Synapse, out: Shape) -> Parts:
        """What the synapses of `template`, which puts out `out`, make of parts; its bias counts once."""
        if len(parts) > 1 and isinstance(template, nir.Conv2d) and int(template.groups) != 1:
            raise CompileError(where, f"a convolution in groups reads {len(parts)} concatenated parts")
        terms: list[Term] = []
        start = 0
        for part in parts:
            piece = slice(start, start + part.shape[0])
            start = piece.stop
            for term in part.terms:
                bias = template.bias if not terms else np.zeros_like(template.bias)
                node = replace(template, bias=bias) if terms else template
                node = node if len(parts) == 1 else replace(node, weight=node.weight[:, piece])
                node = with_gain(where, node, term)
                self._typed(node, part.shape, out)
                terms.append(Term(self.add(slug, node, (term.node,), check_size(where, out))))
        return (Part(_counted(where, tuple(terms)), out),)

    def each(self, parts: Parts, slug: str, make: Callable[[Shape], tuple[nir.NIRNode, Shape]]) -> Parts:
        """Every term of every part through a node without weights: pooling. make gives it and its output shape."""

        def through(part: Part) -> Part:
            node, shape = make(part.shape)
            self._typed(node, part.shape, shape)
            made = (replace(term, node=self.add(slug, node, (term.node,), shape)) for term in part.terms)
            return Part(tuple(made), shape)

        return tuple(map(through, parts))

    def flatten(self, parts: Parts) -> Parts:
        def through(part: Part) -> Part:
            shape = (int(np.prod(part.shape)),)
            if shape[0] > LARGEST_SPREAD and not all(term.plain for term in part.terms):
                raise CompileError("flatten", f"gives {shape[0]} features a gain each", f"at most {LARGEST_SPREAD}")
            terms = []
            for term in part.terms:
                node = nir.Flatten(np.array(part.shape), start_dim=0, end_dim=-1)
                self._typed(node, part.shape, shape)
                gain, offset = spread(term.gain, part.shape), spread(term.offset, part.shape)
                terms.append(Term(self.add("flatten", node, (term.node,), shape), gain, offset))
            return Part(tuple(terms), shape)

        return tuple(part if len(part.shape) == 1 else through(part) for part in parts)

    def batch_norm(self, where: str, parts: Parts, make: Callable[[slice, bool, Shape], BatchNormGraph]) -> Parts:
        """Into a node of its own after synapses, else into gain and offset of the terms."""
        normed, start = [], 0
        for part in parts:
            piece = slice(start, start + part.shape[0])
            start = piece.stop
            terms = []
            for number, term in enumerate(part.terms):
                norm = make(piece, number == 0, part.shape)
                if term.plain and isinstance(self.nodes[term.node], (*SYNAPSES, BatchNormGraph)):
                    terms.append(Term(self.add("batch_norm", norm, (term.node,), part.shape)))
                    continue
                gain = norm.gamma / np.sqrt(norm.var + norm.eps)
                terms.append(affine(term, gain, norm.beta - gain * norm.mean))
            normed.append(Part(tuple(terms), part.shape))
        return tuple(normed)

    def scaled(self, parts: Parts, gain: float) -> Parts:
        return tuple(
            replace(part, terms=tuple(affine(term, np.full(part.shape[0], gain), None) for term in part.terms))
            for part in parts
        )

    def added(self, where: str, a: Parts, b: Parts) -> Parts:
        """The sum of two values of equal parts; what is in both counts twice."""
        if [part.shape for part in a] != [part.shape for part in b]:
            shapes = (" and ".join(str(part.shape) for part in parts) for parts in (a, b))
            raise CompileError(where, f"adds values of shapes {' to '.join(shapes)}", "equal shapes add up")
        return tuple(
            Part(_counted(where, _merged(p.terms + q.terms, p.shape[0])), p.shape) for p, q in zip(a, b, strict=True)
        )

    def max_pool(self, where: str, parts: Parts, window: Window) -> Parts:
        """The largest of binary spikes: neurons that fire when one of the window does."""
        pooled = []
        for part in parts:
            (term, *others) = part.terms
            payload = self._binary(term.node)
            if (
                others
                or term.offset is not None
                or payload is None
                or (term.gain is not None and (term.gain < 0).any())
            ):
                raise CompileError(
                    where,
                    "takes the largest of values that are not spikes of 0 and 1",
                    "pool after the neuron, or use average pooling",
                )
            channels, shape = part.shape[0], pooled_shape(where, part.shape, window)
            ones = nir.Conv2d(
                input_shape=np.array(part.shape[1:]),
                weight=np.ones((channels, 1, *window.kernel)),
                stride=np.array(window.stride),
                padding=np.array(window.padding),
                dilation=np.ones(2, np.int64),
                groups=channels,
                bias=np.zeros(channels),
            )
            self._typed(ones, part.shape, shape)
            counted = self.add("max_pool_window", ones, (term.node,), shape)
            one_spike: dict[str, Any] = {
                "thresholds": [payload / 2],
                "payload": [1.0],
                "subtract": [payload / 2],
                "leak": 1.0,
            }
            fires = MultiThresholdLIFGraph(shape, **one_spike, reset="hard", fire="ge")
            node = self.add("max_pool", fires, (counted,), shape)
            self.said[node] = ("max pooling", self.producer, "faithful", "of spikes: fires when one of its window does")
            pooled.append(Part((affine(Term(node), np.full(channels, payload), term.gain, times=True),), shape))
        return tuple(pooled)

    def _binary(self, node: int) -> float | None:
        """The one value other than 0 that a population sends."""
        found = self.nodes[node]
        if isinstance(found, MultiThresholdLIFGraph) and len(found.payload) == 1:
            return float(found.payload[0])
        return None

    def population(self, where: str, parts: Parts, population: Population) -> Parts:
        """A layer of neurons on every part; of parameters given by channel, each part has its own."""
        if len(parts) > 1 and population.lateral is not None:
            raise CompileError(where, f"a recurrent population reads {len(parts)} concatenated parts")
        made, start, total = [], 0, sum(part.shape[0] for part in parts)
        for part in parts:
            piece = slice(start, start + part.shape[0])
            start = piece.stop
            given = {key: _piece(key, value, piece, total) for key, value in population.parameters.items()}
            try:
                node = MultiThresholdLIFGraph(part.shape, **given)
            except ValueError as error:
                raise CompileError(where, str(error)) from None
            sources = [self._current(where, term, part.shape) for term in part.terms]
            index = self.add(population.slug, node, sources, check_size(where, part.shape))
            self.said[index] = (population.kind, population.producer, population.verdict, population.note)
            if population.lateral is not None:
                self._lateral(where, index, *population.lateral)
            made.append(Part((Term(index),), part.shape))
        return tuple(made)

    def _lateral(self, where: str, population: int, slug: str, node: Synapse) -> None:
        shape = self.shapes[population]
        fits = node.weight.shape[0] == shape[0] and len(shape) == (1 if isinstance(node, nir.Affine) else 3)
        if not fits or (isinstance(node, nir.Affine) and node.weight.shape[1] != shape[0]):
            problem = f"its recurrent weights {node.weight.shape} do not fit its neurons {shape}"
            raise CompileError(where, problem, "they lead from every neuron of the layer to every one")
        self._typed(node, shape, shape)
        back = self.add(slug, node, (population,), shape)
        self.edges.append((back, population))

    def _current(self, where: str, term: Term, shape: Shape) -> int:
        """The node whose output is gain * x + offset."""
        if term.plain:
            return term.node
        node, channels = self.nodes[term.node], shape[0]
        gain = np.ones(channels) if term.gain is None else term.gain
        if isinstance(node, SYNAPSES):
            bias = gain * node.bias + (0.0 if term.offset is None else term.offset)
            weight = node.weight * gain.reshape(-1, *(1,) * (node.weight.ndim - 1))
            sources = [a for a, b in self.edges if b == term.node]
            return self.add(self.slugs[term.node], replace(node, weight=weight, bias=bias), sources, shape)
        if term.offset is None:
            values = np.broadcast_to(gain.reshape(-1, *(1,) * (len(shape) - 1)), shape)
            return self.add("scale", nir.Scale(scale=values), (term.node,), shape)
        if len(shape) == 1 and channels > LARGEST_DIAGONAL:
            raise CompileError(where, f"reads {channels} features with a gain and an offset of their own")
        one = np.ones(2, np.int64)
        diagonal: Synapse = nir.Affine(weight=np.diag(gain), bias=term.offset)
        if len(shape) == 3:
            weight, size = gain.reshape(-1, 1, 1, 1), np.array(shape[1:])
            diagonal = nir.Conv2d(size, weight, one, 0 * one, one, channels, term.offset)
        self._typed(diagonal, shape, shape)
        return self.add("scale", diagonal, (term.node,), shape)

    def output(self, where: str, parts: Parts, metadata: dict[str, Any], said: tuple[str, str, Verdict, str]) -> None:
        if len(parts) > 1:
            raise CompileError(where, f"the output is {len(parts)} concatenated parts", "end with one layer")
        (part,) = parts
        sources = [self._current(where, term, part.shape) for term in part.terms]
        node = self.add("output", nir.Output(np.array(part.shape), metadata=metadata), sources, part.shape)
        self.said[node] = said

    def graph(self) -> nir.NIRGraph:
        """Nodes that lead to the output, numbered; what was computed for nothing is gone."""
        kept = self._leading()
        names = dict(zip(kept, numbered([self.slugs[i] for i in kept]), strict=True))
        edges = [(names[a], names[b]) for a, b in self.edges if a in names and b in names]
        contract = to_json(NodeContract(names[i], *self.said[i]) for i in kept if i in self.said)
        nodes = {names[i]: self.nodes[i] for i in kept}
        # types are filled in: nir's own inference fails on grouped convolution and on kernels that are not square
        return nir.NIRGraph(nodes, edges, metadata={"contract": contract}, type_check=False)

    def _leading(self) -> list[int]:
        sources: dict[int, list[int]] = {}
        for a, b in self.edges:
            sources.setdefault(b, []).append(a)
        found, waiting = {len(self.nodes) - 1}, [len(self.nodes) - 1]
        while waiting:
            for source in sources.get(waiting.pop(), []):
                if source not in found:
                    found.add(source)
                    waiting.append(source)
        return sorted(found | {0})

    @staticmethod
    def _typed(node: nir.NIRNode, given: Shape, made: Shape) -> None:
        node.input_type, node.output_type = {"input": np.array(given)}, {"output": np.array(made)}


def affine(term: Term, gain: Array, offset: Array | None, times: bool = False) -> Term:
    """gain * (the term) + offset; `times`: gain * offset is one more gain."""
    if times:
        gain, offset = gain if offset is None else gain * offset, None
    moved = gain * (1.0 if term.gain is None else term.gain)
    shifted = None if term.offset is None else gain * term.offset
    if offset is not None:
        shifted = offset if shifted is None else shifted + offset
    shifted = None if shifted is None or not shifted.any() else shifted
    return Term(term.node, None if (moved == 1).all() else moved, shifted)


def with_gain(where: str, node: Synapse, term: Term) -> Synapse:
    """Synapses that read x in place of gain * x + offset."""
    if term.plain:
        return node
    channels = node.weight.shape[1]
    groups = int(node.groups) if isinstance(node, nir.Conv2d) else 1
    per_group = (groups, 1, channels, *(1,) * (node.weight.ndim - 2))
    grouped = node.weight.reshape(groups, -1, *node.weight.shape[1:])
    bias = node.bias
    if term.offset is not None:
        if isinstance(node, nir.Conv2d) and (isinstance(node.padding, str) or np.any(node.padding)):
            raise CompileError(
                where,
                "reads normalised values with zeros padded around them",
                "a batch norm folds into the convolution after it only without padding: norm after the convolution",
            )
        moved = grouped * term.offset.reshape(per_group)
        bias = bias + moved.reshape(len(bias), -1).sum(1)
    if term.gain is not None:
        grouped = grouped * term.gain.reshape(per_group)
    return replace(node, weight=grouped.reshape(node.weight.shape), bias=bias)


def pooled_shape(where: str, shape: Shape, window: Window) -> Shape:
    if len(shape) != 3:
        raise CompileError(where, f"its input has shape {shape}", "needed: (channels, height, width)")
    if any(pad > k // 2 or k > n + pad for n, k, pad in zip(shape[1:], window.kernel, window.padding, strict=True)):
        given = f"a pool window of {window.kernel} with padding {window.padding}"
        raise CompileError(where, f"{given} is larger than its input {shape}", "at most half the window is padding")
    sizes = zip(shape[1:], window.kernel, window.stride, window.padding, strict=True)
    size = [(n + 2 * pad - k) // step + 1 for n, k, step, pad in sizes]
    return check_size(where, (shape[0], *size))


def _merged(terms: tuple[Term, ...], channels: int) -> tuple[Term, ...]:
    """Terms of the same node as one."""
    found: dict[int, Term] = {}
    for term in terms:
        same = found.get(term.node)
        if same is None:
            found[term.node] = term
            continue
        gain = sum(np.ones(channels) if t.gain is None else t.gain for t in (term, same))
        offset = sum(np.zeros(channels) if t.offset is None else t.offset for t in (term, same))
        found[term.node] = affine(Term(term.node), np.asarray(gain), np.asarray(offset))
    return tuple(found.values())


def _counted(where: str, terms: tuple[Term, ...]) -> tuple[Term, ...]:
    if len(terms) > MOST_ADDED:
        raise CompileError(where, f"adds up {len(terms)} layers", f"at most {MOST_ADDED} meet in a neuron")
    return terms


def _piece(key: str, value: Any, piece: slice, total: int) -> Any:
    """What the channels of `piece` have of a parameter of a population of `total` channels."""
    if not isinstance(value, np.ndarray) or key in ("payload", "mixing") or value.shape[-1:] != (total,):
        return value
    if key in ("thresholds", "subtract"):
        return value[:, piece] if value.ndim == 2 else value
    return channels_of(value, piece)
