"""A program of its own: reads the HDF5 file in its first argument and writes what is in it to standard output.

The second argument: seconds of processor time that it may take, all in all.

Run by `hdf5.read_tree`, which states what is refused; imports nothing of snncompile, so that it starts in 0.2 s.
Output: the length of a JSON text as 8 bytes, the text, then the arrays' bytes, one after the other. The text is
{"refused": [name, problem, hint]} or {"tree": node}, a node one of ["group", {name: node}], ["text", text or lists of
text], ["array", dtype, shape], arrays in the order of their bytes, and ["constant", dtype, shape], of which there is
one entry.
"""

import json
import os
import sys
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

MIB = 2**20
LARGEST = 4096 * MIB
DEEPEST = 16
MOST_ENTRIES = 50_000
WORKING_MEMORY = 2048 * MIB
ONE_FILE = "a model is one file"


class EntryError(Exception):
    """An entry that cannot be read: its name, the problem, a hint."""


class Reader:
    """Counts what one file costs while it is read."""

    def __init__(self, bytes_allowed: int) -> None:
        self.bytes_allowed = bytes_allowed
        self.bytes_read = 0
        self.addresses: set[int] = set()
        self.arrays: list[NDArray[Any]] = []

    def group(self, group: h5py.Group, name: str, depth: int) -> list[Any]:
        if depth > DEEPEST:
            raise EntryError(name, f"groups are nested deeper than {DEEPEST}", "")
        entries: dict[str, list[Any]] = {}
        for key in group:
            if not isinstance(key, str) or not key.isprintable():
                shown = ascii(key)[1:-1]
                raise EntryError(name, f"has an entry with the name {shown}", "names are printable text")
            where = f"{name}/{key}".lstrip("/")
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise EntryError(where, "is a link to elsewhere", ONE_FILE)
            item = group[key]
            self.count(h5py.h5o.get_info(item.id).addr, where)
            is_group = isinstance(item, h5py.Group)
            entries[key] = self.group(item, where, depth + 1) if is_group else self.dataset(item, where)
        return ["group", entries]

    def count(self, address: int, name: str) -> None:
        if address in self.addresses:
            raise EntryError(name, "is another entry of the file once more", "")
        self.addresses.add(address)
        if len(self.addresses) > MOST_ENTRIES:
            raise EntryError(name, f"is entry {MOST_ENTRIES + 1} of the file, at most {MOST_ENTRIES} are read", "")

    def dataset(self, item: Any, name: str) -> list[Any]:
        if not isinstance(item, h5py.Dataset) or item.shape is None:
            raise EntryError(name, "is neither a group nor data", "")
        if item.is_virtual or item.external:
            raise EntryError(name, "keeps its data in another file", ONE_FILE)
        self.bytes_read += item.size * item.dtype.itemsize
        if self.bytes_read > self.bytes_allowed:
            allowed = f"{self.bytes_allowed // MIB} MiB"
            raise EntryError(name, f"unpacks to more than {allowed}", "too much for a file of its size")
        if h5py.check_string_dtype(item.dtype) is not None:
            if item.size > 2 * MOST_ENTRIES:
                raise EntryError(name, f"holds {item.size} texts", "")
            text = item.asstr()[()]
            return ["text", text.tolist() if isinstance(text, np.ndarray) else str(text)]
        if item.dtype.kind not in "biuf" or item.dtype.itemsize > 8:
            raise EntryError(name, f"holds {item.dtype.name}", "allowed: numbers and text")
        if item.size > 1 and item.chunks is not None and item.id.get_storage_size() == 0:  # nothing but its fill value
            self.arrays.append(np.array(item.fillvalue, item.dtype))
            return ["constant", item.dtype.str, item.shape]
        self.arrays.append(np.ascontiguousarray(item[()]))
        return ["array", item.dtype.str, item.shape]


def limit(memory: int, seconds: int) -> None:
    """Bounds memory and processor time, where the system can: a damaged file makes the library ask for anything."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(path: str, seconds: int) -> None:
    allowed = min(LARGEST, 256 * MIB + 100 * os.path.getsize(path))
    limit(WORKING_MEMORY + 2 * allowed, seconds)
    reader = Reader(allowed)
    try:
        with h5py.File(path, "r") as file:
            answer: dict[str, Any] = {"tree": reader.group(file, "", 0)}
    except EntryError as error:
        answer = {"refused": error.args}
    except Exception as error:  # h5py raises half a dozen types on damaged files
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        answer = {"refused": ["", f"cannot be read as HDF5, the container of NIR ({reason})", ""]}
    text = json.dumps(answer).encode()
    sys.stdout.buffer.write(len(text).to_bytes(8, "little") + text)
    for array in reader.arrays:
        sys.stdout.buffer.write(array.data)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
