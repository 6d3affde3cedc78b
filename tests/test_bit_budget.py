"""Bits per layer within a budget: the cheapest that was measured to hold, or what can be reached."""

import json

import numpy as np
import pytest
from random_networks import shortcut_network

from snncompile.chip import load_chip
from snncompile.errors import CompileError
from snncompile.float_engine import FloatEngine
from snncompile.network import Input, Linear, MultiThresholdLIF, Network, Readout
from snncompile.pipeline import lower
from snncompile.quantization.bit_budget import BitChoice, choose_bits
from snncompile.quantization.quantize import quantize

LOIHI2 = load_chip("loihi2")


def classifier(fan_in: int = 300) -> Network:
    """Features -> 80 neurons -> 4 classes, random weights: what it says of an input is that input's label."""
    rng = np.random.default_rng(0)
    theta = np.array([0.5, 1.0])
    nodes = (
        Input("x", (), (fan_in,)),
        Linear("l1", ("x",), rng.normal(0, 0.3, (80, fan_in)), np.zeros(80)),
        MultiThresholdLIF("n1", ("l1",), theta, np.array([1.0, 2.0]), theta, 0.5, "soft", "ge"),
        Linear("l2", ("n1",), rng.normal(0, 0.5, (4, 80)), np.zeros(4)),
        Readout("r", ("l2",)),
    )
    return lower(Network(nodes, 2), LOIHI2.numerics)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(1).random((300, 300)) ** 3
    return x, FloatEngine(classifier()).run(x).argmax(1)


@pytest.fixture(scope="module")
def choice(data: tuple[np.ndarray, np.ndarray]) -> BitChoice:
    return choose_bits(classifier(), LOIHI2, *data, 6.0)


def test_the_choice_is_the_cheapest_tried_within_the_budget(choice: BitChoice) -> None:
    table = json.loads(json.dumps(choice.table))
    within = [row for row in table["tried"] if row["within_budget"]]
    (chosen,) = (row for row in table["tried"] if row["chosen"])
    assert chosen["bits"] == choice.bits == dict(choice.how.bits) == table["chosen"]
    assert chosen["drop_points"] <= 6.0 + 1e-9
    assert chosen["cost"] == min(row["cost"] for row in within)
    assert set(choice.bits) == {"l1", "l2"}
    assert min(choice.bits.values()) < 8
    assert table["accuracy_float"] == 1.0
    assert table["samples_statistics"] == table["samples_held_out"] == 150
    assert {tuple(row["bits"].values()) for row in table["tried"]} >= {(8, 8), (4, 4), (2, 2)}


def test_following_the_rounded_layers_is_kept_where_it_is_no_worse(choice: BitChoice) -> None:
    followed = choice.table["following"]
    (chosen,) = (row for row in choice.table["tried"] if row["chosen"])
    assert choice.how.follow == followed["chosen"] == (followed["accuracy"] >= chosen["accuracy"])
    assert choice.how.memo is None


def test_sensitivity_falls_with_the_bits(choice: BitChoice) -> None:
    for row in choice.table["sensitivity"].values():
        assert row["2"] > row["4"] > row["8"]


def test_the_choice_quantises_to_those_bits(choice: BitChoice) -> None:
    integers, _ = quantize(classifier(), LOIHI2.numerics, 8, choice.how)
    assert {s.name: s.weight_bits for s in integers.synapses} == choice.bits


def test_a_larger_budget_never_costs_more(choice: BitChoice, data: tuple[np.ndarray, np.ndarray]) -> None:
    def cost(found: BitChoice) -> list[float]:
        return next(row["cost"] for row in found.table["tried"] if row["chosen"])

    said: list[str] = []
    wide = choose_bits(classifier(), LOIHI2, *data, 100.0, "mse", tell=said.append)
    assert cost(wide) <= cost(choice)
    assert len({row["within_budget"] for row in wide.table["tried"]}) == 1
    assert said[:2] == ["statistics", "sensitivity"]


def test_a_budget_that_cannot_be_met_says_what_can(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data
    only_two = LOIHI2.model_copy(update={"numerics": LOIHI2.numerics.model_copy(update={"weight_bits": (2,)})})
    message = (
        r"^--max-accuracy-drop: no width loses at most 0.1 points: the best loses \d+\.\d\d on 150 held-out samples "
        r"\(100.00% as float, .*% deployed\); allow \d+\.\d\d points, give more calibration samples, or train .*"
    )
    with pytest.raises(CompileError, match=message):
        choose_bits(classifier(), only_two, x, y, 0.1)


@pytest.mark.parametrize(
    ("samples", "labelled", "drop", "message"),
    [
        (30, True, 1.0, "--calibrate: 30 samples, 40 are needed; give more samples"),
        (60, False, 1.0, "--calibrate: has no labels y; .*"),
        (60, True, -1.0, "--max-accuracy-drop: is -1 points; give 0 or more"),
    ],
)
def test_unfit_requests(samples: int, labelled: bool, drop: float, message: str) -> None:
    network = lower(shortcut_network(0), LOIHI2.numerics)
    y = np.zeros(samples, np.int64) if labelled else None
    with pytest.raises(CompileError, match=f"^{message}$"):
        choose_bits(network, LOIHI2, np.zeros((samples, 6)), y, drop)


def test_what_the_host_computes_has_no_bits_to_choose() -> None:
    chip = load_chip("loihi1")
    network = shortcut_network(0)
    plain = {
        n.name: MultiThresholdLIF(**{**vars(n), "reset": "hard", **dict.fromkeys(
            ("thresholds", "payload", "subtract"), n.thresholds[:1])}) for n in network.neurons
    }  # fmt: skip
    lowered = lower(network.replacing(plain), chip.numerics)
    x = np.random.default_rng(0).random((60, 6))
    found = choose_bits(lowered, chip, x, FloatEngine(lowered).run(x).argmax(1), 100.0)
    assert set(found.bits) == {"l2", "l3", "skip", "l4"}
