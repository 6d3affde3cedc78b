"""Traces the forward of a live torch module with torch.fx: layers of `torch_rules` are leaves, all else is followed.

Every call is read as it is made (`torch_reader`, `torch_ops`); loops over time steps run as Python runs them, and equal
steps become one layer. What is not understood is a CompileError that names the line of the model's source.
"""

import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import fx, nn

import snncompile
from snncompile.errors import CompileError
from snncompile.frontend.torch import ops
from snncompile.frontend.torch.containers import has_hooks, is_container, run_container
from snncompile.frontend.torch.reader import CODINGS, READOUTS, Read, Reader, layer_name, told
from snncompile.frontend.torch.rules import RULES
from snncompile.frontend.torch.values import LayoutError, Potential, Signal, State, Total

OURS = tuple(str(Path(str(package.__file__)).parent) for package in (torch, snncompile))
INSTALLED = ("site-packages", "dist-packages")
MOST_CALLS = 200_000


def run_traced(reader: Reader, module: nn.Module, value: Signal) -> Any:
    """What the module returns for a value; raises CompileError, LayoutError where other axes of the input may do."""
    tracer = _Tracer(reader)
    root = _Root(module, tracer)
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        tracer.value = value
        tracer.trace(root)
    except CompileError:
        raise
    except RecursionError:
        raise CompileError("model", "calls itself without end") from None
    except Exception as error:  # the model's own code decides what is raised
        where = _line_of(error)
        reason = str(error).strip().partition("\n")[0]
        raise LayoutError(where, f"cannot be traced: {type(error).__name__}: {reason}") from error
    finally:
        tracer.restore()
        for part, training in modes.items():
            part.training = training
    return tracer.result


class _Root(nn.Module):
    def __init__(self, module: nn.Module, tracer: "_Tracer") -> None:
        super().__init__()
        self.module = module
        self.tracer = [tracer]

    def forward(self, x: Any) -> Any:
        self.tracer[0].result = self.tracer[0].values(self.module(x))
        return x


class _Traced(fx.Proxy):
    """A proxy with the network value it stands for."""

    value: Any = None

    def __getattr__(self, name: str) -> Any:
        tracer: Any = self.tracer
        known = tracer.attribute(self.value, name)
        return super().__getattr__(name) if known is None else known

    def __iter__(self) -> Iterator[Any]:
        tracer: Any = self.tracer
        return iter(tracer.steps_of(self.value))

    def __len__(self) -> int:
        tracer: Any = self.tracer
        return int(tracer.reader.torch_shape(self.value)[0])

    def __bool__(self) -> bool:
        raise CompileError(_line(), f"decides by {told(self.value)}", "what a network does may not depend on its data")

    __int__ = __float__ = __index__ = __bool__


class _Tracer(fx.Tracer):
    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self.reader = reader
        self.value: Signal | None = None
        self.result: Any = None
        self.count = 0
        self.marks: dict[str, tuple[dict[str, Any], Any, torch.Tensor, str]] = {}

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Traced(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **named: Any) -> Any:
        if kind == "placeholder":
            return self.wrapped(self.value)
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        given, options = self.values(args), self.values(kwargs)
        result = self._located(lambda where: ops.call(self.reader, where, name, given, dict(options)))
        return self.wrapped(result)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if isinstance(m, _Root):
            return forward(*args, **kwargs)
        path = self._path(m)
        if has_hooks(m):
            problem = "has forward hooks, which may change what it computes"
            raise CompileError(f"{path or 'model'} ({type(m).__name__})", problem, "remove them first")
        given, options = self.values(args), self.values(kwargs)
        if is_container(m):
            return self.wrapped(self._located(lambda where: run_container(self.reader, path, m, given[0])))
        if layer_name(m) in RULES:
            return self.wrapped(self._located(lambda where: self._called(where, path, m, given, options)))
        if isinstance(m, (*CODINGS, *READOUTS)) or not given or not _followed(m):
            return self.wrapped(self._located(lambda where: self.reader.layer(path, m, given, options)))
        return forward(*args, **kwargs)

    def _called(self, where: str, path: str, module: nn.Module, given: Any, options: dict[str, Any]) -> Any:
        """A layer's call. A mark in its memory shows whether the model resets it between its calls."""
        memory, key = _memory(module)
        if memory is None or key not in memory:
            return self.reader.layer(path, module, given, options)
        if path in self.marks and memory[key] is not self.marks[path][2]:
            raise CompileError(where, f"{path} is reset between two time steps", "a sample starts from the reset state")
        result = self.reader.layer(path, module, given, options)
        first = self.marks.get(path, (memory, memory[key]))
        memory[key] = torch.zeros(0)
        self.marks[path] = (memory, first[1], memory[key], key)
        return result

    def restore(self) -> None:
        """Takes the marks out of the module."""
        for memory, value, _, key in self.marks.values():
            memory[key] = value

    def _path(self, module: nn.Module) -> str:
        try:
            path = str(self.path_of_module(module))
        except NameError:
            raise CompileError(_line(), f"calls a {type(module).__name__} that is no part of the model") from None
        return path.removeprefix("module").lstrip(".")

    def _located(self, call: Callable[[str], Any]) -> Any:
        """A call's result; its CompileError names the line of the model, too."""
        self.count += 1
        where = _line()
        if self.count > MOST_CALLS:
            raise CompileError(where, f"more than {MOST_CALLS} calls are made")
        try:
            return call(where)
        except CompileError as error:
            place = error.where if error.where.startswith(where) else f"{where}: {error.where}"
            raise type(error)(place, error.problem, error.hint) from None

    def wrapped(self, value: Any) -> Any:
        """Network values as proxies, in tuples and lists, too."""
        if isinstance(value, Signal | Total | Potential | State | Read):
            proxy = _Traced(self.create_node("call_function", torch.add, (), {}), self)
            vars(proxy)["value"] = value
            return proxy
        if type(value) in (tuple, list):
            return type(value)(map(self.wrapped, value))
        return value

    def values(self, given: Any) -> Any:
        """Proxies as what they stand for."""
        if isinstance(given, _Traced):
            return given.value
        if isinstance(given, tuple | list):
            made = [self.values(item) for item in given]
            return made if isinstance(given, list) else tuple(made)
        if isinstance(given, dict):
            return {key: self.values(item) for key, item in given.items()}
        return given

    def attribute(self, value: Any, name: str) -> Any:
        """An attribute of the tensor that a value stands for; None for a method."""
        if isinstance(value, State):
            raise CompileError(_line(), f"reads {name} of {told(value)}", "a state is handed on as it is")
        if name in ("shape", "ndim"):
            shape = torch.Size(self.reader.torch_shape(value))
            return shape if name == "shape" else len(shape)
        constants = {"device": torch.device("cpu"), "dtype": torch.float32, "is_sparse": False, "is_cuda": False}
        if name in constants or name == "requires_grad":
            return constants.get(name, False)
        return self.wrapped(value) if name == "data" else None

    def steps_of(self, value: Any) -> list[Any]:
        found = self._located(lambda where: ops.steps_of(self.reader, where, value))
        return [self.wrapped(step) for step in found]


def _memory(module: nn.Module) -> tuple[dict[str, Any] | None, str]:
    """Where a layer of spikingjelly or snntorch keeps its potential."""
    if layer_name(module).startswith("spikingjelly."):
        return vars(module).get("_memories"), "v"
    if layer_name(module).startswith("snntorch."):
        return vars(module).get("_buffers"), "mem"
    return None, ""


LAYERS_OF = (
    "torch.nn.",
    "snncompile.nn.",
    "snntorch._",
    "sinabs.layers.",
    "norse.torch.module.",
    *(f"spikingjelly.activation_based.{part}" for part in ("neuron.", "layer.", "rnn.", "encoding.")),
)
"""Beginnings of names of layers: those that `torch_rules` does not know are refused by name, but for `COMPOSED`."""
COMPOSED = (
    "torch.nn.modules.container.Sequential",
    "norse.torch.module.sequential.",
    "norse.torch.module.lift.",
    "sinabs.layers.merge.",
)


def _followed(module: nn.Module) -> bool:
    """Whether a module's forward is followed: the user's own, models of packages, what is composed of others."""
    name = layer_name(module)
    return name.startswith(COMPOSED) or not name.startswith(LAYERS_OF)


def _line() -> str:
    """The line of the model's source that is being run: of the user's file, else of the package nearest to it."""
    frame: FrameType | None = sys._getframe(1)
    frames: list[tuple[str, int]] = []
    while frame is not None:
        frames.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return _nearest(frames)


def _line_of(error: BaseException) -> str:
    frames = [(f.filename, f.lineno or 0) for f in traceback.extract_tb(error.__traceback__)]
    return _nearest(frames[::-1])


def _nearest(frames: list[tuple[str, int]]) -> str:
    """frames: innermost first."""
    foreign = [(name, line) for name, line in frames if not name.startswith((*OURS, "<"))]
    own = [(name, line) for name, line in foreign if not any(part in name for part in INSTALLED)]
    name, line = next(iter(own or foreign), ("model", 0))
    return f"{Path(name).name}:{line}"


__all__ = ["run_traced"]
