"""The recurrent network of adaptive neurons for QTDB (Yin, Corradi, Bohte, Nature Machine Intelligence 2021).

With b the adaptation, s the spikes before, B = b_j0 + beta * b the threshold:

    b[t] = ro * b[t-1] + (1 - ro) * s[t-1]
    u[t] = alpha * u[t-1] + (1 - alpha) * I[t] - B[t] * s[t-1]
    s[t] = u[t] > B[t]

alpha = exp(-1/tau_m), ro = exp(-1/tau_adp); hidden neurons do not adapt (beta = 0), outputs do (beta = 1.8). The class
of a step is the output neuron of largest u in it; steps without a label count as class 0, as the authors count them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from snncompile.backend import load_backend
from snncompile.chip import load_target
from snncompile.network import Array, Input, Linear, MultiThresholdLIF, Network, Readout, scaled, verify
from snncompile.pipeline import lower, place_program
from snncompile.program import Provenance
from snncompile.reference import run_float, run_integer

STEPS = 1301
BASE, BETA = 0.1, 1.8


def adaptive(name: str, inputs: tuple[str, ...], p: Any, side: str, beta: float) -> tuple[MultiThresholdLIF, Array]:
    """The neurons, and the gain of their input. A reset that takes B off a step later takes B / alpha off now."""
    alpha, ro = (np.exp(-1 / p[f"{tau}_{side}"].astype(np.float64)) for tau in ("tau_m", "tau_adp"))
    adapting: dict[str, Any] = {}
    if beta:
        start = np.full(len(ro), beta * BASE)
        adapting = {"adapt_leak": ro, "adapt_step": beta * (1 - ro), "adapt_start": start, "adapt_resets": True}
    base = np.full((1, len(alpha)), BASE)
    return MultiThresholdLIF(name, inputs, base, np.ones(1), base / alpha, alpha, "soft", "gt", **adapting), 1 - alpha


def network_of(p: Any) -> Network:
    """Input: the four signals' rises and falls, as eight channels of spikes."""
    hidden, hidden_gain = adaptive("hidden", ("i2h", "h2h"), p, "h", 0.0)
    out, out_gain = adaptive("out", ("h2o",), p, "o", BETA)
    w = {key: np.asarray(p[key], np.float64) for key in p if "." in key}
    signed = np.concatenate([w["i2h.weight"], -w["i2h.weight"]], axis=1)
    nodes = (
        Input("input", (), (8,), coding="events", largest=1),
        scaled(Linear("i2h", ("input",), signed, w["i2h.bias"]), hidden_gain),
        hidden,
        scaled(Linear("h2h", ("hidden",), w["h2h.weight"], w["h2h.bias"]), hidden_gain),
        scaled(Linear("h2o", ("hidden",), w["h2o.weight"], w["h2o.bias"]), out_gain),
        out,
        Readout("readout", ("out",), scale=float(STEPS)),
    )
    network = Network(nodes, STEPS)
    verify(network)
    return network


@pytest.fixture(scope="module")
def qtdb(shared_data: Path) -> tuple[Network, NDArray[Any], NDArray[Any]]:
    weights = dict(np.load(shared_data / "checkpoints" / "srnn_byin" / "ecg_qtdb_4_36_6.npz"))
    events = np.load(shared_data / "events" / "ecg_qtdb_spikes.npz")
    x, label = events["test_x"], events["test_label"]
    return (
        network_of(weights),
        np.concatenate([x > 0, x < 0], axis=2).astype(np.int64),
        np.where(label == 255, 0, label),
    )


def right(membranes: NDArray[Any], label: NDArray[Any]) -> float:
    """Share of the steps whose largest output neuron is the label's; membranes (T, N, classes), label (N, T)."""
    return float((label == membranes.argmax(2).T).mean())


def test_float_accuracy_is_the_published_one(qtdb: Any) -> None:
    network, x, label = qtdb
    assert abs(right(run_float(network, x).membranes["out"], label) - 0.859) < 0.003


@pytest.mark.slow
def test_deployed_accuracy(qtdb: Any) -> None:
    network, x, label = qtdb
    chip = load_target("loihi2-sim", None)
    made = Provenance("", {}, (), 8, "max", {}, "auto", "direct", {})
    program = place_program("loihi2-sim", chip, lower(network, chip.numerics), made)
    traced = run_integer(program.network, program.encode(x))
    accuracy = right(traced.membranes["out"] * program.host.state["out"], label)
    print(f"ECG, 8-bit weights: {100 * accuracy:.2f} % of steps")
    assert accuracy > 0.83
    run = load_backend("sim").run(program, Path(), program.encode(x[:20]), ["hidden", "out"])
    for name in ("hidden", "out"):
        assert np.array_equal(run.payloads[name], traced.payloads[name][:, :20])
