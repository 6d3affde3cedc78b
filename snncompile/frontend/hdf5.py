"""An HDF5 file as nested dictionaries, whatever the file holds.

Only what is in the file itself is read: HDF5 can also point at other files (external links, external storage, virtual
datasets), at itself (a group within itself) and at gigabytes of zeros in a few kilobytes.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from snncompile.errors import CompileError
from snncompile.frontend.untrusted import shown

MIB = 2**20
DEEPEST = 16
MOST_ENTRIES = 50_000
RE_EXPORT = "export the model again"

Tree = dict[str, Any]
"""Groups are Trees; datasets are str, numpy scalars, numeric arrays, or lists of (lists of) str."""


def read_tree(path: Path) -> Tree:
    """Everything in the file, read once.

    Refuses (CompileError): what is no HDF5 file or a damaged one; links out of the file, or to one entry twice; nesting
    deeper than 16; more than 50,000 entries; arrays of more than 256 MiB + 100 times the file's size (at most 4 GiB)
    together; types other than numbers and text.
    """
    if not path.is_file():
        raise CompileError(str(path), "is a directory, not a file" if path.is_dir() else "no such file")
    size = path.stat().st_size
    if size == 0:
        raise CompileError(str(path), "is empty", RE_EXPORT)
    reader = _Reader(path, min(4096 * MIB, 256 * MIB + 100 * size))
    try:
        with h5py.File(path, "r") as file:
            return reader.group(file, "", 0)
    except CompileError:
        raise
    except Exception as error:  # h5py raises half a dozen types on damaged files
        reason = shown(str(error).strip().partition("\n")[0] or type(error).__name__, 160)
        raise CompileError(str(path), f"cannot be read as HDF5, the container of NIR ({reason})", RE_EXPORT) from None


class _Reader:
    """Counts what one file costs while it is read."""

    def __init__(self, path: Path, bytes_allowed: int) -> None:
        self.path, self.bytes_allowed = path, bytes_allowed
        self.bytes_read = self.entries = 0
        self.addresses: set[int] = set()

    def refuse(self, name: str, problem: str, hint: str = RE_EXPORT) -> CompileError:
        return CompileError(f"{self.path}: {shown(name) or 'the file'}", problem, hint)

    def group(self, group: h5py.Group, name: str, depth: int) -> Tree:
        if depth > DEEPEST:
            raise self.refuse(name, f"groups are nested deeper than {DEEPEST}")
        tree: Tree = {}
        for key in group:
            self.entries += 1
            if self.entries > MOST_ENTRIES:
                raise self.refuse(name, f"holds more than {MOST_ENTRIES} entries")
            if not isinstance(key, str) or not key.isprintable():
                raise self.refuse(name, f"has an entry with the name {shown(key)}", "names are printable text")
            where = f"{name}/{key}".lstrip("/")
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise self.refuse(where, "is a link to elsewhere", "a model is one file")
            item = group[key]
            address = h5py.h5o.get_info(item.id).addr
            if address in self.addresses:
                raise self.refuse(where, "is another entry of the file once more")
            self.addresses.add(address)
            tree[key] = (
                self.group(item, where, depth + 1) if isinstance(item, h5py.Group) else self.dataset(item, where)
            )
        return tree

    def dataset(self, item: Any, name: str) -> Any:
        if not isinstance(item, h5py.Dataset) or item.shape is None:
            raise self.refuse(name, "is neither a group nor data")
        if item.is_virtual or item.external:
            raise self.refuse(name, "keeps its data in another file", "a model is one file")
        self.bytes_read += item.size * item.dtype.itemsize
        if self.bytes_read > self.bytes_allowed:
            raise self.refuse(
                name, f"unpacks to more than {self.bytes_allowed // MIB} MiB", "too much for a file of its size"
            )
        if h5py.check_string_dtype(item.dtype) is not None:
            if item.size > 2 * MOST_ENTRIES:
                raise self.refuse(name, f"holds {item.size} texts")
            text = item.asstr()[()]
            return text.tolist() if isinstance(text, np.ndarray) else str(text)
        if item.dtype.kind not in "biuf" or item.dtype.itemsize > 8:
            raise self.refuse(name, f"holds {shown(item.dtype)}", "allowed: numbers and text")
        return item[()]
