"""`snncompile check`: shapes files, misfits of a whole network, fixes that are tried, remedies, exit codes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import quantized, random_network

from snncompile import reference
from snncompile.check import Asked, check, integers
from snncompile.chip import Chip, load_any, load_chip
from snncompile.cli import cli
from snncompile.errors import CompileError
from snncompile.frontend.shapes import read_shapes
from snncompile.mapping.fit import fit
from snncompile.mapping.partition import DoesNotFit, verify
from snncompile.network import Conv2d, Network, Readout
from snncompile.quantization.verify_integers import verify_integers

SHAPES = """
timesteps: 2
input: [2, 8, 8]
neuron: {levels: 1, reset: hard, leak: 0.5}
layers:
  - {conv: 6, name: stem}
  - {pool: 2}
  - {conv: 6, name: a, neuron: {levels: 3, reset: soft}}
  - {conv: 6, add: [a]}
  - {linear: 20}
  - {linear: 5}
"""


def shapes(text: str, folder: Path) -> Network:
    path = folder / "net.yaml"
    path.write_text(text)
    return read_shapes(path)


def small(**core: int) -> Chip:
    """Loihi 2 with other limits of a core, on a board of 64 chips."""
    chip = load_chip("loihi2")
    mesh = chip.mesh.model_copy(update={"chips_across": 8, "chips_down": 8})
    return chip.model_copy(update={"core": chip.core.model_copy(update=core), "mesh": mesh, "board": None})


def test_a_file_of_shapes_is_the_network_it_says(tmp_path: Path) -> None:
    network = shapes(SHAPES, tmp_path)
    assert network.timesteps == 2
    assert [network.shapes[n.name] for n in network.neurons] == [(6, 8, 8), (6, 4, 4), (6, 4, 4), (20,)]
    stem, a, added, _ = network.neurons
    assert (len(stem.thresholds), stem.reset, stem.leak) == (1, "hard", 0.5)
    assert (len(a.thresholds), a.reset, a.leak) == (3, "soft", 1.0)
    assert a.name in added.inputs
    assert network.shapes[network.readout.name] == (5,)
    assert isinstance(network.nodes[-1], Readout)
    assert all(np.isfinite(node.weight).all() for node in network.of_type(Conv2d))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("{linear: 20}", "{linaer: 20}"), r"net.yaml:10: layers.4.linaer: unknown key; did you mean 'linear'\?"),
        (("add: [a]", "add: [b]"), r"layers.3: adds 'b', which is no layer before it; .*known: .*stem"),
        (("{linear: 20}", "{linear: 20, conv: 3}"), r"net.yaml:10: layers.4: a layer has one of conv, linear and pool"),
        (("{pool: 2}", "{pool: 2, stride: 2}"), r"stride is not for a pool layer"),
        (("{conv: 6, name: a,", "{conv: 7, name: a,"), r"layers.3: .* adds inputs of shapes"),
        (("  - {linear: 5}\n", "  - {pool: 2}\n"), r"layers.5: the last layer is a pool"),
        (("timesteps: 2", "timesteps: 0"), r"net.yaml:2: timesteps: "),
        (("input: [2, 8, 8]", "input: [2, 8]"), r"input: has 2 axes"),
        (("{linear: 20}", "{linear: 90000000}"), r"weights; at most"),
        (("{conv: 6, name: stem}", "{conv: 6, groups: 4}"), r"layers.0: 2 to 6 channels do not divide into 4 groups"),
    ],
)
def test_shapes_that_cannot_be_are_refused_where_they_stand(
    change: tuple[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CompileError, match=message):
        shapes(SHAPES.replace(*change), tmp_path)


def test_what_fits_says_how_full_its_cores_are(tmp_path: Path) -> None:
    result = check(shapes(SHAPES, tmp_path), load_any("loihi2"), Asked())
    assert result["fits"]
    assert result["misfits"] == result["fixes"] == []
    assert result["cores_used"] == sum(layer["cores"] for layer in result["layers"])
    for layer in result["layers"]:
        assert all(used <= limit for used, limit in layer["fullest"].values() if limit is not None)


def test_every_misfit_stands_in_one_report(tmp_path: Path) -> None:
    """On a binary chip inputs cannot be added up elsewhere: every layer with too many axons is named."""
    chip = load_chip("loihi1")
    narrow = chip.model_copy(update={"core": chip.core.model_copy(update={"axons_in": 40})})
    result = check(shapes(SHAPES, tmp_path), narrow, Asked())
    assert not result["fits"]
    assert result["cores_used"] is None
    over = {m["layer"]: m for m in result["misfits"] if m["resource"] == "axons_in"}
    assert len(over) >= 3
    for misfit in over.values():
        assert misfit["excess"] == misfit["used"] - misfit["limit"] > 0
        assert misfit["limit"] == 40
    assert any(fix["change"] == "--target loihi2-sim" for fix in result["fixes"])


def test_a_fix_that_is_named_does_fit(tmp_path: Path) -> None:
    network = shapes(SHAPES, tmp_path)
    few, one = small(), {"width": 1, "height": 1, "chips_across": 1, "chips_down": 1, "cores_per_router": 3}
    few = few.model_copy(update={"mesh": few.mesh.model_copy(update=one)})
    result = check(network, few, Asked())
    assert [m["resource"] for m in result["misfits"]] == ["cores"]
    chips = next(fix for fix in result["fixes"] if fix["change"].startswith("--chips"))
    more = few.model_copy(update={"mesh": few.mesh.model_copy(update={"chips_across": chips["chips"]})})
    assert check(network, more, Asked())["cores_used"] == chips["cores"]


@given(st.integers(0, 400), st.sampled_from([8, 12, 20]))
@settings(max_examples=25)
def test_remedies_compute_the_same(seed: int, axons: int) -> None:
    """Where a core has too few axons, or one says so: the network that fits sends what the network sent."""
    network = quantized(random_network(seed))[0]
    chip = small(axons_in=axons)
    try:
        fitted = fit(network, chip)
    except DoesNotFit:
        return
    verify(fitted.graph, fitted.network, chip)
    verify_integers(fitted.network)
    x = np.random.default_rng(seed).integers(0, network.input_payload_max + 1, (2, *network.input_shape))
    before, after = reference.run_integer(network, x), reference.run_integer(fitted.network, x)
    np.testing.assert_array_equal(before.output, after.output)
    for name, payloads in before.payloads.items():
        np.testing.assert_array_equal(after.payloads[name], payloads, name)


def test_remedies_are_applied_and_told(tmp_path: Path) -> None:
    network = shapes(SHAPES, tmp_path)
    chip = small(axons_in=70)
    quantised = integers(network, chip, Asked())
    fitted = fit(quantised, chip)
    assert fitted.remedies
    assert all(remedy.resource == "axons_in" and remedy.limit == 70 for remedy in fitted.remedies)
    assert sum(remedy.neurons for remedy in fitted.remedies) == fitted_neurons(fitted.network) - fitted_neurons(
        quantised
    )
    result = check(network, chip, Asked())
    assert result["fits"]
    assert [r["layer"] for r in result["remedies"]] == [remedy.layer for remedy in fitted.remedies]


def fitted_neurons(network: Any) -> int:
    return sum(population.size for population in network.populations)


def test_a_layer_chip_and_one_that_is_checked_only(tmp_path: Path) -> None:
    plain = shapes("timesteps: 1\ninput: [2, 8, 8]\nlayers: [{conv: 4}, {pool: 2}, {linear: 5}]\n", tmp_path)
    result = check(plain, load_any("speck2f"), Asked())
    assert result["fits"]
    assert sorted(layer["core"] for layer in result["layers"]) == sorted({layer["core"] for layer in result["layers"]})
    assert any("cannot be compiled for" in note for note in result["notes"])
    large = shapes("timesteps: 1\ninput: [64, 64, 64]\nlayers: [{conv: 512}, {linear: 5}]\n", tmp_path)
    refused = check(large, load_any("speck2f"), Asked())
    assert not refused["fits"]
    assert {m["resource"] for m in refused["misfits"]} >= {"kernel_words"}


def test_the_command_exits_1_where_it_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(SHAPES)
    call = ["check", "--shapes", str(tmp_path / "net.yaml"), "--target"]
    fits = CliRunner().invoke(cli, [*call, "loihi2-sim", "--json"])
    assert (fits.exit_code, json.loads(fits.output)["fits"]) == (0, True)
    not_fit = CliRunner().invoke(cli, [*call, "truenorth-sim"])
    assert not_fit.exit_code == 1
    assert "does not fit" in not_fit.output
    assert CliRunner().invoke(cli, ["check", "--target", "loihi2-sim"]).exit_code == 2
