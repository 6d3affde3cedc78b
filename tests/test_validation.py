"""What benchmarks/validation.py says of published measurements, and that the models are what it says they are."""

import sys
from pathlib import Path

import pytest

from snncompile.chip import load_chip, load_limits

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import validation


def test_truenorths_held_out_point_is_within_one_per_cent() -> None:
    points = {point["measured_mw"]: point for point in validation.truenorth()["points"]}
    assert [mw for mw, point in points.items() if point["held_out"]] == [71.0]
    assert abs(points[71.0]["apart_percent"]) < 1
    for fitted in (68.0, 94.0):
        assert abs(points[fitted]["apart_percent"]) < 0.05


def test_the_held_out_point_was_not_used() -> None:
    """Slope and intercept of the line through the two outer points are the chip file's numbers, to their digits."""
    (slow, low), _, (fast, high) = validation.TRUENORTH_MW.items()
    each = validation.TRUENORTH_SYNAPSES * validation.TRUENORTH_NEURONS
    slope_pj = (high - low) * 1e9 / ((fast - slow) * each)
    chip = load_limits("truenorth")
    assert chip.nominal_energy.energy_synop_pj == pytest.approx(slope_pj, abs=5e-4)
    assert chip.static_power.high_mw == pytest.approx(low - slope_pj * slow * each * 1e-9, abs=5e-3)


def test_power_needs_published_numbers() -> None:
    with pytest.raises(ValueError, match="tiny: static power or the energy of a synaptic operation is not published"):
        validation.power_mw(load_chip("tiny"), 1.0)


def test_fradys_query_lies_below_both_cost_sets() -> None:
    """1.33 mJ measured: Davies' table is 9 to 20 % above it, the fit on another board 54 to 71 %."""
    sets = validation.frady()["sets"]
    assert sets["loihi1_davies2018"]["apart_percent"] == pytest.approx([8.9, 20.2], abs=0.1)
    assert sets["loihi1_silicon_fit"]["apart_percent"] == pytest.approx([54.4, 71.5], abs=0.1)
    by_hand = (5.12e7 * 23.6 + 4.608e6 * 52) * 1e-9
    assert sets["loihi1_davies2018"]["low_mj"] == pytest.approx(by_hand)


def test_pilotnets_step_is_told_by_what_it_is_made_of(shared_data: Path) -> None:
    """Counts of the golden spikes by hand; the estimate is within 10 % of the 152.85 us that were measured."""
    folder = shared_data / "checkpoints" / "lava_dl"
    layers = validation.pilotnet.layers_of(folder / "pilotnet_lif.net", folder / "pilotnet_lif_golden_traces.npz")
    assert [(layer.name, layer.fired.shape[1:]) for layer in layers[:2]] == [
        ("input", (3, 66, 200)),
        ("conv_0", (24, 32, 99)),
    ]
    found = validation.pilotnet.estimate(folder)
    for layer in layers:
        told = found["layers"][layer.name]
        assert told["spikes_a_step"] == layer.fired.sum() / 16
    assert found["events"]["spike"] == sum(layer.fired.sum() for layer in layers)
    dense = next(layer for layer in layers if layer.name == "fc_0")
    conv_4 = next(layer for layer in layers if layer.name == "conv_4")
    reached = conv_4.fired.reshape(16, -1).sum(0) @ (dense.weight != 0).sum(0)
    tiles = found["layers"]["fc_0"]["cores"]
    busiest = found["layers"]["fc_0"]["busiest_core_us"]["synops"] * 16 / 0.76e-3
    assert reached / tiles <= busiest * (1 + 1e-9)
    each = found["step_us_each"]
    assert found["step_us"] == pytest.approx(sum(each) / len(each), abs=0.01)
    assert found["generation_us"] <= found["step_us"]
    assert found["reception_us"] <= found["step_us"]
    assert abs(found["apart_percent"]) < 10
