"""A torch model whose class is the user's own: FILE.py:FUNCTION builds it, a checkpoint gives its weights.

The file is run because the user says so (`--model`); the checkpoint is not (`checkpoint.load_weights`).
"""

import sys
import traceback
from importlib.util import module_from_spec, spec_from_file_location
from itertools import product
from pathlib import Path

import torch
from torch import nn

from snncompile.errors import CompileError, nearest
from snncompile.frontend.torch.checkpoint import load_weights
from snncompile.frontend.untrusted import shown

PREFIXES = ("module.", "model.", "net.", "network.", "_orig_mod.")
"""What wrappers put before the names of weights: DataParallel, Lightning, torch.compile."""
LISTED = 4
FACTORY = "needed: --model FILE.py:FUNCTION, a function without arguments that gives a torch module"


def built_module(factory: str, weights: Path | None) -> nn.Module:
    """The module that `factory`, "file.py:function", builds, with the weights of a checkpoint.

    Runs the file. All weights must be there and no others; one prefix of `PREFIXES`, or two, is taken off where the
    names then match. Single precision becomes double where the checkpoint's weights are double.
    Raises CompileError naming the line where the file fails, the weights that are missing or too many.
    """
    module = _built(factory)
    if weights is None:
        return module
    state = load_weights(weights)
    expected = module.state_dict()
    matched = _without_prefix(state, set(expected))
    if matched is None:
        missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
        problems = [f"{word} {_listed(names)}" for word, names in (("lacks", missing), ("has", unknown)) if names]
        raise CompileError(str(weights), f"does not fit {factory}: it {' and '.join(problems)}", "all must match")
    for name, tensor in matched.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{name} has shape {tuple(tensor.shape)}, {factory} makes {tuple(expected[name].shape)}"
            raise CompileError(str(weights), shapes)
    if any(tensor.dtype == torch.float64 for tensor in matched.values()):
        module = module.double()
    try:
        module.load_state_dict(matched, strict=True)
    except Exception as error:  # the module decides what is raised
        reason = shown(str(error).strip().partition("\n")[0], 160)
        raise CompileError(str(weights), f"does not load into {factory}: {reason}") from None
    return module


def _without_prefix(state: dict[str, torch.Tensor], expected: set[str]) -> dict[str, torch.Tensor] | None:
    """The weights by the names expected, with a prefix that all of them have taken off; None where they do not fit."""
    for prefix in ("", *PREFIXES, *map("".join, product(PREFIXES, PREFIXES))):
        if all(name.startswith(prefix) for name in state) and {name[len(prefix) :] for name in state} == expected:
            return {name[len(prefix) :]: tensor for name, tensor in state.items()}
    return None


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(shown(name) for name in names[:LISTED]) + more


def _built(factory: str) -> nn.Module:
    file, _, name = factory.rpartition(":")
    path = Path(file)
    if not file or not name.isidentifier() or path.suffix != ".py":
        raise CompileError("--model", f"is {shown(factory)}", FACTORY)
    if not path.is_file():
        raise CompileError("--model", f"{path} is no file", FACTORY)
    spec = spec_from_file_location(f"snncompile_model_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise CompileError("--model", f"{path} cannot be loaded", FACTORY)
    loaded = module_from_spec(spec)
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)
    sys.modules[loaded.__name__] = loaded
    try:
        spec.loader.exec_module(loaded)
        function = vars(loaded).get(name)
        if not callable(function):
            names = [key for key, value in vars(loaded).items() if callable(value) and not key.startswith("_")]
            raise CompileError("--model", f"{path.name} has no function {name}", nearest(name, names))
        built = function()
    except CompileError:
        raise
    except ModuleNotFoundError as error:
        raise CompileError(_line_of(path, error), str(error), f"install it: uv pip install {error.name}") from None
    except (Exception, SystemExit) as error:  # the user's file decides what is raised
        reason = shown(f"{type(error).__name__}: {error}", 200)
        raise CompileError(_line_of(path, error), f"fails with {reason}") from None
    finally:
        sys.path.remove(folder)
    if not isinstance(built, nn.Module):
        raise CompileError("--model", f"{name} gives a {type(built).__name__}", FACTORY)
    return built


def _line_of(path: Path, error: BaseException) -> str:
    """The line of the file that an error comes from."""
    if isinstance(error, SyntaxError):
        return f"{path.name}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    return f"{path.name}:{lines[-1]}" if lines else path.name
