"""Random integer networks by hand: everything that the lowered networks of the compiler may hold, and more."""

from dataclasses import replace

import numpy as np

from snncompile.network import Shape, waits
from snncompile.quant_network import Population, QuantNetwork, QuantSynapses, pooled_shape
from snncompile.quantization.state_bounds import prove
from snncompile.quantization.verify_integers import verify_integers


def integer_network(seed: int, listed: bool = False, general: bool = False) -> QuantNetwork:
    """Two to four populations: conv and linear, shortcuts, lateral synapses, mixing, micro-steps, signed currents.

    listed: sparse synapses too, dense ones that read a part of the channels, and populations that send sums.
    general: neurons of several states, and synapses that take more steps; up to six steps.
    """
    rng = np.random.default_rng(seed)
    microsteps = int(rng.choice([1, 1, 2, 3]))
    currents = bool(rng.random() < 0.3)
    shape = (int(rng.integers(1, 4)),) if rng.random() < 0.3 else tuple(int(n) for n in rng.integers(1, 6, 3))
    network = QuantNetwork(
        "input",
        shape,
        int(rng.choice([1, 255])),
        (),
        (),
        int(rng.integers(1, 7 if general else 4)) * microsteps,
        microsteps,
        "currents" if currents else "spikes",
    )
    count = int(rng.integers(2, 5))
    for number in range(count):
        if listed and number > 0 and rng.random() < 0.4:
            network = _with_sum(rng, network, f"p{number}_sum")
        network = _with_population(rng, network, f"p{number}", number == count - 1, listed, general)
    verify_integers(network)
    return network


def _with_sum(rng: np.random.Generator, network: QuantNetwork, name: str) -> QuantNetwork:
    """The network with a population that adds up what the last one sends, and sends that."""
    source = network.populations[-1]
    synapses = _listed_too(rng, network, source.name, f"{name}_a")
    synapses = replace(synapses, delay_steps=1)
    shape = _target_shape(network, synapses)
    zeros, none = np.zeros(shape[0], np.int64), np.zeros((0, shape[0]), np.int64)
    population = Population(
        name, shape, (synapses.name,), zeros, zeros, none, none[:, 0], none, 0, "hard", "ge", source.depth + 1, 0, 0,
        sends="sum",
    )  # fmt: skip
    return _proven(network, (synapses,), population)


def _with_population(
    rng: np.random.Generator, network: QuantNetwork, name: str, last: bool, listed: bool, general: bool = False
) -> QuantNetwork:
    source = network.populations[-1].name if network.populations else network.input_name
    host = source == network.input_name and network.input_kind == "currents"
    any_synapses = _listed_too if listed else _synapses
    first = _one_to_one(rng, network, source, f"{name}_a") if host else any_synapses(rng, network, source, f"{name}_a")
    shape = _target_shape(network, first)
    incoming = [first]
    skips = [network.input_name, *(p.name for p in network.populations[:-1])]
    skips = [n for n in skips if network.shape_of(n) == shape and n != source and not (host or _is_host(network, n))]
    if skips and rng.random() < 0.7:
        incoming.append(_one_to_one(rng, network, str(rng.choice(skips)), f"{name}_skip"))
    members = int(rng.choice([n for n in (1, 2, 3) if shape[0] % n == 0]))
    population = _population(rng, network, name, shape, members, spiking=not last or rng.random() < 0.3)
    if population.spiking and rng.random() < 0.6:
        lateral = _lateral(rng, population, f"{name}_lateral")
        incoming.append(_some(rng, lateral) if listed and lateral.kind == "linear" else lateral)
    if general:
        incoming = [replace(s, lag=int(rng.choice([0, 0, 1, 2, 9]))) for s in incoming]
        population = _general(rng, population, network.microsteps)
    depths = {network.input_name: 0} | {p.name: p.depth for p in network.populations}
    depth = max(depths[s.source] for s in incoming if s.source != name) + 1 + population.waits
    aligned = tuple(
        s if s.source == name else replace(s, delay_steps=depth - population.waits - depths[s.source]) for s in incoming
    )
    population = replace(population, depth=depth, synapses=tuple(s.name for s in aligned))
    return _proven(network, aligned, population)


def _proven(network: QuantNetwork, synapses: tuple[QuantSynapses, ...], population: Population) -> QuantNetwork:
    network = replace(network, synapses=(*network.synapses, *synapses), populations=(*network.populations, population))
    bounds = prove(network, population)
    proven = replace(population, input_bits=bounds.input_bits, state_bits=bounds.state_bits)
    return replace(network, populations=(*network.populations[:-1], proven))


def _is_host(network: QuantNetwork, name: str) -> bool:
    return network.input_kind == "currents" and name == network.input_name


def _weights(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-8, 8, shape)


def _synapses(rng: np.random.Generator, network: QuantNetwork, source: str, name: str) -> QuantSynapses:
    whole = network.shape_of(source)
    members = _summed(rng, whole[0])
    shape = (whole[0] // members, *whole[1:])
    exponent = int(rng.integers(0, 3))
    if len(shape) == 1:
        groups = int(rng.choice([g for g in (1, 2, shape[0]) if shape[0] % g == 0]))
        if rng.random() < 0.5:
            out = groups * int(rng.integers(1, 4))
            weight = _weights(rng, out, shape[0] // groups, 1, 1)
            return QuantSynapses(name, source, "conv", weight, 5, exponent, groups=groups, members=members)
        weight = _weights(rng, int(rng.integers(1, 9)), shape[0])
        return QuantSynapses(name, source, "linear", weight, 5, exponent, members=members)
    pool = tuple(int(rng.integers(1, min(n, 2) + 1)) for n in shape[1:])
    channels, height, width = shape[0], shape[1] // pool[0], shape[2] // pool[1]
    if rng.random() < 0.3:
        weight = _weights(rng, int(rng.integers(1, 9)), channels * height * width)
        return QuantSynapses(name, source, "linear", weight, 5, exponent, pool=pool, members=members)
    groups = int(rng.choice([g for g in (1, channels) if channels % g == 0]))
    weight = _weights(rng, groups * int(rng.integers(1, 4)), channels // groups, *rng.integers(1, 4, 2))
    stride = tuple(int(n) for n in rng.integers(1, 3, 2))
    geometry = {"pool": pool, "stride": stride, "padding": (1, 1), "groups": groups, "members": members}
    return QuantSynapses(name, source, "conv", weight, 5, exponent, **geometry)


def _listed_too(rng: np.random.Generator, network: QuantNetwork, source: str, name: str) -> QuantSynapses:
    """As `_synapses`; some linear ones sparse, some without groups reading only a part of the channels."""
    synapses = _synapses(rng, network, source, name)
    if synapses.kind == "linear" and rng.random() < 0.6:
        return _some(rng, synapses)
    channels = network.shape_of(source)[0] // synapses.members
    if synapses.groups > 1 or rng.random() < 0.5:
        return synapses
    first, end = sorted(int(n) for n in rng.choice(channels + 1, 2, replace=False))
    weight = synapses.weight.reshape(len(synapses.weight), channels, -1)[:, first:end]
    kernel = synapses.weight.shape[2:] if synapses.kind == "conv" else ()
    weight = weight.reshape(len(weight), end - first, *kernel) if kernel else weight.reshape(len(weight), -1)
    return replace(synapses, weight=weight, reads=(first * synapses.members, end * synapses.members))


def _some(rng: np.random.Generator, synapses: QuantSynapses) -> QuantSynapses:
    """Some of linear synapses, as sparse ones; at least one, not from or to every neuron."""
    there = rng.random(synapses.weight.shape) < rng.choice([0.2, 0.7])
    there.flat[int(rng.integers(there.size))] = True
    row, column = np.nonzero(there)
    weight = synapses.weight[row, column]
    return replace(synapses, kind="sparse", weight=weight, row=row, column=column, features=len(there))


def dense(network: QuantNetwork) -> QuantNetwork:
    """The same network with linear synapses, zeros included, in place of sparse ones."""
    return replace(network, synapses=tuple(_dense(network, s) for s in network.synapses))


def _dense(network: QuantNetwork, synapses: QuantSynapses) -> QuantSynapses:
    if synapses.kind != "sparse":
        return synapses
    features = int(np.prod(pooled_shape(network.shape_of(synapses.source), synapses.pool, synapses.members)))
    weight = np.zeros((synapses.channels, features), np.int64)
    weight[synapses.listed] = synapses.weight
    return replace(synapses, kind="linear", weight=weight, row=None, column=None, features=None)


def _summed(rng: np.random.Generator, channels: int) -> int:
    """How many channels add up before the weight."""
    return int(rng.choice([n for n in (1, 1, 2, 3) if channels % n == 0]))


def _one_to_one(rng: np.random.Generator, network: QuantNetwork, source: str, name: str) -> QuantSynapses:
    channels = network.shape_of(source)[0]
    weight = np.ones((channels, 1, 1, 1), np.int64)
    return QuantSynapses(name, source, "conv", weight, 2, int(rng.integers(0, 3)), groups=channels)


def _target_shape(network: QuantNetwork, synapses: QuantSynapses) -> Shape:
    from snncompile import reference

    image = np.zeros((1, *network.shape_of(synapses.source)), np.int64)
    return reference.integer_current(synapses, image).shape[1:]


def _lateral(rng: np.random.Generator, population: Population, name: str) -> QuantSynapses:
    """Among the members of each neuron, as the lowering makes it; or among all, of either sign, over neighbours."""
    channels, exponent = population.shape[0], int(rng.integers(0, 3))
    if len(population.shape) == 1 and rng.random() < 0.3:
        return QuantSynapses(name, population.name, "linear", _weights(rng, channels, channels), 5, exponent)
    groups, kernel = channels // population.members, (1, 1)
    members = population.members if rng.random() < 0.5 else 1
    padding = (0, 0)
    if len(population.shape) == 3 and rng.random() < 0.3:
        groups, kernel, padding = 1, (3, 3), (1, 1)
    weight = -np.abs(_weights(rng, channels, channels // members // groups, *kernel))
    return QuantSynapses(
        name, population.name, "conv", weight, 5, exponent, padding=padding, groups=groups, members=members
    )


def _population(
    rng: np.random.Generator, network: QuantNetwork, name: str, shape: Shape, members: int, spiking: bool
) -> Population:
    channels, levels = shape[0], int(rng.integers(1, 4)) if spiking else 0
    thresholds = np.cumsum(rng.integers(1, 40, (levels, channels)), axis=0)
    mixing = _mixing(rng, network.timesteps, network.microsteps) if rng.random() < 0.4 else None
    assert waits(mixing) >= 0
    return Population(
        name=name,
        shape=shape,
        synapses=(),
        bias=rng.integers(-9, 10, channels) * int(rng.random() < 0.7),
        v0=rng.integers(0, 20, channels) * int(rng.random() < 0.5),
        thresholds=thresholds,
        payload=np.cumsum(rng.integers(1, 200, levels)) if rng.random() < 0.5 else np.ones(levels, np.int64),
        subtract=np.cumsum(rng.integers(1, 40, (levels, channels)), axis=0),
        decay=int(rng.choice([0, 1024, 2048, -512])),
        reset=str(rng.choice(["soft", "hard", "none"])) if spiking else "none",
        fire=str(rng.choice(["ge", "gt"])),
        depth=0,
        input_bits=0,
        state_bits=0,
        mixing=mixing,
        members=members,
        open_steps=int(rng.integers(1, network.microsteps + 1)) if spiking and rng.random() < 0.5 else None,
    )


def _general(rng: np.random.Generator, population: Population, microsteps: int) -> Population:
    """The population with some of the states and constants that it may have."""
    channels = population.shape[0]

    def some(low: int, high: int) -> np.ndarray | None:
        return rng.integers(low, high, channels) if rng.random() < 0.5 else None

    drive = some(-9, 10) if population.spiking else None
    population = replace(population, decay=rng.integers(-300, 4097, channels), drive=drive)
    if microsteps > 1 or not population.spiking:
        return population
    population = replace(population, current_decay=some(0, 4097), floor=some(-200, 1))
    if rng.random() < 0.5:
        return population
    step, start = rng.integers(0, 30, channels), rng.integers(0, 30, channels)
    resets = population.reset == "soft" and rng.random() < 0.5
    adapted = {"adapt_decay": rng.integers(0, 4097, channels), "adapt_step": step, "adapt_start": start}
    return replace(population, **adapted, adapt_resets=bool(resets))


def _mixing(rng: np.random.Generator, timesteps: int, microsteps: int) -> np.ndarray:
    """Any, of either sign; or what a burst does: all of a time step's input in its first micro-step."""
    if rng.random() < 0.5:
        return rng.integers(-2048, 4096, (timesteps, timesteps)) * (rng.random((timesteps, timesteps)) < 0.6)
    taken = np.zeros((microsteps, microsteps), np.int64)
    taken[: int(rng.integers(1, microsteps + 1))] = 4096
    return np.kron(np.eye(timesteps // microsteps, dtype=np.int64), taken)


def integer_inputs(network: QuantNetwork, samples: int, seed: int) -> np.ndarray:
    """Payloads (N, *shape), or every second time frames (N, time steps, *shape); signed where they are currents."""
    rng = np.random.default_rng(seed)
    steps = () if rng.random() < 0.5 else (network.timesteps // network.microsteps,)
    shape = (samples, *steps, *network.input_shape)
    low = -network.input_payload_max if network.input_kind == "currents" else 0
    return rng.integers(low, network.input_payload_max + 1, shape) * (rng.random(shape) < 0.6)
