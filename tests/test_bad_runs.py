"""What a run is refused for before anything is computed, and what is split because it is too large."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from programs import program_of
from random_networks import conv_network, images
from snncompile.backends.chipsim.simulator import BATCH_STATES

from snncompile.backend import load_backend
from snncompile.chip import load_chip, load_target, parse_chip
from snncompile.data import load_samples
from snncompile.errors import CompileError
from snncompile.nn import DirectCoding, EventCoding
from snncompile.program import Program

SIM = load_backend("sim")
HARDWARE = Path(__file__).parent.parent / "hw_models"


def on_events(chip: str = "loihi1") -> Program:
    """A program that takes frames of events; binary ones on loihi1."""
    network = conv_network(2)
    source = network.input
    return program_of(
        network.replacing({source.name: replace(source, coding="events", scale=1.0)}), chip, neurons_per_core=60
    )


def frames_of(program: Program, value: int, samples: int = 2) -> np.ndarray:
    network = program.network
    frames = network.timesteps // network.microsteps
    return np.full((samples, frames, *network.input_shape), value)


@pytest.mark.parametrize("coding", [lambda: DirectCoding(0), lambda: EventCoding(0, (2,))])
def test_no_time_steps_are_refused(coding) -> None:
    with pytest.raises(ValueError, match="timesteps must be at least 1, got 0"):
        coding()


def test_a_network_without_time_steps_is_refused() -> None:
    with pytest.raises(CompileError, match="0 time steps in groups of 1; needs at least 1"):
        program_of(replace(conv_network(2), timesteps=0))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.npz").write_bytes(b"")
    with pytest.raises(CompileError, match=r"empty.npz: not a readable \.npz"):
        load_samples(tmp_path / "empty.npz")
    np.savez(tmp_path / "none.npz", x=np.zeros((0, 1, 8, 8)))
    with pytest.raises(CompileError, match="x has no samples; give at least one"):
        load_samples(tmp_path / "none.npz")


def test_a_run_of_nothing_is_refused() -> None:
    program = program_of(conv_network(2))
    with pytest.raises(CompileError, match="payloads: no samples to run"):
        SIM.run(program, Path(), np.zeros((0, *program.network.input_shape), np.int64))
    with pytest.raises(CompileError, match=r"payloads: have shape \(2, 1, 1\)"):
        SIM.run(program, Path(), np.zeros((2, 1, 1), np.int64))


@pytest.mark.parametrize(
    ("value", "told"),
    [(2, "from 2 to 2; the network's input takes 0 to 1: its spikes are binary"), (-1, "from -1 to -1;")],
)
def test_events_that_are_not_binary_are_refused_on_a_binary_chip(value: int, told: str) -> None:
    program = on_events()
    frames = frames_of(program, value)
    with pytest.raises(CompileError, match=told):
        SIM.run(program, Path(), frames)
    with pytest.raises(CompileError, match=f"event counts from {value} to {value}"):
        program.encode(frames, "data.npz")
    assert SIM.run(program, Path(), frames_of(program, 1)).output.shape[0] == 2


@pytest.mark.parametrize("value", [0.5, 1.25, np.nan, np.inf])
@pytest.mark.parametrize("chip", ["loihi1", "loihi2"])
def test_events_that_are_no_whole_numbers_are_refused(value: float, chip: str) -> None:
    """By the encoder, and by the simulator, whose payloads are integers."""
    program = on_events(chip)
    frames = frames_of(program, 1).astype(np.float64)
    frames.flat[3] = value
    with pytest.raises(CompileError, match=r"event counts from 1 to 1\.25|event counts from 0\.5|not numbers"):
        program.encode(frames, "data.npz")
    with pytest.raises(CompileError, match="payloads: are float64; needed: integers"):
        SIM.run(program, Path(), frames)


def test_frames_of_another_number_of_steps_are_refused() -> None:
    """One too many, one too few, none at all."""
    program = on_events()
    for frames in (
        frames_of(program, 1)[:, 1:],
        np.repeat(frames_of(program, 1), 2, axis=1),
        frames_of(program, 1)[:, :0],
    ):
        with pytest.raises(CompileError, match=r"payloads: have shape .* needed: "):
            SIM.run(program, Path(), frames)
        with pytest.raises(CompileError, match=r"the first of them the . time steps"):
            program.encode(frames, "data.npz")


def test_negative_events_are_refused_on_a_chip_of_graded_spikes() -> None:
    program = on_events("loihi2")
    with pytest.raises(CompileError, match="payloads: from -1 to -1; the network's input takes 0 to"):
        SIM.run(program, Path(), frames_of(program, -1))


@pytest.mark.parametrize("key", ["width", "height", "cores_per_router", "chips_across"])
def test_a_chip_without_cores_is_refused(key: str) -> None:
    line = "mesh: {width: 2, height: 2, cores_per_router: 2, chips_across: 1, chips_down: 1}"
    mesh = load_chip("tiny").mesh.model_dump()
    none = ", ".join(f"{k}: {0 if k == key else v}" for k, v in mesh.items())
    text = (HARDWARE / "tiny.yaml").read_text()
    with pytest.raises(CompileError, match=rf"mesh\.{key}"):
        parse_chip(text.replace(line, f"mesh: {{{none}}}"), "mine.yaml")


def test_a_board_of_no_chips_is_refused() -> None:
    with pytest.raises(CompileError, match="'0' is no chip at all; give 1 or more"):
        load_target("loihi1-sim", "0")


@pytest.mark.parametrize("share", [0.4, 2.5, 1000])
def test_what_is_too_large_for_memory_is_split(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch holds more than its limit, or a single sample where that alone is more; the result is that of one."""
    from snncompile.backends.chipsim import simulator

    program = program_of(conv_network(5))
    network = program.network
    x = images(network, samples=7, seed=1)
    whole = SIM.run(program, Path(), x)
    states = program.neurons * network.timesteps + int(np.prod(network.input_shape))
    assert 7 * states < BATCH_STATES
    sizes, batch = [], simulator._Simulation.batch

    def watched(self, images: np.ndarray) -> object:
        sizes.append(len(images))
        return batch(self, images)

    monkeypatch.setattr(simulator._Simulation, "batch", watched)
    monkeypatch.setattr(simulator, "BATCH_STATES", int(share * states))
    parts = SIM.run(program, Path(), x)
    assert sum(sizes) == 7
    assert max(sizes) <= max(1, int(share))
    np.testing.assert_array_equal(whole.output, parts.output)
    assert whole.cost == parts.cost
