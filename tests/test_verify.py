"""The proof chain on the example model, and on programs with a planted fault."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from programs import program_of

from snncompile import reference
from snncompile import verify as chain
from snncompile.data import load_samples
from snncompile.divergence import Divergence, StageRun
from snncompile.errors import CompileError
from snncompile.network import Input, Linear, MultiThresholdLIF, Network, Readout
from snncompile.sealed import read_program

STAGES = ("float", "folded", "integer", "simulator")


def _pair(result: dict, a: str, b: str) -> dict:
    return next(pair for pair in result["pairs"] if (pair["a"], pair["b"]) == (a, b))


@pytest.fixture(scope="module")
def sealed(fashion_program: Path, fashion_data: Path):
    return fashion_program, read_program(fashion_program), load_samples(fashion_data).first(6)


def test_the_chain_of_the_example_model(sealed) -> None:
    directory, program, samples = sealed
    result = chain.verify_program(directory, program, samples.x, samples.y, STAGES)
    assert result["equal"]
    assert result["stages"] == list(STAGES)
    for a, b in (("float", "folded"), ("integer", "simulator")):
        pair = _pair(result, a, b)
        assert pair["spikes_differing"] == pair["outputs_differing"] == 0
        assert pair["spikes_compared"] > 10_000
        assert pair["first_difference"] is None
    rounding = _pair(result, "float", "integer")
    assert set(rounding["layers"]) == {p.name for p in program.network.populations if p.spiking}
    assert 0 < rounding["spikes_differing"] < 0.1 * rounding["spikes_compared"]
    first = rounding["first_difference"]
    assert first["layer"] in rounding["layers"]
    assert first["level_float"] != first["level_integer"]
    assert abs(first["membrane_float"] - first["membrane_integer"]) < 0.1
    low, high = sorted((first["membrane_float"], first["membrane_integer"]))
    assert low - 0.01 <= first["threshold"] <= high + 0.01
    assert "rounding" in first["cause"] or "decay" in first["cause"]


def test_a_changed_threshold_is_found_at_its_layer(sealed) -> None:
    directory, program, samples = sealed
    faulty = program.network.populations[1]
    moved = faulty.thresholds.copy()
    moved[0, 3] *= 4
    moved[1:, 3] = moved[0, 3] + np.arange(1, len(moved))
    populations = tuple(replace(p, thresholds=moved) if p is faulty else p for p in program.network.populations)
    broken = replace(program, network=replace(program.network, populations=populations))
    result = chain.verify_program(directory, broken, samples.x, samples.y, ("folded", "integer"))
    layers = _pair(result, "folded", "integer")["layers"]
    assert layers[program.network.populations[0].name]["agreement"] > 0.99
    assert layers[faulty.name]["agreement"] < layers[program.network.populations[0].name]["agreement"]


def test_a_wrong_simulator_is_caught_and_located(sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, program, samples = sealed
    layer = program.network.populations[1].name
    real = chain.load_backend

    def faulty_backend(name: str):
        backend = real(name)

        class Faulty:
            def run(self, *args):
                run = backend.run(*args)
                payloads = {key: value.copy() for key, value in run.payloads.items()}
                payloads[layer][1, 2, 5, 3, 4] += 1
                return replace(run, payloads=payloads)

        return Faulty()

    monkeypatch.setattr(chain, "load_backend", faulty_backend)
    result = chain.verify_program(directory, program, samples.x, samples.y, ("integer", "simulator"))
    assert not result["equal"]
    pair = _pair(result, "integer", "simulator")
    assert pair["spikes_differing"] == 1
    first = pair["first_difference"]
    assert (first["layer"], first["step"], first["sample"], first["neuron"]) == (layer, 1, 2, [5, 3, 4])
    assert first["cause"] == "simulator does not compute the integer network: a fault of the backend"


@pytest.mark.parametrize(
    ("stages", "pairs"),
    [
        (
            chain.STAGES,
            "float-folded folded-integer float-integer integer-simulator simulator-lava",
        ),
        (("integer", "lava"), "integer-lava"),
        (("lava", "float"), "float-lava"),
        (("float", "simulator", "lava"), "float-simulator simulator-lava"),
        (("float",), ""),
    ],
)
def test_every_chosen_stage_is_compared(stages: tuple[str, ...], pairs: str) -> None:
    assert " ".join(f"{a}-{b}" for a, b in chain.pairs_of(stages)) == pairs


def test_equal_is_not_claimed_of_what_was_not_compared(sealed) -> None:
    directory, program, samples = sealed
    result = chain.verify_program(directory, program, samples.x[:2], samples.y[:2], ("float", "simulator"))
    assert result["equal"] is None
    (pair,) = result["pairs"]
    assert pair["first_difference"]["cause"].startswith("rounding to integers; add the stage integer")


def test_an_unknown_stage_is_refused(sealed) -> None:
    directory, program, samples = sealed
    with pytest.raises(CompileError, match="--stages: no stage 'simulater'; did you mean 'simulator'"):
        chain.verify_program(directory, program, samples.x, samples.y, ("simulater",))


def test_truncation_of_the_leak_is_told_from_rounding() -> None:
    """Five steps of one neuron at leak 0.9, integers alike: the decay's truncation adds up to more than one unit."""
    theta = np.array([1e4])
    node = MultiThresholdLIF("n", ("l",), theta, theta, theta, 0.9, "none", "ge")
    nodes = (
        Input("x", (), (1,), scale=1 / 255),
        Linear("l", ("x",), np.ones((1, 1)), np.zeros(1)),
        node,
        Linear("m", ("n",), np.ones((1, 1)), np.zeros(1)),
        Readout("r", ("m",)),
    )
    program = program_of(Network(nodes, 5))
    population = program.network.populations[0]
    v, u, exact = reference.initial_state(population, 1), np.zeros((5, 1, 1), np.int64), 0.0
    for t in range(5):
        u[t], _, v = reference.step_population(population, v, np.array([[1009]]))
        exact = 0.9 * exact + 1009
    assert exact > u[4, 0, 0] + 1
    silent, fired = np.zeros((5, 1, 1), np.int64), np.zeros((5, 1, 1), np.int64)
    fired[4] = 1
    a, b = (
        StageRun(name, {"n": k}, {"n": u}, np.zeros(1, np.int64), np.zeros((1, 1)))
        for name, k in (("folded", fired), ("integer", silent))
    )

    def cause(threshold: int) -> str:
        moved = replace(population, thresholds=np.array([[threshold]]))
        network = replace(program.network, populations=(moved, *program.network.populations[1:]))
        divergence = Divergence(replace(program, network=network), Network(nodes, 5))
        return divergence.cause_of_rounding(node, (4, 0, 0), a, b)

    assert cause(int(exact)) == "decay truncation (12-bit decay, toward zero)"
    assert cause(int(exact) + 2) == "rounding of weights, bias and threshold"
