"""A module saved whole with torch.save, or its weights, read without executing anything in the file.

Four walls: the zip archive is measured before anything is read; every class and function the pickle names is listed
without running it and must be on our list; torch's weights_only unpickler builds nothing else; and layers are built as
empty shells, so that neither a constructor (`Linear(10**9, 10**9)`) nor a `__setstate__` of a real layer runs.
Layers of other packages (spikingjelly, sinabs) are stand-ins of their names: nothing of those packages is imported.
"""

import pickletools
import warnings
import zipfile
from collections import OrderedDict
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from snncompile.errors import CompileError
from snncompile.frontend.torch.containers import FOREIGN_CONTAINERS
from snncompile.frontend.torch.rules import HELD, RULES
from snncompile.frontend.untrusted import shown

LAYER_PACKAGES = ("torch.nn.modules.", "snncompile.nn.")
STORAGES = ("Half", "BFloat16", "Float", "Double", "Bool", "Byte", "Char", "Short", "Int", "Long")
PLAIN_NAMES = frozenset(
    {
        "__builtin__.set",
        "builtins.set",
        "collections.OrderedDict",
        "torch.Size",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor_v2",
        *(f"torch.{kind}Storage" for kind in STORAGES),
    }
)
"""What else a saved module names. Narrower than torch's list: its bytearray and Tensor allocate what they are told."""

HELD_BY_WEIGHTS = frozenset(
    f"{package}.AttributeDict"
    for package in (
        "pytorch_lightning.utilities.parsing",
        "lightning.pytorch.utilities.parsing",
        "lightning_fabric.utilities.data",
        "lightning.fabric.utilities.data",
    )
)
"""What a file of weights may name besides: the settings a Lightning checkpoint keeps, read as a dictionary."""
FOREIGN = frozenset((*(name for name in RULES if not name.startswith(LAYER_PACKAGES)), *FOREIGN_CONTAINERS))
"""Layers of other packages, by full name."""
NO_LAYERS = ("sinabs.activation.",)
"""Beginnings of the names in `HELD` that are no layers but values of layers."""
WEIGHTS_AT = ("state_dict", "model_state_dict", "model", "net", "network")
"""Where a checkpoint keeps the weights, if it is no state_dict itself."""

GIB = 2**30
LARGEST_CHECKPOINT = 4 * GIB
LARGEST_PICKLE = 2**24
LARGEST_RATIO = 100
"""Trained weights compress by a factor of 2 or so, a bomb by 1000."""
SAVE_WHOLE = "save the whole module: torch.save(model, path)"
OR_SAY_FACTORY = f"{SAVE_WHOLE}; or say what builds it: --model FILE.py:FUNCTION"


def load_module(path: Path) -> nn.Module:
    """The module in a checkpoint, on the CPU; its class attributes and tensors are not checked.

    Needs a file of torch.save(module, path) whose layers are of torch.nn, snncompile.nn, spikingjelly or sinabs. The
    module must not be called: read its attributes by type (`torch_trace.trace`).
    Refuses (CompileError): any other class or function, state_dicts, TorchScript, the format before torch 1.6, damaged
    files, and archives larger than 4 GiB unpacked or compressed more than a hundredfold.
    """
    pickle = _read_pickle(path)
    classes = _layer_classes(path, _names(path, pickle))
    shells: list[tuple[Any, type]] = []
    loaded = _loaded(path, [(_shell(layer, shells), name) for name, layer in classes.items()])
    if not isinstance(loaded, nn.Module):
        if not classes:
            raise CompileError(str(path), "holds only tensors (a state_dict)", OR_SAY_FACTORY)
        raise CompileError(str(path), f"holds a {type(loaded).__name__}, not a module", SAVE_WHOLE)
    for shell, layer in shells:
        object.__setattr__(shell, "__class__", layer)
    return loaded


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """The state_dict in a checkpoint, alone or under one of `WEIGHTS_AT`, on the CPU.

    Refuses (CompileError): what `load_module` does, and any class at all besides tensors and plain containers.
    """
    names = _names(path, _read_pickle(path)) - PLAIN_NAMES
    if foreign := sorted(names - HELD_BY_WEIGHTS):
        hint = (
            "leave --model out" if all(map(_layer_class, foreign)) else "save model.state_dict(); nothing was executed"
        )
        raise CompileError(str(path), f"names {_listed(foreign)}", f"weights alone are loaded with --model: {hint}")
    settings = [(OrderedDict, name) for name in names]
    loaded = _loaded(path, settings)
    found = next(
        (loaded[key] for key in WEIGHTS_AT if isinstance(loaded, dict) and _is_weights(loaded.get(key))), loaded
    )
    if not _is_weights(found):
        raise CompileError(str(path), "holds no state_dict", f"save model.state_dict(), or it under {WEIGHTS_AT[0]!r}")
    return dict(found)


def _is_weights(value: object) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(key, str) and isinstance(tensor, torch.Tensor) for key, tensor in value.items())
    )


def _loaded(path: Path, allowed: list[Any]) -> Any:
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # the file decides what is raised
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> CompileError:
    reason = shown(str(error).strip().partition("\n")[0] or type(error).__name__, 160)
    return CompileError(str(path), f"cannot be read as a checkpoint ({reason})", SAVE_WHOLE)


def _read_pickle(path: Path) -> bytes:
    """The pickle in the archive, after the archive's sizes were found sane."""
    if not path.is_file():
        raise CompileError(str(path), "is a directory, not a file" if path.is_dir() else "no such file")
    try:
        if not zipfile.is_zipfile(path):
            problem = "is not a checkpoint of torch 1.6 or newer (a zip archive), or is cut off"
            raise CompileError(str(path), problem, SAVE_WHOLE)
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_sizes(path, entries)
            pickles = [entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
            if len(pickles) != 1 or pickles[0].file_size > LARGEST_PICKLE:
                raise CompileError(
                    str(path), f"is a zip archive without one data.pkl of at most {LARGEST_PICKLE} bytes", SAVE_WHOLE
                )
            if any(entry.filename.endswith("/constants.pkl") for entry in entries):
                raise CompileError(
                    str(path), "is a TorchScript archive", "save the module itself: torch.save(model, path)"
                )
            if damaged := archive.testzip():  # torch does not compare checksums
                raise CompileError(
                    str(path), f"is damaged: {shown(damaged)} has another checksum", "copy or save it again"
                )
            return archive.read(pickles[0])
    except CompileError:
        raise
    except Exception as error:  # zipfile raises a dozen types on damaged archives
        raise _unreadable(path, error) from None


def _check_sizes(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    size = path.stat().st_size
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > LARGEST_CHECKPOINT:
        raise CompileError(
            str(path), f"unpacks to {unpacked / GIB:.1f} GiB", f"at most {LARGEST_CHECKPOINT // GIB} GiB are read"
        )
    if sum(entry.compress_size for entry in entries) > size:
        raise CompileError(str(path), "is a zip archive whose entries overlap", SAVE_WHOLE)
    if unpacked > LARGEST_RATIO * size:
        raise CompileError(
            str(path), f"unpacks to {unpacked // size} times its size", f"at most {LARGEST_RATIO} times is read"
        )
    if len({entry.filename for entry in entries}) != len(entries):
        raise CompileError(str(path), "is a zip archive with two entries of one name", SAVE_WHOLE)


def _names(path: Path, pickle: bytes) -> set[str]:
    """Every class and function the pickle names, none of them imported."""
    try:
        named = {str(arg).replace(" ", ".", 1) for op, arg, _ in pickletools.genops(pickle) if op.name == "GLOBAL"}
        # torch's list leaves out what torch always allows; it is asked too because its zip reader is the one that loads
        return named | set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception as error:  # the file decides what is raised
        raise _unreadable(path, error) from None


def _layer_classes(path: Path, names: set[str]) -> dict[str, type]:
    found = {name: _layer_class(name) for name in sorted(names - PLAIN_NAMES)}
    if foreign := [name for name, layer in found.items() if layer is None]:
        kinds = "only layers of torch.nn, snncompile.nn, spikingjelly and sinabs are loaded"
        own = "; of your own class, save the state_dict and say what builds it: --model FILE.py:FUNCTION"
        raise CompileError(str(path), f"names {_listed(foreign)}", f"{kinds}{own}; nothing was executed")
    return {name: layer for name, layer in found.items() if layer is not None}


def _listed(names: list[str]) -> str:
    return ", ".join(shown(name) for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _layer_class(name: str) -> type | None:
    module, _, attribute = name.rpartition(".")
    if not all(part.isidentifier() for part in name.split(".")):
        return None
    if name in FOREIGN or name.startswith(HELD):
        base: type = object if name.startswith(NO_LAYERS) else nn.Module
        return type(attribute, (base,), {"__module__": module, "__qualname__": attribute})
    if not name.startswith(LAYER_PACKAGES):
        return None
    try:
        layer = vars(import_module(module)).get(attribute)
    except ImportError:
        return None
    return layer if isinstance(layer, type) and issubclass(layer, nn.Module) else None


def _shell(layer: type, made: list[tuple[Any, type]]) -> type:
    """A class that unpickles like `layer` but runs nothing of it; its instances are noted in `made`."""

    def new(cls: type, *args: object, **kwargs: object) -> Any:
        if args or kwargs:
            raise UnpicklingError(f"{layer.__name__} is called with arguments")
        made.append((object.__new__(cls), layer))
        return made[-1][0]

    def set_state(shell: object, state: object) -> None:
        if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
            raise UnpicklingError(f"the state of {layer.__name__} is not a dictionary of attributes")
        vars(shell).update(state)

    names = {"__module__": layer.__module__, "__qualname__": layer.__qualname__}
    empty = {"__new__": new, "__init__": lambda shell: None, "__setstate__": set_state, "__slots__": ()}
    return type(layer.__name__, (layer,), names | empty)
