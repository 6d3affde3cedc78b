"""PilotNet-LIF on Loihi 2 from the spikes that it really sends: estimated time of a step, by what it is made of.

Used by validation.py. The network is lava-dl's `pilotnet_lif.net` (integer weights, shapes; h5py), its activity the
golden traces beside it: which neurons of every layer fire in the 16 steps of a frame. What a step takes follows from
the counts alone (`backends/chipsim/cost.py`), so no neuron is computed here. The input layer is a population of its
own, as Intel runs it; all neurons count as updated, since nearly all have a bias.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from placement_networks import population_of
from snncompile.backends.chipsim.breakdown import hops_of
from snncompile.backends.chipsim.cost import CoreTimes, Traffic, energy_report, event_counts, step_times_ns
from snncompile.backends.chipsim.counting import CoreCounter

from snncompile.chip import Chip, load_chip
from snncompile.encoding import Encoder
from snncompile.mapping.partition import partition
from snncompile.mapping.place import place_hilbert
from snncompile.program import Program, Provenance
from snncompile.quant_network import QuantNetwork, QuantSynapses
from snncompile.quantization.quantize import HostScales

STEPS = 16
"""Of a frame."""

MEASURED = {"step_us": 152.85, "dynamic_w": 0.447, "static_w": 0.232, "cores": 74, "dynamic_mj_a_frame": 1.094}
"""On Loihi 2 (lava-dl's notebook pilotnet_snn): 408.91 frames a second; single steps take 201, 107, 181 and 125 us."""

TERMS = ("neurons", "updates", "spikes", "packets out", "packets in", "synops")


@dataclass(frozen=True, eq=False)
class Trace:
    """A layer of the file, named as in the golden traces; fired (STEPS, C, H, W) in its own steps."""

    name: str
    weight: np.ndarray | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    fired: np.ndarray


def layers_of(net: Path, golden: Path) -> list[Trace]:
    """The input layer first. A layer's first step is as many steps late as it is deep."""
    names = {"conv": iter(f"conv_{i}" for i in range(9)), "dense": iter(f"fc_{i}" for i in range(9))}
    found = []
    with h5py.File(net) as file, np.load(golden) as traces:
        for i in range(len(file["layer"])):
            layer = file[f"layer/{i}"]
            kind = layer["type"][0].decode()
            if kind == "flatten":
                continue
            name = "input" if kind == "input" else next(names[kind])
            weight = None if kind == "input" else layer["weight"][()].astype(np.int64)
            if kind == "dense":
                weight = weight.reshape(int(layer["outFeatures"][()]), -1)  # of one output a row only
            stride, padding = (tuple(layer[k][()].tolist()) if k in layer else (1, 1) for k in ("stride", "padding"))
            late = len(found)
            spikes = (traces[name] if name in traces else traces[f"{name}_s"])[..., late : late + STEPS]
            shaped = spikes.T if spikes.ndim == 4 else spikes.T[:, :, None, None]  # (x, y, c, t) -> (t, c, y, x)
            found.append(Trace(name, weight, stride, padding, shaped != 0))
    return found


def network_of(layers: list[Trace]) -> QuantNetwork:
    """Shapes and weights on the chip; thresholds mean nothing here."""
    shape = layers[0].fired.shape[1:]
    synapses, populations, source = [], [], "pixels"
    for depth, layer in enumerate(layers, 1):
        weight = np.ones((shape[0], 1, 1, 1), np.int64) if layer.weight is None else layer.weight
        if weight.ndim == 2:
            s = QuantSynapses(f"{layer.name}_in", source, "linear", weight, 8, 0, delay_steps=1)
        else:
            geometry = {"stride": layer.stride, "padding": layer.padding} if layer.weight is not None else {}
            groups = shape[0] if layer.weight is None else 1
            s = QuantSynapses(
                f"{layer.name}_in", source, "conv", weight, 8, 0, groups=groups, delay_steps=1, **geometry
            )
        of = layer.fired.shape[1:] if weight.ndim == 4 else (len(weight),)
        populations.append(population_of(layer.name, of, s, depth))
        synapses.append(s)
        source = layer.name
    return QuantNetwork("pixels", shape, 1 << 20, tuple(synapses), tuple(populations), STEPS, 1, "currents")


def program_of(network: QuantNetwork, chip: Chip) -> Program:
    graph = partition(network, chip)
    host = HostScales(Encoder("events", 1.0, network.input_shape, STEPS, network.input_payload_max), {}, 1.0)
    made = Provenance("0" * 64, {}, (), 8, "max", {}, "auto", "direct", {})
    return Program(f"{chip.name}-sim", chip, network, host, graph, place_hilbert(graph.core_count, chip.mesh), made)


def terms_ns(traffic: Traffic, program: Program) -> dict[str, np.ndarray]:
    """Of every tile (T, tiles) in its own steps, ns by cause; what is received in the steps of its source."""
    time = program.chip.time
    shape = traffic.updated.shape[1:]
    found = {
        "neurons": np.broadcast_to(time.time_neuron_ns * traffic.neurons, shape),
        "updates": time.time_update_ns * traffic.updated[0],
        "spikes": time.time_spike_ns * traffic.fired[0],
        "packets out": time.time_packet_out_ns * traffic.packets_out[0],
        "packets in": np.zeros(shape),
        "synops": np.zeros(shape),
    }
    for r in traffic.receptions:
        tiles = slice(r.first_tile, r.first_tile + r.packets.shape[2])
        found["packets in"][:, tiles] += time.time_packet_in_ns * r.packets[0]
        found["synops"][:, tiles] += time.time_synop_ns * r.synops[0]
    return found


def by_layer(traffic: Traffic, program: Program) -> dict[str, Any]:
    """Of every layer: its cores, spikes a step, and us a step by term on its busiest core (over the frame)."""
    terms = terms_ns(traffic, program)
    found = {}
    for population in program.network.populations:
        tiles = program.core_graph.tiles_of(population.name)
        generation = sum(terms[name][:, tiles] for name in TERMS[:4])
        reception = sum(terms[name][:, tiles] for name in TERMS[4:])
        busiest = tiles.start + int(np.maximum(generation.mean(0), reception.mean(0)).argmax())
        found[population.name] = {
            "cores": tiles.stop - tiles.start,
            "spikes_a_step": float(traffic.fired[0][:, tiles].sum() / STEPS),
            "busiest_core_us": {name: float(terms[name][:, busiest].mean()) / 1e3 for name in TERMS},
        }
    return found


def estimate(folder: Path) -> dict[str, Any]:
    """Estimate and measurement, of the frame in the golden traces; frames follow each other every STEPS steps."""
    layers = layers_of(folder / "pilotnet_lif.net", folder / "pilotnet_lif_golden_traces.npz")
    chip = load_chip("loihi2")
    program = program_of(network_of(layers), chip)
    counter = CoreCounter(program)
    parts = {"pixels": counter.of_input(np.zeros((1, 1, *program.network.input_shape)))}
    for layer, population in zip(layers, program.network.populations, strict=True):
        fired = layer.fired.reshape(STEPS, 1, *population.shape)
        parts[layer.name] = counter.of_population(layer.name, fired, np.ones_like(fired))
    frames = [parts] * 3  # of three frames, the steps of the middle one: all layers are at work
    traffic, hops = counter.traffic(frames), hops_of(program, frames)
    routers = program.placement.routers_of_a_chip
    middle = slice(STEPS + len(layers) - 1, 2 * STEPS + len(layers) - 1)
    longest = CoreTimes(traffic, chip).longest
    step_us = step_times_ns(traffic, chip, routers)[middle] / 1e3
    owner = np.concatenate([np.full(g.tiles, i) for i, g in enumerate(program.core_graph.grids.values())])
    names = [layers[owner[core]].name for core in longest.core[middle].tolist()]
    energy = energy_report(event_counts(traffic), chip)
    return {
        "measured": MEASURED,
        "cores": program.core_graph.core_count,
        "step_us": float(step_us.mean()),
        "step_us_each": step_us.round(2).tolist(),
        "apart_percent": 100 * (float(step_us.mean()) / MEASURED["step_us"] - 1),
        "busiest_layer_by_step": names,
        "generation_us": float(longest.generation[middle].mean()) / 1e3,
        "reception_us": float(longest.reception[middle].mean()) / 1e3,
        "barrier_us": chip.time.barrier_ns(routers) / 1e3,
        "layers": by_layer(counter.traffic([parts]), program),
        "energy_mj_a_frame": {bound: energy[bound] * 1e-9 for bound in ("low", "nominal", "high")},
        "hops": float(sum(links.sum() for links in hops.values())) / len(frames),
        "events": event_counts(traffic),
    }
