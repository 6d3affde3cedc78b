"""An HDF5 file as nested dictionaries, whatever the file holds.

Only what is in the file itself is read: HDF5 can also point at other files (external links, external storage, virtual
datasets), at itself (a group within itself) and at gigabytes of zeros in a few kilobytes. And the HDF5 library never
ends on some damaged files (2.0.0: a text whose global heap is broken), so a process of its own runs it.
"""

import json
import math
import mmap
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from snncompile.errors import CompileError
from snncompile.frontend.untrusted import shown

CHILD = Path(__file__).with_name("hdf5_child.py")
PATIENCE_S = 4
"""Seconds of processor time: a busy machine must not make a sound file look like one that hangs the library."""

BYTES_PER_S = 2**20
BUSY = 15
"""How many times as long the clock may take: for a library that waits, and where processes have no such limit."""

OUT_OF_TIME = -getattr(signal, "SIGXCPU", 0) or None
"""Exit code of a process that used up its processor time."""

RE_EXPORT = "export the model again"

Tree = dict[str, Any]
"""Groups are Trees; datasets are str, numpy scalars, numeric arrays, or lists of (lists of) str."""


def read_tree(path: Path) -> Tree:
    """Everything in the file, read once.

    Refuses (CompileError): what is no HDF5 file or a damaged one; links out of the file, or to one entry twice; nesting
    deeper than 16; more than 50,000 entries; arrays of more than 256 MiB + 100 times the file's size (at most 4 GiB)
    together; types other than numbers and text; a file that takes more processor time than 4 s + 1 s per MiB.
    """
    if not path.is_file():
        raise CompileError(str(path), "is a directory, not a file" if path.is_dir() else "no such file")
    size = path.stat().st_size
    if size == 0:
        raise CompileError(str(path), "is empty", RE_EXPORT)
    answer, content = _ask(path, PATIENCE_S + size / BYTES_PER_S)
    if refused := answer.get("refused"):
        name, problem, hint = map(str, refused)
        where = f"{path}: {shown(name)}" if name else str(path)
        raise CompileError(where, shown(problem, 200), hint or RE_EXPORT)
    tree: Tree = _decoded(answer["tree"], content, 0)[0]
    return tree


def _ask(path: Path, patience_s: float) -> tuple[Any, memoryview]:
    """What the child says: its JSON and the bytes after it."""
    seconds = math.ceil(patience_s)
    command = [sys.executable, "-P", str(CHILD), str(path.absolute()), str(seconds)]
    ending = f"the HDF5 library did not end on it in {seconds} s"
    try:
        with tempfile.TemporaryFile() as out:  # a pipe takes several times as long for 100 MB
            result = subprocess.run(
                command,
                stdout=out,
                stderr=subprocess.PIPE,
                timeout=BUSY * patience_s,
                check=False,
                stdin=subprocess.DEVNULL,
            )
            written = os.fstat(out.fileno()).st_size
            answer = memoryview(mmap.mmap(out.fileno(), 0, access=mmap.ACCESS_READ) if written else b"")
    except subprocess.TimeoutExpired:
        reason = ending
    else:
        length = int.from_bytes(answer[:8], "little")
        if result.returncode == 0 and length:
            return json.loads(bytes(answer[8 : 8 + length])), answer[8 + length :]
        said = result.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        failed = f"the HDF5 library failed on it: {shown(said or f'exit code {result.returncode}')}"
        reason = ending if result.returncode == OUT_OF_TIME else failed
    raise CompileError(str(path), f"cannot be read as HDF5, the container of NIR ({reason})", RE_EXPORT) from None


def _decoded(node: list[Any], content: memoryview, offset: int) -> tuple[Any, int]:
    """A node of the child's tree, whose first array begins at `offset`, and where the next one begins."""
    kind, *rest = node
    if kind == "text":
        return rest[0], offset
    if kind == "constant":
        one = np.frombuffer(content, np.dtype(rest[0]), 1, offset).copy()
        return np.broadcast_to(one[0], tuple(rest[1])), offset + one.nbytes
    if kind == "array":
        dtype, shape = np.dtype(rest[0]), tuple(rest[1])
        array = np.frombuffer(content, dtype, math.prod(shape), offset).reshape(shape).copy()
        return array[()], offset + array.nbytes
    tree = {}
    for name, inner in rest[0].items():
        tree[name], offset = _decoded(inner, content, offset)
    return tree, offset
