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
VERSION, VERSION_MIXING, VERSION_GENERAL = 1, 2, 3
"""A neuron that mixes time steps says 2, one with any of `GENERAL` 3: who knows only 1 must not read it without."""
GENERAL = ("current_leak", "drive", "floor", "adapt_leak", "adapt_step", "adapt_start", "unit")
"""Parameters of a neuron that version 3 adds, one number or (channels,); and adapt_resets, and arrays elsewhere."""
PARAMETERS = (
    *("thresholds", "payload", "subtract", "leak", "reset", "fire", "v0", "mixing"),
    *(*GENERAL, "adapt_resets"),
)
"""All parameters of a neuron, by their names in `network.MultiThresholdLIF`."""
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

    thresholds, subtract (levels,) or (levels, channels), payload (levels,) and mixing (T, T) or None, kept as float64;
    leak, v0 and those of `GENERAL` as `network.MultiThresholdLIF` has them. Raises ValueError unless 0 < leak < 2,
    current_leak and adapt_leak lie in [0, 1), thresholds are positive and increasing, the levels are at most 255 and as
    many everywhere, arrays have a value a channel, mixing is square, and reset and fire are known.

    Decomposition, at STEP_S per step and with Euler's method: LI (I for leak 1) integrates u, after a second LI that
    is the synaptic current; one Threshold a level, whose comparison is strict, so that "ge" compares with the next
    smaller number; Scales by the payload's increments into the output; Scales by -leak * subtract's increments back
    into LI, which arrive one step later, where they equal a soft reset. What the graph cannot say and other tools
    therefore lose: v0, the hard reset (subtracts the threshold instead), and exactness wherever a tool integrates
    otherwise. What nodes cannot say at all is left out (a leak above 1 is 1); the tag then says "not expressed".
    """

    op = OP_PREFIX + "multi_threshold_lif"

    def __init__(
        self,
        shape: Shape,
        *,
        thresholds: ArrayLike,
        payload: ArrayLike,
        subtract: ArrayLike,
        leak: ArrayLike,
        reset: Reset,
        fire: Fire,
        v0: ArrayLike = 0.0,
        mixing: ArrayLike | None = None,
        current_leak: ArrayLike | None = None,
        drive: ArrayLike | None = None,
        floor: ArrayLike | None = None,
        adapt_leak: ArrayLike | None = None,
        adapt_step: ArrayLike = 0.0,
        adapt_start: ArrayLike = 0.0,
        adapt_resets: bool = False,
        unit: float | None = None,
    ) -> None:
        self.thresholds, self.payload, self.subtract = (_frozen(a) for a in (thresholds, payload, subtract))
        self.leak, self.v0, self.reset, self.fire = _number(leak), _number(v0), reset, fire
        self.mixing = None if mixing is None else _frozen(mixing)
        self.current_leak, self.floor, self.adapt_leak = (_maybe(a) for a in (current_leak, floor, adapt_leak))
        self.drive = None if drive is None else _frozen(np.broadcast_to(np.asarray(drive, np.float64), shape[:1]))
        self.adapt_step, self.adapt_start, self.adapt_resets = _number(adapt_step), _number(adapt_start), adapt_resets
        self.unit = None if unit is None else float(unit)
        self._check(shape)
        self._build(shape, *self._decomposition(shape), self._tag(), self._version())

    @property
    def parameters(self) -> dict[str, Any]:
        """Every parameter by its name in `network.MultiThresholdLIF`."""
        return {name: getattr(self, name) for name in PARAMETERS}

    def _version(self) -> int:
        arrays = self.thresholds.ndim > 1 or any(isinstance(value, np.ndarray) for value in (self.leak, self.v0))
        values = (getattr(self, name) for name in GENERAL)
        if arrays or self.adapt_resets or any(isinstance(v, np.ndarray) or v not in (None, 0.0) for v in values):
            return VERSION_GENERAL
        return VERSION if self.mixing is None else VERSION_MIXING

    def _tag(self) -> dict[str, Any]:
        """Metadata: numbers and texts as JSON, arrays by name, what is None or usual not at all."""
        values = {name: value for name, value in self.parameters.items() if value is not None}
        if self._version() != VERSION_GENERAL:
            values = {name: value for name, value in values.items() if name not in (*GENERAL, "adapt_resets")}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        plain = {name: values[name] for name in sorted(values.keys() - arrays.keys())}
        return {"parameters": json.dumps(plain), **arrays, "fidelity": self._fidelity()}

    def _fidelity(self) -> str:
        told = {
            "mixing of time steps": self.mixing is not None,
            "leak above 1": bool((np.asarray(self.leak) > 1).any()),
            "a lower bound": self.floor is not None,
            "an adaptive threshold": self.adapt_leak is not None,
            "a drive": self.drive is not None
            and bool((self.drive != 0).any())
            and bool((np.asarray(self.leak) >= 1).any()),
        }
        lost = [name for name, is_lost in told.items() if is_lost]
        approximate = "approximate: the nodes state the reset one step late"
        return f"not expressed: {' and '.join(lost)}; {approximate}" if lost else approximate

    def _check(self, shape: Shape) -> None:
        thresholds, subtract = self.thresholds, self.subtract
        if thresholds.ndim not in (1, 2) or not 1 <= len(thresholds) <= LARGEST_LEVELS:
            raise ValueError(f"thresholds have shape {thresholds.shape}, needed: 1 to {LARGEST_LEVELS} levels")
        if not thresholds.shape == subtract.shape or self.payload.shape != thresholds.shape[:1]:
            raise ValueError("thresholds, payload and subtract differ in length")
        if not (thresholds[0] > 0).all() or not (np.diff(thresholds, axis=0) > 0).all():
            raise ValueError(f"thresholds are {shown(thresholds.tolist())}, they must be positive and increasing")
        self._check_channels(shape)
        if not (np.asarray(self.leak) > 0).all() or not (np.asarray(self.leak) < LEAK_BELOW).all():
            raise ValueError(f"leak is {shown(self.leak)}, must lie in (0, {LEAK_BELOW:g})")
        for name in ("current_leak", "adapt_leak"):
            value = getattr(self, name)
            if value is not None and not ((np.asarray(value) >= 0) & (np.asarray(value) < 1)).all():
                raise ValueError(f"{name} is {shown(value)}, must lie in [0, 1)")
        if self.mixing is not None and (self.mixing.shape != 2 * self.mixing.shape[:1]):
            raise ValueError(f"mixing has shape {self.mixing.shape}, needed: (T, T)")
        if self.reset not in ("soft", "hard", "none") or self.fire not in ("ge", "gt"):
            raise ValueError(f"reset {self.reset!r} or fire {self.fire!r} is unknown")

    def _check_channels(self, shape: Shape) -> None:
        found = {name: getattr(self, name) for name in ("leak", "v0", *GENERAL)}
        sizes = {name: np.shape(value) for name, value in found.items() if isinstance(value, np.ndarray)}
        if self.thresholds.ndim == 2:
            sizes["thresholds"] = self.thresholds.shape[1:]
        for name, size in sizes.items():
            if size != shape[:1]:
                raise ValueError(f"{name} has shape {size}, needed: one number or {shape[:1]}")

    def _decomposition(self, shape: Shape) -> tuple[list[tuple[str, nir.NIRNode]], list[tuple[int, int]]]:
        compared = np.nextafter(self.thresholds, -np.inf) if self.fire == "ge" else self.thresholds
        payload = np.diff(self.payload, prepend=0.0)
        taken = self.thresholds if self.reset == "hard" else self.subtract
        feedback = -np.minimum(self.leak, 1.0) * np.diff(taken, axis=0, prepend=0.0)
        resets = self.reset != "none"
        chain = [] if self.current_leak is None else [("current", _leaky(shape, self.current_leak, 0.0))]
        chain.append(_integrator(shape, self.leak, 0.0 if self.drive is None else self.drive))
        edges = [(i, i + 1) for i in range(len(chain))]
        membrane = len(chain)
        output = 1 + membrane + (3 if resets else 2) * len(compared)
        for level in range(len(compared)):
            threshold = len(chain) + 1
            chain.append(("threshold", nir.Threshold(full(shape, compared[level]))))
            chain.append(("payload", nir.Scale(full(shape, payload[level]))))
            edges += [(membrane, threshold), (threshold, threshold + 1), (threshold + 1, output)]
            if resets:
                chain.append(("reset", nir.Scale(full(shape, feedback[level]))))
                edges += [(threshold, threshold + 2), (threshold + 2, membrane)]
        return chain, edges


def _integrator(shape: Shape, leak: float | Array, drive: float | Array) -> tuple[str, nir.NIRNode]:
    """u[t] = leak * u[t-1] + input + drive, as one Euler step of STEP_S; a leak above 1 as 1, where nothing drives."""
    if (np.asarray(leak) >= 1).all():
        return "integrator", nir.I(r=full(shape, 1 / STEP_S))
    return "leaky_integrator", _leaky(shape, leak, drive)


def _leaky(shape: Shape, leak: float | Array, drive: float | Array) -> nir.LI:
    """v[t] = leak * v[t-1] + input + drive, as one Euler step of STEP_S; a leak of 1 beside smaller ones nearly 1."""
    tau_s = STEP_S / np.maximum(1 - np.asarray(leak), np.finfo(np.float32).eps)
    reached = np.where(np.asarray(leak) >= 1, 0.0, drive * tau_s / STEP_S)
    return nir.LI(tau=full(shape, tau_s), r=full(shape, tau_s / STEP_S), v_leak=full(shape, reached))


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
        known = " or ".join(filter(None, (", ".join(map(str, versions[:-1])), str(versions[-1]))))
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
    version = tag.integer("op_version", 1)
    levels = None if version == VERSION_GENERAL else 1
    thresholds, subtract = (tag.array(key, levels) for key in ("thresholds", "subtract"))
    payload = tag.array("payload", 1)
    reset: Any = parameters.choice("reset", ("soft", "hard", "none"))
    fire: Any = parameters.choice("fire", ("ge", "gt"))

    def value(key: str) -> float | Array:
        in_tag = version == VERSION_GENERAL and key in tag.values
        return tag.array(key, 1) if in_tag else parameters.number(key)

    named = [key for key in GENERAL if version == VERSION_GENERAL and (key in tag.values or key in parameters.values)]
    mixing = tag.array("mixing", 2) if "mixing" in tag.values or version == VERSION_MIXING else None
    arrays: dict[str, Any] = {key: value(key) for key in named if key != "unit"}
    return MultiThresholdLIFGraph(
        tag.shape("shape"),
        thresholds=thresholds,
        payload=payload,
        subtract=subtract,
        leak=value("leak"),
        reset=reset,
        fire=fire,
        v0=value("v0"),
        mixing=mixing,
        adapt_resets=version == VERSION_GENERAL and parameters.values.get("adapt_resets") is True,
        unit=parameters.number("unit") if "unit" in named else None,
        **arrays,
    )


def _lift_batch_norm(tag: Fields, parameters: Fields) -> Operation:
    gamma, beta, mean, var = (tag.array(key, 1) for key in ("gamma", "beta", "mean", "var"))
    eps = parameters.number("eps")
    return BatchNormGraph(tag.shape("shape"), gamma=gamma, beta=beta, mean=mean, var=var, eps=eps)


_LIFTED: dict[str, tuple[tuple[int, ...], Callable[[Fields, Fields], Operation]]] = {
    MultiThresholdLIFGraph.op: ((VERSION, VERSION_MIXING, VERSION_GENERAL), _lift_neuron),
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


def _number(value: ArrayLike) -> float | Array:
    """One number as a float, an array as `_frozen` makes it."""
    return float(np.asarray(value)) if np.ndim(value) == 0 else _frozen(value)


def _maybe(value: ArrayLike | None) -> float | Array | None:
    return None if value is None else _number(value)


def full(shape: Shape, value: ArrayLike) -> Array:
    """`value`, one number or (channels,), at every neuron, as NIR wants it; of one number without the memory."""
    values = np.asarray(value, np.float64)
    return np.broadcast_to(values.reshape(-1, *(1,) * (len(shape) - 1)) if values.ndim else values, shape)
