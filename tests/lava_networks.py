"""Random networks of integers for the Lava backend's tests, sealed as its program without the rest of a compilation."""

import importlib
import io
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from snncompile.backends.lava import LavaBackend, emit

from snncompile.encoding import Encoder
from snncompile.mapping.connectivity import shape3
from snncompile.mapping.partition import CoreGraph, Grid
from snncompile.quant_network import Population, QuantNetwork, QuantSynapses
from snncompile.quantization.state_bounds import input_interval, prove
from snncompile.quantization.verify_integers import verify_integers

INPUT_MAX = 255
SHAPES = {"n1": (4, 9, 8), "n2": (4, 9, 8), "n3": (6, 2, 4), "n4": (12,), "out": (5,)}
MIXING_SHAPES = {"n1": (4, 9, 8), "n2": (4, 9, 8), "n3": (4, 4, 4), "n4": (5,), "out": (5,)}


def random_weights(
    rng: np.random.Generator, name: str, source: str, kind: str, shape: tuple[int, ...], bits: int = 8, **options: Any
) -> QuantSynapses:
    limit = 1 << (bits - 1)
    options = {"exponent": 0} | options
    return QuantSynapses(name, source, kind, rng.integers(-limit, limit, shape), bits, **options)  # type: ignore[arg-type]


def one_to_one(
    rng: np.random.Generator, name: str, source: str, channels: int, bits: int = 8, **options: Any
) -> QuantSynapses:
    """A weight a channel: every source drives the neuron at its own place only."""
    return random_weights(rng, name, source, "conv", (channels, 1, 1, 1), bits, groups=channels, **options)


def random_synapses(rng: np.random.Generator) -> tuple[QuantSynapses, ...]:
    """Convolutions with groups, dilation, stride and pools, linear layers, shortcuts over 2 and 4 steps."""

    def conv(name: str, source: str, *shape: int, **options: Any) -> QuantSynapses:
        return random_weights(rng, name, source, "linear" if len(shape) == 2 else "conv", shape, **options)

    into_n3 = {"pool": (2, 2), "stride": (2, 1), "padding": (1, 1)}
    return (
        conv("c1", "input", 4, 2, 3, 3, padding=(1, 1)),
        conv("c2", "n1", 4, 2, 3, 3, bits=4, exponent=3, padding=(2, 1), dilation=(2, 1), groups=2),
        conv("c3", "n2", 6, 4, 3, 3, **into_n3),
        conv("c3b", "n2", 6, 2, 3, 3, bits=3, exponent=2, groups=2, **into_n3),
        conv("c3s", "n1", 6, 4, 3, 3, delay_steps=2, **into_n3),
        conv("f4", "n3", 12, 6 * 1 * 2, bits=16, exponent=5, pool=(2, 2)),
        conv("f5", "n4", 5, 12),
        conv("f5s", "n1", 5, 4 * 9 * 8, bits=2, delay_steps=4),
    )


def random_population(
    rng: np.random.Generator,
    network: QuantNetwork,
    name: str,
    shape: tuple[int, ...],
    synapses: tuple[str, ...],
    spiking: bool,
) -> Population:
    """Neurons with thresholds within reach of their input."""
    channels, depth = shape[0], len(network.populations) + 1
    intervals = [
        input_interval(network.synapses_by_name[s], network.payload_max_of(network.synapses_by_name[s].source))
        for s in synapses
    ]
    reach = max(8, int(np.mean([np.minimum(-low, high).mean() for low, high in intervals])) // 6)
    levels = int(rng.integers(1, 5)) if spiking else 0
    thresholds = np.cumsum(rng.integers(1, reach, (levels, channels)), axis=0)
    return Population(
        name=name,
        shape=shape,
        synapses=synapses,
        bias=rng.integers(-reach // 8, reach // 8 + 1, channels),
        v0=rng.integers(-reach // 4, reach // 4 + 1, channels),
        thresholds=thresholds,
        payload=np.cumsum(rng.integers(1, 4, levels)),
        subtract=thresholds if rng.random() < 0.5 else rng.integers(0, reach, (levels, channels)),
        decay=int(rng.choice([0, 2048, 3000])),
        reset=str(rng.choice(["soft", "hard", "none"])),  # type: ignore[arg-type]
        fire=str(rng.choice(["ge", "gt"])),  # type: ignore[arg-type]
        depth=depth,
        input_bits=62,
        state_bits=62,
    )


def with_population(network: QuantNetwork, population: Population) -> QuantNetwork:
    """The network with one population more, its widths proven."""
    bounds = prove(replace(network, populations=(*network.populations, population)), population)
    population = replace(population, input_bits=bounds.input_bits, state_bits=bounds.state_bits)
    return replace(network, populations=(*network.populations, population))


def random_network(seed: int, timesteps: int = 3) -> QuantNetwork:
    """A valid network of random integers with every geometry the integer network knows."""
    rng = np.random.default_rng(seed)
    network = QuantNetwork("input", (2, 9, 8), INPUT_MAX, random_synapses(rng), (), timesteps)
    inputs = {"n1": ("c1",), "n2": ("c2",), "n3": ("c3", "c3b", "c3s"), "n4": ("f4",), "out": ("f5", "f5s")}
    for name, synapses in inputs.items():
        population = random_population(rng, network, name, SHAPES[name], synapses, spiking=name != "out")
        network = with_population(network, population)
    verify_integers(network)
    return network


def mixing_network(seed: int, timesteps: int) -> QuantNetwork:
    """Mixing in the first layer and in the middle, identity shortcuts, leaks above 1; odd seeds end in spikes."""
    rng = np.random.default_rng(seed)
    n2, n3, n4 = (int(np.prod(MIXING_SHAPES[name])) for name in ("n2", "n3", "n4"))
    wait = timesteps - 1
    synapses = (
        random_weights(rng, "c1", "input", "conv", (4, 2, 3, 3), padding=(1, 1)),
        random_weights(rng, "c2", "n1", "conv", (4, 4, 3, 3), padding=(1, 1)),
        one_to_one(rng, "i2", "n1", 4, exponent=3),
        random_weights(rng, "c3", "n2", "conv", (4, 4, 3, 3), pool=(2, 2), padding=(1, 1)),
        one_to_one(rng, "i3", "n1", 4, 5, pool=(2, 2), exponent=5, delay_steps=2 + wait),
        random_weights(rng, "f4", "n3", "linear", (5, n3)),
        random_weights(rng, "f5", "n4", "linear", (5, n4)),
        one_to_one(rng, "i5", "n4", 5, exponent=1),
        random_weights(rng, "f5s", "n2", "linear", (5, n2), 3, delay_steps=3),
    )
    network = QuantNetwork("input", (2, 9, 8), INPUT_MAX, synapses, (), timesteps)
    inputs = {"n1": ("c1",), "n2": ("c2", "i2"), "n3": ("c3", "i3"), "n4": ("f4",), "out": ("f5", "i5", "f5s")}
    depth = 0
    for i, (name, sources) in enumerate(inputs.items()):
        spiking, mixes = name != "out" or seed % 2 == 1, name in ("n1", "n2")
        depth += 1 + wait * mixes
        mixing = rng.integers(-2048, 4097, (timesteps, timesteps)) if mixes else None
        if mixing is not None:
            mixing[0, -1] = 4096  # the first step needs the last: waits is T - 1
        population = replace(
            random_population(rng, network, name, MIXING_SHAPES[name], sources, spiking),
            decay=(-4096, -700, 2048, 0)[(i + seed) % 4],
            mixing=mixing,
            depth=depth,
        )
        network = with_population(network, population)
    verify_integers(network)
    return network


SYSTEM_SHAPES = {"n1": (4, 5, 3), "n2": (6, 5, 3), "n3": (12,), "n4": (6,), "n5": (8,), "out": (5,)}


def systems_network(seed: int, timesteps: int, microsteps: int = 1, input_kind: str = "spikes") -> QuantNetwork:
    """What lowerings make: lateral synapses, micro-steps with doors, mixing that waits 0, 1 or T - 1 steps, currents.

    n1 is inhibited by its own group of 2 channels, n2 mixes with a small window, n3 (flat) mixes and drives itself by a
    full matrix, n4 and n5 have grouped 1x1 convolutions of flat features, n5 causal mixing and lateral synapses.
    Wherever the source is n1 or n2 the kernels are 1x1 or 3x3, with and without groups and stride.
    """
    rng = np.random.default_rng(seed)
    window, wide = min(1, timesteps - 1), timesteps - 1
    first = random_weights(rng, "c1", "input", "conv", (4, 2, 3, 3), padding=(1, 1))
    if input_kind == "currents":
        ones = np.ones((4, 1, 1, 1), int)
        first = QuantSynapses("c1", "input", "conv", ones, 8, int(rng.integers(0, 3)), groups=4)
    synapses = (
        first,
        random_weights(rng, "l1", "n1", "conv", (4, 2, 1, 1), 5, groups=2, exponent=3),
        random_weights(rng, "c2", "n1", "conv", (6, 2, 1, 1), groups=2),
        random_weights(rng, "l2", "n2", "conv", (6, 6, 3, 3), 4, padding=(1, 1)),
        random_weights(rng, "c3", "n2", "linear", (12, 6 * 5 * 3)),
        random_weights(rng, "c3s", "n1", "linear", (12, 4 * 2 * 1), 5, pool=(2, 3), delay_steps=2 + window),
        random_weights(rng, "l3", "n3", "linear", (12, 12)),
        random_weights(rng, "c4", "n3", "conv", (6, 4, 1, 1), groups=3),
        random_weights(rng, "c5", "n4", "conv", (8, 3, 1, 1), groups=2),
        random_weights(rng, "l5", "n5", "conv", (8, 4, 1, 1), 6, groups=2, exponent=1),
        random_weights(rng, "c6", "n5", "conv", (5, 8, 1, 1)),
    )
    wait = {"n2": window, "n3": wide, "n5": 0}
    largest = 5000 if input_kind == "currents" else INPUT_MAX
    shape = SYSTEM_SHAPES["n1"] if input_kind == "currents" else (2, 5, 3)
    network = QuantNetwork("input", shape, largest, synapses, (), timesteps, microsteps, input_kind)  # type: ignore[arg-type]
    inputs = {"n1": ("c1", "l1"), "n2": ("c2", "l2"), "n3": ("c3", "c3s", "l3"), "n4": ("c4",), "n5": ("c5", "l5")}
    depth = 0
    for i, (name, sources) in enumerate({**inputs, "out": ("c6",)}.items()):
        depth += 1 + wait.get(name, 0)
        reads = tuple(s for s in sources if not s.startswith("l"))
        population = replace(
            random_population(rng, network, name, SYSTEM_SHAPES[name], reads, name != "out" or seed % 2 == 1),
            synapses=sources,
            decay=(700, 2048, -300, 0)[(i + seed) % 4],
            mixing=windowed(rng, timesteps, wait[name]) if name in wait else None,
            members=2 if name == "n1" else 1,
            open_steps=(None, 1, 2)[(i + seed) % 3] if microsteps > 1 and name != "out" else None,
            depth=depth,
        )
        network = with_population(network, population)
    verify_integers(network)
    return network


def windowed(rng: np.random.Generator, timesteps: int, ahead: int) -> np.ndarray:
    """Mixing that needs inputs up to `ahead` steps later."""
    mixing = np.tril(rng.integers(-2048, 4097, (timesteps, timesteps)), ahead)
    mixing[0, ahead] = 4096
    return mixing


def systems_payloads(network: QuantNetwork, seed: int, samples: int, frames: bool) -> np.ndarray:
    """Payloads that the network's input sends, sparse; with frames one for every time step."""
    rng = np.random.default_rng(seed)
    steps = (network.timesteps // network.microsteps,) if frames else ()
    shape = (samples, *steps, *network.input_shape)
    low = -network.input_payload_max if network.input_kind == "currents" else 0
    return rng.integers(low, network.input_payload_max + 1, shape) * (rng.random(shape) < 0.7)


def random_payloads(seed: int, samples: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, INPUT_MAX + 1, (samples, 2, 9, 8))


def pixels(network: QuantNetwork, scale: float = 0.5) -> Encoder:
    steps = network.timesteps // network.microsteps
    return Encoder("pixels", scale, network.input_shape, steps, network.input_payload_max)


def host_layer(rng: np.random.Generator, timesteps: int = 3) -> Encoder:
    """Currents of a `systems_network`: a pooled convolution and a strided one, negative weights included."""
    synapses = (
        random_weights(rng, "c1", "input", "conv", (4, 2, 3, 3), 15, pool=(2, 2), padding=(1, 1)),
        random_weights(rng, "c2", "input", "conv", (4, 1, 1, 1), 17, stride=(2, 2), groups=2),
    )
    bias = rng.integers(-(1 << 25), 1 << 25, 4)
    return Encoder("currents", 0.5, (2, 10, 6), timesteps, 5000, synapses, bias, 16)


def random_cut(network: QuantNetwork, seed: int, most: int = 3) -> CoreGraph:
    """Every population cut at random places, into at most `most` parts along each axis; a core a slice."""
    rng = np.random.default_rng(seed)

    def edges(size: int) -> np.ndarray:
        inner = rng.permutation(np.arange(1, size))[: rng.integers(0, most)]
        return np.array([0, *sorted(inner.tolist()), size])

    grids = {p.name: Grid(*(edges(size) for size in shape3(p.shape))) for p in network.populations}
    slices = sum(grid.tiles for grid in grids.values())
    return CoreGraph(grids, rng.permutation(slices), {"neurons": np.zeros(slices, np.int64)}, {})


def shared_memory() -> set[str]:
    """Names of shared memory and of semaphores (sem.*)."""
    return set(os.listdir("/dev/shm"))


def shared_left(before: set[str]) -> list[str]:
    """Names that were not there before and stay: those of tests beside this one live for milliseconds."""
    left, deadline = shared_memory() - before, time.monotonic() + 10
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left &= shared_memory()
    return sorted(left)


def program_of(network: QuantNetwork, encoder: Encoder | None = None, graph: CoreGraph | None = None) -> Any:
    """What the Lava backend reads of a program; one core a population where no graph is given."""
    host = SimpleNamespace(encoder=encoder or pixels(network))
    return SimpleNamespace(network=network, host=host, core_graph=graph or random_cut(network, 0, most=1))


def seal(
    directory: Path, network: QuantNetwork, encoder: Encoder | None = None, graph: CoreGraph | None = None
) -> Path:
    (directory / "lava").mkdir()
    for name, content in LavaBackend().emit(program_of(network, encoder, graph)).items():
        (directory / name).write_bytes(content)
    return directory


def emitted_module(name: str) -> ModuleType:
    """A module of the emitted program, imported as the stand-alone program does; not one that needs Lava."""
    folder = str(emit.files(f"{emit.__package__}.emitted"))
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


def sealed_network(
    network: QuantNetwork, encoder: Encoder | None = None, graph: CoreGraph | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """network.json and weights.npz as the emitted program reads them."""
    files = emit.emit(network, encoder or pixels(network), graph or random_cut(network, 0, most=1))
    with np.load(io.BytesIO(files["lava/weights.npz"]), allow_pickle=False) as arrays:
        return json.loads(files["lava/network.json"]), {name: arrays[name] for name in arrays.files}
