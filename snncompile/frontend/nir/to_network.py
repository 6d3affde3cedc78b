"""NIR graph -> Network: the one place that says what a NIR node means to us."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import nir
import numpy as np

from snncompile import contract as contracts
from snncompile.contract import Contract, NodeContract
from snncompile.errors import CompileError
from snncompile.frontend.nir.graph_order import lateral, ordered, sources_of
from snncompile.frontend.nir.inline import inlined
from snncompile.frontend.nir.nodes import BatchNormGraph, MultiThresholdLIFGraph
from snncompile.frontend.nir.pending import Comparison, Integrator, pending_shape
from snncompile.frontend.nir.settle import MOST_NODES, Draft, settled
from snncompile.frontend.nir.standard import STANDARD, pool_node, understood
from snncompile.frontend.reading import MOST_STEPS, Reading
from snncompile.frontend.untrusted import LARGEST_INTEGER, Fields, check_size, shown
from snncompile.network import (
    INPUT_PAYLOAD_MAX,
    NO_MEMORY,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MultiThresholdLIF,
    Network,
    Node,
    Pair,
    Readout,
    Shape,
    one_to_one,
    verify,
)

Inputs = tuple[str, ...]
READING, CONTRACT = "reading", "contract"
"""Metadata of a graph: how it is to be read, and what is known of its nodes, both as JSON."""
SUPPORTED = "all nodes of NIR 1.0, multi-threshold LIF and batch norm of snncompile"
PRODUCER = "nir"


def with_reading(graph: nir.NIRGraph, reading: Reading) -> nir.NIRGraph:
    """The graph that says itself how it is read, so that its file means the same without the options."""
    said = {} if reading == Reading() else {READING: reading.to_json()}
    return nir.NIRGraph(dict(graph.nodes), list(graph.edges), {**graph.metadata, **said}, type_check=False)


def reading_of(graph: nir.NIRGraph) -> Reading:
    """The reading a graph bears; raises CompileError for one that is malformed.

    None of one that bears a contract: whoever made the graph has read the model that way.
    """
    said = Reading.from_json("network", graph.metadata[READING]) if READING in graph.metadata else Reading()
    return Reading() if CONTRACT in graph.metadata else said


def to_network(graph: nir.NIRGraph, reading: Reading | None = None) -> Network:
    """The float network of a graph, nodes named as in the graph: `read_network` without the contract."""
    return read_network(graph, reading)[0]


def read_network(graph: nir.NIRGraph, reading: Reading | None = None) -> tuple[Network, Contract]:
    """The float network of a graph, and what was understood of each node.

    reading: None: what the graph bears. Needs one Input, whose metadata or the reading say coding ("direct" or
    "events") and timesteps; one Output, whose metadata say scale and readout ("mean", or "leaky" with a leak in
    (0, 1]), or the reading says it, else spikes are counted and currents averaged; between them the nodes of
    `SUPPORTED`, every one on a way to the output. A population may read itself through synapses; other cycles are
    refused. Nested graphs without our tag are opened. Edges that meet add up. Shapes (C, L) are images (C, 1, L).
    Neurons of NIR become discrete as `standard` says; operations our network lacks fold as `settle` says.
    Gives a verified Network in float64.
    Refuses (CompileError naming the node): other nodes, and shapes that do not fit each other or those a node declares.
    """
    reading = reading_of(graph) if reading is None else reading
    given, graph = _contract_in(graph), inlined(graph)
    if len(graph.nodes) > MOST_NODES:
        raise CompileError("network", f"has {len(graph.nodes)} nodes", f"at most {MOST_NODES}")
    for name, node in sorted(graph.nodes.items()):
        _check_type(name, node)
    order = ordered(graph)
    draft, told = _drafted(graph, order, reading)
    timesteps = _timesteps(order[0], graph.nodes[order[0]], reading)
    output = draft.nodes[-1]
    assert isinstance(output, Readout)
    says = bool(graph.nodes[output.name].metadata)
    readout, mode = _read_out(output, draft, says, reading.readout, timesteps)
    network = Network(settled(draft.exchanging(readout.name, [readout])).nodes, timesteps)
    verify(network)
    ends = _ends(network, mode)
    return network, given or (*ends[:1], *told[1:-1], *ends[1:])


def _ends(network: Network, mode: str) -> Contract:
    """What the contract says of input and output."""
    coding, steps = network.input.coding, f"{network.timesteps} steps a sample"
    frames = f"events, {steps}" if coding == "events" else f"the same values in each of {steps}"
    told = {"count": "spikes counted", "sum": "summed over the steps", "mean": "the mean over the steps"}
    told |= {"last": "of the last step", "membrane": "the integrator's last state", "leaky": "a leaky mean"}
    return (
        NodeContract(network.input.name, "Input", PRODUCER, "faithful", frames),
        NodeContract(network.readout.name, "Output", PRODUCER, "faithful", told[mode]),
    )


def _contract_in(graph: nir.NIRGraph) -> Contract:
    """The contract a graph bears, of what it was made from."""
    text = graph.metadata.get(CONTRACT, "[]")
    try:
        return contracts.from_json(text if isinstance(text, str) else "")
    except ValueError:
        raise CompileError("network", "its contract is malformed", "export the model again") from None


def _drafted(graph: nir.NIRGraph, order: Sequence[str], reading: Reading) -> tuple[Draft, Contract]:
    """Every node as one of ours or a pending one, with its shape."""
    sources, back = sources_of(graph), lateral(graph)
    nodes: list[Node] = []
    shapes: dict[str, Shape] = {}
    told: list[NodeContract] = []
    for name in order:
        node = graph.nodes[name]
        inputs = tuple(source for source in sources[name] if source in shapes or (source, name) in back)
        given = [shapes[source] for source in inputs if source in shapes and (source, name) not in back]
        if not given and not isinstance(node, nir.Input):
            raise CompileError(name, "has no input", "every layer lies on a way from the input to the output")
        _check_declared(name, node, given)
        if isinstance(node, nir.Flatten):
            node = _flatten_all(graph, name, node, given)
        made, entry = _made(name, inputs, node, given, reading)
        nodes.append(made)
        shapes[name] = output_shape(made, given)
        told.append(entry)
    return Draft(tuple(nodes), shapes), tuple(told)


def _made(
    name: str, inputs: Inputs, node: nir.NIRNode, given: Sequence[Shape], reading: Reading
) -> tuple[Node, NodeContract]:
    kind, producer = type(node).__name__, PRODUCER
    if isinstance(node, nir.Input):
        return _input(name, inputs, node, reading), NodeContract(name, kind, producer, "faithful")
    if type(node) in STANDARD:
        if len(set(given)) > 1:
            pending_shape(Flatten(name, inputs), list(given))  # says which shapes do not add up
        found = understood(name, inputs, node, given[0], reading)
        return found.node, NodeContract(name, kind, producer, found.verdict, found.note)
    if isinstance(node, MultiThresholdLIFGraph | BatchNormGraph):
        kind, producer = kind.removesuffix("Graph"), "snncompile"
    return convert(name, inputs, node), NodeContract(name, kind, producer, "faithful")


def convert(name: str, inputs: Inputs, node: nir.NIRNode) -> Node:
    """The Network node a NIR node stands for; raises CompileError for values that cannot be."""
    return _CONVERSIONS[type(node)](name, inputs, node)


def output_shape(node: Node, inputs: Sequence[Shape]) -> Shape:
    """`pending_shape`, stricter about ranks: NIR never flattens on the way, and a layer's output is bounded."""
    axes = {Conv2d: 3, AvgPool2d: 3, Linear: 1}.get(type(node))
    for shape in inputs:
        if axes is not None and len(shape) != axes:
            needed = "(channels, height, width)" if axes == 3 else "(features,): flatten it first"
            raise CompileError(node.name, f"its input has shape {shape}", f"needed: {needed}")
    if isinstance(node, Conv2d) and inputs:
        padded = (size + 2 * pad for size, pad in zip(inputs[0][1:], node.padding, strict=True))
        check_size(node.name, (inputs[0][0], *padded))
    return check_size(node.name, pending_shape(node, list(inputs)))


def image(shape: Shape) -> Shape:
    """(C, L) as an image (C, 1, L); other shapes as they are."""
    return (shape[0], 1, shape[1]) if len(shape) == 2 else shape


def _check_type(name: str, node: nir.NIRNode) -> None:
    if type(node) in _CONVERSIONS or type(node) in STANDARD:
        return
    what = "a nested graph of unknown meaning" if isinstance(node, nir.NIRGraph) else f"a NIR {type(node).__name__}"
    raise CompileError(name, f"{what} is not supported", f"supported: {SUPPORTED}")


def _check_declared(name: str, node: nir.NIRNode, inputs: Sequence[Shape]) -> None:
    """Some NIR nodes state their input shape as well: what they state must be what they get."""
    declared: tuple[Any, ...] | None = None
    if isinstance(node, nir.Flatten | nir.Output) and node.input_type["input"] is not None:
        declared = image(tuple(np.asarray(node.input_type["input"]).tolist()))
    elif isinstance(node, nir.Conv2d) and node.input_shape is not None:
        channels = node.weight.shape[1] * int(node.groups)
        declared = (channels, *Fields(name, {"input_shape": node.input_shape}).pair("input_shape", 1))
    elif isinstance(node, nir.Conv1d) and node.input_shape is not None:
        length = Fields(name, {"input_shape": np.ravel(node.input_shape)[0]}).integer("input_shape", 1)
        declared = (node.weight.shape[1] * int(node.groups), 1, length)
    elif isinstance(node, MultiThresholdLIFGraph | BatchNormGraph):
        declared = image(node.shape)
    for shape in inputs:
        if declared is not None and declared != shape:
            raise CompileError(name, f"is made for an input of shape {shown(declared)}, gets {shape}")


def _timesteps(name: str, node: nir.NIRNode, reading: Reading) -> int:
    if reading.timesteps is not None:
        return reading.timesteps
    if "timesteps" not in node.metadata and "coding" not in node.metadata:
        raise CompileError(name, "does not say how many steps a sample has", "say it: --timesteps N")
    return Fields(name, node.metadata).integer("timesteps", 1, MOST_STEPS)


def _input(name: str, inputs: Inputs, node: nir.Input, reading: Reading) -> Input:
    metadata = Fields(name, node.metadata)
    coding: Any = reading.coding or ("events" if not node.metadata else None)
    coding = coding or metadata.choice("coding", ("direct", "events"))
    shape = Fields(name, {"shape": node.input_type["input"]}).shape("shape")
    scale = metadata.number("scale") if "coding" in node.metadata else 1.0
    largest = metadata.integer("largest", 1, default=INPUT_PAYLOAD_MAX)
    return Input(name, inputs, image(shape), scale, coding, largest)


def _output(name: str, inputs: Inputs, node: nir.Output) -> Readout:
    metadata = Fields(name, node.metadata)
    if not node.metadata:
        return Readout(name, inputs)
    leaky = metadata.choice("readout", ("mean", "leaky")) == "leaky"
    leak = metadata.number("leak") if leaky else 1.0
    if not 0 < leak <= 1:
        raise metadata.refuse("leak", leak, "a number in (0, 1]")
    current_leak = metadata.number("current_leak") if leaky and "current_leak" in metadata.values else None
    if not 0 <= (current_leak or 0) < 1:
        raise metadata.refuse("current_leak", current_leak, "a number in [0, 1)")
    return Readout(name, inputs, metadata.number("scale"), leak, current_leak=current_leak)


def _read_out(readout: Readout, draft: Draft, says: bool, asked: str | None, timesteps: int) -> tuple[Readout, str]:
    """The readout as the user asks, as the graph says, or by what it reads; and which it is."""
    read = [draft[name] for name in readout.inputs]
    integrators = [node for node in read if isinstance(node, Integrator)]
    spikes = all(isinstance(node, MultiThresholdLIF | Comparison) for node in read)
    mode = asked or ("" if says else "membrane" if integrators else "count" if spikes else "mean")
    if integrators and (len(read) > 1 or mode not in ("membrane", "last")):
        problem = f"is the {mode or 'mean'} of the state of {integrators[0].name}"
        raise CompileError(readout.name, problem, "supported of one integrator: its last state, --readout membrane")
    if mode == "membrane" and not integrators:
        raise CompileError(readout.name, "reads no integrator (LI, I, CubaLI)", "use --readout count, mean or last")
    if integrators:
        leak, current_leak = integrators[0].leak, integrators[0].current_leak
        readout = replace(readout, leak=leak, current_leak=current_leak)
        return replace(readout, scale=readout.total(timesteps)), "membrane"
    changed = {"count": (timesteps, 1.0), "sum": (timesteps, 1.0), "mean": (1.0, 1.0), "last": (1.0, NO_MEMORY)}
    if not mode:
        return readout, "mean" if readout.leak == 1 else "leaky"
    scale, leak = changed[mode]
    return replace(readout, scale=float(scale), leak=leak), mode


def _followers(graph: nir.NIRGraph, name: str) -> set[str]:
    return {target for source, target in graph.edges if source == name}


def _conv2d(name: str, inputs: Inputs, node: nir.Conv2d) -> Conv2d:
    values = Fields(name, vars(node))
    weight, bias = values.array("weight", 4), values.array("bias", 1)
    stride, dilation = values.pair("stride", 1), values.pair("dilation", 1)
    groups = values.integer("groups", 1)
    if len(weight) % groups:
        raise CompileError(name, f"{len(weight)} output channels do not divide into {groups} groups")
    padding = _padding(values, (weight.shape[2], weight.shape[3]), stride, dilation)
    return Conv2d(name, inputs, weight, bias, stride, padding, dilation, groups)


def _padding(values: Fields, kernel: Pair, stride: Pair, dilation: Pair) -> Pair:
    """Rows and columns of zeros on each side; "same" as torch defines it, where the sides are equal."""
    padding = values.get("padding")
    if not isinstance(padding, str):
        return values.pair("padding", 0)
    if values.choice("padding", ("same", "valid")) == "valid":
        return (0, 0)
    total = tuple(d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
    if stride != (1, 1) or total[0] % 2 or total[1] % 2:
        raise CompileError(
            values.where, f"padding 'same' with kernel {kernel} and stride {stride}", "say the padding as numbers"
        )
    return total[0] // 2, total[1] // 2


def _affine(name: str, inputs: Inputs, node: nir.Affine) -> Linear:
    values = Fields(name, vars(node))
    return Linear(name, inputs, values.array("weight", 2), values.array("bias", 1))


def _linear(name: str, inputs: Inputs, node: nir.Linear) -> Linear:
    weight = Fields(name, vars(node)).array("weight", 2)
    return Linear(name, inputs, weight, np.zeros(len(weight)))


def _conv1d(name: str, inputs: Inputs, node: nir.Conv1d) -> Conv2d:
    values = Fields(name, vars(node))
    weight, bias = values.array("weight", 3), values.array("bias", 1)
    one = {key: np.ravel(getattr(node, key))[0] for key in ("stride", "dilation", "groups")}
    numbers = Fields(name, one)
    padding = node.padding if isinstance(node.padding, str) else np.array([0, np.ravel(node.padding)[0]])
    wide = nir.Conv2d(
        input_shape=None,
        weight=weight[:, :, None],
        stride=np.array([1, numbers.integer("stride", 1)]),
        padding=padding,
        dilation=np.array([1, numbers.integer("dilation", 1)]),
        groups=numbers.integer("groups", 1),
        bias=bias,
    )
    return _conv2d(name, inputs, wide)


def _avg_pool(name: str, inputs: Inputs, node: nir.AvgPool2d) -> Node:
    pool = pool_node(name, inputs, node, average=True)
    tiles = pool.stride == pool.kernel and pool.padding == (0, 0)
    return AvgPool2d(name, inputs, pool.kernel) if tiles else pool


def _sum_pool(name: str, inputs: Inputs, node: nir.SumPool2d) -> Node:
    return pool_node(name, inputs, node, average=False)


def _flatten(name: str, inputs: Inputs, node: nir.Flatten) -> Flatten:
    values = Fields(name, vars(node))
    start, end = (values.integer(key, -LARGEST_INTEGER) for key in ("start_dim", "end_dim"))
    shape = node.input_type["input"]
    last = (-1,) if shape is None else (-1, len(shape) - 1)
    if start != 0 or end not in last:
        raise CompileError(
            name,
            f"flattens axes {start} to {end}",
            "needed: all axes, start_dim=0 and end_dim=-1 (there is no batch axis)",
        )
    return Flatten(name, inputs)


def _flatten_all(graph: nir.NIRGraph, name: str, node: nir.Flatten, given: Sequence[Shape]) -> nir.Flatten:
    """A Flatten of all axes where one from axis 1 can mean nothing else: torch counts the batch, NIR does not.

    So where the first axis has one entry, or all layers that read it take every feature.
    """
    shape, starts = given[0], int(np.ravel(node.start_dim)[0])
    columns = {np.shape(getattr(graph.nodes[reader], "weight", ()))[1:] for reader in _followers(graph, name)}
    whole = starts == 1 and int(np.ravel(node.end_dim)[0]) in (-1, len(shape) - 1, len(shape))
    if whole and (shape[0] == 1 or columns == {(int(np.prod(shape)),)}):
        return nir.Flatten(node.input_type, 0, -1, metadata=node.metadata)
    return node


def _neuron(name: str, inputs: Inputs, node: MultiThresholdLIFGraph) -> MultiThresholdLIF:
    return MultiThresholdLIF(name, inputs, **node.parameters)


def _scale(name: str, inputs: Inputs, node: nir.Scale) -> Conv2d:
    scale = Fields(name, vars(node)).array("scale")
    if not scale.size:
        raise CompileError(name, f"scale has shape {scale.shape}", "needed: a value for every neuron")
    channels = scale.reshape(len(scale) if scale.ndim else 1, -1)
    if (channels != channels[:, :1]).any():
        raise CompileError(name, "scales the neurons of one channel differently", "needed: one value a channel")
    return replace(one_to_one(name, "", channels[:, 0]), inputs=inputs)


def _batch_norm(name: str, inputs: Inputs, node: BatchNormGraph) -> BatchNorm:
    return BatchNorm(name, inputs, node.gamma, node.beta, node.mean, node.var, node.eps)


_CONVERSIONS: dict[type[nir.NIRNode], Callable[[str, Inputs, Any], Node]] = {
    nir.Input: lambda name, inputs, node: _input(name, inputs, node, Reading()),
    nir.Conv1d: _conv1d,
    nir.Conv2d: _conv2d,
    nir.Affine: _affine,
    nir.Linear: _linear,
    nir.AvgPool2d: _avg_pool,
    nir.SumPool2d: _sum_pool,
    nir.Flatten: _flatten,
    nir.Scale: _scale,
    MultiThresholdLIFGraph: _neuron,
    BatchNormGraph: _batch_norm,
    nir.Output: _output,
}
