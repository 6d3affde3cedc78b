"""Pooling and weights called as functions of torch.nn.functional."""

from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import torch

from snncompile.errors import CompileError
from snncompile.frontend.torch.arithmetic import axes_of, signal_of, with_parts
from snncompile.frontend.torch.graph import Parts, Window
from snncompile.frontend.torch.layers import adaptive_average, average, connected
from snncompile.frontend.torch.reader import Reader
from snncompile.frontend.torch.values import LayoutError
from snncompile.network import Pair


def _pair(value: Any) -> Pair:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _window(where: str, kernel: Any, stride: Any, padding: Any, more: dict[str, Any]) -> Window:
    if odd := [key for key, value in more.items() if value not in (None, False, 1) and key != "count_include_pad"]:
        raise CompileError(where, f"pools with {', '.join(odd)}", "needed: kernel_size, stride and padding alone")
    if more.get("count_include_pad") is False and _pair(padding) != (0, 0):
        raise CompileError(where, "leaves the padding out of the mean", "count_include_pad=True is supported")
    size = _pair(kernel)
    return Window(size, size if stride in (None, [], ()) else _pair(stride), _pair(padding))


def _stateless(reader: Reader, where: str, value: Any, key: tuple[Any, ...], make: Callable[[Parts], Parts]) -> Any:
    signal = signal_of(where, value)
    if axes_of(signal) != 1:
        raise LayoutError(where, f"gets {reader.torch_shape(signal)}", "needed: one axis of samples before the data")
    return with_parts(reader, signal, key, make)


def avg_pool2d(
    reader: Reader, where: str, x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, *given: Any, **more: Any
) -> Any:
    more |= dict(zip(("ceil_mode", "count_include_pad", "divisor_override"), given, strict=False))
    window = _window(where, kernel_size, stride, padding, more)
    return _stateless(reader, where, x, ("avg", window), lambda parts: average(reader.graph, where, parts, window))


def max_pool2d(
    reader: Reader, where: str, x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, *given: Any, **more: Any
) -> Any:
    more |= dict(zip(("dilation", "ceil_mode", "return_indices"), given, strict=False))
    window = _window(where, kernel_size, stride, padding, more)
    return _stateless(reader, where, x, ("max", window), lambda parts: reader.graph.max_pool(where, parts, window))


def adaptive_avg_pool2d(reader: Reader, where: str, x: Any, output_size: Any) -> Any:
    key = ("adaptive", str(output_size))
    return _stateless(reader, where, x, key, lambda parts: adaptive_average(reader.graph, where, parts, output_size))


def linear(reader: Reader, where: str, x: Any, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
    values = weight.detach().double().numpy()
    offset = np.zeros(len(values)) if bias is None else bias.detach().double().numpy()
    node = nir.Affine(weight=values, bias=offset)
    signal = signal_of(where, x)
    key = ("F.linear", id(weight), id(bias))
    return with_parts(reader, signal, key, lambda parts: connected(reader.graph, where, "linear", parts, node))


def conv2d(
    reader: Reader,
    where: str,
    x: Any,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    values = weight.detach().double().numpy()
    node = nir.Conv2d(
        input_shape=None,
        weight=values,
        stride=np.array(_pair(stride)),
        padding=padding if isinstance(padding, str) else np.array(_pair(padding)),
        dilation=np.array(_pair(dilation)),
        groups=groups,
        bias=np.zeros(len(values)) if bias is None else bias.detach().double().numpy(),
    )
    key = ("F.conv2d", id(weight), id(bias), str((stride, padding, dilation, groups)))
    return _stateless(reader, where, x, key, lambda parts: connected(reader.graph, where, "conv2d", parts, node))


def dropout(
    reader: Reader, where: str, value: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    if training is True:
        raise CompileError(where, "drops values in evaluation, too", "give training=self.training")
    return value
