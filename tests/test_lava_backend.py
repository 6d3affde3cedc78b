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
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from snncompile.backends.lava import LavaBackend
from snncompile.backends.lava.emit import emit, narrowed

from snncompile.errors import CompileError
from snncompile.quant_network import Population, QuantNetwork, QuantSynapses, verify
from snncompile.reference import run_integer
from snncompile.state_bounds import input_interval, prove

needs_lava = pytest.mark.skipif(importlib.util.find_spec("lava") is None, reason="lava-nc is not installed")

INPUT_MAX = 255
SHAPES = {"n1": (4, 9, 8), "n2": (4, 9, 8), "n3": (6, 2, 4), "n4": (12,), "out": (5,)}


def random_synapses(rng: np.random.Generator) -> tuple[QuantSynapses, ...]:
    """Convolutions with groups, dilation, stride and pools, linear layers, shortcuts over 2 and 4 steps."""

    def conv(name: str, source: str, *shape: int, bits: int = 8, exponent: int = 0, **geometry: Any) -> QuantSynapses:
        limit = 1 << (bits - 1)
        kind = "linear" if len(shape) == 2 else "conv"
        return QuantSynapses(name, source, kind, rng.integers(-limit, limit, shape), bits, exponent, **geometry)

    into_n3 = {"pool": (2, 2), "stride": (2, 1), "padding": (1, 1)}
    return (
        conv("c1", "input", 4, 2, 3, 3, padding=(1, 1)),
        conv("c2", "n1", 4, 2, 3, 3, bits=4, exponent=3, padding=(2, 1), dilation=(2, 1), groups=2),
        conv("c3", "n2", 6, 4, 3, 3, **into_n3),
        conv("c3b", "n2", 6, 2, 3, 3, bits=3, exponent=2, groups=2, **into_n3),
        conv("c3s", "n1", 6, 4, 3, 3, delay_steps=2, **into_n3),
        conv("f4", "n3", 12, 6 * 1 * 2, bits=16, exponent=5, pool=(2, 2)),
        conv("f5", "n4", 5, 12),
        conv("f5s", "n1", 5, 4 * 9 * 8, bits=2, delay_steps=4),
    )


def random_population(
    rng: np.random.Generator, network: QuantNetwork, name: str, synapses: tuple[str, ...]
) -> Population:
    """Neurons with thresholds within reach of their input; the last sums only."""
    channels, depth = SHAPES[name][0], len(network.populations) + 1
    intervals = [
        input_interval(network.synapses_by_name[s], network.payload_max_of(network.synapses_by_name[s].source))
        for s in synapses
    ]
    reach = max(8, int(np.mean([np.minimum(-low, high).mean() for low, high in intervals])) // 6)
    levels = 0 if name == "out" else int(rng.integers(1, 5))
    thresholds = np.cumsum(rng.integers(1, reach, (levels, channels)), axis=0)
    return Population(
        name=name,
        shape=SHAPES[name],
        synapses=synapses,
        bias=rng.integers(-reach // 8, reach // 8 + 1, channels),
        v0=rng.integers(-reach // 4, reach // 4 + 1, channels),
        thresholds=thresholds,
        payload=np.cumsum(rng.integers(1, 4, levels)),
        subtract=thresholds if rng.random() < 0.5 else rng.integers(0, reach, (levels, channels)),
        decay=int(rng.choice([0, 2048, 3000])),
        reset=str(rng.choice(["soft", "hard", "none"])),  # type: ignore[arg-type]
        fire=str(rng.choice(["ge", "gt"])),  # type: ignore[arg-type]
        depth=depth,
        input_bits=62,
        state_bits=62,
    )


def random_network(seed: int, timesteps: int = 3) -> QuantNetwork:
    """A valid network of random integers with every geometry and neuron the integer network knows."""
    rng = np.random.default_rng(seed)
    network = QuantNetwork("input", (2, 9, 8), INPUT_MAX, random_synapses(rng), (), timesteps)
    inputs = {"n1": ("c1",), "n2": ("c2",), "n3": ("c3", "c3b", "c3s"), "n4": ("f4",), "out": ("f5", "f5s")}
    for name, synapses in inputs.items():
        population = random_population(rng, network, name, synapses)
        bounds = prove(network, population)
        population = replace(population, input_bits=bounds.input_bits, state_bits=bounds.state_bits)
        network = replace(network, populations=(*network.populations, population))
    verify(network)
    return network


def random_payloads(seed: int, samples: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, INPUT_MAX + 1, (samples, 2, 9, 8))


def program_of(network: QuantNetwork) -> Any:
    return SimpleNamespace(network=network, host=SimpleNamespace(input_scale=0.5))


def seal(directory: Path, network: QuantNetwork) -> Path:
    (directory / "lava").mkdir()
    for name, content in LavaBackend().emit(program_of(network)).items():
        (directory / name).write_bytes(content)
    return directory


def break_layer(directory: Path, layer: str, statement: str) -> None:
    """Lets the process of one layer execute a statement in chip step 4."""
    path = directory / "lava" / "processes.py"
    start = "        current, self.due["
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


@pytest.fixture
def leaves_nothing(tmp_path: Path) -> Iterator[None]:
    """No process and no shared memory is left by a run of a program in tmp_path."""
    if not Path("/proc/self").exists():
        pytest.skip("needs /proc")
    shared_before = sorted(os.listdir("/dev/shm"))
    yield
    deadline = time.monotonic() + 2
    while (left := processes_of(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == []
    assert sorted(os.listdir("/dev/shm")) == shared_before


def test_emitted_bytes_are_deterministic() -> None:
    first, second = emit(random_network(1), 0.5), emit(random_network(1), 0.5)
    assert first == second
    assert {"lava/run.py", "lava/network.json", "lava/weights.npz", "lava/README.md"} <= set(first)
    assert first["lava/weights.npz"] != emit(random_network(2), 0.5)["lava/weights.npz"]
    assert b"snncompile" not in b"".join(content for name, content in first.items() if name.endswith(".py"))


def test_emitted_arrays_are_narrow() -> None:
    limits = {-128: "<i1", 127: "<i1", 128: "<i2", -32769: "<i4", 1 << 31: "<i8"}
    assert {value: narrowed(np.array([value])).dtype.str.replace("|", "<") for value in limits} == limits


@needs_lava
@pytest.mark.parametrize(("seed", "batch"), [(1, 1), (2, 3), (3, 3), (4, 16)])
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
    with pytest.raises(CompileError, match=r"n[12]: .*ValueError: cannot reshape"):  # both convolve
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
        f"run_program(Path({str(tmp_path)!r}, 'lava'), np.ones((5, 2, 9, 8), int), (), 1, lambda done, total: None)"
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
def test_stand_alone_program_reads_values_and_labels(tmp_path: Path) -> None:
    network, x = random_network(1), np.random.default_rng(0).uniform(0, 2, (6, 2, 9, 8))
    expected = run_integer(network, np.rint(x * 0.5 * INPUT_MAX).astype(np.int64))
    directory = seal(tmp_path, network) / "lava"
    np.savez(tmp_path / "data.npz", x=x, y=expected.output.argmax(1))
    options = ["--data", tmp_path / "data.npz", "--out", tmp_path / "out.npz", "--record", "all", "--limit", "4"]
    done = subprocess.run([sys.executable, directory / "run.py", *options], capture_output=True, text=True, check=True)
    assert "4 samples, accuracy 1.0000" in done.stdout
    assert done.stderr == ""
    with np.load(tmp_path / "out.npz") as out:
        np.testing.assert_array_equal(out["output"], expected.output[:4])
        np.testing.assert_array_equal(out["payloads/n4"], expected.payloads["n4"][:, :4])


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
