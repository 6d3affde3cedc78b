"""Runs the emitted program of a sealed directory in a process group of its own, and always ends that group."""

import contextlib
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snncompile.backend import Progress
from snncompile.errors import CompileError
from snncompile.program import narrowed
from snncompile.quant_network import IntArray

INSTALL = (
    "pip install lava-nc==0.10.0 --ignore-requires-python --no-deps"
    " && pip install asteval networkx numpy scikit-learn scipy"
)
SILENCE_S = 120.0
"""The program tells of itself twice a second once it runs; import, compiling and saving take seconds."""


@dataclass(frozen=True, eq=False)
class LavaResult:
    """output (N, n), payloads and membranes (T, N, *shape) by population, and the program's own times."""

    output: IntArray
    payloads: Mapping[str, IntArray]
    membranes: Mapping[str, IntArray]
    steps: int
    wall_s: float
    startup_s: float


def require_lava() -> None:
    """Raises CompileError with the install line where lava-nc is not installed. Imports nothing of it."""
    found = importlib.util.find_spec("lava")
    places = list(found.submodule_search_locations or ()) if found else []
    if not any((Path(place) / "magma").is_dir() for place in places):
        raise CompileError(
            "--backend lava", f"lava-nc is not installed for {sys.executable}", f"install it with: {INSTALL}"
        )


def run_program(
    program: Path,
    payloads: IntArray,
    record: Sequence[str],
    membranes: Sequence[str],
    chosen: Sequence[str],
    progress: Progress,
) -> LavaResult:
    """Runs `program` (the directory lava/) on payloads (N, *input shape) or frames (N, T, *input shape).

    chosen: options of its command line, those that name what is recorded among them.
    Raises CompileError naming the layer when a Lava process raises, dies or stands still.
    """
    with tempfile.TemporaryDirectory(prefix="snncompile-lava-") as scratch:
        data, out = Path(scratch, "data.npz"), Path(scratch, "out.npz")
        np.savez(data, payloads=narrowed(payloads))
        options = ["--events", f"--data={data}", f"--out={out}", *chosen]
        with Path(scratch, "stderr.txt").open("w+") as errors:
            with started([sys.executable, str(program.resolve() / "run.py"), *options], scratch, errors) as process:
                _follow(process, progress)
            if process.returncode != 0 or not out.exists():
                errors.seek(0)
                raise CompileError("lava", _last_line(errors.read()) or f"its program ended with {process.returncode}")
        with np.load(out, allow_pickle=False) as file:
            recorded = {name: file[f"payloads/{name}"].astype(np.int64) for name in record}
            states = {name: file[f"membranes/{name}"].astype(np.int64) for name in membranes}
            times = {name: float(file[name]) for name in ("wall_s", "startup_s")}
            return LavaResult(file["output"], recorded, states, int(file["steps"]), **times)


@contextlib.contextmanager
def started(command: Sequence[str], scratch: str, errors: Any) -> Iterator["subprocess.Popen[str]"]:
    """The command as leader of a session of its own. At the end, by any way, all its processes are killed."""
    environment = os.environ | {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": scratch}
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        cwd=scratch,
        env=environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _follow(process: "subprocess.Popen[str]", progress: Progress) -> None:
    """Reads events until the program ends; raises CompileError for a failure it tells and for silence."""
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
    reader.start()
    heard = time.monotonic()
    while True:
        try:
            line = lines.get(timeout=0.1)
        except queue.Empty:
            if process.poll() is not None and lines.empty():
                break
            if time.monotonic() - heard > SILENCE_S:
                raise CompileError("lava", f"its program says nothing for {SILENCE_S:.0f} s; killed") from None
            continue
        heard = time.monotonic()
        _handle(line, progress)


def _read(process: "subprocess.Popen[str]", lines: "queue.Queue[str]") -> None:
    assert process.stdout is not None
    with process.stdout as stream:
        for line in stream:
            lines.put(line)


def _handle(line: str, progress: Progress) -> None:
    """One line of standard output; what is no event is Lava's own chatter."""
    try:
        event = json.loads(line)
    except ValueError:
        return
    match event:
        case {"event": "progress", "done": done, "total": total}:
            progress(done, total)
        case {"event": "failed", "layer": layer, "problem": problem}:
            raise CompileError(layer or "lava", f"its Lava process failed: {problem}")


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
