# ruff: noqa: E501 - golden error texts are one line each
"""Files of other packages: what is loaded without them, what `--model FILE.py:FUNCTION` runs, and what it refuses."""

import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import stand_ins
import torch
from framework_golden import FOLDER, MODELS, read
from test_frontend_checkpoint import archive, called
from test_nir_round_trip import assert_equal
from torch import nn

from snncompile.errors import CompileError
from snncompile.frontend import load_model
from snncompile.frontend.nir.file import read_nir
from snncompile.frontend.nir.to_network import to_network
from snncompile.frontend.nir.write import write_nir
from snncompile.frontend.reading import Reading
from snncompile.frontend.torch.checkpoint import load_module, load_weights
from snncompile.frontend.torch.model import built_module
from snncompile.frontend.torch.trace import trace
from snncompile.network import Linear

FACTORY = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 2)
        self.b = nn.Linear(2, 2)

def build():
    return Net()
"""


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(FACTORY)


def weights(prefix: str = "", **more: torch.Tensor) -> dict[str, torch.Tensor]:
    shapes = {"a.weight": (2, 3), "a.bias": (2,), "b.weight": (2, 2), "b.bias": (2,)}
    made = {f"{prefix}{name}": torch.rand(shape, dtype=torch.float64) for name, shape in shapes.items()}
    return {**made, **more}


def refused(factory: str = "net.py:build", path: str = "model.pt") -> str:
    with pytest.raises(CompileError) as caught:
        built_module(factory, Path(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["spikingjelly14_conv", "spikingjelly2_conv", "sinabs_mlp"])
def test_nothing_of_the_package_is_imported(name: str) -> None:
    loaded = load_module(FOLDER / f"{name}.pt")
    package = name.partition("_")[0].rstrip("0123456789")
    assert any(type(layer).__module__.startswith(package) for layer in loaded.modules())
    assert not any(module.partition(".")[0] == package for module in sys.modules)


@pytest.mark.parametrize("name", ["spikingjelly14_recurrent", "spikingjelly2_conv", "sinabs_recurrent", "sinabs_mlp"])
def test_nir_files_of_them_give_the_same_network(name: str) -> None:
    network, golden = read(name)
    frames = bool(golden["frames"])
    reading = Reading(timesteps=int(golden["steps"]), coding="events" if frames else "direct")
    graph = load_model(FOLDER / f"{name}.pt", golden["x"].shape[2 if frames else 1 :], reading)
    Path("model.nir").write_bytes(write_nir(graph))
    again = read_nir(Path("model.nir"))
    assert again.metadata["contract"] == graph.metadata["contract"]
    assert_equal(to_network(again), network)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("spikingjelly.activation_based.neuron", "system"),
        ("spikingjelly.activation_based.neuron.os", "system"),
        ("spikingjelly.logger", "LIFNode"),
        ("sinabs.layers.lif", "torch.load"),
        ("sinabs.conversion", "replace_module"),
        ("snntorch._neurons.leaky", "Leaky.__init__"),
        ("norse.torch.module.sequential", "SequentialState"),
    ],
)
def test_only_layers_of_the_packages_pass_the_list(module: str, name: str) -> None:
    archive(called(module, name))
    with pytest.raises(CompileError, match="nothing was executed"):
        load_module(Path("model.pt"))


def test_a_stand_in_is_not_called_with_arguments() -> None:
    archive(called("spikingjelly.activation_based.surrogate", "ATan", "K\x05"))
    with pytest.raises(CompileError, match="cannot be read as a checkpoint"):
        load_module(Path("model.pt"))


WRAPPED = {
    "alone": weights,
    "an OrderedDict": lambda prefix: OrderedDict(weights(prefix)),
    "Lightning": lambda prefix: {"state_dict": weights(prefix), "epoch": 3, "hyper_parameters": {"lr": 0.1}},
    "model_state_dict": lambda prefix: {"model_state_dict": weights(prefix), "optimizer": {"state": {}}},
    "net": lambda prefix: {"net": weights(prefix), "max_test_acc": 0.5},
}


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "net.", "model.net.", "_orig_mod."])
@pytest.mark.parametrize("kind", WRAPPED)
def test_weights_are_found_in_checkpoints(kind: str, prefix: str) -> None:
    saved = WRAPPED[kind](prefix)
    torch.save(saved, "model.pt")
    module = built_module("net.py:build", Path("model.pt"))
    inner = next((v for v in saved.values() if isinstance(v, dict) and f"{prefix}a.weight" in v), saved)
    assert module.a.weight.dtype == torch.float64
    assert torch.equal(module.a.weight, inner[f"{prefix}a.weight"])


def test_settings_of_lightning_are_left_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    package = "lightning.fabric.utilities.data"
    names = package.split(".")
    for depth in range(1, len(names) + 1):
        monkeypatch.setitem(sys.modules, ".".join(names[:depth]), type(sys)(".".join(names[:depth])))
    attributes = type("AttributeDict", (dict,), {"__module__": package})
    sys.modules[package].AttributeDict = attributes  # type: ignore[attr-defined]
    torch.save({"state_dict": weights(), "hyper_parameters": attributes(lr=0.1)}, "model.pt")
    assert load_weights(Path("model.pt")).keys() == weights().keys()


def test_weights_must_all_match() -> None:
    torch.save(weights("encoder."), "model.pt")
    message = "model.pt: does not fit net.py:build: it lacks a.bias, a.weight, b.bias, b.weight and has encoder.a.bias, encoder.a.weight, encoder.b.bias, encoder.b.weight; all must match"
    assert refused() == message
    torch.save(weights(extra=torch.zeros(1)), "model.pt")
    assert refused() == "model.pt: does not fit net.py:build: it has extra; all must match"
    torch.save({**weights(), "a.weight": torch.zeros(2, 4)}, "model.pt")
    assert refused() == "model.pt: a.weight has shape (2, 4), net.py:build makes (2, 3)"


def test_what_is_no_state_dict() -> None:
    torch.save({"epoch": 3}, "model.pt")
    assert refused() == "model.pt: holds no state_dict; save model.state_dict(), or it under 'state_dict'"
    torch.save(nn.Sequential(nn.Linear(2, 2)), "model.pt")
    assert "names torch.nn.modules.container.Sequential, torch.nn.modules.linear.Linear" in refused()
    assert refused().endswith("weights alone are loaded with --model: leave --model out")
    archive(called("posix", "system", "X\x04\x00\x00\x00true"))
    assert "nothing was executed" in refused()


@pytest.mark.parametrize(
    ("source", "factory", "message"),
    [
        (FACTORY, "net.py", "--model: is net.py; needed: --model FILE.py:FUNCTION, a function without arguments that gives a torch module"),
        (FACTORY, "absent.py:build", "--model: absent.py is no file; needed: --model FILE.py:FUNCTION, a function without arguments that gives a torch module"),
        (FACTORY, "net.py:built", "--model: net.py has no function built; did you mean 'build'? known: Net, build"),
        ("import absent_package\n", "net.py:build", "net.py:1: No module named 'absent_package'; install it: uv pip install absent_package"),
        ("\n\ndef build(:\n", "net.py:build", "net.py:3: fails with SyntaxError: invalid syntax (net.py, line 3)"),
        ("def build():\n    x = 1\n    return x / 0\n", "net.py:build", "net.py:3: fails with ZeroDivisionError: division by zero"),
        ("def build():\n    raise SystemExit(3)\n", "net.py:build", "net.py:2: fails with SystemExit: 3"),
        ("def build():\n    return 3\n", "net.py:build", "--model: build gives a int; needed: --model FILE.py:FUNCTION, a function without arguments that gives a torch module"),
    ],
)  # fmt: skip
def test_a_factory_that_does_not_build(source: str, factory: str, message: str) -> None:
    Path("net.py").write_text(source)
    torch.save(weights(), "model.pt")
    assert refused(factory) == message


def test_a_factory_may_import_its_neighbours() -> None:
    Path("parts_of_net.py").write_text(FACTORY)
    Path("net.py").write_text("from parts_of_net import Net\n\ndef build():\n    return Net()\n")
    torch.save(weights(), "model.pt")
    assert built_module("net.py:build", Path("model.pt")).a.weight.shape == (2, 3)


def test_a_factory_and_weights_through_load_model(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins.install(monkeypatch, "snntorch")
    factory = f"{MODELS / 'snntorch_models.py'}:mlp"
    graph = load_model(FOLDER / "snntorch_mlp.pt", (20,), Reading(factory=factory))
    network = to_network(graph)
    assert network.timesteps == 8  # its own loop says so
    first = next(network.of_type(Linear))
    saved = torch.load(FOLDER / "snntorch_mlp.pt", weights_only=True)["fc1.weight"]
    assert np.array_equal(first.weight, saved.numpy())


def test_a_module_of_another_package_needs_the_steps_and_the_shape() -> None:
    with pytest.raises(CompileError) as caught:
        load_model(FOLDER / "spikingjelly14_mlp.pt")
    assert str(caught.value) == "model: says no input shape; say it: --input-shape 1,28,28"
    with pytest.raises(CompileError) as caught:
        load_model(FOLDER / "spikingjelly14_mlp.pt", (20,))
    assert str(caught.value) == "model: needs the number of time steps; say how many a sample takes: --timesteps T"


class Odd:
    """Of no type a layer has."""


JUNK = (
    None,
    "x",
    -1,
    0,
    10**9,
    2.5,
    float("nan"),
    [],
    {},
    (1, 2, 3),
    torch.zeros(2),
    torch.zeros(3, dtype=torch.int64),
)
ODD_IN = {
    "spikingjelly14_conv": (2, 8, 8),
    "spikingjelly2_recurrent": (20,),
    "sinabs_conv": (2, 8, 8),
    "sinabs_mlp": (20,),
}


@pytest.mark.parametrize("name", ODD_IN)
def test_odd_values_in_layers_are_errors_of_one_line_or_harmless(name: str) -> None:
    rng = np.random.default_rng(0)
    module = load_module(FOLDER / f"{name}.pt")
    places = [
        (group, key)
        for layer in module.modules()
        for group in (vars(layer), *(vars(layer)[kind] for kind in ("_parameters", "_buffers", "_modules")))
        for key in group
    ]
    told = []
    for _ in range(120):
        group, key = places[rng.integers(len(places))]
        old, group[key] = group[key], (*JUNK, Odd(), Odd)[rng.integers(len(JUNK) + 2)]
        try:
            to_network(trace(module, ODD_IN[name], Reading(timesteps=2)))
        except CompileError as error:  # any other exception fails the test
            told.append(str(error))
        finally:
            group[key] = old
    assert told
    assert not any("\n" in message for message in told)
