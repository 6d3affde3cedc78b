"""Long runs and violent ends: nothing grows, nothing is left behind."""

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from lava_networks import program_of, random_network, random_payloads, seal, shared_left, shared_memory
from snncompile.backends.lava import LavaBackend
from test_lava_backend import left_behind, processes_of

from snncompile.data import load_samples
from snncompile.sealed import read_program

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("lava") is None, reason="lava-nc is not installed"),
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc"),
]
ENDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
KILLS = 50


def test_killed_at_random_moments_leaves_nothing(tmp_path: Path) -> None:
    """50 runs of the stand-alone program, each ended at some moment between its start and its last steps."""
    rng, before = random.Random(8), shared_memory()
    directory = seal(tmp_path, random_network(1)) / "lava"
    np.savez(tmp_path / "data.npz", payloads=np.tile(random_payloads(1, 100), (20, 1, 1, 1)))
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    command = [sys.executable, str(directory / "run.py"), "--data", str(tmp_path / "data.npz"), "--batch", "1"]
    environment = os.environ | {"TMPDIR": str(scratch)}
    started = time.monotonic()
    subprocess.run([*command, "--limit", "1"], check=True, env=environment, stdout=subprocess.DEVNULL)
    whole, most = time.monotonic() - started + 1.0, 0
    for number in range(KILLS):
        end = ENDS[number % len(ENDS)]
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(rng.uniform(0, whole))
            most = max(most, len(processes_of(tmp_path)))
            process.send_signal(end)
            process.wait(20)
        assert left_behind(tmp_path) == [], (number, end)
        assert shared_left(before) == [], (number, end)
        assert list(scratch.iterdir()) == [], (number, end)
    assert most >= 8  # some were killed while all their processes ran


class Seen:
    """At the first look after each mark of samples done: memory, open files and number of the program's processes."""

    def __init__(self, place: Path, marks: tuple[int, ...]) -> None:
        self.place, self.marks = place, list(marks)
        self.private: list[dict[int, int]] = []
        self.files: list[dict[int, int]] = []
        self.shared: list[set[str]] = []

    def __call__(self, done: int, total: int) -> None:
        if self.marks and done >= self.marks[0]:
            self.marks.pop(0)
            processes = processes_of(self.place)
            self.private.append({pid: private_kib(pid) for pid in processes})
            self.files.append({pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in processes})
            self.shared.append(shared_memory())


def private_kib(pid: int) -> int:
    """Memory that a process has written to and shares with none, swapped or not."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kinds = ("Private_Dirty:", "Swap:")
    return sum(int(line.split()[1]) for line in lines if line.startswith(kinds))


def test_a_thousand_samples_grow_nothing(fashion_program: Path, fashion_data: Path) -> None:
    """2,000 samples of Fashion-MNIST in one run, one at a time; looked at after 400 and after 1,800."""
    before = shared_memory()
    program = read_program(fashion_program)
    payloads = np.tile(program.encode(load_samples(fashion_data).x), (2, 1, 1, 1))
    seen = Seen(fashion_program / "lava" / "run.py", (400, 1800))
    run = LavaBackend(1).run(program, fashion_program, payloads, (), seen)
    np.testing.assert_array_equal(run.output[:1000], run.output[1000:])
    (early, late), files = seen.private, seen.files
    assert early.keys() == late.keys()
    assert len(early) == len(program.network.populations) + 3  # the main process, the input, Lava's runtime service
    grown = {pid: late[pid] - early[pid] for pid in early}
    print(f"private memory {sum(early.values()) / 1024:.0f} MiB, grown by {sum(grown.values())} KiB: {grown}")
    assert max(grown.values()) < 1024  # KiB, in 2,800 steps
    assert files[0] == files[1]
    assert (seen.shared[0] & seen.shared[1]) - before == set()
    assert left_behind(fashion_program / "lava" / "run.py") == []
    assert shared_left(before) == []


def test_many_runs_leak_nothing(tmp_path: Path) -> None:
    """Files, threads and children of the process that starts the runs."""
    network = random_network(1)
    seal(tmp_path, network)

    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    backend, payloads = LavaBackend(2), random_payloads(1, 3)
    backend.run(program_of(network), tmp_path, payloads)
    before, shared = held(), shared_memory()
    for _ in range(5):
        backend.run(program_of(network), tmp_path, payloads)
    deadline = time.monotonic() + 2
    while held() != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert held() == before
    assert shared_left(shared) == []
    assert left_behind(tmp_path) == []
