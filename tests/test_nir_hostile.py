# ruff: noqa: E501 - golden error texts are one line each
"""NIR files that are damaged, hostile or beyond us: one line that names file and node, never a traceback."""

import io
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import h5py
import nir
import numpy as np
import pytest

from snncompile.errors import CompileError
from snncompile.frontend import load_model
from snncompile.frontend.nir import hdf5
from snncompile.frontend.nir.file import read_nir
from snncompile.frontend.nir.nodes import MultiThresholdLIFGraph
from snncompile.frontend.nir.to_network import to_network
from snncompile.frontend.nir.write import write_nir

FILE = Path("model.nir")
AGAIN = "export the model again"
ONE, NONE = np.ones(2, np.int64), np.zeros(2, np.int64)


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def neuron(*shape: int) -> MultiThresholdLIFGraph:
    levels = [0.5, 1.0]
    return MultiThresholdLIFGraph(
        shape, thresholds=levels, payload=levels, subtract=levels, leak=0.5, reset="soft", fire="ge"
    )


def graph() -> nir.NIRGraph:
    convolution = nir.Conv2d(np.array([4, 4]), np.ones((2, 1, 3, 3)), ONE, ONE, ONE, 1, np.zeros(2))
    nodes = {
        "00_input": nir.Input(np.array([1, 4, 4]), metadata={"coding": "direct", "scale": 1.0, "timesteps": 2}),
        "01_conv2d": convolution,
        "02_mtlif": neuron(2, 4, 4),
        "03_avg_pool": nir.AvgPool2d(2 * ONE, 2 * ONE, NONE),
        "04_flatten": nir.Flatten(np.array([2, 2, 2]), 0, -1),
        "05_linear": nir.Affine(np.ones((3, 8)), np.zeros(3)),
        "06_output": nir.Output(np.array([3]), metadata={"readout": "mean", "scale": 1.0}),
    }
    names = list(nodes)
    return nir.NIRGraph(nodes, list(pairwise(names)), type_check=False)


Change = Callable[[h5py.File], None]


def put(key: str, value: object) -> Change:
    def change(file: h5py.File) -> None:
        if f"node/{key}" in file:
            del file[f"node/{key}"]
        file[f"node/{key}"] = value

    return change


def drop(key: str) -> Change:
    return lambda file: file.__delitem__(f"node/{key}")


def edges(*more: tuple[str, str]) -> Change:
    return put("edges", [*graph().edges, *more])


def node(name: str, **values: object) -> Change:
    def change(file: h5py.File) -> None:
        for key, value in values.items():
            file[f"node/nodes/{name}/{key}"] = value

    return change


def bomb(file: h5py.File) -> None:
    del file["node/nodes/05_linear/weight"]
    file.create_dataset("node/nodes/05_linear/weight", (10**5, 10**5), "f8", compression="gzip")


def within_itself(file: h5py.File) -> None:
    file["node/nodes/again"] = file["node"]


def many(file: h5py.File) -> None:
    for level in range(12):  # 12 groups, each listed 8 times in the one above: 8**12 paths
        group = file.create_group(f"level{level}")
        for copy in range(8 if level else 0):
            group[f"copy{copy}"] = file[f"level{level - 1}"]
    file["node/metadata"] = file["level11"]


def deep(file: h5py.File) -> None:
    file.create_group("node/" + "a/" * 2000)


def outside(file: h5py.File) -> None:
    del file["node/nodes/05_linear/weight"]
    file["node/nodes/05_linear/weight"] = h5py.ExternalLink("/etc/passwd", "/weight")


def elsewhere(file: h5py.File) -> None:
    del file["node/nodes/05_linear/bias"]
    file.create_dataset("node/nodes/05_linear/bias", (3,), "f8", external=[("/etc/passwd", 0, 24)])


def virtual(file: h5py.File) -> None:
    del file["node/nodes/05_linear/bias"]
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "bias", (3,))
    file.create_virtual_dataset("node/nodes/05_linear/bias", layout)


def linear(name: str) -> str:
    return f"model.nir: node/nodes/05_linear/{name}:"


HOSTILE: list[tuple[Change, str]] = [
    (put("nodes/01_conv2d/type", "Conv3d"), "model.nir: 01_conv2d: is of unknown type 'Conv3d'; did you mean 'Conv2d'? known: Affine, AvgPool2d, Conv1d, Conv2d, CubaLI, CubaLIF, Delay, Flatten, I, IF, Input, LI, LIF, Linear, NIRGraph, Output, Scale, SumPool2d, Threshold"),
    (put("nodes/01_conv2d/type", 3), f"model.nir: 01_conv2d: has no type; {AGAIN}"),
    (drop("nodes/01_conv2d/type"), f"model.nir: 01_conv2d: has no type; {AGAIN}"),
    (put("nodes/01_conv2d", 3), f"model.nir: 01_conv2d: has no type; {AGAIN}"),
    (drop("nodes/01_conv2d/bias"), f"model.nir: 01_conv2d: lacks 'bias'; {AGAIN}"),
    (drop("nodes/00_input/shape"), f"model.nir: 00_input: lacks 'shape'; {AGAIN}"),
    (drop("edges"), f"model.nir: lacks 'edges'; {AGAIN}"),
    (drop("nodes"), f"model.nir: lacks 'nodes'; {AGAIN}"),
    (drop("type"), "model.nir: holds no NIR graph; needed: a group 'node' of type NIRGraph"),
    (node("05_linear", gain=2.0), "model.nir: 05_linear: has the unknown key 'gain'; known: bias, metadata, weight"),
    (put("nodes/05_linear/weight", np.full((3, 8), np.nan)), "model.nir: 05_linear: weight holds NaN or infinite values; train or export the model again"),
    (put("nodes/05_linear/weight", np.ones(8)), "model.nir: 05_linear: weight has shape (8,); needed: 2 axes"),
    (put("nodes/05_linear/weight", np.ones((0, 8))), "model.nir: 05_linear: weight has shape (0, 8); a weight cannot be empty"),
    (put("nodes/05_linear/bias", np.ones(8)), "model.nir: 05_linear: bias has shape (8,), weight (3, 8); needed: bias (3,)"),
    (put("nodes/01_conv2d/stride", NONE), f"model.nir: 01_conv2d: is not a Conv2d (cannot convert float infinity to integer); {AGAIN}"),
    (put("nodes/01_conv2d/padding", "full"), f"model.nir: 01_conv2d: is not a Conv2d (padding must be 'same', 'valid', or int, not full); {AGAIN}"),
    (put("nodes/05_linear/bias", "zero"), "model.nir: 05_linear: bias holds no real numbers"),
    (put("nodes/05_linear/bias", np.ones(3, complex)), f"{linear('bias')} holds complex128; allowed: numbers and text"),
    (put("nodes/00_input/shape", np.array([0, 4, 4])), "model.nir: 00_input: shape is [0, 4, 4]; needed: a shape, positive integers"),
    (put("nodes/00_input/shape", np.array([2**31, 2**31])), "model.nir: 00_input: puts out 4611686018427387904 values; a layer may put out 268435456"),
    (put("nodes/02_mtlif/metadata/op_version", 7), "model.nir: 02_mtlif: op_version is 7; this snncompile reads version 1, 2 or 3"),
    (put("nodes/02_mtlif/metadata/thresholds", np.array([1.0, 1.0])), "model.nir: 02_mtlif: thresholds are [1.0, 1.0], they must be positive and increasing"),
    (put("nodes/02_mtlif/nodes/01_leaky_integrator/tau", np.full((2, 4, 4), 9.0)), "model.nir: 02_mtlif: its nodes are not those of its tag 'snncompile.multi_threshold_lif'; a tool changed one of them: export the model again"),
    (put("nodes/02_mtlif/nodes/01_leaky_integrator/tau", np.ones(3)), f"model.nir: 02_mtlif/01_leaky_integrator: is not a LI (All parameters must have the same shape); {AGAIN}"),
    (edges(("05_linear", "07_gone")), f"model.nir: an edge 05_linear -> 07_gone names '07_gone', which is no node; {AGAIN}"),
    (edges(("00_input", "01_conv2d")), f"model.nir: the edge 00_input -> 01_conv2d is written twice; {AGAIN}"),
    (edges(("05_linear", "01_conv2d")), "model.nir: 01_conv2d: is in a cycle: 01_conv2d -> 02_mtlif -> 03_avg_pool -> 04_flatten -> 05_linear -> 01_conv2d; a population may read itself, through synapses; feedback over several populations is not supported"),
    (edges(("01_conv2d", "01_conv2d")), "model.nir: 01_conv2d: is in a cycle: 01_conv2d -> 01_conv2d; a population may read itself, through synapses; feedback over several populations is not supported"),
    (put("edges", np.ones((2, 2))), f"model.nir: edges are not pairs of node names; {AGAIN}"),
    (put("edges", ["a", "b"]), f"model.nir: edges are not pairs of node names; {AGAIN}"),
    (lambda file: file["version"].write_direct(np.array("2.0", h5py.string_dtype())), "model.nir: is of NIR version 2.0; supported: 0.x and 1.x"),
    (bomb, f"{linear('weight')} unpacks to more than 260 MiB; too much for a file of its size"),
    (within_itself, "is another entry of the file once more; export the model again"),
    (many, "model.nir: level1/copy0: is another entry of the file once more; export the model again"),
    (deep, "groups are nested deeper than 16; export the model again"),
    (outside, f"{linear('weight')} is a link to elsewhere; a model is one file"),
    (elsewhere, f"{linear('bias')} keeps its data in another file; a model is one file"),
    (virtual, f"{linear('bias')} keeps its data in another file; a model is one file"),
    (lambda file: file.create_group("node/nodes/\x1b[2J"), r"model.nir: node/nodes: has an entry with the name \x1b[2J; names are printable text"),
]  # fmt: skip


def conv2d(**values: object) -> Change:
    def change(file: h5py.File) -> None:
        for key, value in values.items():
            put(f"nodes/01_conv2d/{key}", value)(file)

    return change


def a_delay(delay: object) -> Change:
    def change(file: h5py.File) -> None:
        del file["node/nodes/04_flatten"]
        group = file.create_group("node/nodes/04_flatten")
        group["type"], group["delay"] = "Delay", delay

    return change


def towers(file: h5py.File) -> None:
    """Twelve layers of two convolutions, each of which reads both of the layer before: 2**12 ways."""
    pairs = [("00_input", f"0_{side}") for side in "ab"]
    pairs += [(f"{i}_{a}", f"{i + 1}_{b}") for i in range(12) for a in "ab" for b in "ab"]
    pairs += [(f"12_{side}", "02_mtlif") for side in "ab"]
    for source, target in pairs[:-2]:
        if target not in file["node/nodes"]:
            file.copy("node/nodes/01_conv2d", f"node/nodes/{target}")
            channels = 1 if source == "00_input" else 2
            put(f"nodes/{target}/weight", np.ones((2, channels, 3, 3)))(file)
    file["node/nodes"].__delitem__("01_conv2d")
    put("edges", [*graph().edges[2:], *pairs])(file)


HUGE = np.full(2, 10**6)

COSTLY: list[tuple[Change, str]] = [
    (put("nodes/00_input/metadata/timesteps", 2**31 - 1), "00_input: timesteps is 2147483647; needed: an integer from 1 to 1000000"),
    (conv2d(padding=HUGE, stride=HUGE, input_shape=np.array([4, 4])), "01_conv2d: puts out 4000016000016 values; a layer may put out 268435456"),
    (conv2d(padding=HUGE, dilation=HUGE), "01_conv2d: puts out 4000016000016 values; a layer may put out 268435456"),
    (a_delay(np.full((2, 2, 2), 1e6)), "04_flatten: delays by 1e+10 steps of 0.0001 s; at most 1000000"),
    (a_delay(np.full((2, 2, 2), -1e-4)), "04_flatten: delays of -0.0001 to -0.0001 s are no whole steps of 0.0001 s; say the time step: --dt SECONDS"),
    (towers, "adds up ways that need more than 5000 layers; add neurons"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), COSTLY, ids=[text[:30] for _, text in COSTLY])
def test_a_few_bytes_cost_little(change: Change, message: str) -> None:
    FILE.write_bytes(write_nir(graph()))
    with h5py.File(FILE, "r+") as file:
        change(file)
    read = load_model(FILE)
    tracemalloc.start()
    with pytest.raises(CompileError) as caught:
        to_network(read)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value).endswith(message)
    assert peak < 256 * 2**20


def refused(path: Path = FILE) -> str:
    with pytest.raises(CompileError) as caught:
        load_model(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize(("change", "message"), HOSTILE, ids=[text.rpartition(": ")[2][:40] for _, text in HOSTILE])
def test_names_file_and_node(change: Change, message: str) -> None:
    FILE.write_bytes(write_nir(graph()))
    with h5py.File(FILE, "r+") as file:
        change(file)
    tracemalloc.start()
    found = refused()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.endswith(message)
    assert found.startswith("model.nir: ")
    assert peak < 256 * 2**20


def test_files_that_are_none() -> None:
    assert refused() == "model.nir: no such file"
    FILE.mkdir()
    assert refused() == "model.nir: is a directory, not a file"
    FILE.rmdir()
    FILE.write_bytes(b"")
    assert refused() == f"model.nir: is empty; {AGAIN}"
    whole = write_nir(graph())
    for content in (b"garbage" * 1000, whole[:100], whole[: len(whole) // 2], whole[:-1]):
        FILE.write_bytes(content)
        assert refused().startswith("model.nir: cannot be read as HDF5, the container of NIR (")
    file = io.BytesIO()
    with h5py.File(file, "w") as other:
        other["weights"] = np.ones(3)
    FILE.write_bytes(file.getvalue())
    assert refused() == "model.nir: holds no NIR graph; needed: a group 'node' of type NIRGraph"


def test_every_flipped_byte_is_an_error_of_one_line_or_harmless() -> None:
    whole = write_nir(graph())
    for position in range(0, len(whole), 6007):
        FILE.write_bytes(whole[:position] + bytes([whole[position] ^ 0x5A]) + whole[position + 1 :])
        with suppress(CompileError):  # any other exception fails the test
            read_nir(FILE)


def test_an_input_shape_must_be_that_of_the_file() -> None:
    FILE.write_bytes(write_nir(graph()))
    load_model(FILE, (1, 4, 4))
    with pytest.raises(CompileError) as caught:
        load_model(FILE, (1, 28, 28))
    assert str(caught.value) == "model.nir: 00_input: takes (1, 4, 4), the input shape asked for is (1, 28, 28)"


def test_the_hdf5_library_may_hang_or_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    FILE.write_bytes(write_nir(graph()))
    child = Path("child.py").absolute()
    monkeypatch.setattr(hdf5, "CHILD", child)
    child.write_text("import os; os.abort()")
    failed = "model.nir: cannot be read as HDF5, the container of NIR (the HDF5 library"
    assert refused() == f"{failed} failed on it: exit code -6); {AGAIN}"
    child.write_text("raise MemoryError('out of memory')")
    assert refused() == f"{failed} failed on it: MemoryError: out of memory); {AGAIN}"
    child.write_text("import time; time.sleep(1000)")
    monkeypatch.setattr(hdf5, "PATIENCE_S", 0.02)
    assert refused() == f"{failed} did not end on it in 1 s); {AGAIN}"


def test_what_counts_is_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not make a sound file look damaged."""
    FILE.write_bytes(write_nir(graph()))
    child, real = Path("child.py").absolute(), hdf5.CHILD.read_text().partition("if __name__")[0]
    monkeypatch.setattr(hdf5, "CHILD", child)
    monkeypatch.setattr(hdf5, "PATIENCE_S", 1)
    child.write_text(f"{real}\nimport time\ntime.sleep(2.5)\nmain(sys.argv[1], int(sys.argv[2]))")
    assert read_nir(FILE).nodes
    child.write_text(f"{real}\nlimit(WORKING_MEMORY, int(sys.argv[2]))\nwhile True: pass")
    assert refused().endswith(f"(the HDF5 library did not end on it in 2 s); {AGAIN}")
