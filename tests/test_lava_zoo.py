"""Lava = integer reference on every payload and every membrane: all checkpoints, and every shape of network."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from integer_networks import integer_inputs, integer_network
from lava_networks import mixing_network, program_of, random_network, random_payloads, seal, systems_network
from lava_networks import systems_payloads as payloads_of_systems
from programs import program_of as compiled_program
from random_networks import (
    conv_network,
    flat_sparse_network,
    images,
    recurrent_network,
    residual_network,
    shared_network,
    shortcut_network,
)
from snncompile.backends.lava import LavaBackend
from test_lowering import with_resets
from test_systems import LARGE, MODELS, REFUSED, TARGETS

from snncompile import reference
from snncompile.backend import ProcessOptions
from snncompile.compiler import compile_file
from snncompile.data import load_samples
from snncompile.network import Network
from snncompile.quant_network import IntArray
from snncompile.sealed import read_program

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("lava") is None, reason="lava-nc is not installed"),
]
SAMPLES = int(os.environ.get("SNNCOMPILE_ZOO_SAMPLES", "100"))
"""Of each checkpoint; a fifth of it of those with more than `LARGE` neurons."""
AT_ONCE = 20
"""Samples whose payloads and membranes are compared at once: bounds memory."""
PAIRS = [(model, target) for model in MODELS for target in TARGETS if (model.stem, target) not in REFUSED]


def assert_equal(program, directory: Path, payloads: IntArray, batch: int = 10, style: str = "fused") -> int:
    """All that Lava gives against the reference; how many payloads are not 0."""
    names = tuple(p.name for p in program.network.populations)
    expected = reference.run_integer(program.network, payloads)
    options = ProcessOptions(style, membranes=names)
    run = LavaBackend(batch).run(program, directory, payloads, names, options=options)
    np.testing.assert_array_equal(run.output, expected.output)
    for name in names:
        assert np.array_equal(run.payloads[name], expected.payloads[name]), name
        assert np.array_equal(run.membranes[name], expected.membranes[name]), name
    return sum(int(np.count_nonzero(expected.payloads[name])) for name in names)


@pytest.mark.parametrize(("model", "target"), PAIRS, ids=[f"{model.stem}-{target}" for model, target in PAIRS])
def test_checkpoints(
    model: Path, target: str, tmp_path: Path, fashion_data: Path, request: pytest.FixtureRequest
) -> None:
    kind = model.stem.partition("_")[0]
    data = fashion_data if kind == "fashion" else request.getfixturevalue("test_sets")[kind]
    compile_file(model, target, tmp_path / "out")
    program = read_program(tmp_path / "out")
    samples = SAMPLES // 5 if program.neurons > LARGE else SAMPLES
    payloads = program.encode(load_samples(data).first(samples).x)
    at_once = AT_ONCE // 5 if program.neurons > LARGE else AT_ONCE
    sent = [
        assert_equal(program, tmp_path / "out", payloads[first : first + at_once])
        for first in range(0, samples, at_once)
    ]
    assert min(sent) > 50


SHAPES: dict[str, Callable[[int], Network]] = {
    "conv": conv_network,
    "shortcut": shortcut_network,
    "residual": residual_network,
    "shared": shared_network,
    "sparse": flat_sparse_network,
    "recurrent": lambda seed: replace(recurrent_network(seed), timesteps=5),
}


READS_ITS_INPUT_TWICE = ("residual", "shared")
"""Refused on chips of binary spikes, where the host computes the input current of one population."""


@pytest.mark.parametrize(
    ("kind", "chip"),
    [(kind, chip) for kind in SHAPES for chip in ("loihi2", "loihi1")
     if chip == "loihi2" or kind not in READS_ITS_INPUT_TWICE],
)  # fmt: skip
def test_shapes_that_frontends_read(kind: str, chip: str, tmp_path: Path) -> None:
    network = with_resets(SHAPES[kind](3), ("soft",), 3)
    program = compiled_program(network, chip, neurons_per_core=400, lowering="r1" if chip == "loihi1" else "auto")
    payloads = program.encode(images(network, 100, 3) / 255 / network.input.scale)
    seal(tmp_path, program.network, program.host.encoder, program.core_graph)
    assert assert_equal(program, tmp_path, payloads) > 50


@pytest.mark.parametrize("kind", ["geometries", "mixing", "systems", "currents", "general", "general frames"])
def test_integer_networks(kind: str, tmp_path: Path) -> None:
    """What no frontend makes today, too: lags, several states, micro-steps with doors, windows of mixing, currents."""
    match kind:
        case "geometries":
            network, payloads = random_network(4), random_payloads(4, 100)
        case "mixing":
            network, payloads = mixing_network(3, 4), random_payloads(3, 100)
        case "systems" | "currents":
            network = systems_network(2, 6, 2, "currents" if kind == "currents" else "spikes")
            payloads = payloads_of_systems(network, 2, 100, frames=True)
        case _:
            seed = 9 if kind == "general" else 26
            network = integer_network(seed, listed=True, general=True)
            payloads = integer_inputs(network, 100, seed)
    seal(tmp_path, network)
    assert assert_equal(program_of(network), tmp_path, payloads) > 50


@pytest.mark.parametrize("style", ["fused", "stock"])
def test_styles_agree_on_a_checkpoint(style: str, tmp_path: Path, fashion_data: Path) -> None:
    """Every population of the STBP-tdBN convnet on loihi1 is exact as stock Processes: 100 samples."""
    model = next(path for path in MODELS if path.stem == "fashion_stbp_tdbn")
    compile_file(model, "loihi1-sim", tmp_path / "out")
    program = read_program(tmp_path / "out")
    payloads = program.encode(load_samples(fashion_data).first(100).x)
    assert assert_equal(program, tmp_path / "out", payloads, style=style) > 50
