"""Chip models: every shipped file is valid; misspelt, missing and unsourced numbers are refused by key."""

from collections.abc import Callable
from importlib.resources import files

import pytest
import yaml

from snncompile.chip import chip_names, load_chip, load_target, parse_chip
from snncompile.errors import CompileError

TINY = (files("snncompile.hw_models") / "tiny.yaml").read_text()


@pytest.mark.parametrize("name", chip_names())
def test_every_shipped_chip_is_valid(name: str) -> None:
    chip = load_chip(name)
    assert chip.name == name
    assert load_target(f"{name}-sim") is chip
    assert all(source.source for source in chip.sources)


def _changed(change: Callable[[dict], object]) -> str:
    chip = yaml.safe_load(TINY)
    change(chip)
    return yaml.safe_dump(chip)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["core"].update(neuronz=3), "core.neuronz: Extra inputs are not permitted"),
        (lambda c: c["core"].pop("neurons"), "core.neurons: Field required"),
        (lambda c: c["core"].update(neurons=0), "core.neurons: Input should be greater than 0"),
        (lambda c: c["core"].update(neurons="many"), "core.neurons: Input should be a valid integer"),
        (lambda c: c["sources"][0]["covers"].remove("core"), "core.neurons has no source"),
        (lambda c: c["energy"][0].update(nominal=False), "exactly one energy set must be nominal"),
        (
            lambda c: c["energy"][0].update(energy_synop_pj=-1),
            "energy.0.energy_synop_pj: Input should be greater than or equal to 0",
        ),
        (lambda c: c["time"].update(time_barrier_ns_by_routers={2: 5}), "needs an entry for 1 router"),
    ],
)
def test_a_wrong_key_is_named(change: Callable[[dict], object], message: str) -> None:
    with pytest.raises(CompileError) as caught:
        parse_chip(_changed(change), "my.yaml")
    assert caught.value.where == "my.yaml"
    assert message in caught.value.problem


def test_a_board_holds_so_many_equal_chips() -> None:
    meshes = {name: load_chip(name).mesh for name in ("loihi1", "loihi2", "tiny")}
    assert {name: (mesh.chips, mesh.cores_per_chip, mesh.cores) for name, mesh in meshes.items()} == {
        "loihi1": (32, 128, 4096),
        "loihi2": (1, 128, 128),
        "tiny": (1, 8, 8),
    }


def test_what_is_no_yaml_is_refused() -> None:
    with pytest.raises(CompileError, match=r"my\.yaml: not YAML"):
        parse_chip("a: [", "my.yaml")


def test_the_barrier_is_that_of_the_largest_entry_not_above() -> None:
    time = load_chip("loihi2").time
    assert [time.barrier_ns(n) for n in (0, 1, 2, 3, 4, 28, 29, 32)] == [67, 67, 111, 111, 156, 156, 200, 200]
