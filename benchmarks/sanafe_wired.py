"""`run --timing cycle` of whole programs beside SANA-FE's cycle model, on networks of sanafe_compare.py.

    uv run python benchmarks/sanafe_wired.py --python PEER/bin/python [--case lif] [--out figures.json]

sanafe_compare.py gives its packets to the router itself, neuron by neuron. Here the networks are programs (integers,
cores, places as SANA-FE has them), run by the chip simulator with every step through the router: packets come from
the function engine's spikes, and every core spreads its packets evenly over the time it generates in a step. Cases
are those without convolution; the gesture network's last layers are cut between the rows of a channel, which our
boxes cannot be.

Compared: spikes of every neuron and step (exactly; the LIF network's where no membrane comes within our truncation of
its threshold), steps event-timed with its simple model, and steps through our router with its cycle model. SANA-FE's
input neurons take no time; ours are a population that the host makes fire one step earlier, whose time is counted.
Exit 1 where spikes differ or a case is further from the cycle model than WITHIN_PERCENT.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sanafe_compare import CASES, against, load, peer_arrays
from snncompile.backends.chipsim.simulator import ChipSim

from snncompile.backend import RunOptions
from snncompile.chip import Chip, load_chip
from snncompile.encoding import Encoder
from snncompile.mapping.partition import RESOURCES, CoreGraph, Grid
from snncompile.mapping.place import Placement
from snncompile.program import Program, Provenance
from snncompile.quant_network import DECAY_ONE, Population, QuantNetwork, QuantSynapses
from snncompile.quantization.quantize import HostScales

FRACTION_BITS = 6
WITHIN_PERCENT = {"dense-64": 10.0, "dense-256": 10.0, "dense-512": 10.0, "lif": 10.0}


def network_of(arrays: dict[str, np.ndarray]) -> QuantNetwork:
    """The peer's network in integers; its first layer reads the host one to one."""
    synapses, populations, source = [], [], "input"
    for i in range(int(arrays["layers"])):
        weight = arrays[f"weights_{i - 1}"].T.astype(np.int64) if i else one_to_one(arrays)
        size, name, kind = len(weight), f"layer{i}", "linear" if i else "conv"
        synapses.append(
            QuantSynapses(f"{name}_in", source, kind, weight, 8, FRACTION_BITS, groups=1 if i else size, delay_steps=1)
        )
        threshold = np.full((1, size), int(arrays[f"threshold_{i}"]) << FRACTION_BITS)
        bias = arrays[f"bias_{i}"].astype(np.int64) << FRACTION_BITS
        decay = round((1 - float(arrays[f"leak_{i}"])) * DECAY_ONE)
        zeros, payload = np.zeros(size, np.int64), np.ones(1, np.int64)
        populations.append(
            Population(
                name, (size,), (synapses[-1].name,), bias, zeros, threshold, payload, threshold, decay, "hard", "gt",
                i + 1, 24, 24,
            )
        )  # fmt: skip
        source = name
    steps = len(arrays["simple.sim_time"])
    return QuantNetwork("input", populations[0].shape, 1, tuple(synapses), tuple(populations), steps)


def one_to_one(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Weights (neurons, 1, 1, 1) from the host into the first layer."""
    return np.ones((int(arrays["cores_0"].sum()), 1, 1, 1), np.int64)


def program_of(arrays: dict[str, np.ndarray], chip: Chip) -> Program:
    """The network on the cores that SANA-FE has it on: in order, tile by tile, tiles down the columns."""
    network, whole = network_of(arrays), np.array([0, 1])
    cut = {p.name: arrays[f"cores_{i}"] for i, p in enumerate(network.populations)}
    grids = {name: Grid(np.concatenate([[0], np.cumsum(sizes)]), whole, whole) for name, sizes in cut.items()}
    cores = sum(grid.tiles for grid in grids.values())
    tile, slot = np.divmod(np.arange(cores), chip.mesh.cores_per_router)
    place = Placement(np.zeros(cores, np.int64), tile // chip.mesh.height, tile % chip.mesh.height, slot)
    graph = CoreGraph(grids, np.arange(cores), {r: np.zeros(cores, np.int64) for r in RESOURCES}, {})
    host = HostScales(Encoder("events", 1.0, network.input_shape, network.timesteps, 1), {}, 1.0)
    made = Provenance("0" * 64, {}, (), 8, "max", {}, "auto", "direct", {})
    return Program(f"{chip.name}-sim", chip, network, host, graph, place, made)


def spikes_apart(program: Program, payloads: Any, peer: dict[str, np.ndarray]) -> int:
    """Neurons' steps in which only one of the two fires; SANA-FE's layers all start in its first step."""
    events, apart = peer["simple.fired_neurons"], 0
    biased = any(p.bias.any() for p in program.network.populations)
    for i, population in enumerate(program.network.populations):
        ours = payloads[population.name][:, 0] != 0
        theirs = np.zeros_like(ours)
        lag = 0 if biased else i
        t, n = events[events[:, 1] == i][:, [0, 2]].T
        kept = t >= lag
        theirs[t[kept] - lag, n[kept]] = True
        upto = len(ours) - lag
        apart += int((ours[:upto] != theirs[:upto]).sum())
    return apart


def figures_of(case: str, arrays: dict[str, np.ndarray], chip: Chip) -> dict[str, Any]:
    program = program_of(arrays, chip)
    steps = program.network.timesteps
    spikes = arrays.get("spikes_0", np.zeros((steps, program.network.input_shape[0])))
    events = spikes.astype(np.int64)[None]
    names = [p.name for p in program.network.populations]
    event = ChipSim().run(program, Path(), events, names, options=RunOptions("event", arrays=True))
    cycle = ChipSim().run(program, Path(), events, options=RunOptions("cycle", arrays=True))
    theirs = arrays["cycle.sim_time"] * 1e9
    few = len(theirs)
    full = slice(len(names) - 1, steps)  # steps of SANA-FE's in which all of our layers are at work, one step later
    shifted = slice(full.start + 1, full.stop + 1)
    simple = arrays["simple.sim_time"] * 1e9
    return {
        "case": case,
        "steps_of_cycle_model": few,
        "spikes": int(sum((event.payloads[name] != 0).sum() for name in names)),
        "spikes_apart": spikes_apart(program, event.payloads, arrays),
        "routed_steps": int(cycle.arrays["step_routed"].sum()),
        "event-timed from simple": against(event.arrays["step_ns"][shifted], simple[full]),
        "clocked from cycle": against(cycle.arrays["step_ns"][1 : few + 1], theirs),
        "clocked from event-timed": against(cycle.arrays["step_ns"][1 : few + 1], event.arrays["step_ns"][1 : few + 1]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="Python of the environment that has SANA-FE")
    parser.add_argument("--case", choices=WITHIN_PERCENT, action="append", help="default: all")
    parser.add_argument("--peer-results", type=Path, help="folder of CASE.npz written by sanafe_peer.py before")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    asked = parser.parse_args()
    if (asked.python is None) == (asked.peer_results is None):
        print("one of --python and --peer-results is needed", file=sys.stderr)
        return 2
    chip, figures = load_chip("loihi1"), []
    with tempfile.TemporaryDirectory() as folder:
        for case in asked.case or WITHIN_PERCENT:
            if asked.peer_results:
                arrays = load(asked.peer_results / f"{case}.npz")
            else:
                arrays = peer_arrays(asked.python, case, *CASES[case], Path(folder))
            figures.append(figures_of(case, arrays, chip))
            print(json.dumps(figures[-1], indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(figures, indent=1) + "\n")
    far = [f for f in figures if abs(f["clocked from cycle"]["total_percent"]) > WITHIN_PERCENT[f["case"]]]
    return int(bool(far) or any(f["spikes_apart"] for f in figures))


if __name__ == "__main__":
    sys.exit(main())
