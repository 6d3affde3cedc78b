"""The sealed directory: a program and all that belongs to it, hashed, written whole or not at all."""

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snncompile.backend import Backend
from snncompile.errors import CompileError, InternalError
from snncompile.program import Program, from_plain, to_plain
from snncompile.quantization.verify_integers import verify_integers

FORMAT_VERSION = 3
PROGRAM, ARRAYS, NETWORK, REPORT = "program.json", "arrays.npz", "network.nir", "report.json"


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """Canonical JSON text: sorted keys; every entry of the whole, and of its lists and tables, on a line of its own.

    (With `indent` the json module leaves its C encoder, which takes seconds for the cores of a large board.)
    """
    entries = sorted(value.items())
    lines = ",\n".join(f"  {json.dumps(key)}: {_json_lines(item)}" for key, item in entries)
    return f"{{\n{lines}\n}}\n".encode()


def _json_lines(value: Any) -> str:
    def plain(item: Any) -> str:
        return json.dumps(item, sort_keys=True, allow_nan=False)

    if isinstance(value, Mapping) and value:
        return "{\n" + ",\n".join(f"    {plain(str(key))}: {plain(value[key])}" for key in sorted(value)) + "\n  }"
    if isinstance(value, list | tuple) and value:
        return "[\n" + ",\n".join(f"    {plain(item)}" for item in value) + "\n  ]"
    return plain(value)


def npz_bytes(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """An .npz; the same arrays give the same bytes (entries sorted, dates fixed by numpy).

    Not compressed: quantised weights hardly shrink, and a second of zlib for every 15 MB is most of sealing.
    """
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: arrays[name] for name in sorted(arrays)})
    return buffer.getvalue()


def write_program(directory: Path, program: Program, files: Mapping[str, bytes]) -> None:
    """Writes program.json, arrays.npz and `files` to a new folder beside `directory`, then puts it in place.

    Replaces an earlier program; refuses a folder that holds something else. Raises CompileError; leaves nothing behind.
    """
    check_replaceable(directory)
    description, arrays = to_plain(program)
    content = {**files, ARRAYS: npz_bytes(arrays)}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    sealed = {"format_version": FORMAT_VERSION, "files": hashes, **description}
    content[PROGRAM] = json_bytes({**sealed, "seal": _seal(sealed)})
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    except OSError as error:
        raise CompileError(str(directory), f"cannot be written ({error})", "choose another folder with -o") from error
    try:
        for name, data in content.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_bytes(data)
        staging.chmod(0o755)
        _swap(staging, directory)
    except OSError as error:
        raise CompileError(str(directory), f"cannot be written ({error})", "choose another folder with -o") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_replaceable(directory: Path) -> None:
    """Raises CompileError where `directory` holds something other than an earlier program."""
    if not directory.exists() and not directory.is_symlink():
        return
    if not directory.is_dir() or directory.is_symlink():
        raise CompileError(str(directory), "exists and is not a folder", "choose another folder with -o")
    if any(directory.iterdir()) and not (directory / PROGRAM).is_file():
        raise CompileError(str(directory), "is not empty and holds no program", "choose another folder with -o")


def _swap(staging: Path, directory: Path) -> None:
    if not directory.exists():
        os.rename(staging, directory)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{directory.name}.old.", dir=directory.parent))
    try:
        os.rename(directory, old / directory.name)
        os.rename(staging, directory)
    finally:
        shutil.rmtree(old, ignore_errors=True)


def read_program(directory: Path) -> Program:
    """Loads a sealed directory. Raises CompileError: missing, another format version, or changed since sealing."""
    path = directory / PROGRAM
    if not path.is_file():
        raise CompileError(
            str(directory), f"holds no {PROGRAM}", "give the folder that `snncompile MODEL -o DIR` wrote"
        )
    try:
        sealed = json.loads(path.read_text())
        seal, version = sealed.pop("seal"), sealed["format_version"]
    except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
        raise CompileError(str(path), f"is damaged ({error})", "compile the model again") from error
    if version != FORMAT_VERSION:
        raise CompileError(
            str(path),
            f"has format version {version}, this snncompile reads {FORMAT_VERSION}",
            "compile the model again",
        )
    if seal != _seal(sealed):
        raise CompileError(str(path), "was changed after it was sealed", "compile the model again")
    for name, expected in sealed["files"].items():
        _check_hash(directory / name, expected)
    try:
        with np.load(directory / ARRAYS, allow_pickle=False) as file:
            program = from_plain(sealed, {name: file[name] for name in file.files})
        verify_integers(program.network)
    except (KeyError, TypeError, ValueError, InternalError) as error:
        # sealed and unchanged, yet not what this version writes
        made_by = sealed.get("provenance", {}).get("versions", {}).get("snncompile", "unknown")
        raise CompileError(
            str(path), f"was written by another snncompile ({made_by}) in another form", "compile the model again"
        ) from error
    return program


def check_emitted(directory: Path, program: Program, backend: Backend) -> None:
    """Raises CompileError where code of a backend (its .py files) is not what that backend emits for the program.

    A seal shows that a folder is whole, not who made it: what is executed from it must be our own.
    """
    code = {name: content for name, content in backend.emit(program).items() if name.endswith(".py")}
    for name, expected in code.items():
        path = directory / name
        if not path.is_file() or path.read_bytes() != expected:
            raise CompileError(
                str(path), "is not what this snncompile emits for the program", "compile the model again"
            )


def seal_of(directory: Path) -> str:
    """The seal of a program that `read_program` has read: what results of it carry to say whose they are."""
    seal: str = json.loads((directory / PROGRAM).read_text())["seal"]
    return seal


def read_report(directory: Path) -> dict[str, Any]:
    """report.json of a sealed directory, checked like the program."""
    read_program(directory)
    report: dict[str, Any] = json.loads((directory / REPORT).read_text())
    return report


def _check_hash(path: Path, expected: str) -> None:
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CompileError(str(path), "is missing from the sealed folder", "compile the model again") from error
    if found != expected:
        raise CompileError(str(path), "was changed after it was sealed", "compile the model again")


def _seal(sealed: dict[str, Any]) -> str:
    return hashlib.sha256(json_bytes(sealed)).hexdigest()
