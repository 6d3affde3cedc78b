"""How the main process watches Lava's processes: shared journals, the watch loop, an end that leaves nothing.

Lava swallows an exception in a ProcessModel, and its neighbours then wait for ever. So every process writes its step
and its traceback into shared memory, and the main process reads them while Lava runs.
"""

import ctypes
import mmap
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

POLL_S = 0.01
STALL_S = 5.0
"""No step is made and no process computes for so long: they wait for each other."""
PATIENCE_S = 600.0
"""No step is made for so long, computing or not."""
TRACEBACK_BYTES = 16384

Workers = Sequence[Any]
"""Lava's SystemProcess: a multiprocessing.Process whose `exception` is None or (error, traceback text)."""


def shared(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros in anonymous memory: made before Lava forks, shared by all its processes, gone with the last of them."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape))
    return np.frombuffer(mmap.mmap(-1, max(1, count * dtype.itemsize)), dtype, count).reshape(shape)


class Journal:
    """What one process tells the main process: its id, the steps it has made, the traceback it failed with.

    As a context manager it writes down the exception that leaves the block.
    """

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self._numbers = shared(3, np.int64)
        self._text = shared(TRACEBACK_BYTES, np.uint8)

    @property
    def pid(self) -> int:
        return int(self._numbers[0])

    @property
    def steps(self) -> int:
        return int(self._numbers[1])

    @property
    def failure(self) -> str:
        return bytes(self._text[: self._numbers[2]]).decode(errors="replace")

    def begin(self) -> None:
        self._numbers[0] = os.getpid()

    def made(self, steps: int) -> None:
        self._numbers[1] = steps

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            text = "".join(traceback.format_exception(kind, error, trace)).encode()[-TRACEBACK_BYTES:]
            self._text[: len(text)] = np.frombuffer(text, np.uint8)
            self._numbers[2] = len(text)  # last: the reader may look at any moment


class LayerError(Exception):
    """A process failed, died or stands still: the layer it holds, one line of why, the traceback where there is one."""

    def __init__(self, layer: str, problem: str, details: str = "") -> None:
        self.layer, self.problem, self.details = layer, problem, details
        super().__init__(f"{layer}: {problem}")


def raise_written(journals: Sequence[Journal]) -> None:
    """Raises LayerError for the first journal with a traceback."""
    for journal in journals:
        if text := journal.failure:
            raise LayerError(journal.layer, text.strip().splitlines()[-1], text)


def watch(journals: Sequence[Journal], workers: Workers, steps: int, report: Callable[[], None]) -> None:
    """Returns once every process has made `steps` steps; calls report() after every look.

    Raises LayerError when a process raised, died or stands still.
    """
    moved, still_s, idle_s, seconds = -1, 0.0, 0.0, cpu_seconds(workers)
    while any(journal.steps < steps for journal in journals):
        raise_written(journals)
        _raise_dead(journals, workers)
        made = sum(journal.steps for journal in journals)
        # Counted in looks, not by the clock: a program stopped with Ctrl-Z and continued did not stand still.
        still_s, idle_s, moved = (still_s + POLL_S, idle_s + POLL_S, moved) if made == moved else (0.0, 0.0, made)
        if idle_s > 1:
            spent = cpu_seconds(workers)
            if spent is None or seconds is None or spent > seconds + 0.1:
                idle_s, seconds = 0.0, spent
        if idle_s > STALL_S or still_s > PATIENCE_S:
            last = min(journals, key=lambda journal: journal.steps)
            raise LayerError(last.layer, f"stands still at step {last.steps + 1} of {steps} for {still_s:.0f} s")
        report()
        time.sleep(POLL_S)


def _raise_dead(journals: Sequence[Journal], workers: Workers) -> None:
    names = {journal.pid: journal.layer for journal in journals}
    for worker in workers:
        if not worker.is_alive():
            raise_written(journals)
            _, details = worker.exception or (None, "")
            why = details.strip().splitlines()[-1] if details else f"its process died, exit code {worker.exitcode}"
            raise LayerError(names.get(worker.pid, "Lava's runtime"), why, details)


def cpu_seconds(workers: Workers) -> float | None:
    """Processor time the workers have used; None where the system does not tell: then only PATIENCE_S counts."""
    try:
        fields = [Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split() for worker in workers]
    except OSError:
        return None
    return sum(int(stat[11]) + int(stat[12]) for stat in fields) / os.sysconf("SC_CLK_TCK")


def kill_workers() -> None:
    """Kills every process Lava started, waits for their end."""
    workers = multiprocessing.active_children()
    for worker in workers:
        worker.kill()
    for worker in workers:
        # Lava's own join() waits without limit.
        multiprocessing.Process.join(worker, 5)


def end_with_parent() -> None:
    """On Linux: the kernel kills this process when its parent ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def tame_children() -> None:
    """Every process forked from here on ends with its parent, and leaves Ctrl-C to it."""
    parent = [os.getpid()]

    def before_fork() -> None:
        parent[0] = os.getpid()

    def after_fork() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_with_parent()
        if os.getppid() != parent[0]:  # it ended before the kernel was told
            os._exit(1)

    os.register_at_fork(before=before_fork, after_in_child=after_fork)
