"""Two layers of synapses in a row, without a neuron between them, as one: exact in real arithmetic."""

from dataclasses import replace

import numpy as np

from snncompile.errors import CompileError
from snncompile.network import Array, Conv2d, Linear, Pair, Shape, Sparse, Synapses, infer_shape, one_to_one, scaled
from snncompile.reference import convolve

LARGEST_WEIGHT = 2**26
"""Weights of a composed layer."""


def is_diagonal(node: Synapses) -> bool:
    """Whether every channel of what it reads drives its own channel only, place by place (`network.one_to_one`)."""
    if not isinstance(node, Conv2d) or node.members != 1:
        return False
    plain = node.stride == node.dilation == (1, 1) and node.padding == (0, 0)
    return plain and node.weight.shape[1:] == (1, 1, 1) and node.groups == len(node.weight)


def composed(name: str, first: Synapses, second: Synapses, shape: Shape) -> Synapses:
    """second(first(x)) for x of `shape`, under `name`; second may read first's output flattened.

    Raises CompileError naming `second` where no layer of ours is that map: a bias that passes through padding or a
    delay, padding between the layers, maps of more than `LARGEST_WEIGHT` weights.
    """
    if first.bias.any() and second.lag:
        raise CompileError(name, f"delays {first.name}, which has a bias", "delay the spikes before it")
    between = infer_shape(first, [shape])
    made = _composed(first, second, shape, between)
    if made is None:
        kinds = f"{first.name} ({first.kind}) and {second.name} ({second.kind})"
        raise CompileError(name, f"{kinds} follow each other without a neuron, and are no one layer", "add a neuron")
    return replace(made, name=name, inputs=first.inputs, lag=first.lag + second.lag)


def _composed(first: Synapses, second: Synapses, shape: Shape, between: Shape) -> Synapses | None:  # noqa: PLR0911
    if is_diagonal(second) and second.pool == (1, 1):
        rows = scaled(first, second.weight.ravel())
        return replace(rows, bias=rows.bias + second.bias)
    if is_diagonal(first) and not first.bias.any() and _pools_meet(first.pool, second.pool, shape):
        return _after_diagonal(first, second, between)
    if second.pool != (1, 1):
        pooled = _composed(first, _pool_as_convolution(second.pool, between[0]), shape, between)
        if pooled is None:
            return None
        return _composed(pooled, replace(second, pool=(1, 1)), shape, infer_shape(pooled, [shape]))
    if isinstance(first, Conv2d) and isinstance(second, Conv2d):
        return _convolutions(first, second)
    if isinstance(second, Conv2d):
        return None
    matrix = second.weight if isinstance(second, Linear) else _dense(second, int(np.prod(between)))
    return _into_matrix(first, second, matrix, shape, between)


def _pools_meet(inner: Pair, outer: Pair, shape: Shape) -> bool:
    return outer == (1, 1) or len(shape) == 3


def _after_diagonal(first: Synapses, second: Synapses, between: Shape) -> Synapses:
    """W (d x) = (W d) x."""
    gains = first.weight.ravel()
    pool: Pair = (first.pool[0] * second.pool[0], first.pool[1] * second.pool[1])
    if isinstance(second, Conv2d):
        per_group = gains.reshape(second.groups, -1)  # (groups, in of a group)
        rows = np.repeat(per_group, len(second.weight) // second.groups, axis=0)
        return replace(second, weight=second.weight * rows[:, :, None, None], pool=pool)
    places = 1 if len(between) == 1 else (between[1] // second.pool[0]) * (between[2] // second.pool[1])
    columns = np.repeat(gains, places)
    if isinstance(second, Sparse):
        return replace(second, weight=second.weight * columns[second.column], pool=pool)
    if columns.all():
        return replace(second, weight=second.weight * columns, pool=pool)
    return _columns_of(replace(second, weight=second.weight * columns, pool=pool), columns != 0)


def _columns_of(node: Linear, kept: Array) -> Synapses:
    """The layer with the synapses from some sources only."""
    row, column = np.nonzero(np.broadcast_to(kept, node.weight.shape))
    if not len(row):  # a layer has a synapse
        row, column = np.zeros(1, np.int64), np.zeros(1, np.int64)
    weight = node.weight[row, column]
    return Sparse(node.name, node.inputs, weight, node.bias, row, column, node.pool, node.members, lag=node.lag)


def _pool_as_convolution(pool: Pair, channels: int) -> Conv2d:
    ones = np.ones((channels, 1, *pool))
    return Conv2d("pool", (), ones, np.zeros(channels), stride=pool, groups=channels)


def _convolutions(first: Conv2d, second: Conv2d) -> Conv2d | None:
    """Kernels (o, m) over kernels (m, i): the sum over m and over the outer kernel's places, `first.stride` apart."""
    point = first.weight.shape[2:] == first.stride == (1, 1) and first.padding == (0, 0) and not first.bias.any()
    if second.padding != (0, 0) and not point:
        return None
    if max(_spread_size(first), _spread_size(second)) > LARGEST_WEIGHT:
        return None
    inner, outer = _spread(first), _spread(second)
    depthwise = second.groups == len(first.weight) and len(second.weight) == second.groups
    size = [(k - 1) * s + n for k, s, n in zip(outer.shape[2:], first.stride, inner.shape[2:], strict=True)]
    if depthwise:  # the groups of the first stay
        weight = np.zeros((*inner.shape[:2], *size))
    else:
        inner, outer = ungrouped(inner, first.groups), ungrouped(outer, second.groups)
        weight = np.zeros((len(outer), inner.shape[1], *size))
    if weight.size > LARGEST_WEIGHT:
        return None
    (sy, sx), (height, width) = first.stride, inner.shape[2:]
    for y, x in np.ndindex(*outer.shape[2:]):
        part = outer[:, :, y, x]
        moved = part[:, :, None, None] * inner if depthwise else np.tensordot(part, inner, 1)
        weight[:, :, y * sy : y * sy + height, x * sx : x * sx + width] += moved
    bias = second.bias + (outer.sum((2, 3)).ravel() * first.bias if depthwise else outer.sum((2, 3)) @ first.bias)
    stride = (sy * second.stride[0], sx * second.stride[1])
    padding = (first.padding[0] + sy * second.padding[0], first.padding[1] + sx * second.padding[1])
    groups = first.groups if depthwise else 1
    return replace(first, weight=weight, bias=bias, stride=stride, padding=padding, dilation=(1, 1), groups=groups)


def _spread(node: Conv2d) -> Array:
    """The kernels without dilation: zeros between their entries."""
    size = [d * (k - 1) + 1 for k, d in zip(node.weight.shape[2:], node.dilation, strict=True)]
    spread = np.zeros((*node.weight.shape[:2], *size))
    spread[:, :, :: node.dilation[0], :: node.dilation[1]] = node.weight
    return spread


def _spread_size(node: Conv2d) -> int:
    """Entries of `_spread` without groups."""
    size = [d * (k - 1) + 1 for k, d in zip(node.weight.shape[2:], node.dilation, strict=True)]
    return int(np.prod(node.weight.shape[:2])) * node.groups * size[0] * size[1]


def ungrouped(weight: Array, groups: int) -> Array:
    """Kernels (out, in, ...) of a convolution without groups that is that with groups."""
    if groups == 1:
        return weight
    out, fan_in = weight.shape[:2]
    whole = np.zeros((out, fan_in * groups, *weight.shape[2:]))
    for g in range(groups):
        rows = slice(g * out // groups, (g + 1) * out // groups)
        whole[rows, g * fan_in : (g + 1) * fan_in] = weight[rows]
    return whole


def _dense(node: Sparse, columns: int) -> Array:
    matrix = np.zeros((node.features, columns))
    matrix[node.row, node.column] = node.weight
    return matrix


def _into_matrix(first: Synapses, second: Synapses, matrix: Array, shape: Shape, between: Shape) -> Linear | None:
    """(M W) x + M b + c, W the map of `first` on its pooled input."""
    summed = shape if first.pool == (1, 1) else (shape[0], shape[1] // first.pool[0], shape[2] // first.pool[1])
    columns = int(np.prod(summed))
    if first.members != 1 or max(len(matrix) * columns, matrix.size) > LARGEST_WEIGHT:
        return None
    if isinstance(first, Conv2d) and _spread_size(first) > LARGEST_WEIGHT:
        return None
    if isinstance(first, Linear):
        weight = matrix @ first.weight
    elif isinstance(first, Sparse):
        weight = matrix @ _dense(first, columns)
    else:
        weight = _adjoint(first, matrix.reshape(-1, *between), summed)
    places = int(np.prod(between)) // len(first.bias)
    bias = matrix @ np.repeat(first.bias, places) + second.bias
    return Linear(first.name, first.inputs, weight.reshape(len(matrix), -1), bias, first.pool)


def _adjoint(node: Conv2d, y: Array, shape: Shape) -> Array:
    """W^T y of a convolution W on inputs of `shape`, for y (N, out, height, width)."""
    if len(shape) == 1:
        y, shape = y.reshape(*y.shape[:2], 1, 1), (*shape, 1, 1)
    kernels = ungrouped(_spread(node), node.groups)
    (sy, sx), (py, px), (kh, kw) = node.stride, node.padding, kernels.shape[2:]
    apart = np.zeros((*y.shape[:2], (y.shape[2] - 1) * sy + 1, (y.shape[3] - 1) * sx + 1))
    apart[:, :, ::sy, ::sx] = y
    turned = kernels[:, :, ::-1, ::-1].swapaxes(0, 1)
    full = convolve(apart, turned, (1, 1), (kh - 1, kw - 1), (1, 1), 1)
    x = np.zeros((len(y), shape[0], max(full.shape[2], shape[1] + 2 * py), max(full.shape[3], shape[2] + 2 * px)))
    x[:, :, : full.shape[2], : full.shape[3]] = full
    return x[:, :, py : py + shape[1], px : px + shape[2]].reshape(len(y), *shape)


def pooling(name: str, source: str, channels: int, kernel: Pair, stride: Pair, padding: Pair, average: bool) -> Conv2d:
    """Sum or mean over windows, as synapses: by shared axons where the windows tile the input, else a convolution."""
    value = 1 / (kernel[0] * kernel[1]) if average else 1.0
    if stride == kernel and padding == (0, 0):
        return one_to_one(name, source, np.full(channels, value), kernel)
    weight = np.full((channels, 1, *kernel), value)
    return Conv2d(name, (source,), weight, np.zeros(channels), stride, padding, groups=channels)
