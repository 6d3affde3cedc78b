"""A network as NIR that other tools read: standard nodes wherever NIR can say what a node of ours computes.

The network is folded first (`pipeline.FOLDS`), so norms, pools and payloads are where NIR has them. A population of one
threshold and one state per neuron, with a reset to zero, is LIF, IF, CubaLIF or Threshold, a step of STEP_S each;
"at or above" the threshold is "above" the next smaller number. What NIR cannot say stays our tagged nested graph.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import nir
import numpy as np

from snncompile.contract import NodeContract, Verdict
from snncompile.frontend.nir.linear_maps import is_diagonal, ungrouped
from snncompile.frontend.nir.nodes import PARAMETERS, STEP_S, MultiThresholdLIFGraph, full, numbered
from snncompile.network import (
    NO_MEMORY,
    SYNAPSES,
    Array,
    Conv2d,
    Input,
    MultiThresholdLIF,
    Network,
    Node,
    Pair,
    Readout,
    Shape,
    Sparse,
    Synapses,
    scaled,
)

LARGEST_WEIGHT = 2**26
"""Weights of a layer written as if every channel read every other: plain nir refuses groups."""
ONE, NONE = np.ones(2, np.int64), np.zeros(2, np.int64)


@dataclass
class _Export:
    """The nodes so far with the names they will be numbered by, and what each node of ours became."""

    network: Network
    slugs: list[str] = field(default_factory=list)
    nodes: list[nir.NIRNode] = field(default_factory=list)
    edges: list[tuple[int, int]] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)
    """By node of ours the position of what puts out its values."""
    begins: dict[str, int] = field(default_factory=dict)
    told: list[NodeContract] = field(default_factory=list)
    r_is_one: bool = False

    def add(self, slug: str, node: nir.NIRNode, source: int | None) -> int:
        if source is not None:
            self.edges.append((source, len(self.nodes)))
        self.slugs.append(slug)
        self.nodes.append(node)
        return len(self.nodes) - 1

    def tell(self, name: str, kind: str, verdict: Verdict, note: str = "") -> None:
        self.told.append(NodeContract(name, kind, "snncompile", verdict, note))


def exported(network: Network, r_is_one: bool = False) -> tuple[nir.NIRGraph, tuple[NodeContract, ...]]:
    """The graph of a folded network, and what of each node other tools will make.

    "faithful": they compute the same, in Euler steps of STEP_S. "approximate": the nested graph of `nir_nodes`, which
    we read without loss. Input and Output carry coding, steps and readout as metadata.
    r_is_one: r of leaky neurons is 1, and the weights carry it, for tools that leave r out of account (norse); else the
    weights are ours, and r makes up for the time step, as it does in integrators in either case.
    """
    export = _Export(_resistances_in_weights(network) if r_is_one else network, r_is_one=r_is_one)
    for node in export.network.nodes:
        if isinstance(node, Input):
            _input(export, node)
        elif isinstance(node, SYNAPSES):
            _synapses(export, node)
        elif isinstance(node, MultiThresholdLIF):
            _neurons(export, node)
        elif isinstance(node, Readout):
            _output(export, node)
        else:
            raise TypeError(f"{node.name}: a {node.kind} is left in the folded network")
    names = numbered(export.slugs)
    edges = [(names[a], names[b]) for a, b in export.edges]
    nodes = dict(zip(names, export.nodes, strict=True))
    return nir.NIRGraph(nodes, edges, metadata={}, type_check=False), tuple(export.told)


def _resistance(node: MultiThresholdLIF) -> Array:
    """r of a population that NIR has: that which makes a step of STEP_S add its input as it is; () or (channels,)."""
    if _integrates(node):
        return np.asarray(1 / STEP_S)
    return 1 / (1 - np.asarray(node.leak))


def _resistances_in_weights(network: Network) -> Network:
    changed: dict[str, Node] = {}
    for node in network.neurons:
        if not _beyond(node) and not _forgets(node) and not _integrates(node):
            for synapses in (network.by_name[name] for name in node.inputs):
                assert isinstance(synapses, SYNAPSES)
                changed[synapses.name] = scaled(synapses, _resistance(node))
    return network.replacing(changed)


def _input(export: _Export, node: Input) -> None:
    metadata = {"coding": node.coding, "scale": node.scale, "timesteps": export.network.timesteps}
    if node.coding == "events":
        metadata["largest"] = node.largest
    export.ends[node.name] = export.add("input", nir.Input(np.array(node.shape), metadata=metadata), None)
    note = "" if node.scale == 1 else f"values are the data times {node.scale:g}"
    export.tell(node.name, "Input", "faithful", note)


def _synapses(export: _Export, node: Synapses) -> None:
    source, shape = node.inputs[0], export.network.shapes[node.inputs[0]]
    is_lateral = source in export.begins and node.name in export.network.laterals(export.network.by_name[source])
    at, steps = export.ends[source], node.lag + (1 if is_lateral and node.lag else 0)
    if steps:
        at = export.add("delay", nir.Delay(full(shape, steps * STEP_S)), at)
    if node.pool != (1, 1):
        at = export.add("sum_pool", nir.SumPool2d(np.array(node.pool), np.array(node.pool), NONE), at)
        shape = (shape[0], shape[1] // node.pool[0], shape[2] // node.pool[1])
    made, slug = _layer(node, shape, export.network.shapes[node.name])
    if slug not in ("conv2d", "scale") and len(shape) > 1:
        at = export.add("flatten", nir.Flatten(np.array(shape), 0, -1), at)
    if slug != "scale" or is_lateral or (node.weight != 1).any():
        at = export.add(slug, made, at)
    export.ends[node.name] = at
    if is_lateral:
        export.edges.append((at, export.begins[source]))
    export.tell(node.name, type(made).__name__, "faithful")


def _layer(node: Synapses, shape: Shape, out: Shape) -> tuple[nir.NIRNode, str]:
    """The synapses after delay, pool and Flatten."""
    if isinstance(node, Conv2d):
        if is_diagonal(node) and not node.bias.any():
            return nir.Scale(full(shape, node.weight.ravel())), "scale"
        if len(shape) == 1:  # one-to-one with a bias: a diagonal matrix
            return nir.Affine(np.diag(node.weight.ravel()), node.bias), "affine"
        return _convolution(node, shape, out), "conv2d"
    weight = node.weight
    if isinstance(node, Sparse):
        weight = np.zeros((node.features, math.prod(shape)))
        weight[node.row, node.column] = node.weight
    return nir.Affine(weight, node.bias), "affine"


def _convolution(node: Conv2d, shape: Shape, out: Shape) -> nir.Conv2d:
    weight, groups = node.weight, node.groups
    if weight.size * groups <= LARGEST_WEIGHT:
        weight, groups = ungrouped(weight, groups), 1
    weight, padding = _squared(weight, node.padding, node.dilation)
    made = nir.Conv2d(
        input_shape=None,
        weight=weight,
        stride=np.array(node.stride),
        padding=np.array(padding),
        dilation=np.array(node.dilation),
        groups=groups,
        bias=node.bias,
    )
    made.input_shape = np.array(shape[1:])  # set afterwards: nir's own inference knows neither groups nor all kernels
    made.input_type, made.output_type = {"input": np.array(shape)}, {"output": np.array(out)}
    return made


def _squared(weight: Array, padding: Pair, dilation: Pair) -> tuple[Array, Pair]:
    """The same convolution with a square kernel, by zeros around it, where that can be: nir 1.0.8 takes others wrongly.

    Rows and columns of zeros are added on both sides, and padding for them.
    """
    size = max(weight.shape[2:])
    missing = [size - k for k in weight.shape[2:]]
    if any(n % 2 for n in missing):
        return weight, padding
    (top, left), (dy, dx) = (n // 2 for n in missing), dilation
    around = ((0, 0), (0, 0), (top, top), (left, left))
    return np.pad(weight, around), (padding[0] + dy * top, padding[1] + dx * left)


def _neurons(export: _Export, node: MultiThresholdLIF) -> None:
    shape = export.network.shapes[node.name]
    reason = _beyond(node)
    made, slug = _tagged(node, shape) if reason else _plain(node, shape)
    if export.r_is_one and hasattr(made, "r") and not _integrates(node):
        made.r = full(shape, 1.0)
    sources = [export.ends[name] for name in node.inputs if name in export.ends]
    at = export.add(slug, made, None)
    export.edges += [(source, at) for source in sources]
    export.begins[node.name] = at
    if not reason and node.payload[0] != 1:
        at = export.add("payload", nir.Scale(full(shape, node.payload)), at)
    export.ends[node.name] = at
    kind = type(made).__name__.removesuffix("Graph")
    export.tell(node.name, kind, "approximate" if reason else "faithful", f"NIR has no {reason}" if reason else "")


def _beyond(node: MultiThresholdLIF) -> str:
    """What of a population NIR's neurons do not have; empty where they have all of it."""
    leak = np.asarray(node.leak)
    integrates = (leak >= 1).any()
    found = {
        "multiple thresholds": len(node.thresholds) > 1,
        f"{node.reset} reset": node.reset != "hard",
        "mixing of time steps": node.mixing is not None,
        "initial state": bool(np.any(node.v0)),
        "adaptive threshold": node.adapt_leak is not None,
        "lower bound of a state": node.floor is not None,
        "leak above 1": bool((leak > 1).any()),
        "integrator beside leaky neurons, with a current or a drive": bool(integrates)
        and ((leak < 1).any() or node.current_leak is not None or (node.drive is not None and node.drive.any())),
        "drive without memory": _forgets(node) and node.drive is not None and bool(node.drive.any()),
        "integers of its own": node.unit is not None,
    }
    return next((what for what, has in found.items() if has), "")


def _integrates(node: MultiThresholdLIF) -> bool:
    return bool(np.all(np.asarray(node.leak) == 1))


def _forgets(node: MultiThresholdLIF) -> bool:
    return bool(np.all(np.asarray(node.leak) <= NO_MEMORY)) and node.current_leak is None


def _plain(node: MultiThresholdLIF, shape: Shape) -> tuple[nir.NIRNode, str]:
    threshold = node.thresholds[0]
    threshold = full(shape, np.nextafter(threshold, -np.inf) if node.fire == "ge" else threshold)
    if _forgets(node):
        return nir.Threshold(threshold), "threshold"
    zero = full(shape, 0.0)
    if _integrates(node):
        return nir.IF(full(shape, _resistance(node)), threshold, zero), "if"
    steps = _resistance(node)  # as many as tau has
    v_leak = full(shape, 0.0 if node.drive is None else node.drive * steps)
    tau, r = full(shape, steps * STEP_S), full(shape, steps)
    if node.current_leak is None:
        return nir.LIF(tau, r, v_leak, threshold, zero), "lif"
    synapse = 1 / (1 - np.asarray(node.current_leak))
    made = nir.CubaLIF(
        tau_syn=full(shape, synapse * STEP_S),
        tau_mem=tau,
        r=r,
        v_leak=v_leak,
        v_threshold=threshold,
        v_reset=zero,
        w_in=full(shape, synapse),
    )
    return made, "cuba_lif"


def _tagged(node: MultiThresholdLIF, shape: Shape) -> tuple[nir.NIRNode, str]:
    parameters: dict[str, Any] = {name: getattr(node, name) for name in PARAMETERS}
    return MultiThresholdLIFGraph(shape, **parameters), "mtlif"


def _output(export: _Export, node: Readout) -> None:
    shape = export.network.shapes[node.name]
    metadata: dict[str, Any] = {"readout": "mean", "scale": node.scale}
    if node.leak != 1 or node.current_leak is not None:
        metadata |= {"readout": "leaky", "leak": node.leak}
    if node.current_leak is not None:
        metadata["current_leak"] = node.current_leak
    at = export.add("output", nir.Output(np.array(shape), metadata=metadata), None)
    export.edges += [(export.ends[name], at) for name in node.inputs]
    note = "the mean over the steps" if node.leak == 1 else "a leaky mean"
    export.tell(node.name, "Output", "faithful", note + (f", times {node.scale:g}" if node.scale != 1 else ""))
