# ruff: noqa: E501 - golden error texts are one line each
"""Checkpoints: what is read, and that nothing in a hostile one is executed, allocated or shown as a traceback."""

import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from snncompile.errors import CompileError
from snncompile.frontend.torch.checkpoint import load_module
from snncompile.nn import DirectCoding, MeanReadout, MultiThresholdLIF, PerStep, TdBatchNorm1d

CANARY = "canary"
MODEL = Path("model.pt")


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def network() -> nn.Sequential:
    return nn.Sequential(
        DirectCoding(2, (6,)), PerStep(nn.Linear(6, 4)), TdBatchNorm1d(4), MultiThresholdLIF(), MeanReadout()
    )


def refused(path: Path = MODEL) -> str:
    with pytest.raises(CompileError) as caught:
        load_module(path)
    assert not Path(CANARY).exists()
    assert str(caught.value).isprintable()
    return str(caught.value)


def archive(data: bytes, extra: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> None:
    """A zip archive as torch.save lays it out, with the pickle `data`."""
    with zipfile.ZipFile(MODEL, "w", compression) as file:
        for name, content in {"data.pkl": data, "version": b"3\n", "byteorder": b"little", **(extra or {})}.items():
            file.writestr(f"model/{name}", content)


def rewritten(change: Callable[[bytes], bytes]) -> None:
    """The checkpoint at MODEL with its pickle changed."""
    with zipfile.ZipFile(MODEL) as file:
        content = {entry.filename: file.read(entry) for entry in file.infolist()}
    with zipfile.ZipFile(MODEL, "w") as file:
        for name, old in content.items():
            file.writestr(name, change(old) if name.endswith("data.pkl") else old)


def called(module: str, name: str, *argument: str) -> bytes:
    """A protocol-2 pickle that calls module.name with the opcodes in `argument`."""
    return b"\x80\x02" + f"c{module}\n{name}\n(".encode() + "".join(argument).encode("latin-1") + b"tR."


def text(value: str) -> str:
    return "X" + struct.pack("<I", len(value)).decode("latin-1") + value


def integer(value: int) -> str:
    return "J" + struct.pack("<i", value).decode("latin-1")


@pytest.mark.parametrize("precision", ["half", "bfloat16", "float", "double"])
def test_gives_the_saved_layers_and_tensors(precision: str) -> None:
    saved = getattr(network(), precision)()
    torch.save(saved, MODEL)
    loaded = load_module(MODEL)
    assert [type(layer) for layer in loaded.modules()] == [type(layer) for layer in saved.modules()]
    for (name, a), (other, b) in zip(saved.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert name == other
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    assert vars(loaded[3])["threshold"] == 0.5


class RunsCommand:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {CANARY}",)


class Evaluates:
    def __reduce__(self) -> tuple[object, ...]:
        return eval, (f"open({CANARY!r}, 'w')",)


class GetsAttribute:
    def __reduce__(self) -> tuple[object, ...]:
        return getattr, (nn.Linear, "__init__")


NOT_LAYERS = (
    "only layers of torch.nn, snncompile.nn, spikingjelly and sinabs are loaded; of your own class, save the state_dict "
    "and say what builds it: --model FILE.py:FUNCTION; nothing was executed"
)


@pytest.mark.parametrize(
    ("gadget", "named"),
    [(RunsCommand(), "posix.system"), (Evaluates(), "__builtin__.eval"), (GetsAttribute(), "__builtin__.getattr")],
)
def test_names_what_a_hostile_pickle_would_call(gadget: object, named: str) -> None:
    module = network()
    module.extra = gadget  # type: ignore[assignment]
    torch.save(module, MODEL)
    message = refused()
    assert message.startswith("model.pt: names ")
    assert named in message
    assert message.endswith(NOT_LAYERS)


def test_refuses_newer_pickle_protocols() -> None:
    torch.save(RunsCommand(), MODEL, pickle_protocol=4)
    expected = "model.pt: cannot be read as a checkpoint (Unsupported operand 149); save the whole module: torch.save(model, path)"
    assert refused() == expected


def test_lists_classes_of_the_user() -> None:
    module = network()
    module.append(Foreign())
    torch.save(module, MODEL)
    assert refused().startswith(f"model.pt: names {Foreign.__module__}.Foreign; only layers")


class Foreign(nn.Module):
    pass


@pytest.mark.parametrize(
    "pickled",
    [
        called("torch.nn.modules.linear", "math.floor", integer(1)),
        called("torch.nn.modules.module", "Tensor", integer(1)),
        called("snncompile.nn.mtlif", "_check", integer(1)),
        called("snncompile.nn..os", "system", text(f"touch {CANARY}")),
        called("torch.nn.modules.absent", "Linear"),
        called("__builtin__", "bytearray", integer(2**31 - 1)),
        called("torch", "Tensor", integer(2**31 - 1)),
        called("torch", "FloatTensor", integer(2**31 - 1)),
        called("os\x1b[31m", "system"),
    ],
)
def test_only_layers_pass_the_list(pickled: bytes) -> None:
    archive(pickled)
    assert refused().endswith(NOT_LAYERS)


@pytest.mark.parametrize(
    "pickled",
    [
        called("torch.nn.modules.linear", "Linear", integer(10**9), integer(10**9)),
        called("torch.nn.modules.linear", "Linear"),
        b"\x80\x02ctorch.nn.modules.linear\nLinear\n(" + (integer(10**9) * 2).encode("latin-1") + b"t\x81.",
        b"\x80\x02ctorch.nn.modules.linear\nLinear\n)\x81" + integer(1).encode("latin-1") + b"b.",
        b"\x80\x02" + b"(" * 100_000,
        b"\x80\x02.",
        b"",
        b"\xff" * 64,
    ],
)
def test_damaged_pickles_and_constructor_calls_cost_nothing(pickled: bytes) -> None:
    archive(pickled)
    tracemalloc.start()
    message = None
    try:
        module = load_module(MODEL)
    except CompileError as error:
        message = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20
    # calling a layer without arguments makes an empty shell, which the trace refuses
    assert message or not module.__dict__.get("_parameters")
    assert message is None or message.startswith("model.pt: ")


def test_tensors_cannot_reach_beyond_their_record() -> None:
    torch.save(nn.Sequential(nn.Linear(16, 3)), MODEL)
    rewritten(lambda data: data.replace(b"K\x30t", b"J\x00\x00\x00\x10t"))
    assert "does not match expected size" in refused()


def test_refuses_what_is_no_whole_module() -> None:
    tensors = "model.pt: holds only tensors (a state_dict); save the whole module: torch.save(model, path); or say what builds it: --model FILE.py:FUNCTION"
    torch.save(network().state_dict(), MODEL)
    assert refused() == tensors
    torch.save({"model_state_dict": network().state_dict(), "epoch": 3}, MODEL)
    assert refused() == tensors
    torch.save({"model": network()}, MODEL)
    assert refused() == "model.pt: holds a dict, not a module; save the whole module: torch.save(model, path)"


def test_refuses_files_that_are_none() -> None:
    assert refused() == "model.pt: no such file"
    Path("folder.pt").mkdir()
    assert refused(Path("folder.pt")) == "folder.pt: is a directory, not a file"


NOT_ZIP = "model.pt: is not a checkpoint of torch 1.6 or newer (a zip archive), or is cut off; save the whole module: torch.save(model, path)"


def test_refuses_damaged_and_legacy_files() -> None:
    torch.save(network(), MODEL)
    whole = MODEL.read_bytes()
    for content in (b"", b"garbage" * 100, whole[: len(whole) // 2], whole[:-30], pickle.dumps(RunsCommand())):
        MODEL.write_bytes(content)
        assert refused() == NOT_ZIP
    torch.save(network(), MODEL, _use_new_zipfile_serialization=False)
    assert refused() == NOT_ZIP
    MODEL.write_bytes(whole[:1000] + bytes(400) + whole[1400:])
    assert refused() == "model.pt: is damaged: model/data.pkl has another checksum; copy or save it again"


def test_a_changed_weight_is_noticed() -> None:
    torch.save(network(), MODEL)
    with zipfile.ZipFile(MODEL) as file:
        weight = file.read("model/data/0")
    MODEL.write_bytes(MODEL.read_bytes().replace(weight, weight[:-1] + bytes([weight[-1] ^ 1])))
    assert refused() == "model.pt: is damaged: model/data/0 has another checksum; copy or save it again"


def test_every_flipped_byte_is_an_error_of_one_line_or_harmless() -> None:
    torch.save(network(), MODEL)
    whole = MODEL.read_bytes()
    for position in range(0, len(whole), 97):
        MODEL.write_bytes(whole[:position] + bytes([whole[position] ^ 0x5A]) + whole[position + 1 :])
        with suppress(CompileError):  # any other exception fails the test
            load_module(MODEL)


def test_refuses_bombs_before_reading_them() -> None:
    torch.save(network(), MODEL)
    with zipfile.ZipFile(MODEL) as file:
        data = file.read("model/data.pkl")
    archive(data, {"data/0": bytes(2**26)}, zipfile.ZIP_DEFLATED)
    assert refused().startswith("model.pt: unpacks to ")
    assert refused().endswith(" times its size; at most 100 times is read")
    archive(data, {"data/0": bytes(64)})
    content = bytearray(MODEL.read_bytes())
    entry = content.rindex(b"model/data/0") - 46
    content[entry + 20 : entry + 28] = struct.pack("<II", 64, 2**32 - 2)
    MODEL.write_bytes(bytes(content))
    assert refused() == "model.pt: unpacks to 4.0 GiB; at most 4 GiB are read"


def test_refuses_other_zip_archives() -> None:
    with zipfile.ZipFile(MODEL, "w") as file:
        file.writestr("word/document.xml", "text")
    expected = "model.pt: is a zip archive without one data.pkl of at most 16777216 bytes; save the whole module: torch.save(model, path)"
    assert refused() == expected
    archive(b"\x80\x02N.", {"constants.pkl": b"."})
    assert refused() == "model.pt: is a TorchScript archive; save the module itself: torch.save(model, path)"
    with zipfile.ZipFile(MODEL, "w") as file:
        file.writestr("model/data.pkl", b"\x80\x02N.")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("model/data.pkl", called("os", "system", text(f"touch {CANARY}")))
    assert refused().startswith("model.pt: is a zip archive with two entries of one name")
