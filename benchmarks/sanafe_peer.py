"""Runs SANA-FE on one case of sanafe_compare.py, in SANA-FE's own environment; snncompile is not there.

    PEER/bin/python benchmarks/sanafe_peer.py CASE STEPS CYCLE_STEPS OUT.npz

Writes the network it built (arrays) and, for each timing model, what every step took. The cycle model runs the first
CYCLE_STEPS only.
"""

import importlib.resources
import sys
import time
from typing import Any

import numpy as np
import sanafe
import sanafe.layers

UNITS = {"default_synapse_hw_name": "loihi_dense_synapse", "default_dendrite_hw_name": "loihi_dendrites"}
DVS_CORES = (1, 4, 16, 16, 4, 1)
"""Cores of each layer, as the tutorial of SANA-FE maps its gesture network."""


def describe(arrays: dict[str, Any], i: int, cores: list[int], threshold: float, leak: float, bias: Any) -> None:
    arrays.update({f"cores_{i}": cores, f"threshold_{i}": threshold, f"leak_{i}": leak, f"bias_{i}": bias})


def two_layers(net: Any, size: int, arrays: dict[str, Any]) -> list[Any]:
    """Two layers that fire in every step whatever comes in: bias 1, threshold 0, weights 1."""
    groups = []
    for i, name in enumerate("ab"):
        attributes = {"threshold": 0.0, "bias": 1.0, "leak_decay": 1.0}
        groups.append(net.create_neuron_group(name, size, attributes, soma_hw_name="loihi_lif", **UNITS))
        describe(arrays, i, [size], 0.0, 1.0, np.ones(size))
    arrays["weights_0"] = np.ones((size, size))
    groups[0].connect_neurons_dense(groups[1], {"weight": arrays["weights_0"].ravel().tolist()})
    return groups


def lif(net: Any, steps: int, arrays: dict[str, Any]) -> list[Any]:
    """784-512-256-10; input spikes with probability 0.1, weights -31..31 in even steps of chance, thresholds ours."""
    rng = np.random.default_rng(0)
    sizes, cores = (784, 512, 256, 10), ([784], [256, 256], [256], [10])
    arrays["spikes_0"] = rng.random((steps, sizes[0])) < 0.1
    describe(arrays, 0, cores[0], 0.0, 1.0, np.zeros(sizes[0]))
    groups = [net.create_neuron_group("input", sizes[0], {}, **UNITS)]
    for k, neuron in enumerate(groups[0]):
        train = arrays["spikes_0"][:, k].astype(int).tolist()
        neuron.set_attributes(soma_hw_name=f"loihi_inputs[{k}]", model_attributes={"spikes": train})
    for i, threshold in enumerate((256.0, 256.0, 256.0), 1):
        attributes = {"threshold": threshold, "leak_decay": 0.875}
        groups.append(net.create_neuron_group(f"layer{i}", sizes[i], attributes, soma_hw_name="loihi_lif", **UNITS))
        describe(arrays, i, cores[i], threshold, 0.875, np.zeros(sizes[i]))
        weights = rng.integers(-31, 32, (sizes[i - 1], sizes[i])).astype(np.float64)
        arrays[f"weights_{i - 1}"] = weights
        groups[i - 1].connect_neurons_dense(groups[i], {"weight": weights.ravel().tolist()})
    return groups


def dvs(net: Any, arrays: dict[str, Any]) -> list[Any]:
    """The gesture network of the package: convolutions 32x32 to 9x9, then 11 classes."""
    with importlib.resources.files("sanafe.examples").joinpath("dvs_challenge.npz").open("rb") as file:
        data = dict(np.load(file))
    thresholds = data["thresholds"]
    layers = [sanafe.layers.Input2D(net, 32, 32, threshold=thresholds[0])]
    shape = np.array([32, 32, 1])
    for i in range(4):
        kernel, stride = data[f"conv{i + 1}"], 2 if i == 0 else 1
        layers.append(
            sanafe.layers.Conv2D(
                net, layers[-1], kernel, stride_width=stride, stride_height=stride, threshold=thresholds[i + 1]
            )
        )
        arrays.update({f"kernel_{i}": kernel, f"shape_{i}": shape, f"stride_{i}": stride})
        shape = np.array([*((shape[:2] - kernel.shape[:2]) // stride + 1), kernel.shape[3]])
    layers.append(sanafe.layers.Dense(net, layers[-1], 11, data["dense1"], threshold=thresholds[5]))
    arrays["weights_4"] = data["dense1"]
    for neuron, bias in zip(layers[0], data["inputs"], strict=True):
        neuron.set_attributes(model_attributes={"bias": bias})
    for i, (layer, count) in enumerate(zip(layers, DVS_CORES, strict=True)):
        each = len(layer) // count
        cores = [each] * (count - 1) + [len(layer) - each * (count - 1)]
        describe(arrays, i, cores, float(thresholds[i]), 1.0, data["inputs"] if i == 0 else np.zeros(len(layer)))
    return layers


def mapped(arch: Any, groups: list[Any], arrays: dict[str, Any]) -> None:
    """Neurons in order onto cores in order."""
    cores, at = arch.cores(), 0
    for i, group in enumerate(groups):
        first = 0
        for count in arrays[f"cores_{i}"]:
            for neuron in group[first : first + count]:
                neuron.map_to_core(cores[at])
            first, at = first + count, at + 1
    arrays["layers"] = len(groups)


def name_of(group: Any) -> str:
    """Name of a group, or of the group of a layer."""
    return (group if hasattr(group, "get_name") else group.group).get_name()


def main() -> None:
    case, steps, cycle_steps, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    arrays: dict[str, Any] = {}
    started = time.perf_counter()
    arch, net = sanafe.load_loihi(), sanafe.Network()
    if case == "dvs":
        groups = dvs(net, arrays)
    elif case == "lif":
        groups = lif(net, steps, arrays)
    else:
        groups = two_layers(net, int(case.removeprefix("dense-")), arrays)
    mapped(arch, groups, arrays)
    for group in groups:
        for neuron in group:
            neuron.set_attributes(log_spikes=True)
    arrays["build_s"] = time.perf_counter() - started
    names = {name_of(group): i for i, group in enumerate(groups)}
    for model in ("simple", "detailed", "cycle"):
        count, walls = cycle_steps if model == "cycle" else steps, []
        for _ in range(1 if model == "cycle" else 3):
            chip = sanafe.SpikingChip(arch)  # a reset does not rewind input spikes
            chip.load(net)
            began = time.perf_counter()
            result = chip.sim(count, timing_model=model, perf_trace=True, spike_trace=True)
            walls.append(time.perf_counter() - began)
        trace = result["perf_trace"]
        arrays[f"{model}.wall_s"] = np.array(walls)
        arrays[f"{model}.energy_j"] = result["energy"]["total"]
        for key in ("sim_time", "fired", "updated", "spikes", "hops"):
            arrays[f"{model}.{key}"] = np.array(trace[key])
        arrays[f"{model}.packets"] = result["packets_sent"]
        events = [(t, names[a.group_name], a.neuron_offset) for t, at in enumerate(result["spike_trace"]) for a in at]
        arrays[f"{model}.fired_neurons"] = np.array(events, np.int64).reshape(-1, 3)
    np.savez(out, **arrays)


if __name__ == "__main__":
    main()
