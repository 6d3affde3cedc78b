"""Runs nengo-loihi's emulator on the network of peers.py, in its own environment; snncompile is not there.

    ENV/bin/python benchmarks/nengo_loihi_peer.py CASE.npz OUT.npz

The network is built from the blocks below Nengo's models (LoihiBlock, Synapse, Axon, SpikeInput), in the integers that
were deployed, so that no discretisation of its own comes between. Work "sample": all steps of the sample in a new
emulator, built outside the measured time. OUT.npz: spikes of every layer, the synaptic operations of the sample.

Its neuron: v = trunc(v * (4096 - decay) / 4096) + input; fires above the threshold, then v = 0: Loihi's, and ours.
"""

import sys
from importlib.metadata import version
from typing import Any

import numpy as np
from nengo_loihi.block import Axon, LoihiBlock, Synapse
from nengo_loihi.builder import Model
from nengo_loihi.emulator import EmulatorInterface
from nengo_loihi.inputs import SpikeInput
from nengo_loihi.probe import LoihiProbe
from peer_protocol import serve

NO_INPUT_FILTER = 4095
"""Decay of the input current that leaves nothing of it; the emulator adds 1."""


def block_of(case: Any, i: int) -> LoihiBlock:
    """Layer i with the synapses into it, in integers."""
    weights = (case[f"weights_{i}"] << int(case[f"shift_{i}"])).astype(np.int32)
    block = LoihiBlock(len(weights), label=f"layer{i}")
    c = block.compartment
    c.decay_u = np.full(len(weights), NO_INPUT_FILTER, np.int32)
    c.decay_v = np.full(len(weights), int(case["decay"]), np.int32)
    c.scale_u = c.scale_v = False
    c.vth = np.full(len(weights), int(case["threshold"]) << int(case[f"shift_{i}"]), np.int32)
    c.bias = np.zeros(len(weights), np.int32)
    c.refract_delay[:] = 1
    c.vmin, c.vmax = -(2**23) + 1, 2**23 - 1
    synapse = Synapse(weights.shape[1])
    synapse.weights = [weights[:, k][None].copy() for k in range(weights.shape[1])]
    synapse.indices = [np.arange(len(weights))[None] for _ in range(weights.shape[1])]
    synapse.axon_compartment_bases = [0] * weights.shape[1]
    block.add_synapse(synapse)
    return block


def model_of(case: Any) -> tuple[Model, list[LoihiProbe]]:
    """The whole network with its input spikes and a probe on every layer."""
    model, steps, probes = Model(dt=0.001), len(case["spikes"]), []
    source: Any = SpikeInput(case["spikes"].shape[1])
    for t in range(steps):
        source.add_spikes(t + 1, np.flatnonzero(case["spikes"][t]).tolist(), permanent=True)
    model.add_input(source)
    for i in range(int(case["layers"])):
        block = block_of(case, i)
        axon = Axon(block.synapses[0].n_axons)
        axon.target = block.synapses[0]
        axon.set_compartment_axon_map(np.arange(axon.n_axons))
        source.add_axon(axon)
        model.add_block(block)
        probes.append(LoihiProbe(target=block, key="spiked"))
        model.add_probe(probes[-1])
        source = block
    return model, probes


def prepare() -> tuple[Any, Any]:
    case = np.load(sys.argv[1])
    layers, steps = int(case["layers"]), len(case["spikes"])
    model, probes = model_of(case)
    waiting = [EmulatorInterface(model, seed=0)]

    def sample() -> None:
        emulator = waiting.pop()
        emulator.run_steps(steps + layers)  # a step from layer to layer

    emulator = waiting[0]
    sample()
    fired = {f"fired_{i}": np.array(emulator.probes.outputs[probe][0]) for i, probe in enumerate(probes)}
    fired = {name: rows[i + 1 : i + 1 + steps] for i, (name, rows) in enumerate(fired.items())}
    fan_out = [len(case[f"weights_{i}"]) for i in range(layers)]
    sent = [case["spikes"], *list(fired.values())[:-1]]
    np.savez(sys.argv[2], synops=sum(int(s.sum()) * n for s, n in zip(sent, fan_out, strict=True)), **fired)
    works = {"build": lambda: waiting.append(EmulatorInterface(model, seed=0)), "sample": sample}
    return {"nengo-loihi": version("nengo-loihi"), "numpy": np.__version__}, works


if __name__ == "__main__":
    serve(prepare)
