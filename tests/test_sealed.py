"""Sealed directories: identity, equal bytes, refusal of what was changed, nothing half-written."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import program_of, tree
from random_networks import conv_network, images, random_network

from snncompile import reference
from snncompile.backend import load_backend
from snncompile.errors import CompileError
from snncompile.program import from_plain, narrowed, to_plain
from snncompile.sealed import check_emitted, json_bytes, npz_bytes, read_program, write_program


@given(st.integers(0, 10_000))
@settings(max_examples=15)
def test_plain_form_is_the_identity(seed: int) -> None:
    program = program_of(random_network(seed))
    description, arrays = to_plain(program)
    again = from_plain(json.loads(json_bytes(description)), arrays)
    assert json_bytes(to_plain(again)[0]) == json_bytes(description)
    assert npz_bytes(to_plain(again)[1]) == npz_bytes(arrays)
    x = images(program.network, 2, seed)
    np.testing.assert_array_equal(
        reference.run_integer(again.network, x).output, reference.run_integer(program.network, x).output
    )


def test_written_twice_gives_the_same_bytes_and_loads(tmp_path: Path) -> None:
    program = program_of(conv_network(1))
    for name in ("a", "b"):
        write_program(tmp_path / name, program, {"lava/run.py": b"print()\n", "report.json": b"{}\n"})
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert sorted(tree(tmp_path / "a")) == ["arrays.npz", "lava/run.py", "program.json", "report.json"]
    assert json_bytes(to_plain(read_program(tmp_path / "a"))[0]) == json_bytes(to_plain(program)[0])
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_replaces_an_earlier_program_and_nothing_else(tmp_path: Path) -> None:
    program = program_of(conv_network(1))
    write_program(tmp_path / "a", program, {"old.txt": b"x"})
    write_program(tmp_path / "a", program, {})
    assert sorted(tree(tmp_path / "a")) == ["arrays.npz", "program.json"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("precious")
    with pytest.raises(CompileError, match="is not empty and holds no program; choose another folder with -o"):
        write_program(other, program, {})
    assert tree(other) == {"thesis.tex": b"precious"}


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("arrays.npz", lambda data: data[:-1] + b"!", r"arrays.npz: was changed after it was sealed"),
        (
            "program.json",
            lambda data: data.replace(b'"timesteps": ', b'"timesteps": 1'),
            "program.json: was changed after it was sealed",
        ),
        (
            "program.json",
            lambda data: data.replace(b'"format_version": 3', b'"format_version": 99'),
            "has format version 99, this .* reads 3",
        ),
        ("program.json", lambda data: data[:100], "program.json: is damaged"),
        ("program.json", lambda data: b"[]", "program.json: is damaged"),
        ("report.json", None, "report.json: is missing from the sealed folder"),
        ("program.json", None, "holds no program.json; give the folder that"),
    ],
)
def test_refuses_what_does_not_match(tmp_path: Path, file: str, change, message: str) -> None:
    write_program(tmp_path / "a", program_of(conv_network(1)), {"report.json": b"{}\n"})
    path = tmp_path / "a" / file
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CompileError, match=message):
        read_program(tmp_path / "a")


@pytest.mark.parametrize("section", ["chip", "network", "placement"])
def test_a_program_of_another_version_is_refused(tmp_path: Path, section: str) -> None:
    """Same format version and an intact seal, but a key this version needs is not there (as an older one wrote it)."""
    write_program(tmp_path / "a", program_of(conv_network(1)), {})
    path = tmp_path / "a" / "program.json"
    sealed = json.loads(path.read_text())
    sealed.pop("seal")
    sealed[section].pop(next(iter(sealed[section])))
    path.write_bytes(json_bytes({**sealed, "seal": hashlib.sha256(json_bytes(sealed)).hexdigest()}))
    with pytest.raises(CompileError, match=r"was written by another snncompile .* in another form"):
        read_program(tmp_path / "a")


def test_foreign_code_under_an_intact_seal_is_not_run(tmp_path: Path) -> None:
    """Whoever writes the folder can also write its hashes: what Lava would execute is compared with what we emit."""
    program, backend = program_of(conv_network(1)), load_backend("lava")
    files = dict(backend.emit(program))
    write_program(tmp_path / "ours", program, files)
    check_emitted(tmp_path / "ours", read_program(tmp_path / "ours"), backend)
    write_program(tmp_path / "theirs", program, {**files, "lava/run.py": b"import os; os.system('true')\n"})
    with pytest.raises(CompileError, match=r"run\.py: is not what this snncompile emits for the program"):
        check_emitted(tmp_path / "theirs", read_program(tmp_path / "theirs"), backend)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CompileError, match="cannot be written"):
        write_program(tmp_path / "file" / "a", program_of(conv_network(1)), {})
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_narrowed_keeps_the_integers() -> None:
    for values, kind in (
        ([-128, 127], np.int8),
        ([-129], np.int16),
        ([1 << 20], np.int32),
        ([1 << 40], np.int64),
        ([], np.int8),
    ):
        array = np.array(values, np.int64)
        assert narrowed(array).dtype == kind
        assert narrowed(array).tolist() == values


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 3)), "x: samples of shape 3, the network takes "),
        (np.full((1, 9), 256.0), "values from 256 to 256, the network takes 0 to 255; scale the data as in training"),
        (np.full((1, 9), -1.0), "values from -1 to -1"),
    ],
)
def test_data_that_does_not_fit_is_refused(x: np.ndarray, message: str) -> None:
    program = program_of(conv_network(1))
    shape = program.network.input_shape
    data = np.broadcast_to(x.ravel()[0], (1, *shape)) if x.shape[1] == 9 else x
    with pytest.raises(CompileError, match=message):
        program.encode(data)


@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.dictionaries(st.integers(), inner),
        ),
    )
)
def test_json_says_what_the_json_module_says(value: dict[str, object]) -> None:
    assert json.loads(json_bytes(value)) == json.loads(json.dumps(value))
