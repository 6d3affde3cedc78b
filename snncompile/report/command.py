"""The command that makes a program again, as text."""

import shlex
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snncompile.compiler import Options
    from snncompile.data import Samples


FLAGS = {"factory": "model"}
"""Options that are called otherwise on the command line."""


def command_line(model: str, target: str, options: "Options", default: "Options", calibrate: "Samples | None") -> str:
    """`snncompile MODEL --target ...` with every option that is not its default; files by their names alone.

    Files are named, not located: the same inputs in another folder give the same text.
    """
    words = ["snncompile", model, "--target", target]
    for declared in fields(options):
        value = getattr(options, declared.name)
        if value != getattr(default, declared.name):
            words += _words(declared.name, value)
    if calibrate is not None:
        words += ["--calibrate", Path(calibrate.source).name]
    return shlex.join(words)


def _words(name: str, value: Any) -> list[str]:
    if name == "pins":
        return [word for layer, at in _pins(value).items() for word in ("--pin", f"{layer}={at}")]
    if is_dataclass(value):  # of a model's reading, what the user said
        said = {declared.name: getattr(value, declared.name) for declared in fields(value)}
        return [word for key, one in said.items() if one is not None for word in _words(FLAGS.get(key, key), one)]
    flag = f"--{name.replace('_', '-')}"
    if value is True:
        return [flag]
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return [flag, text]


def _pins(pins: Mapping[str, Any]) -> dict[str, str]:
    return {layer: ":".join(map(str, at)) if isinstance(at, tuple) else str(at) for layer, at in pins.items()}
