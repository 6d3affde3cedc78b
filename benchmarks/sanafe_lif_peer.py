"""Runs SANA-FE on the network of peers.py at our placement, in SANA-FE's own environment; snncompile is not there.

    ENV/bin/python benchmarks/sanafe_lif_peer.py CASE.npz OUT.npz [CYCLE_STEPS]

Works "simple", "detailed": the sample and the steps until it has left the last layer, with that timing model, on a
chip built outside the measured time. "cycle": the first CYCLE_STEPS (3) with its clocked model. OUT.npz: spikes of
every layer, and per chip step what its simple model counts and how long it says a step takes.

Its neuron: v = leak * v + input in float64; fires above the threshold, then v = 0. The input is a core of its own.
"""

import sys
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import sanafe
from peer_protocol import serve

UNITS = {"default_synapse_hw_name": "loihi_dense_synapse", "default_dendrite_hw_name": "loihi_dendrites"}


def network_of(case: Any, arch: Any, steps: int) -> Any:
    """The network, its neurons on the cores that the case names (numbered as SANA-FE does)."""
    net, cores = sanafe.Network(), arch.cores()
    events = np.zeros((steps, case["spikes"].shape[1]), int)
    events[: len(case["spikes"])] = case["spikes"]
    groups = [net.create_neuron_group("input", events.shape[1], {}, **UNITS)]
    for k, neuron in enumerate(groups[0]):
        neuron.set_attributes(soma_hw_name=f"loihi_inputs[{k}]", model_attributes={"spikes": events[:, k].tolist()})
        neuron.map_to_core(cores[int(case["input_core"])])
    for i in range(int(case["layers"])):
        weights = case[f"weights_{i}"].T.astype(np.float64)
        attributes = {"threshold": float(case["threshold"]), "leak_decay": float(case["leak"])}
        group = net.create_neuron_group(f"layer{i}", weights.shape[1], attributes, soma_hw_name="loihi_lif", **UNITS)
        groups[-1].connect_neurons_dense(group, {"weight": weights.ravel().tolist()})
        for neuron, core in zip(group, case[f"core_{i}"].tolist(), strict=True):
            neuron.map_to_core(cores[core])
            neuron.set_attributes(log_spikes=True)
        groups.append(group)
    return net


def prepare() -> tuple[Any, Any]:
    case = np.load(sys.argv[1])
    layers, steps = int(case["layers"]), len(case["spikes"])
    chip_steps, few = steps + layers, int(sys.argv[3]) if len(sys.argv) > 3 else 3
    began = time.perf_counter()
    arch = sanafe.load_loihi()
    net = network_of(case, arch, chip_steps)
    built = time.perf_counter() - began
    waiting: list[Any] = []

    def build() -> None:
        chip = sanafe.SpikingChip(arch)  # a reset does not rewind input spikes
        chip.load(net)
        waiting.append(chip)

    def run(model: str, count: int, traces: bool) -> Any:
        return waiting.pop().sim(count, timing_model=model, perf_trace=traces, spike_trace=traces)

    def timed(model: str, count: int) -> dict[str, float]:
        return {"sim_time_s": float(run(model, count, False)["sim_time"])}

    build()
    result = run("simple", chip_steps, True)
    trace = result["perf_trace"]
    arrays = {f"simple.{key}": np.array(trace[key]) for key in ("sim_time", "fired", "updated", "spikes", "hops")}
    fired = [np.zeros((chip_steps, len(case[f"weights_{i}"])), bool) for i in range(layers)]
    for t, addresses in enumerate(result["spike_trace"]):
        for a in addresses:
            if a.group_name != "input":
                fired[int(a.group_name.removeprefix("layer"))][t, a.neuron_offset] = True
    arrays |= {f"fired_{i}": rows[i + 1 : i + 1 + steps] for i, rows in enumerate(fired)}
    arrays |= {"packets": result["packets_sent"], "synops": arrays["simple.spikes"].sum()}
    build()
    arrays["cycle.sim_time"] = np.array(run("cycle", few, True)["perf_trace"]["sim_time"])
    np.savez(sys.argv[2], **arrays)
    works = {
        "build": build,
        "simple": lambda: timed("simple", chip_steps),
        "detailed": lambda: timed("detailed", chip_steps),
        "cycle": lambda: timed("cycle", few),
    }
    said = {"sanafe": version("sanafe"), "build_s": built, "chip_steps": chip_steps, "cycle_steps": few}
    return said, works


if __name__ == "__main__":
    serve(prepare)
