"""The Lava backend: deterministic bytes, Lava = integer reference on every payload, runs that leave nothing behind."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from integer_networks import integer_inputs, integer_network
from lava_networks import (
    SHAPES,
    host_layer,
    pixels,
    program_of,
    random_cut,
    random_network,
    random_payloads,
    seal,
    shared_left,
    shared_memory,
    systems_network,
)
from random_networks import images, quantized, recurrent_network
from snncompile.backends.lava import LavaBackend
from snncompile.backends.lava.emit import emit, narrowed
from test_lowering import with_resets

from snncompile.errors import CompileError
from snncompile.quant_network import QuantNetwork
from snncompile.reference import run_integer

needs_lava = pytest.mark.skipif(importlib.util.find_spec("lava") is None, reason="lava-nc is not installed")


def break_layer(directory: Path, layer: str, statement: str) -> None:
    """Lets the process of one layer execute a statement in chip step 4."""
    path = directory / "lava" / "processes.py"
    start = "        payloads = self.layer.fire(c)"
    broken = f"        if c == 4 and self.journal.layer == {layer!r}:\n            {statement}\n"
    text = path.read_text().replace(start, broken + start)
    path.write_text(text.replace("import sys\n", "import os, sys, time\n", 1))


def processes_of(directory: Path) -> list[int]:
    """Living processes that run a program in `directory`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(directory).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def left_behind(directory: Path) -> list[int]:
    """`processes_of`, once those that were killed have had five seconds to go."""
    deadline = time.monotonic() + 5
    while (left := processes_of(directory)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


@pytest.fixture
def leaves_nothing(tmp_path: Path) -> Iterator[None]:
    """No process and no shared memory is left by a run of a program in tmp_path."""
    if not Path("/proc/self").exists():
        pytest.skip("needs /proc")
    shared_before = shared_memory()
    yield
    assert left_behind(tmp_path) == []
    assert shared_left(shared_before) == []


def test_emitted_bytes_are_deterministic() -> None:
    one, two = random_network(1), random_network(2)
    cut = random_cut(one, 3)
    first, second = emit(one, pixels(one), cut), emit(random_network(1), pixels(one), cut)
    assert first == second
    assert {"lava/run.py", "lava/network.json", "lava/weights.npz", "lava/README.md"} <= set(first)
    assert first["lava/weights.npz"] != emit(two, pixels(two), cut)["lava/weights.npz"]
    assert b"snncompile" not in b"".join(content for name, content in first.items() if name.endswith(".py"))


def test_emitted_arrays_are_narrow() -> None:
    limits = {-128: "<i1", 127: "<i1", 128: "<i2", -32769: "<i4", 1 << 31: "<i8"}
    assert {value: narrowed(np.array([value])).dtype.str.replace("|", "<") for value in limits} == limits


@needs_lava
@pytest.mark.parametrize(("seed", "batch"), [(1, 1), (2, 3)])
def test_lava_equals_integer_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, batch: int) -> None:
    network, payloads = random_network(seed), random_payloads(seed, 5)
    seal(tmp_path, network)
    monkeypatch.chdir(tmp_path.parent)  # a relative path must do
    sealed = sorted(tmp_path.rglob("*"))
    names, told = tuple(SHAPES), []
    run = LavaBackend(batch).run(
        program_of(network), Path(tmp_path.name), payloads, names, lambda done, total: told.append((done, total))
    )
    expected = run_integer(network, payloads)
    np.testing.assert_array_equal(run.output, expected.output)
    for name in names:
        np.testing.assert_array_equal(run.payloads[name], expected.payloads[name], err_msg=name)
    assert all(expected.payloads[name].any() for name in ("n1", "n2", "n3"))
    assert told[-1] == (5, 5)
    assert run.wall_s > 0
    assert run.startup_s > 0
    assert sorted(tmp_path.rglob("*")) == sealed


def listed_networks() -> list[tuple[int, QuantNetwork]]:
    """The first networks with sparse synapses, sparse ones within a population, and a population that sends sums."""
    found = []
    for seed in range(300):
        network = integer_network(seed, listed=True)
        own = [s for s in network.synapses if s.source == network.target_of(s).name]
        parts = (own, set(network.synapses) - set(own))
        if all(any(s.kind == "sparse" for s in some) for some in parts) and any(p.sums for p in network.populations):
            found.append((seed, network))
    general = [(seed, integer_network(seed, listed=True, general=True)) for seed in (7, 8)]
    return [*found[:3], *general]


@needs_lava
@pytest.mark.slow
@pytest.mark.parametrize("number", range(5))
def test_lava_equals_the_reference_on_sparse_recurrent_summing_and_general_networks(
    tmp_path: Path, number: int
) -> None:
    seed, network = listed_networks()[number]
    payloads = integer_inputs(network, 5, seed)
    seal(tmp_path, network)
    names = tuple(p.name for p in network.populations)
    run = LavaBackend(2).run(program_of(network), tmp_path, payloads, names, lambda done, total: None)
    expected = run_integer(network, payloads)
    np.testing.assert_array_equal(run.output, expected.output)
    for name in names:
        np.testing.assert_array_equal(run.payloads[name], expected.payloads[name], err_msg=name)


@needs_lava
@pytest.mark.slow
@pytest.mark.parametrize(("seed", "chip"), [(0, "loihi1"), (3, "loihi2")])
def test_lava_equals_the_reference_on_recurrent_networks(tmp_path: Path, seed: int, chip: str) -> None:
    network = replace(with_resets(recurrent_network(seed), ("soft",), seed), timesteps=6)
    integers, host = quantized(network, chip=chip)
    payloads = host.encoder(images(network, 5, seed) / 255 / network.input.scale)
    seal(tmp_path, integers, host.encoder)
    names = tuple(p.name for p in integers.populations)
    run = LavaBackend(2).run(program_of(integers), tmp_path, payloads, names, lambda done, total: None)
    expected = run_integer(integers, payloads)
    np.testing.assert_array_equal(run.output, expected.output)
    for name in names:
        np.testing.assert_array_equal(run.payloads[name], expected.payloads[name], err_msg=name)
    assert all(expected.payloads[name].any() for name in ("n2", "n3"))


@needs_lava
@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("raise ValueError('broken on purpose')", "n3: .*ValueError: broken on purpose"),
        ("os.kill(os.getpid(), 9)", "n3: .*died, exit code -9"),
        ("time.sleep(1000)", "n3: .*stands still at step 5 of 20"),
    ],
)
def test_failing_layer_is_named_within_ten_seconds(tmp_path: Path, statement: str, text: str) -> None:
    network = random_network(1)
    break_layer(seal(tmp_path, network), "n3", statement)
    started = time.monotonic()
    with pytest.raises(CompileError, match=text):
        LavaBackend(1).run(program_of(network), tmp_path, random_payloads(1, 5))
    assert time.monotonic() - started < 30  # 10 s on a free machine, start-up included


@needs_lava
@pytest.mark.usefixtures("leaves_nothing")
def test_layer_that_cannot_be_built_is_named(tmp_path: Path) -> None:
    network = random_network(1)
    path = seal(tmp_path, network) / "lava" / "arithmetic.py"
    path.write_text(path.read_text().replace("self.groups, self.out // self.groups, -1)", "5, 5, 5)"))
    with pytest.raises(CompileError, match=r"n[123]: .*ValueError: cannot reshape"):  # all convolve
        LavaBackend().run(program_of(network), tmp_path, random_payloads(1, 1))


@needs_lava
@pytest.mark.usefixtures("leaves_nothing")
def test_interrupt_stops_cleanly(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    network = random_network(1)
    with pytest.raises(KeyboardInterrupt):
        LavaBackend().run(program_of(network), seal(tmp_path, network), random_payloads(1, 5), progress=interrupt)


@needs_lava
@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_stand_alone_program_killed_leaves_no_process(tmp_path: Path, end: signal.Signals) -> None:
    directory = seal(tmp_path, random_network(1)) / "lava"
    np.savez(tmp_path / "data.npz", payloads=random_payloads(1, 5))
    break_layer(tmp_path, "n2", "time.sleep(1000)")
    command = [sys.executable, str(directory / "run.py"), "--data", str(tmp_path / "data.npz")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 20
        while len(processes_of(tmp_path)) < 8 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(processes_of(tmp_path)) == 8  # main, source, 5 populations, Lava's runtime service
        process.send_signal(end)
        assert process.wait(10) in (-end, 130)


@needs_lava
@pytest.mark.usefixtures("leaves_nothing")
def test_compiler_killed_leaves_no_process(tmp_path: Path) -> None:
    """The kernel ends run.py with its parent, and Lava's processes with run.py."""
    seal(tmp_path, random_network(1))
    break_layer(tmp_path, "n2", "time.sleep(1000)")
    code = (
        "import numpy as np; from pathlib import Path; from snncompile.backends.lava.runtime import run_program;"
        f"run_program(Path({str(tmp_path)!r}, 'lava'), np.ones((5, 2, 9, 8), int), (), (), ('--batch=1',), print)"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, env=environment) as process:
        deadline = time.monotonic() + 20
        while len(processes_of(tmp_path)) < 9 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(processes_of(tmp_path)) == 9  # the compiler, too
        process.kill()


@needs_lava
@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("kind", ["pixels", "currents"])
def test_stand_alone_program_reads_values_and_labels(tmp_path: Path, kind: str) -> None:
    """Prints the accuracy, writes what is recorded; encodes the values as the compiler does."""
    network = random_network(1)
    encoder = pixels(network)
    if kind == "currents":
        network = systems_network(1, 4, 2, "currents")
        encoder = host_layer(np.random.default_rng(1), timesteps=2)
    x = np.random.default_rng(0).uniform(0, 2, (6, *encoder.shape))
    expected = run_integer(network, encoder(x))
    directory = seal(tmp_path, network, encoder) / "lava"
    np.savez(tmp_path / "data.npz", x=x, y=expected.output.argmax(1))
    options = ["--data", tmp_path / "data.npz", "--out", tmp_path / "out.npz", "--record", "all", "--limit", "4"]
    done = subprocess.run([sys.executable, directory / "run.py", *options], capture_output=True, text=True, check=True)
    assert "4 samples, accuracy 1.0000" in done.stdout
    assert done.stderr == ""
    with np.load(tmp_path / "out.npz") as out:
        np.testing.assert_array_equal(out["output"], expected.output[:4])
        for name, payloads in expected.payloads.items():
            if name != network.input_name:
                np.testing.assert_array_equal(out[f"payloads/{name}"], payloads[:, :4])


def test_stand_alone_program_names_what_is_missing(tmp_path: Path) -> None:
    directory = seal(tmp_path, random_network(1)) / "lava"
    without_packages = [sys.executable, "-S", directory / "run.py", "--data", "x.npz"]
    done = subprocess.run(without_packages, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "install with: pip install lava-nc==0.10.0 --ignore-requires-python" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_lava_gives_the_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(1)
    seal(tmp_path, network)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CompileError, match=r"pip install lava-nc==0\.10\.0 --ignore-requires-python") as caught:
        LavaBackend().run(program_of(network), tmp_path, random_payloads(1, 1))
    assert caught.value.where == "--backend lava"


@needs_lava
def test_unknown_population_is_refused(tmp_path: Path) -> None:
    network = random_network(1)
    with pytest.raises(CompileError, match="no population 'n33'; did you mean 'n3'"):
        LavaBackend().run(program_of(network), tmp_path, random_payloads(1, 1), record=("n33",))


@needs_lava
def test_directory_without_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"holds no lava/run\.py"):
        LavaBackend().run(program_of(random_network(1)), tmp_path, random_payloads(1, 1))
