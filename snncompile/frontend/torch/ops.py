"""What the functions and methods of tensors mean for the values of a network, by name.

Each takes the reader, where it is called, and its arguments; a value of another kind is a Python number, a list or a
tensor of constants. What is not here is refused by its name.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from snncompile.errors import CompileError
from snncompile.frontend.torch.arithmetic import (
    add,
    axes_of,
    axis_of,
    check_same,
    divide,
    multiply,
    signal_of,
    subtract,
    with_parts,
)
from snncompile.frontend.torch.functional import adaptive_avg_pool2d, avg_pool2d, conv2d, dropout, linear, max_pool2d
from snncompile.frontend.torch.layers import adaptive_average
from snncompile.frontend.torch.reader import Reader, told
from snncompile.frontend.torch.values import LayoutError, Potential, Signal, State, Total

Op = Callable[..., Any]


def call(reader: Reader, where: str, name: str, given: Sequence[Any], named: dict[str, Any]) -> Any:
    """The value of a function of torch, or of a method of a tensor, by its name without underscores."""
    short = name.strip("_")
    op = OPS.get(short)
    if op is None:
        raise CompileError(where, f"calls {name}, which is not supported", ADVICE.get(short, HINT))
    try:
        return op(reader, where, *given, **named)
    except TypeError as error:
        raise CompileError(where, f"calls {name} in a way that is not supported ({error})", HINT) from None


HINT = "layers of torch.nn, and add, cat, stack, mean, sum, flatten, view, pooling of them are read"
ADVICE = {
    "relu": "a rectifier does not spike: use a layer of neurons",
    "interpolate": "synapses that write more places than they read are not there: upsample the data",
    "softmax": "the largest output stays the largest: leave it out",
    "log_softmax": "the largest output stays the largest: leave it out",
    "sigmoid": "use a layer of neurons",
    "matmul": "use nn.Linear",
    **dict.fromkeys(("gt", "lt", "ge", "le"), "what a network does may not depend on its data"),
}


def getitem(reader: Reader, where: str, value: Any, index: Any) -> Any:
    if not isinstance(value, Signal | Potential):
        raise CompileError(where, f"takes a part of {told(value)}")
    if isinstance(value, Potential):
        return replace(value, signal=getitem(reader, where, value.signal, index))
    keys = index if isinstance(index, tuple) else (index,)
    everything = slice(None)
    wanted = {"TB": 0, "BT": 1, "1B": 0}.get(value.lead)
    if all(key is Ellipsis or key == everything for key in keys):
        return value
    ints = [n for n, key in enumerate(keys) if isinstance(key, int)]
    rest = all(key is Ellipsis or key == everything for n, key in enumerate(keys) if n not in ints)
    if wanted is None and rest and ints == [0]:
        raise LayoutError(where, f"takes one of what it takes for time steps, of {told(value)}", "needed: [T, B, ...]")
    if wanted is None or ints != [wanted] or not rest:
        raise CompileError(where, "takes a part of a tensor other than one time step")
    if value.lead == "1B":
        return replace(value, lead="step")
    steps, at = reader.steps(where), keys[wanted]
    if not -steps <= at < steps:
        raise CompileError(where, f"takes time step {at} of {steps}")
    return replace(value, lead="step", at=at % steps)


def steps_of(reader: Reader, where: str, value: Any) -> list[Any]:
    """What a loop over a tensor gives: its time steps."""
    signal = value.signal if isinstance(value, Potential) else signal_of(where, value)
    if signal.lead != "TB":
        raise LayoutError(where, "loops over a tensor whose first axis is not the time steps", "needed: [T, B, ...]")
    return [getitem(reader, where, value, t) for t in range(reader.steps(where))]


def flatten(reader: Reader, where: str, value: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    if isinstance(value, Total):
        inner = replace(value.signal, lead="step")
        return replace(value, signal=flatten(reader, where, inner, start_dim, end_dim))
    signal = signal_of(where, value)
    start, end = axis_of(signal, start_dim), axis_of(signal, end_dim)
    lead = axes_of(signal)
    if (start, end) == (0, 1) and signal.lead in ("TB", "BT"):
        return replace(signal, lead="(TB)" if signal.lead == "TB" else "(BT)")
    if end == lead + len(signal.shape) - 1 and start in (lead, end) and (start == lead or len(signal.shape) == 1):
        return with_parts(reader, signal, ("flatten",), reader.graph.flatten)
    raise LayoutError(
        where, f"flattens axes {start} to {end} of {reader.torch_shape(signal)}", "those of the data alone"
    )


def view(reader: Reader, where: str, value: Any, *sizes: Any, shape: Any = None) -> Any:
    given = shape if shape is not None else sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
    if isinstance(value, Total):
        return replace(value, signal=view(reader, where, replace(value.signal, lead="step"), *given))
    signal, wanted = signal_of(where, value), [int(n) for n in given]
    count = int(np.prod(reader.torch_shape(signal)))
    if wanted.count(-1) == 1:
        known = int(np.prod([n for n in wanted if n != -1]))
        wanted = [count // known if n == -1 else n for n in wanted] if known and count % known == 0 else wanted
    for option in _views(reader, signal):
        if list(reader.torch_shape(option)) == wanted:
            return option
        if (
            len(option.shape) > 1
            and [*reader.torch_shape(option)[: axes_of(option)], int(np.prod(option.shape))] == wanted
        ):
            return with_parts(reader, option, ("flatten",), reader.graph.flatten)
    raise LayoutError(where, f"views {reader.torch_shape(signal)} as {tuple(wanted)}", "time, batch or data are joined")


def _views(reader: Reader, signal: Signal) -> list[Signal]:
    """The same values with time and batch joined or apart."""
    joined = {"TB": "(TB)", "BT": "(BT)", "(TB)": "TB", "(BT)": "BT", "step": "1B", "1B": "step"}
    other: Any = joined[signal.lead]
    needs_steps = other in ("TB", "BT", "(TB)", "(BT)")
    return [signal, *([replace(signal, lead=other)] if reader.timesteps is not None or not needs_steps else [])]


def unflatten(reader: Reader, where: str, value: Any, dim: int, sizes: Any) -> Any:
    signal = signal_of(where, value)
    if axis_of(signal, dim) != 0:
        raise CompileError(where, "unflattens an axis of the data")
    return view(reader, where, signal, *sizes, *signal.shape)


def transpose(reader: Reader, where: str, value: Any, dim0: int, dim1: int) -> Any:
    signal = signal_of(where, value)
    if {axis_of(signal, dim0), axis_of(signal, dim1)} != {0, 1} or signal.lead not in ("TB", "BT"):
        raise LayoutError(
            where, f"exchanges axes {dim0} and {dim1} of {reader.torch_shape(signal)}", "time and batch alone"
        )
    return replace(signal, lead="BT" if signal.lead == "TB" else "TB")


def permute(reader: Reader, where: str, value: Any, *dims: Any) -> Any:
    signal = signal_of(where, value)
    order = [axis_of(signal, d) for d in (dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims)]
    if order == sorted(order):
        return signal
    if order[:2] == [1, 0] and order[2:] == sorted(order[2:]):
        return transpose(reader, where, signal, 0, 1)
    raise LayoutError(where, f"permutes the axes of {reader.torch_shape(signal)}", "time and batch alone change places")


def unsqueeze(reader: Reader, where: str, value: Any, dim: int) -> Any:
    signal = signal_of(where, value)
    if signal.lead != "step" or dim != 0:
        raise CompileError(where, f"puts in axis {dim}", "needed: one before [B, ...], for the time steps")
    return replace(signal, lead="1B")


def squeeze(reader: Reader, where: str, value: Any, dim: int | None = None) -> Any:
    signal = signal_of(where, value)
    if signal.lead == "1B" and dim == 0:
        return replace(signal, lead="step")
    if dim is None and signal.lead != "1B" and len(signal.shape) == 3 and signal.shape[1:] == (1, 1):
        return with_parts(reader, signal, ("flatten",), reader.graph.flatten)
    if dim is not None and reader.torch_shape(signal)[dim] != 1:
        return signal
    raise CompileError(where, f"takes out axis {dim} of {reader.torch_shape(signal)}", "use flatten")


def repeat(reader: Reader, where: str, value: Any, *sizes: Any) -> Any:
    """x.repeat(T, 1, ...) and x.expand(T, -1, ...): the same values in every step."""
    signal = signal_of(where, value)
    given = [int(n) for n in (sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes)]
    shape = reader.torch_shape(replace(signal, lead="1B"))
    kept = all(n in (1, -1) or n == size for n, size in zip(given[1:], shape[1:], strict=False))
    if signal.lead not in ("step", "1B") or len(given) != len(shape) or not kept or given[0] < 1:
        raise CompileError(
            where, f"repeats {reader.torch_shape(signal)} by {tuple(given)}", "along the time steps alone"
        )
    reader.set_steps(where, given[0])
    return replace(signal, lead="TB", at=None)


def stack(reader: Reader, where: str, tensors: Any, dim: int = 0) -> Any:
    if not isinstance(tensors, list | tuple):
        return signal_of(where, tensors)
    if all(isinstance(t, State) and t.potential is None for t in tensors):
        return list(tensors)  # potentials that are recorded and not read
    return reader.stacked(where, tensors, dim)


def cat(reader: Reader, where: str, tensors: Any, dim: int = 0, axis: int | None = None) -> Any:
    signals = [signal_of(where, t) for t in tensors]
    along = axis_of(signals[0], dim if axis is None else axis)
    if along == 0 and all(s.lead == "1B" for s in signals):
        return reader.stacked(where, [replace(s, lead="step") for s in signals], 0)
    if along != axes_of(signals[0]):
        raise CompileError(where, f"concatenates along axis {along}", "channels or features are concatenated")
    check_same(where, *signals)
    shapes = {s.shape[1:] for s in signals}
    if len(shapes) > 1 or len({s.rows for s in signals}) > 1:
        raise CompileError(where, f"concatenates data of shapes {', '.join(str(s.shape) for s in signals)}")
    at = next((s.at for s in signals if s.at is not None), None)
    return replace(signals[0], parts=tuple(part for s in signals for part in s.parts), at=at)


def mean(reader: Reader, where: str, value: Any, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    signal = signal_of(where, value)
    axes = sorted(axis_of(signal, d) for d in (dim if isinstance(dim, list | tuple) else [dim]))
    lead = axes_of(signal)
    if axes == [lead + 1, lead + 2] and len(signal.shape) == 3:
        pooled = with_parts(
            reader, signal, ("mean",), lambda parts: adaptive_average(reader.graph, where, parts, (1, 1))
        )
        return pooled if keepdim else with_parts(reader, pooled, ("flatten",), reader.graph.flatten)
    return _over_time(reader, where, signal, axes, 1 / reader.steps(where), keepdim)


def total(reader: Reader, where: str, value: Any, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    if isinstance(value, list | tuple):  # Python's sum
        found: Any = 0
        for item in value:
            found = add(reader, where, found, item)
        return found
    signal = signal_of(where, value)
    axes = sorted(axis_of(signal, d) for d in (dim if isinstance(dim, list | tuple) else [dim]))
    return _over_time(reader, where, signal, axes, 1.0, keepdim)


def _over_time(reader: Reader, where: str, signal: Signal, axes: list[int], factor: float, keepdim: bool) -> Total:
    time = {"TB": 0, "BT": 1}.get(signal.lead)
    if time is None or axes != [time] or keepdim:
        raise LayoutError(where, f"sums over axes {axes} of {reader.torch_shape(signal)}", "over the time steps alone")
    return Total(replace(signal, lead="step"), factor, None)


def unchanged(reader: Reader, where: str, value: Any, *given: Any, **named: Any) -> Any:
    return value


def size(reader: Reader, where: str, value: Any, dim: int | None = None) -> Any:
    shape = torch.Size(reader.torch_shape(value))
    return shape if dim is None else shape[dim]


def zeros(reader: Reader, where: str, value: Any, *given: Any, **named: Any) -> torch.Tensor:
    return torch.zeros(reader.torch_shape(value))


def new_zeros(reader: Reader, where: str, value: Any, *sizes: Any, **named: Any) -> torch.Tensor:
    return torch.zeros(*sizes)


def equal(reader: Reader, where: str, a: Any, b: Any) -> bool:
    if b is None or a is None:
        return False
    raise CompileError(where, "compares values", "what a network does may not depend on its data")


OPS: dict[str, Op] = {
    **dict.fromkeys(("add", "iadd", "radd"), add),
    **dict.fromkeys(("sub", "isub", "subtract"), subtract),
    "rsub": lambda reader, where, a, b: subtract(reader, where, b, a),
    **dict.fromkeys(("mul", "imul", "rmul", "multiply"), multiply),
    **dict.fromkeys(("truediv", "div", "itruediv", "divide"), divide),
    **dict.fromkeys(("view", "reshape"), view),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), transpose),
    **dict.fromkeys(("repeat", "expand"), repeat),
    **dict.fromkeys(("cat", "concat", "concatenate"), cat),
    **dict.fromkeys(("contiguous", "clone", "detach", "float", "double", "to", "cpu", "type_as"), unchanged),
    **dict.fromkeys(("dropout", "feature_dropout", "dropout2d", "dropout1d"), dropout),
    **dict.fromkeys(("zeros_like",), zeros),
    **dict.fromkeys(("max_pool2d", "boolean_dispatch", "max_pool2d_with_indices"), max_pool2d),
    "getitem": getitem,
    "flatten": flatten,
    "unflatten": unflatten,
    "permute": permute,
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    "stack": stack,
    "mean": mean,
    "sum": total,
    "size": size,
    "dim": lambda reader, where, value: len(reader.torch_shape(value)),
    "new_zeros": new_zeros,
    "eq": equal,
    "ne": lambda reader, where, a, b: not equal(reader, where, a, b),
    "avg_pool2d": avg_pool2d,
    "adaptive_avg_pool2d": adaptive_avg_pool2d,
    "linear": linear,
    "conv2d": conv2d,
}
