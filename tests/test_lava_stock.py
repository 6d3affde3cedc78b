"""The stock style: Lava's own Processes where they are exact, and the reason wherever they are not."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from lava_networks import (
    program_of,
    random_network,
    random_payloads,
    random_population,
    random_weights,
    seal,
    shared_left,
    shared_memory,
    systems_network,
    with_population,
)
from snncompile.backends.lava import LavaBackend
from snncompile.backends.lava.stock import fused_because
from test_lava_backend import left_behind

from snncompile.backend import ProcessOptions, RunOptions, silent
from snncompile.cli import cli
from snncompile.compiler import compile_file
from snncompile.data import load_samples
from snncompile.errors import CompileError
from snncompile.quant_network import Population, QuantNetwork, QuantSynapses
from snncompile.reference import run_integer

needs_lava = pytest.mark.skipif(importlib.util.find_spec("lava") is None, reason="lava-nc is not installed")

SHAPES = {"n1": (4, 8, 6), "n2": (6, 4, 3), "n3": (12,), "n4": (8,), "fused": (6,), "n5": (7,), "out": (5,)}
STOCK = ("n1", "n2", "n3", "n4", "n5", "out")


def listed(rng: np.random.Generator, name: str, source: str, sources: int, targets: int) -> QuantSynapses:
    row, column = np.nonzero(rng.random((targets, sources)) < 0.4)
    weight = rng.integers(-128, 128, len(row))
    return QuantSynapses(name, source, "sparse", weight, 8, 7, row=row, column=column, features=targets)


def stock_synapses(rng: np.random.Generator) -> tuple[QuantSynapses, ...]:
    """Groups, padding, dilation, stride, pools, members, two connections into a population, lists, graded sources."""
    return (
        random_weights(rng, "c1", "input", "conv", (4, 1, 3, 3), 5, padding=(1, 1), groups=2, exponent=6),
        random_weights(rng, "c2", "n1", "conv", (6, 2, 3, 2), 7, pool=(2, 2), padding=(2, 1), dilation=(2, 2),
                       exponent=7, members=2),
        random_weights(rng, "c2b", "n1", "conv", (6, 2, 2, 2), 4, stride=(2, 2), groups=2, exponent=9),
        random_weights(rng, "f3", "n2", "linear", (12, 3 * 2 * 1), pool=(2, 2), members=2, exponent=6),
        listed(rng, "l4", "n3", 12, 8),
        random_weights(rng, "f", "n4", "linear", (6, 8)),
        random_weights(rng, "f5", "fused", "linear", (7, 6), exponent=8),
        random_weights(rng, "o6", "n5", "conv", (5, 7, 1, 1), exponent=6),
    )  # fmt: skip


def stock_population(rng: np.random.Generator, population: Population) -> Population:
    """The same neurons as a stock LIF has them: one level, hard reset, thresholds of 64s, no v0, bias of 13 bits."""
    channels = population.shape[0]
    spiking = len(population.thresholds) > 0
    thresholds = (population.thresholds[:1] // 64 + 1) * 64
    return replace(
        population,
        bias=population.bias.clip(-4096, 4095) * int(rng.choice([1, 2])),
        v0=np.zeros(channels, np.int64),
        thresholds=thresholds + (population.fire == "ge"),
        payload=np.ones(1, np.int64) if spiking else population.payload,
        subtract=thresholds * 0,
        reset="hard" if spiking else "none",
        decay=rng.integers(0, 4096, channels) if rng.random() < 0.5 else population.decay,
    )


def stock_network(seed: int, timesteps: int = 4) -> QuantNetwork:
    """Six populations that stock Processes compute exactly, and one in their midst that they do not."""
    rng = np.random.default_rng(seed)
    network = QuantNetwork("input", (2, 8, 6), (1, 63)[seed % 2], stock_synapses(rng), (), timesteps)
    inputs = {"n1": ("c1",), "n2": ("c2", "c2b"), "n3": ("f3",), "n4": ("l4",), "fused": ("f",), "n5": ("f5",),
              "out": ("o6",)}  # fmt: skip
    for name, synapses in inputs.items():
        population = random_population(rng, network, name, SHAPES[name], synapses, spiking=name != "out")
        if name == "fused":
            steps = np.arange(1, 4)
            population = replace(population, reset="soft", payload=steps, thresholds=200 * steps[:, None] + [0] * 6,
                                 subtract=200 * steps[:, None] + [0] * 6)  # fmt: skip
        else:
            population = stock_population(rng, population)
        if name == "n4":
            none = np.zeros(8, np.int64)
            population = replace(population, current_decay=rng.integers(1, 4097, 8), drive=population.bias, bias=none)
        network = with_population(network, population)
    return network


def payloads_of(network: QuantNetwork, seed: int, samples: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (samples, network.timesteps, *network.input_shape)
    return rng.integers(0, network.input_payload_max + 1, shape) * (rng.random(shape) < 0.8)


@needs_lava
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_stock_processes_give_every_spike_and_membrane(tmp_path: Path, seed: int) -> None:
    network = stock_network(seed, timesteps=(4, 1, 5, 3)[seed % 4])
    because = {p.name: fused_because(network, p) for p in network.populations}
    assert tuple(name for name, reason in because.items() if not reason) == STOCK
    payloads = payloads_of(network, seed, 6)
    seal(tmp_path, network)
    options = ProcessOptions(style="stock", membranes=tuple(SHAPES))
    run = LavaBackend().run(program_of(network), tmp_path, payloads, tuple(SHAPES), options=options)
    expected = run_integer(network, payloads)
    np.testing.assert_array_equal(run.output, expected.output)
    for name in SHAPES:
        np.testing.assert_array_equal(run.payloads[name], expected.payloads[name], err_msg=name)
        np.testing.assert_array_equal(run.membranes[name], expected.membranes[name], err_msg=name)
    assert sum(len(np.unique(expected.payloads[name])) > 1 for name in STOCK) >= 4
    assert run.notes["lava"] == {"style": "stock", "fused_because": because}


def changed(network: QuantNetwork, population: str = "n2", synapses: str = "c2", **fields: object) -> str:
    """Why a population that stock Processes compute stays fused once it, or synapses of it, have other fields."""
    own = {name: value for name, value in fields.items() if name in Population.__dataclass_fields__}
    other = {name: value for name, value in fields.items() if name not in own}
    populations = [replace(p, **own) if p.name == population else p for p in network.populations]
    parts = [replace(s, **other) if s.name == synapses else s for s in network.synapses]
    network = replace(network, populations=tuple(populations), synapses=tuple(parts))
    return fused_because(network, network.populations_by_name[population])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"reset": "soft"}, "reset soft"),
        ({"reset": "none"}, "reset none"),
        ({"payload": np.array([2])}, "its payload is not 1"),
        ({"v0": np.array([0, 0, 0, 0, 0, 1])}, "it starts at v0"),
        ({"floor": np.zeros(6, np.int64)}, "a floor"),
        ({"decay": np.array([-1] * 6)}, "a decay outside 0 to 4095"),
        ({"current_decay": np.zeros(6, np.int64)}, "a decay of its current outside 1 to 4096"),
        ({"current_decay": np.ones(6, np.int64), "bias": np.ones(6, np.int64)}, "its current integrates the bias"),
        ({"bias": np.array([4097] * 6)}, "a bias of more than 13 bits"),
        ({"mixing": 4096 * np.eye(4, dtype=np.int64)}, "it mixes steps"),
        ({"thresholds": np.array([[100] * 6]), "decay": np.full(6, 9)}, "a threshold that is no multiple of 64"),
        ({"thresholds": np.array([[1 << 24] * 6]), "fire": "gt"}, "a threshold of more than 17 bits times 64"),
        ({"bias": np.array([1 << 19] * 6), "decay": np.zeros(6, np.int64), "thresholds": np.full((1, 6), 1 << 23)},
         "a bias"),
        ({"exponent": 5}, "c2: exponent 5, stock input is shifted by 6"),
        ({"delay_steps": 2}, "c2: a delay of 2 steps"),
        ({"lag": 1}, "c2: a lag"),
        ({"reads": (0, 2)}, "c2: it reads a part of its source"),
        ({"pool": (3, 2)}, "c2: rows or columns that fill no pool window"),
        ({"source": "n2"}, "c2: what it sends itself must not cross"),
    ],
)  # fmt: skip
def test_what_stock_processes_cannot_do_is_named(fields: dict[str, object], reason: str) -> None:
    network = stock_network(0)
    assert changed(network) == ""
    assert reason in changed(network, **fields)


def test_states_near_the_limit_of_24_bits_stay_fused() -> None:
    """From a state that fits to one that a stock LIF would wrap or clip."""
    network = stock_network(1)
    for exponent, fits in ((6, True), (14, False)):
        reason = changed(network, "n1", "c1", exponent=exponent)
        assert ("a state of more than 24 bits" in reason) != fits


def test_zoo_of_other_systems_says_why() -> None:
    network = systems_network(0, 6, 2)
    reasons = {p.name: fused_because(network, p) for p in network.populations}
    assert "l1: what it sends itself" in reasons["n1"]
    assert "it mixes steps" in reasons["n2"]
    assert all(reasons[name] for name in ("n1", "n2", "n3", "n4", "n5"))


@needs_lava
def test_options_that_exclude_each_other_are_refused(tmp_path: Path) -> None:
    network = random_network(1)
    seal(tmp_path, network)
    options = ProcessOptions(style="stock", placement=True)
    with pytest.raises(CompileError, match="a slice is a fused Process"):
        LavaBackend().run(program_of(network), tmp_path, random_payloads(1, 1), options=options)
    with pytest.raises(CompileError, match="no style 'stok'; did you mean 'stock'"):
        LavaBackend().run(program_of(network), tmp_path, random_payloads(1, 1), options=ProcessOptions(style="stok"))


@needs_lava
@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "statement", "text"),
    [
        ("n3", "raise ValueError('broken on purpose')", "n3: .*ValueError: broken on purpose"),
        ("f3", "__import__('os').kill(__import__('os').getpid(), 9)", "f3: .*died, exit code -9"),
        ("c2", "__import__('time').sleep(1000)", "c2: .*stands still at step 4"),
    ],
)
def test_a_failing_stock_process_is_named(tmp_path: Path, where: str, statement: str, text: str) -> None:
    """A connection and a population of neurons each are a process, and each goes by its own name."""
    network = stock_network(1)
    path = seal(tmp_path, network) / "lava" / "stock.py"
    start = "        with self.journal:\n            super().run_spk()"
    broken = f"            if self.time_step == 4 and self.journal.layer == {where!r}:\n                {statement}\n"
    assert start in path.read_text()
    path.write_text(path.read_text().replace(start, start.replace("            super", f"{broken}            super")))
    before = shared_memory()
    with pytest.raises(CompileError, match=text):
        LavaBackend().run(program_of(network), tmp_path, payloads_of(network, 1, 5), options=ProcessOptions("stock"))
    assert left_behind(tmp_path) == []
    assert shared_left(before) == []


def test_lava_options_need_the_lava_backend(tmp_path: Path) -> None:
    from snncompile.inference import infer

    asked = ProcessOptions(style="stock")
    for backend in ("sim", "reference"):
        program = program_of(random_network(1))
        with pytest.raises(CompileError, match="makes no Lava processes; --lava-style needs --backend lava"):
            infer(backend, program, tmp_path, random_payloads(1, 1), silent, RunOptions(), None, asked)


@needs_lava
@pytest.mark.slow
def test_command_line_runs_stock_and_saves_what_lava_recorded(tmp_path: Path, fashion_data: Path) -> None:
    model = Path(__file__).parent.parent / "examples" / "models" / "fashion_stbp_tdbn.pt"
    program = compile_file(model, "loihi1-sim", tmp_path / "out").program
    command = ["run", str(tmp_path / "out"), "--data", str(fashion_data), "--limit", "3", "--backend", "lava", "--json"]
    command += ["--lava-style", "stock", "--save", str(tmp_path / "run.npz")]
    command += ["--probe", "03_stbp_lif:1,2,3", "--probe", "12_stbp_lif"]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)["lava"]
    assert told == {"style": "stock", "fused_because": dict.fromkeys((p.name for p in program.network.populations), "")}
    expected = run_integer(program.network, program.encode(load_samples(fashion_data).first(3).x))
    with np.load(tmp_path / "run.npz") as saved:
        for name, of in (("spikes", expected.payloads), ("membrane", expected.membranes)):
            one, layer = of["03_stbp_lif"][:, :, 1, 2, 3], of["12_stbp_lif"]
            np.testing.assert_array_equal(saved[f"{name}.03_stbp_lif[1,2,3]"], one)
            np.testing.assert_array_equal(saved[f"{name}.12_stbp_lif"], layer)
