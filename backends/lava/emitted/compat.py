"""Makes lava-nc 0.10.0 importable on Python 3.10 - 3.13 with numpy 1 and 2. Edits no installed file.

lava-nc declares Python < 3.11 and numpy < 2 and is archived upstream; `prepare` runs before the first import of `lava`.
"""

import ctypes
import dataclasses
import functools
import importlib.util
import mmap
import os
import sys
from pathlib import Path
from typing import Any

INSTALL = (
    "pip install lava-nc==0.10.0 --ignore-requires-python --no-deps"
    " && pip install asteval networkx numpy scikit-learn scipy"
)
NEEDS = ("asteval", "networkx", "numpy", "scipy", "sklearn")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's malloc.h."""


def prepare() -> None:
    """Checks the installation, then makes all repairs. Ends the program with the install line where Lava is missing."""
    if missing := missing_modules():
        print(f"not installed: {', '.join(missing)}; install with: {INSTALL}", file=sys.stderr)
        sys.exit(1)
    limit_threads()
    keep_freed_memory()
    hash_var_models()
    reshape_by_position()
    share_memory_anonymously()


def missing_modules() -> list[str]:
    """Top-level modules that are not there; `lava` also where another package of that name is installed."""
    found = importlib.util.find_spec("lava")
    places = list(found.submodule_search_locations or ()) if found else []
    lava = [] if any((Path(place) / "magma").is_dir() for place in places) else ["lava"]
    return lava + [name for name in NEEDS if importlib.util.find_spec(name) is None]


def limit_threads() -> None:
    """One BLAS thread a process: Lava forks, and every population is a process of its own."""
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")


def keep_freed_memory() -> None:
    """On glibc: freed arrays stay with the process. By default each array over 128 KiB costs page faults anew."""
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


def hash_var_models() -> None:
    """Imports lava's var_model with hashable dataclasses.

    It uses an eq-dataclass instance as the default of a dataclass field, which Python 3.11 refuses when unhashable.
    """
    original = dataclasses.dataclass

    def dataclass(cls: Any = None, **options: Any) -> Any:
        def apply(decorated: Any) -> Any:
            if decorated.__module__ == "lava.magma.compiler.var_model":
                options.setdefault("unsafe_hash", True)
            return original(**options)(decorated)

        return apply if cls is None else apply(cls)

    dataclasses.dataclass = dataclass
    try:
        importlib.import_module("lava.magma.compiler.var_model")
    finally:
        dataclasses.dataclass = original


def reshape_by_position() -> None:
    """Replaces `np.reshape(newshape=...)` of virtual ports: numpy 2.5 has no such argument."""
    import numpy as np  # noqa: PLC0415 - after limit_threads
    from lava.magma.core.process.ports.ports import ReshapePort  # noqa: PLC0415 - after hash_var_models

    def reshape(shape: Any, data: Any) -> Any:
        return np.reshape(data, shape)

    ReshapePort.get_transform_func_fwd = lambda port: functools.partial(reshape, port.shape)
    ReshapePort.get_transform_func_bwd = lambda port: functools.partial(reshape, port.old_shape)


class AnonymousMemory:
    """Stands for a SharedMemory block of Lava's channels: no name in /dev/shm, gone with the last process, always."""

    def __init__(self, size: int) -> None:
        self.buf = memoryview(mmap.mmap(-1, max(size, 1)))

    def close(self) -> None:
        """Nothing to unlink."""


def share_memory_anonymously() -> None:
    """Gives Lava's channels anonymous shared memory, inherited by fork.

    Lava's own blocks are named files served by one more process: whatever is killed leaves them behind.
    """
    from lava.magma.runtime.message_infrastructure.shared_memory_manager import (  # noqa: PLC0415 - after hash_var_models
        SharedMemoryManager,
    )

    SharedMemoryManager.__init__ = lambda manager: None
    SharedMemoryManager.start = lambda manager: None
    SharedMemoryManager.shutdown = lambda manager: None
    SharedMemoryManager.create_shared_memory = lambda manager, size: AnonymousMemory(size)
