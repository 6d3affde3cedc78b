"""Random networks of integers for the Lava backend's tests, sealed as its program without the rest of a compilation."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from snncompile.backends.lava import LavaBackend

from snncompile.quant_network import Population, QuantNetwork, QuantSynapses
from snncompile.state_bounds import input_interval, prove
from snncompile.verify_integers import verify_integers

INPUT_MAX = 255
SHAPES = {"n1": (4, 9, 8), "n2": (4, 9, 8), "n3": (6, 2, 4), "n4": (12,), "out": (5,)}
MIXING_SHAPES = {"n1": (4, 9, 8), "n2": (4, 9, 8), "n3": (4, 4, 4), "n4": (5,), "out": (5,)}


def random_weights(
    rng: np.random.Generator, name: str, source: str, kind: str, shape: tuple[int, ...], bits: int = 8, **options: Any
) -> QuantSynapses:
    limit = 1 << (bits - 1)
    options = {"exponent": 0} | options
    return QuantSynapses(name, source, kind, rng.integers(-limit, limit, shape), bits, **options)  # type: ignore[arg-type]


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
    bounds = prove(network, population)
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
        random_weights(rng, "i2", "n1", "one_to_one", (4,), exponent=3),
        random_weights(rng, "c3", "n2", "conv", (4, 4, 3, 3), pool=(2, 2), padding=(1, 1)),
        random_weights(rng, "i3", "n1", "one_to_one", (4,), 5, pool=(2, 2), exponent=5, delay_steps=2 + wait),
        random_weights(rng, "f4", "n3", "linear", (5, n3)),
        random_weights(rng, "f5", "n4", "linear", (5, n4)),
        random_weights(rng, "i5", "n4", "one_to_one", (5,), exponent=1),
        random_weights(rng, "f5s", "n2", "linear", (5, n2), 3, delay_steps=3),
    )
    network = QuantNetwork("input", (2, 9, 8), INPUT_MAX, synapses, (), timesteps)
    inputs = {"n1": ("c1",), "n2": ("c2", "i2"), "n3": ("c3", "i3"), "n4": ("f4",), "out": ("f5", "i5", "f5s")}
    depth = 0
    for i, (name, sources) in enumerate(inputs.items()):
        spiking, mixes = name != "out" or seed % 2 == 1, name in ("n1", "n2")
        depth += 1 + wait * mixes
        population = replace(
            random_population(rng, network, name, MIXING_SHAPES[name], sources, spiking),
            decay=(-4096, -700, 2048, 0)[(i + seed) % 4],
            mixing=rng.integers(-2048, 4097, (timesteps, timesteps)) if mixes else None,
            depth=depth,
        )
        network = with_population(network, population)
    verify_integers(network)
    return network


def random_payloads(seed: int, samples: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, INPUT_MAX + 1, (samples, 2, 9, 8))


def program_of(network: QuantNetwork) -> Any:
    return SimpleNamespace(network=network, host=SimpleNamespace(input_scale=0.5))


def seal(directory: Path, network: QuantNetwork) -> Path:
    (directory / "lava").mkdir()
    for name, content in LavaBackend().emit(program_of(network)).items():
        (directory / name).write_bytes(content)
    return directory
