"""Networks of snntorch, spikingjelly, sinabs and norse: every spike is the one that the framework itself computed.

The files in golden/frameworks are made by benchmarks/frameworks/make_golden.py within each framework's environment:
100 random inputs a network, in float64. Factory files are run with stand-ins of the packages (`stand_ins`).
"""

import numpy as np
import pytest
import stand_ins
from framework_golden import FOLDER, MODELS, NAMES, assert_every_spike, read, run, spikes_of

from snncompile.contract import from_json
from snncompile.frontend import load_model
from snncompile.frontend.reading import Reading

WHOLE = [
    *(
        f"{framework}_{name}"
        for framework in ("spikingjelly14", "spikingjelly2")
        for name in ("mlp", "conv", "recurrent")
    ),
    *(f"sinabs_{name}" for name in ("mlp", "conv", "recurrent")),
]
BUILT = [
    *(f"{framework}_{name}" for framework in ("snntorch", "norse") for name in (*NAMES, "variants")),
    *(f"{framework}_{name}" for framework in ("spikingjelly14", "spikingjelly2") for name in ("residual", "variants")),
    *(f"sinabs_{name}" for name in ("residual", "variants", "leak")),
    "norse_leak",
    "norse_current",
]
OUTPUTS = {
    "snntorch_mlp": lambda y: y.mean(0),
    "snntorch_recurrent": lambda y: y.mean(0),
    "snntorch_residual": lambda y: y,
    "norse_mlp": lambda y: y,
    "norse_conv": lambda y: y.mean(0),
    "norse_residual": lambda y: y,
    "norse_recurrent": lambda y: y.mean(0),
    "norse_variants": lambda y: y.mean(1),
    "norse_leak": lambda y: y,
    "norse_current": lambda y: y,
    "spikingjelly14_conv": lambda y: y.mean(0),
    "spikingjelly2_conv": lambda y: y.mean(0),
    "spikingjelly14_residual": lambda y: y,
    "spikingjelly2_residual": lambda y: y,
    "spikingjelly14_variants": lambda y: y,
    "spikingjelly2_variants": lambda y: y,
    "sinabs_mlp": lambda y: y.mean(1),
    "sinabs_conv": lambda y: y.reshape(100, -1, y.shape[-1]).mean(1),
    "sinabs_residual": lambda y: y.reshape(100, -1, y.shape[-1]).mean(1),
    "sinabs_recurrent": lambda y: y.mean(1),
    "sinabs_variants": lambda y: y.mean(1),
    "sinabs_leak": lambda y: y[:, -1],
}
"""What of the framework's output ours is."""


def assert_output(name: str, output: np.ndarray, expected: np.ndarray) -> None:
    single = 2e-7  # some frameworks sum spikes in single precision
    np.testing.assert_allclose(output, OUTPUTS[name](expected.astype(np.float64)), rtol=0, atol=single)


def factory_of(name: str) -> str:
    framework, _, model = name.partition("_")
    return f"{MODELS / framework.rstrip('0123456789')}_models.py:{model}"


@pytest.mark.parametrize("name", WHOLE)
def test_a_module_saved_whole(name: str) -> None:
    network, golden = read(name)
    result = assert_every_spike(network, golden)
    if name in OUTPUTS:
        assert_output(name, result.output, golden["output"])


@pytest.mark.parametrize("name", BUILT)
def test_a_module_that_a_factory_builds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins.install(monkeypatch, name.partition("_")[0].rstrip("0123456789"))
    network, golden = read(name, factory=factory_of(name))
    result = assert_every_spike(network, golden)
    if name in OUTPUTS:
        assert_output(name, result.output, golden["output"])


def test_files_are_small() -> None:
    assert max(file.stat().st_size for file in FOLDER.iterdir()) <= 100_000


def test_the_contract_says_where_snntorch_resets_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A soft reset at once is read as such; where mem exceeds twice the threshold, snntorch's differs afterwards."""
    stand_ins.install(monkeypatch, "snntorch")
    name = "snntorch_delayless"
    network, golden = read(name, factory=factory_of(name))
    result, expected = run(network, golden), spikes_of(golden, 0)
    neuron = network.neurons[0]
    sent, membrane = result.outputs[neuron.name], result.membranes[neuron.name]
    differs = sent != expected
    assert differs.any()
    exceeded = np.maximum.accumulate(membrane > 2 * neuron.thresholds[0], axis=0)
    assert not differs[0].any()
    assert exceeded[:-1][differs[1:]].all()
    reading = Reading(timesteps=8, coding="events", factory=factory_of(name))
    contract = from_json(load_model(FOLDER / f"{name}.pt", (20,), reading).metadata["contract"])
    said = {node.kind: (node.verdict, node.note) for node in contract}
    assert said["Leaky"][0] == "approximate"
    assert "2 threshold" in said["Leaky"][1]
