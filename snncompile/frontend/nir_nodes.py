"""The operations NIR lacks, as nested NIR graphs.

In memory one operation; on disk a nested graph of standard nodes (its decomposition, which other tools run) and a
metadata tag (op, op_version, parameters) from which `lift` makes the operation again.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import nir
import numpy as np
from numpy.typing import ArrayLike

from snncompile.errors import CompileError
from snncompile.frontend.untrusted import Fields, shown
from snncompile.network import LEAK_BELOW, Array, Fire, Reset, Shape

OP_PREFIX = "snncompile."
VERSION, VERSION_MIXING = 1, 2
"""A neuron that mixes time steps says 2: whoever knows only 1 must not read it without the mixing."""
LARGEST_LEVELS = 255
STEP_S = 1e-4
"""Seconds a time step stands for in decompositions (NIR is in continuous time); snntorch and spikingjelly use it."""
LARGEST_DIFFERENCE = 1e-6
"""Relative; a tool that keeps float32 changes a decomposition by less."""


class Operation(nir.NIRGraph):  # type: ignore[misc]
    """A nested graph that is one operation of snncompile. `shape` is that of its input and of its output."""

    op: str
    shape: Shape

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "type": "NIRGraph"}

    def _build(
        self,
        shape: Shape,
        chain: Sequence[tuple[str, nir.NIRNode]],
        edges: list[tuple[int, int]],
        tag: dict[str, Any],
        version: int = VERSION,
    ) -> None:
        """Fills in the graph: Input, the nodes of `chain` and Output, joined by `edges` between positions."""
        ends = np.array(shape)
        listed = [("input", nir.Input(ends)), *chain, ("output", nir.Output(ends))]
        # nir's inference finds the type of a nested graph under "input" and "output" only, so these two bear no number
        names = ["input", *numbered([slug for slug, _ in listed])[1:-1], "output"]
        self.shape = shape
        super().__init__(
            nodes=dict(zip(names, (node for _, node in listed), strict=True)),
            edges=[(names[a], names[b]) for a, b in edges],
            metadata={"op": self.op, "op_version": version, "shape": ends, **tag},
            type_check=False,
        )


def numbered(slugs: Sequence[str]) -> list[str]:
    """Zero-padded positions before each slug: HDF5 lists nodes alphabetically, and readers rely on that order."""
    width = max(2, len(str(len(slugs) - 1)))
    return [f"{i:0{width}d}_{slug}" for i, slug in enumerate(slugs)]


class MultiThresholdLIFGraph(Operation):
    """The population `network.MultiThresholdLIF` of shape `shape`.

    thresholds, payload, subtract (levels,) and mixing (T, T) or None, kept as float64. Raises ValueError unless
    0 < leak < 2, thresholds are positive and increasing, the three have one length of at most 255, mixing is square,
    and reset and fire are known.

    Decomposition, at STEP_S per step and with Euler's method: LI (I for leak 1) integrates u; one Threshold a level,
    whose comparison is strict, so that "ge" compares with the next smaller number; Scales by the payload's increments
    into the output; Scales by -leak * subtract's increments back into LI, which arrive one step later, where they equal
    a soft reset. What the graph cannot say and other tools therefore lose: v0, the hard reset (subtracts the threshold
    instead), and exactness wherever a tool integrates otherwise. Mixing is left out of it and a leak above 1 is 1 in it
    (as a time constant it would be negative); the tag then says "not expressed".
    """

    op = OP_PREFIX + "multi_threshold_lif"

    def __init__(
        self,
        shape: Shape,
        *,
        thresholds: ArrayLike,
        payload: ArrayLike,
        subtract: ArrayLike,
        leak: float,
        reset: Reset,
        fire: Fire,
        v0: float = 0.0,
        mixing: ArrayLike | None = None,
    ) -> None:
        self.thresholds, self.payload, self.subtract = (_frozen(a) for a in (thresholds, payload, subtract))
        self.leak, self.reset, self.fire, self.v0 = float(leak), reset, fire, float(v0)
        self.mixing = None if mixing is None else _frozen(mixing)
        self._check()
        tag = {
            "parameters": json.dumps({"fire": fire, "leak": self.leak, "reset": reset, "v0": self.v0}),
            "thresholds": self.thresholds,
            "payload": self.payload,
            "subtract": self.subtract,
            **({} if self.mixing is None else {"mixing": self.mixing}),
            "fidelity": self._fidelity(),
        }
        self._build(shape, *self._decomposition(shape), tag, VERSION if self.mixing is None else VERSION_MIXING)

    def _fidelity(self) -> str:
        lost = ["mixing of time steps"] * (self.mixing is not None) + ["leak above 1"] * (self.leak > 1)
        approximate = "approximate: the nodes state the reset one step late"
        return f"not expressed: {' and '.join(lost)}; {approximate}" if lost else approximate

    def _check(self) -> None:
        if self.thresholds.ndim != 1 or not 1 <= len(self.thresholds) <= LARGEST_LEVELS:
            raise ValueError(f"thresholds have shape {self.thresholds.shape}, needed: 1 to {LARGEST_LEVELS} levels")
        if not self.thresholds.shape == self.payload.shape == self.subtract.shape:
            raise ValueError("thresholds, payload and subtract differ in length")
        if not self.thresholds[0] > 0 or not (np.diff(self.thresholds) > 0).all():
            raise ValueError(f"thresholds are {shown(self.thresholds.tolist())}, they must be positive and increasing")
        if not 0 < self.leak < LEAK_BELOW:
            raise ValueError(f"leak is {self.leak}, must lie in (0, {LEAK_BELOW:g})")
        if self.mixing is not None and (self.mixing.shape != 2 * self.mixing.shape[:1]):
            raise ValueError(f"mixing has shape {self.mixing.shape}, needed: (T, T)")
        if self.reset not in ("soft", "hard", "none") or self.fire not in ("ge", "gt"):
            raise ValueError(f"reset {self.reset!r} or fire {self.fire!r} is unknown")

    def _decomposition(self, shape: Shape) -> tuple[list[tuple[str, nir.NIRNode]], list[tuple[int, int]]]:
        compared = np.nextafter(self.thresholds, -np.inf) if self.fire == "ge" else self.thresholds
        payload = np.diff(self.payload, prepend=0.0)
        feedback = -min(self.leak, 1.0) * np.diff(
            self.thresholds if self.reset == "hard" else self.subtract, prepend=0.0
        )
        resets = self.reset != "none"
        chain = [_integrator(shape, self.leak)]
        edges = [(0, 1)]
        output = 2 + (3 if resets else 2) * len(compared)
        for level in range(len(compared)):
            threshold = len(chain) + 1
            chain.append(("threshold", nir.Threshold(_full(shape, compared[level]))))
            chain.append(("payload", nir.Scale(_full(shape, payload[level]))))
            edges += [(1, threshold), (threshold, threshold + 1), (threshold + 1, output)]
            if resets:
                chain.append(("reset", nir.Scale(_full(shape, feedback[level]))))
                edges += [(threshold, threshold + 2), (threshold + 2, 1)]
        return chain, edges


def _integrator(shape: Shape, leak: float) -> tuple[str, nir.NIRNode]:
    """u[t] = leak * u[t-1] + input, as one Euler step of STEP_S; a leak above 1 as 1."""
    if leak >= 1:
        return "integrator", nir.I(r=_full(shape, 1 / STEP_S))
    tau_s = STEP_S / (1 - leak)
    return "leaky_integrator", nir.LI(tau=_full(shape, tau_s), r=_full(shape, tau_s / STEP_S), v_leak=_full(shape, 0.0))


class BatchNormGraph(Operation):
    """y = gamma * (x - mean) / sqrt(var + eps) + beta per channel, axis 0 of `shape`; arrays (channels,), float64.

    Raises ValueError unless the four arrays have one value a channel and var + eps > 0.
    Decomposition: y = W x + b with a diagonal W, a 1x1 Conv2d for (C, H, W) and an Affine for (features,).
    """

    op = OP_PREFIX + "batch_norm"

    def __init__(
        self, shape: Shape, *, gamma: ArrayLike, beta: ArrayLike, mean: ArrayLike, var: ArrayLike, eps: float
    ) -> None:
        self.gamma, self.beta, self.mean, self.var = (_frozen(a) for a in (gamma, beta, mean, var))
        self.eps = float(eps)
        if len(shape) not in (1, 3):
            raise ValueError(f"normalises an input of shape {shape}, needed: (channels, height, width) or (features,)")
        for array in (self.gamma, self.beta, self.mean, self.var):
            if array.shape != shape[:1]:
                raise ValueError(f"normalises {array.size} channels, its input {shape} has {shape[0]}")
        if not (self.var + self.eps > 0).all():
            raise ValueError("has a variance that is not positive")
        arrays = {"gamma": self.gamma, "beta": self.beta, "mean": self.mean, "var": self.var}
        tag = {
            "parameters": json.dumps({"eps": self.eps}),
            **arrays,
            "fidelity": "exact: inference with the running statistics",
        }
        self._build(shape, [self._decomposition(shape)], [(0, 1), (1, 2)], tag)

    def _decomposition(self, shape: Shape) -> tuple[str, nir.NIRNode]:
        gain = self.gamma / np.sqrt(self.var + self.eps)
        bias = self.beta - gain * self.mean
        if len(shape) == 1:
            return "affine", nir.Affine(weight=np.diag(gain), bias=bias)
        one, none = np.ones(2, np.int64), np.zeros(2, np.int64)
        weight = np.diag(gain)[:, :, None, None]
        return "conv2d", nir.Conv2d(
            input_shape=np.array(shape[1:]), weight=weight, stride=one, padding=none, dilation=one, groups=1, bias=bias
        )


def lift(where: str, graph: nir.NIRGraph) -> nir.NIRGraph:
    """The operation whose tag a nested graph bears; the graph itself if it bears none of ours.

    Raises CompileError with `where` and the key where the tag is malformed, of another version, or does not describe
    the graph's nodes (a tool changed them and kept the tag).
    """
    op = graph.metadata.get("op")
    if not isinstance(op, str) or not op.startswith(OP_PREFIX):
        return graph
    if op not in _LIFTED:
        raise CompileError(where, f"op is {shown(op)!r}", f"known: {', '.join(sorted(_LIFTED))}")
    tag = Fields(where, graph.metadata)
    versions, lifted = _LIFTED[op]
    if (version := tag.integer("op_version", 1)) not in versions:
        known = " or ".join(map(str, versions))
        raise CompileError(where, f"op_version is {version}", f"this snncompile reads version {known}")
    try:
        parameters = json.loads(tag.text("parameters"))
    except (ValueError, RecursionError):
        raise CompileError(where, "parameters is not JSON", "export the model again") from None
    if not isinstance(parameters, dict):
        raise CompileError(where, "parameters is not a JSON object", "export the model again")
    try:
        operation = lifted(tag, Fields(where, parameters))
    except ValueError as error:
        raise CompileError(where, str(error)) from None
    if not _same(graph, operation):
        raise CompileError(
            where, f"its nodes are not those of its tag {op!r}", "a tool changed one of them: export the model again"
        )
    return operation


def _lift_neuron(tag: Fields, parameters: Fields) -> Operation:
    thresholds, payload, subtract = (tag.array(key, 1) for key in ("thresholds", "payload", "subtract"))
    reset: Any = parameters.choice("reset", ("soft", "hard", "none"))
    fire: Any = parameters.choice("fire", ("ge", "gt"))
    leak, v0 = parameters.number("leak"), parameters.number("v0")
    mixes = "mixing" in tag.values or tag.integer("op_version", 1) == VERSION_MIXING
    mixing = tag.array("mixing", 2) if mixes else None
    return MultiThresholdLIFGraph(
        tag.shape("shape"),
        thresholds=thresholds,
        payload=payload,
        subtract=subtract,
        leak=leak,
        reset=reset,
        fire=fire,
        v0=v0,
        mixing=mixing,
    )


def _lift_batch_norm(tag: Fields, parameters: Fields) -> Operation:
    gamma, beta, mean, var = (tag.array(key, 1) for key in ("gamma", "beta", "mean", "var"))
    eps = parameters.number("eps")
    return BatchNormGraph(tag.shape("shape"), gamma=gamma, beta=beta, mean=mean, var=var, eps=eps)


_LIFTED: dict[str, tuple[tuple[int, ...], Callable[[Fields, Fields], Operation]]] = {
    MultiThresholdLIFGraph.op: ((VERSION, VERSION_MIXING), _lift_neuron),
    BatchNormGraph.op: ((VERSION,), _lift_batch_norm),
}
"""For each op the versions it is read in, and how."""


def _same(a: nir.NIRGraph, b: nir.NIRGraph) -> bool:
    """Whether two graphs have the same nodes, parameters (within LARGEST_DIFFERENCE) and edges."""
    if a.nodes.keys() != b.nodes.keys() or sorted(a.edges) != sorted(b.edges):
        return False
    return all(_same_node(node, b.nodes[name]) for name, node in a.nodes.items())


def _same_node(a: nir.NIRNode, b: nir.NIRNode) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, nir.Input | nir.Output):
        return np.array_equal(a.input_type["input"], b.input_type["input"])
    names = {field.name for field in fields(b)} - {"input_type", "output_type", "metadata"}
    return all(_close(getattr(a, name), getattr(b, name)) for name in names)


def _close(a: Any, b: Any) -> bool:
    if np.shape(a) == np.shape(b) and np.size(a) > 1 and not any((*np.asarray(a).strides, *np.asarray(b).strides)):
        a, b = np.asarray(a).flat[0], np.asarray(b).flat[0]  # each one value, broadcast
    return np.shape(a) == np.shape(b) and bool(np.allclose(a, b, rtol=LARGEST_DIFFERENCE, atol=0))


def _frozen(values: ArrayLike) -> Array:
    array = np.array(values, np.float64)
    array.flags.writeable = False
    return array


def _full(shape: Shape, value: float) -> Array:
    """`value` at every neuron, as NIR wants it, without the memory."""
    return np.broadcast_to(np.float64(value), shape)
