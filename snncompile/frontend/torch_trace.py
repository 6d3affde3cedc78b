"""A torch module -> NIR graph, by reading the attributes of its layers; nothing of the module is called.

Containers are opened in the order their forward runs them. Only exact types are known: a subclass may compute something
else, and a layer with hooks does.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import nir
import numpy as np
from torch import nn

from snncompile.errors import CompileError
from snncompile.frontend.nir_nodes import MultiThresholdLIFGraph, numbered
from snncompile.frontend.to_network import convert, output_shape
from snncompile.frontend.torch_layers import READOUTS, RULES, Layer, Rule
from snncompile.frontend.untrusted import input_shape_of, shown
from snncompile.network import Shape
from snncompile.nn import DirectCoding, EventCoding, PerStep, Residual

MOST_LAYERS = 10_000
DEEPEST = 64
MOST_ADDED = 256
REMOVED = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
CODINGS = (DirectCoding, EventCoding)
CONTAINERS = (nn.Sequential, PerStep, Residual)
NOT_IN_PER_STEP = {
    PerStep: ("is a PerStep within a PerStep", "use nn.Sequential for the inner one"),
    Residual: ("stands within PerStep", "turn them round: Residual(PerStep(...))"),
}


@dataclass(frozen=True)
class Fork:
    """A Residual, opened: the layers of its branches; no shortcut is the identity."""

    where: str
    body: "Branch"
    shortcut: "Branch | None"


Branch = tuple[Layer | Fork, ...]
Value = tuple[int, ...]
"""What a layer reads: the outputs of the nodes at these positions, added up."""


def trace(module: nn.Module, input_shape: tuple[int, ...] | None = None) -> nir.NIRGraph:
    """The graph of a module in evaluation mode.

    Needs nested nn.Sequential, PerStep and Residual that run one of `CODINGS`, then layers of `RULES`, then one of
    `READOUTS`; what a Residual adds goes into a neuron or the readout. `input_shape`, (C, H, W) or (features,),
    overrides the coding's input_shape.
    Gives nodes `00_input`, `01_conv2d`, ... in float64, numbered in topological order (a Residual's body before its
    shortcut), their types filled in; identities and dropout are removed, an identity shortcut is an edge.
    Refuses (CompileError naming the layer by its path): everything else.
    """
    layers = tuple(_Walk().open("", module))
    coding = _only(layers, CODINGS, 0, "first")
    readout = _only(layers, tuple(READOUTS), -1, "last")
    metadata = READOUTS[type(readout.module)](readout)
    tracer = _Tracer(coding, _input_shape(coding, input_shape))
    value = tracer.run(layers[1:-1], (0,))
    shape = tracer.shapes[value[0]]
    tracer.add("output", nir.Output(np.array(shape), metadata=metadata), value, shape)
    return tracer.graph()


class _Walk:
    """Opens containers, counting what it visits: a module may hold itself, or one layer many times."""

    def __init__(self) -> None:
        self.visited = 0

    def open(self, path: str, found: object, per_step: bool = False, depth: int = 0) -> Iterator[Layer | Fork]:
        """The layers of a module in execution order."""
        where = f"{path or 'model'} ({type(found).__name__})"
        self.visited += 1
        if not isinstance(found, nn.Module):
            raise CompileError(where, "is not a layer")
        if self.visited > MOST_LAYERS or depth > DEEPEST:
            raise CompileError(
                "model", f"has more than {MOST_LAYERS} layers, or containers nested deeper than {DEEPEST}"
            )
        _check_hooks(where, found)
        if type(found) in REMOVED:
            return
        if type(found) not in CONTAINERS:
            yield Layer(where, found, per_step)
            return
        if per_step and type(found) in NOT_IN_PER_STEP:
            raise CompileError(where, *NOT_IN_PER_STEP[type(found)])
        children = vars(found).get("_modules")
        if not isinstance(children, dict):
            raise CompileError(where, "has no list of layers")
        if type(found) is Residual:
            yield self._fork(path, where, children, depth + 1)
            return
        for name, child in children.items():
            yield from self.open(_joined(path, name), child, per_step or type(found) is PerStep, depth + 1)

    def _fork(self, path: str, where: str, children: dict[str, object], depth: int) -> Fork:
        if children.keys() != {"body", "shortcut"}:
            raise CompileError(where, "its branches are not body and shortcut")
        body = tuple(self.open(_joined(path, "body"), children["body"], depth=depth))
        if children["shortcut"] is None:
            return Fork(where, body, None)
        return Fork(where, body, tuple(self.open(_joined(path, "shortcut"), children["shortcut"], depth=depth)))


def _joined(path: str, name: str) -> str:
    return f"{path}.{shown(name, 40)}".lstrip(".")


def _check_hooks(where: str, module: nn.Module) -> None:
    if any(vars(module).get(hooks) for hooks in ("_forward_hooks", "_forward_pre_hooks")):
        raise CompileError(where, "has forward hooks, which may change what it computes", "remove them before saving")


class _Tracer:
    """Nodes in the order they are made, which is topological, with the shape each puts out and the edges to it."""

    def __init__(self, coding: Layer, shape: Shape) -> None:
        self.timesteps = coding.fields.integer("timesteps", 1)
        metadata = {"coding": "events", "scale": 1.0, "timesteps": self.timesteps}
        if type(coding.module) is DirectCoding:
            metadata |= {"coding": "direct", "scale": coding.fields.number("scale")}
        self.slugs, self.shapes, self.edges = ["input"], [shape], list[tuple[int, int]]()
        self.nodes: list[nir.NIRNode] = [nir.Input(np.array(shape), metadata=metadata)]

    def add(self, slug: str, node: nir.NIRNode, value: Value, shape: Shape) -> Value:
        self.edges += [(source, len(self.nodes)) for source in sorted(value)]
        self.slugs.append(slug)
        self.nodes.append(node)
        self.shapes.append(shape)
        return (len(self.nodes) - 1,)

    def run(self, branch: Branch, value: Value) -> Value:
        for step in branch:
            value = self.fork(step, value) if isinstance(step, Fork) else self.layer(step, value)
        return value

    def layer(self, layer: Layer, value: Value) -> Value:
        rule, shape = _rule(layer), self.shapes[value[0]]
        node = _made(rule, layer, shape)
        if len(value) > 1 and not isinstance(node, MultiThresholdLIFGraph):
            raise CompileError(
                layer.where, f"reads the sum of {len(value)} layers", "currents are added before a neuron"
            )
        if isinstance(node, MultiThresholdLIFGraph) and node.mixing is not None and len(node.mixing) != self.timesteps:
            made_for = f"is made for {len(node.mixing)} time steps, the input gives {self.timesteps}"
            raise CompileError(layer.where, made_for, "make both with the same timesteps")
        result = output_shape(convert(layer.where, ("",), node), [shape])
        if not isinstance(node, nir.NIRGraph):
            node.input_type, node.output_type = {"input": np.array(shape)}, {"output": np.array(result)}
        return self.add(rule.slug, node, value, result)

    def fork(self, fork: Fork, value: Value) -> Value:
        body = self.run(fork.body, value)
        shortcut = value if fork.shortcut is None else self.run(fork.shortcut, value)
        one, other = self.shapes[body[0]], self.shapes[shortcut[0]]
        if one != other:
            side = "identity" if fork.shortcut is None else "shortcut"
            raise CompileError(
                fork.where,
                f"the body gives shape {one}, the {side} {other}",
                "needed: equal shapes, e.g. a 1x1 convolution of the body's stride as the shortcut",
            )
        if set(body) & set(shortcut):
            hint = "the body and the shortcut both hand on what they read: put a layer into one of them"
            raise CompileError(fork.where, "adds the same values twice", hint)
        if len(body) + len(shortcut) > MOST_ADDED:
            added = f"adds up {len(body) + len(shortcut)} layers"
            raise CompileError(fork.where, added, f"at most {MOST_ADDED} meet in a neuron")
        return body + shortcut

    def graph(self) -> nir.NIRGraph:
        names = numbered(self.slugs)
        edges = [(names[a], names[b]) for a, b in self.edges]
        # types are filled in above: nir's own inference fails on grouped convolution and on kernels that are not square
        return nir.NIRGraph(dict(zip(names, self.nodes, strict=True)), edges, metadata={}, type_check=False)


def _leaves(branch: Branch) -> Iterator[Layer]:
    for step in branch:
        if isinstance(step, Fork):
            yield from _leaves(step.body)
            yield from _leaves(step.shortcut or ())
        else:
            yield step


def _only(layers: Branch, kinds: tuple[type[nn.Module], ...], position: int, word: str) -> Layer:
    """The one layer of some kinds, which must stand first or last."""
    names = " or ".join(kind.__name__ for kind in kinds)
    found = [layer for layer in _leaves(layers) if type(layer.module) in kinds]
    if not found:
        known = (*RULES, *CODINGS, *READOUTS)
        if strange := [layer for layer in _leaves(layers) if type(layer.module) not in known]:
            raise _unsupported(strange[0])
        raise CompileError("model", f"has no {names}", f"snncompile.nn.{kinds[0].__name__} is the {word} layer")
    if layers[position] is not found[0] or len(found) > 1 or found[0].per_step:
        raise CompileError(found[-1].where, f"a network has one {names}, {word} and outside PerStep and Residual")
    return found[0]


def _rule(layer: Layer) -> Rule:
    rule = RULES.get(type(layer.module))
    if rule is None:
        raise _unsupported(layer)
    if rule.place == "step" and not layer.per_step:
        raise CompileError(
            layer.where,
            "stands outside PerStep, where it would take the time steps for the batch",
            "wrap it: PerStep(...)",
        )
    if rule.place == "sequence" and layer.per_step:
        raise CompileError(
            layer.where, "stands within PerStep, where it cannot see the time steps", "take it out of PerStep"
        )
    return rule


ADVICE = (
    *((part, "deploy what snncompile.nn.to_sequential(network) gives") for part in ("Train", "Stcb")),
    ("QCFS", "deploy what snncompile.nn.convert_to_group_neurons(network, ...) gives"),
    ("MaxPool", "use nn.AvgPool2d"),
    ("AdaptiveAvgPool", "use nn.AvgPool2d"),
    ("Norm", "use TdBatchNorm1d or TdBatchNorm2d"),
    ("ReLU", "use snncompile.nn.MultiThresholdLIF"),
    ("LIF", "use snncompile.nn.MultiThresholdLIF"),
)


def _unsupported(layer: Layer) -> CompileError:
    kind = type(layer.module).__name__
    advice = next((what for part, what in ADVICE if part in kind), "replace it by supported layers")
    known = (*RULES, *REMOVED, *CODINGS, *READOUTS, *CONTAINERS)
    supported = ", ".join(sorted({layer.__name__ for layer in known}))
    return CompileError(layer.where, "this layer is not supported", f"{advice}; supported: {supported}")


def _made(rule: Rule, layer: Layer, shape: Shape) -> nir.NIRNode:
    try:
        return rule.node(layer, shape)
    except ValueError as error:  # an operation of nir_nodes that cannot be
        raise CompileError(layer.where, str(error)) from None


def _input_shape(coding: Layer, asked: tuple[int, ...] | None) -> Shape:
    said = vars(coding.module).get("input_shape")
    if asked is None and said is None:
        raise CompileError(coding.where, "says no input shape", "say it: --input-shape 1,28,28")
    return input_shape_of(coding.where, said if asked is None else asked)
