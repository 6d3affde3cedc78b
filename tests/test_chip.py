"""Chip files: every shipped one is valid; `extends`, boards and paths; errors name file, line and key."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from random_networks import conv_network

from snncompile.chip import (
    Chip,
    ChipLimits,
    LayerChip,
    chip_names,
    chips_needed,
    load_any,
    load_any_target,
    load_chip,
    load_limits,
    load_target,
    on_board,
    parse_chip,
    target_names,
)
from snncompile.cli import cli
from snncompile.errors import CompileError
from snncompile.lowering import resolve
from snncompile.mapping.partition import verify
from snncompile.pipeline import lower, lowering_of, place_program, run_passes
from snncompile.program import Provenance
from snncompile.sealed import read_program, write_program

TINY = (files("snncompile.hw_models") / "tiny.yaml").read_text()
KAPOHO = """\
name: my_kapoho
extends: loihi1
board: kapoho_bay
mesh: {chips_across: 2, chips_down: 1}
sources:
  - {covers: [mesh], source: a board of two chips, basis: ours, confidence: low}
"""


@pytest.mark.parametrize("name", chip_names())
def test_every_shipped_chip_is_valid(name: str) -> None:
    chip = load_any(name)
    assert chip.name == name
    assert load_any_target(f"{name}-sim") is chip
    assert all(source.source for source in chip.sources)
    assert (f"{name}-sim" in target_names()) == isinstance(chip, Chip)


@pytest.mark.parametrize("name", chip_names())
def test_every_source_is_that_of_some_number(name: str) -> None:
    """Of several sources that cover a number the first counts: none stands behind one that covers all of it."""
    chip = load_any(name)
    paths = [".".join(path) for path in _numbers(chip.model_dump(exclude={"sources"}))]
    used = {chip.source_of(path) for path in paths}
    assert None not in used
    assert used == set(chip.sources)


def _numbers(value: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in _numbers(item, (*path, str(key)))]
    if isinstance(value, list | tuple):
        named = [(str(item.get("name", i)) if isinstance(item, dict) else str(i), item) for i, item in enumerate(value)]
        return [found for key, item in named for found in _numbers(item, (*path, key))]
    return [path] if isinstance(value, int | float) and not isinstance(value, bool) else []


def _changed(change: Callable[[dict], object]) -> str:
    chip = yaml.safe_load(TINY)
    change(chip)
    return yaml.safe_dump(chip)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["core"].update(neuronz=3), "core.neuronz: unknown key; did you mean 'neurons'? known: axon_slots"),
        (lambda c: c["energy"][0].update(energy_sinop_pj=3), "unknown key; did you mean 'energy_synop_pj'?"),
        (lambda c: c["core"].pop("neurons"), "core.neurons: is missing"),
        (lambda c: c["core"].update(neurons=0), "core.neurons: Input should be greater than 0"),
        (lambda c: c["core"].update(neurons="many"), "core.neurons: Input should be a valid integer"),
        (lambda c: c["core"].update(synapse_words=None), "core.synapse_words: Input should be a valid integer"),
        (lambda c: c["sources"][0]["covers"].remove("core"), "core.neurons has no source"),
        (lambda c: c["sources"][0]["covers"].append("core.axons"), "sources cover core.axons, where no number stands"),
        (lambda c: c["energy"][0].update(nominal=False), "exactly one energy set must be nominal"),
        (
            lambda c: c["energy"][0].update(energy_synop_pj=-1),
            "energy.0.energy_synop_pj: Input should be greater than or equal to 0",
        ),
        (lambda c: c["time"].update(time_barrier_ns_by_routers={2: 5}), "needs an entry for 1 router"),
        (lambda c: c.update(board="big"), "board 'big' must be in boards, with the 1 chips of mesh"),
        (
            lambda c: c["synapse_memory"]["formats"].append({"name": "dense", "index": "once"}),
            "formats with an index once an entry need rounding: entry",
        ),
    ],
)
def test_a_wrong_key_is_named(change: Callable[[dict], object], message: str) -> None:
    with pytest.raises(CompileError) as caught:
        parse_chip(_changed(change), "my.yaml")
    assert caught.value.where.split(":")[0] == "my.yaml"
    assert message in caught.value.problem


def test_every_problem_is_told_with_its_file_and_line() -> None:
    lines = TINY.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("core:"))
    lines[at] = "core:\n  neurons: 0\n  synapse_words: 5\n  axons_in: 128\n  axons_owt: 3"
    with pytest.raises(CompileError) as caught:
        parse_chip("\n".join(lines), "my.yaml")
    assert caught.value.where == f"my.yaml:{at + 2}"
    assert f"my.yaml:{at + 1}: core.axons_out: is missing" in caught.value.problem  # the line of what it is missing in
    assert f"my.yaml:{at + 5}: core.axons_owt: unknown key; did you mean 'axons_out'?" in caught.value.problem


def test_what_is_no_yaml_is_refused() -> None:
    with pytest.raises(CompileError, match=r"my\.yaml:2: not YAML"):
        parse_chip("a: 1\nb: ]", "my.yaml")
    with pytest.raises(CompileError, match=r"my\.yaml: holds no keys"):
        parse_chip("- 1", "my.yaml")


def test_a_chip_extends_another_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "kapoho.yaml").write_text(KAPOHO)
    chip = load_target(str(tmp_path / "kapoho.yaml"))
    loihi1 = load_chip("loihi1")
    assert (chip.name, chip.board, chip.mesh.chips, chip.mesh.width) == ("my_kapoho", "kapoho_bay", 2, 8)
    assert (chip.core, chip.energy) == (loihi1.core, loihi1.energy)
    assert chip.source_of("mesh.chips_across").source == "a board of two chips"
    assert chip.source_of("core.neurons") == loihi1.source_of("core.neurons")
    (tmp_path / "two.yaml").write_text(
        "name: two\nextends: kapoho.yaml\nenergy: [{name: loihi1_silicon_fit, energy_synop_pj: 30.0}]\n"
        "sources: [{covers: [energy.loihi1_silicon_fit], source: mine, basis: ours, confidence: low}]\n"
    )
    second = load_target(str(tmp_path / "two.yaml"))
    assert second.mesh == chip.mesh
    assert [costs.energy_synop_pj for costs in second.energy] == [30.0, 23.6]
    assert second.energy[0].energy_neuron_pj == 51.2


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        (
            "name: a\nextends: loihi9\n",
            ":2",
            "extends 'loihi9', which is neither a chip nor a file; did you mean 'loihi",
        ),
        ("name: a\nextends: [b]\n", ":2", "extends is ['b']; give the name of a chip or the path of a file"),
        ("name: a\nextends: my.yaml\n", ":2", "extends itself: "),
        ("extends: loihi1\n", ":1", "has no name of its own; add name"),
        ("name: a\nextends: loihi1\ncore:\n  axons_in: 9\n", ":4", "core.axons_in has no source in this file"),
        ("name: loihi1\nextends: loihi1\n", "", "is named loihi1, like a shipped chip"),
        (KAPOHO.replace("chips_down: 1", "chips_dawn: 1"), ":4", "mesh.chips_dawn: unknown key; did you mean"),
        (KAPOHO.replace("confidence: low", "confidence: some"), ":6", "sources.0.confidence: Input should be 'high'"),
    ],
)
def test_a_wrong_extension_is_refused(tmp_path: Path, text: str, where: str, message: str) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(CompileError) as caught:
        load_target(str(path))
    assert caught.value.where == f"{path}{where}"
    assert message in str(caught.value)


def test_a_chip_that_can_only_be_checked_is_no_target() -> None:
    assert isinstance(load_any("truenorth"), ChipLimits)
    assert isinstance(load_any("speck2f"), LayerChip)
    for name in ("truenorth", "speck2f", "spinnaker2"):
        with pytest.raises(CompileError, match=f"{name} cannot be compiled for: .*`snncompile check` compares"):
            load_target(f"{name}-sim")
        with pytest.raises(CompileError, match=f"{name}: cannot be compiled for"):
            load_chip(name)
    with pytest.raises(CompileError, match="speck2f: holds one layer a core"):
        load_limits("speck2f")
    with pytest.raises(CompileError, match=r"loihi3\.yaml: cannot be read"):
        load_target("loihi3.yaml")


def test_a_board_holds_so_many_equal_chips() -> None:
    meshes = {name: load_chip(name).mesh for name in ("loihi1", "loihi2", "tiny")}
    assert {name: (mesh.chips, mesh.cores_per_chip, mesh.cores) for name, mesh in meshes.items()} == {
        "loihi1": (32, 128, 4096),
        "loihi2": (1, 128, 128),
        "tiny": (1, 8, 8),
    }
    assert chips_needed(129, load_chip("loihi2")) == 2


@pytest.mark.parametrize(
    ("name", "chips", "across", "down", "board"),
    [
        ("loihi2", "8", 4, 2, None),
        ("loihi2", "2x4", 2, 4, None),
        ("loihi2", "7", 7, 1, None),
        ("loihi2", "1", 1, 1, None),
        ("loihi2", "hala_point", 36, 32, "hala_point"),
        ("loihi1", "pohoiki_springs", 32, 24, "pohoiki_springs"),
        ("loihi1", "kapoho_bay", 2, 1, "kapoho_bay"),
    ],
)
def test_chips_of_a_board_are_laid_out_as_squarely_as_can_be(
    name: str, chips: str, across: int, down: int, board: str | None
) -> None:
    chip = load_target(f"{name}-sim", chips)
    assert (chip.mesh.chips_across, chip.mesh.chips_down, chip.board) == (across, down, board)
    assert Chip.model_validate(chip.model_dump(mode="json")) == chip


@pytest.mark.parametrize("chips", ["0", "4x0", "x", "-1", "hala", "2.5", "1x2x3"])
def test_what_is_no_board_is_refused(chips: str) -> None:
    with pytest.raises(CompileError, match="--chips"):
        on_board(load_chip("loihi2"), chips)


def test_the_barrier_is_that_of_the_largest_entry_not_above() -> None:
    time = load_chip("loihi2").time
    assert [time.barrier_ns(n) for n in (0, 1, 2, 3, 4, 28, 29, 32)] == [67, 67, 111, 111, 156, 156, 200, 200]


@pytest.mark.parametrize("name", chip_names())
def test_targets_prints_every_number_and_what_is_unknown(
    name: str, golden: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["targets", f"{name}-sim"], standalone_mode=False)
    golden(f"targets_{name}", "".join(f"{line.rstrip()}\n" for line in capsys.readouterr().out.splitlines()))


def test_targets_prints_a_users_own_chip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kapoho.yaml").write_text(KAPOHO)
    cli.main(["targets", str(tmp_path / "kapoho.yaml")], standalone_mode=False)
    out = capsys.readouterr().out
    assert "board: kapoho_bay: 2 chips as 2 x 1, 256 cores" in out
    assert "a board of two chips" in out


def test_a_users_own_chip_is_sealed_whole_with_the_program(tmp_path: Path) -> None:
    point = KAPOHO.replace("loihi1", "loihi2").replace("kapoho_bay", "kapoho_point").replace("my_kapoho", "my_point")
    (tmp_path / "point.yaml").write_text(point.replace("across: 2, chips_down: 1", "across: 4, chips_down: 2"))
    chip = load_target(str(tmp_path / "point.yaml"))
    network = conv_network(3)
    mode = resolve("auto", chip.numerics)
    declared = lowering_of(run_passes(network), chip.numerics, mode)
    made = Provenance("0" * 64, {}, (), 8, "max", {}, mode, "direct", declared)
    program = place_program("my_point-sim", chip, lower(network, chip.numerics), made)
    write_program(tmp_path / "sealed", program, {})
    (tmp_path / "point.yaml").unlink()
    found = read_program(tmp_path / "sealed")
    assert found.chip == chip
    assert (found.core_graph.formats, found.core_graph.shared) == (
        program.core_graph.formats,
        program.core_graph.shared,
    )
    verify(found.core_graph, found.network, found.chip)
