"""Random networks for tests: small, valid, and different in every way a network may differ."""

import numpy as np

from snncompile.chip import load_chip
from snncompile.network import (
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MultiThresholdLIF,
    Network,
    Node,
    Readout,
    Sparse,
    sparse,
)
from snncompile.pipeline import lower
from snncompile.quant_network import QuantNetwork
from snncompile.quantization.quantize import HostScales, quantize


def neuron(rng: np.random.Generator, name: str, source: str) -> MultiThresholdLIF:
    levels = int(rng.integers(1, 5))
    theta = float(rng.uniform(0.2, 1.0))
    thresholds = theta * np.arange(1, levels + 1)
    return MultiThresholdLIF(
        name,
        (source,),
        thresholds=thresholds,
        payload=thresholds,
        subtract=thresholds,
        leak=float(rng.choice([0.25, 0.5, 0.9, 1.0])),
        reset=str(rng.choice(["soft", "hard", "none"])),
        fire=str(rng.choice(["ge", "gt"])),
        v0=float(rng.choice([0.0, theta / 2])),
    )


def batch_norm(rng: np.random.Generator, name: str, source: str, channels: int) -> BatchNorm:
    return BatchNorm(
        name,
        (source,),
        gamma=rng.uniform(0.2, 1, channels) * rng.choice([-1, 1], channels, p=[0.2, 0.8]),
        beta=rng.normal(0, 0.2, channels),
        mean=rng.normal(0, 0.2, channels),
        var=rng.uniform(0.1, 2, channels),
        eps=1e-5,
    )


def conv_network(seed: int) -> Network:
    """Two convolutions (the first with a norm), two pools, two linear layers (the first with a norm), three neurons."""
    rng = np.random.default_rng(seed)
    channels, a, b = (int(n) for n in rng.integers(1, 4, 3))
    groups = int(rng.choice([1, 2]))
    a *= groups
    b *= groups
    height, width = (int(n) for n in rng.integers(8, 13, 2))
    kernel = tuple(int(n) for n in rng.integers(1, 4, 2))
    first = Conv2d(
        "01_conv", ("00_input",), rng.normal(0, 0.6, (a, channels, *kernel)), rng.normal(0, 0.1, a),
        stride=tuple(int(n) for n in rng.integers(1, 3, 2)), padding=tuple(int(n) for n in rng.integers(0, 3, 2)),
    )  # fmt: skip
    second = Conv2d(
        "05_conv",
        ("04_pool",),
        rng.normal(0, 0.6, (b, a // groups, 2, 2)),
        rng.normal(0, 0.1, b),
        padding=(1, 1),
        groups=groups,
    )
    nodes: list[Node] = [
        Input("00_input", (), (channels, height, width), scale=1 / 255),
        first,
        batch_norm(rng, "02_norm", "01_conv", a),
        neuron(rng, "03_neuron", "02_norm"),
        AvgPool2d("04_pool", ("03_neuron",), kernel=(2, 1)),
        second,
        neuron(rng, "06_neuron", "05_conv"),
        AvgPool2d("07_pool", ("06_neuron",), kernel=(1, 2)),
        Flatten("08_flatten", ("07_pool",)),
    ]
    features = Network((*nodes, Readout("r", ("08_flatten",))), 1).shapes["08_flatten"][0]
    nodes += [
        Linear("09_linear", ("08_flatten",), rng.normal(0, 0.4, (7, features)), rng.normal(0, 0.1, 7)),
        batch_norm(rng, "10_norm", "09_linear", 7),
        neuron(rng, "11_neuron", "10_norm"),
        Linear("12_linear", ("11_neuron",), rng.normal(0, 0.5, (4, 7)), rng.normal(0, 0.1, 4)),
        Readout("13_readout", ("12_linear",)),
    ]
    return Network(tuple(nodes), timesteps=int(rng.integers(1, 5)))


def shortcut_network(seed: int) -> Network:
    """Input -> linear -> neuron -> linear -> neuron (+ a linear shortcut around it) -> neuron -> linear."""
    rng = np.random.default_rng(seed)

    def linear(name: str, source: str, out: int, fan_in: int) -> Linear:
        return Linear(name, (source,), rng.normal(0, 1.2 / np.sqrt(fan_in), (out, fan_in)), rng.normal(0, 0.1, out))

    first, second = neuron(rng, "n1", "l1"), neuron(rng, "n2", "l2")
    joined = neuron(rng, "n3", "l3")
    joined = MultiThresholdLIF(**{**vars(joined), "inputs": ("l3", "skip")})
    nodes = (
        Input("x", (), (6,), scale=1.0),
        linear("l1", "x", 9, 6),
        first,
        linear("l2", "n1", 5, 9),
        second,
        linear("l3", "n2", 8, 5),
        linear("skip", "n1", 8, 9),
        joined,
        linear("l4", "n3", 3, 8),
        Readout("out", ("l4",), scale=0.5),
    )
    return Network(nodes, timesteps=int(rng.integers(1, 5)))


def residual_network(seed: int) -> Network:
    """A residual block with an identity shortcut, neurons that mix steps and amplify, a counting or a leaky readout."""
    rng = np.random.default_rng(seed)
    timesteps, channels = int(rng.integers(1, 4)), int(rng.integers(1, 4))

    def conv(name: str, source: str, fan_in: int) -> Conv2d:
        weight = rng.normal(0, 0.5, (channels, fan_in, 3, 3))
        return Conv2d(name, (source,), weight, rng.normal(0, 0.1, channels), padding=(1, 1))

    def mixer(name: str, sources: tuple[str, ...]) -> MultiThresholdLIF:
        options = vars(neuron(rng, name, "")) | {"inputs": sources, "leak": float(rng.uniform(0.5, 1.5))}
        if rng.random() < 0.7:
            options["mixing"] = 2 / (1 + np.exp(-rng.normal(0, 1, (timesteps, timesteps)))) / timesteps
        return MultiThresholdLIF(**options)

    features = channels * 5 * 2
    nodes: list[Node] = [
        Input("x", (), (1, 5, 4), scale=1 / 255),
        conv("c1", "x", 1),
        mixer("n1", ("c1",)),
        conv("c2", "n1", channels),
        mixer("n2", ("c2",)),
        conv("c3", "n2", channels),
        mixer("n3", ("c3", "n1")),
        AvgPool2d("p", ("n3",), kernel=(1, 2)),
        Flatten("f", ("p",)),
        Linear("l", ("f",), rng.normal(0, 0.5, (3, features)), rng.normal(0, 0.1, 3)),
    ]
    if rng.random() < 0.5:
        nodes += [neuron(rng, "n4", "l"), Readout("out", ("n4",))]
    else:
        nodes.append(Readout("out", ("l",), leak=float(rng.choice([0.5, 1.0]))))
    return Network(tuple(nodes), timesteps)


def shared_network(seed: int) -> Network:
    """Pre-activation residual: one convolution's currents go to a neuron and past it into a later sum."""
    rng = np.random.default_rng(seed)
    channels = int(rng.integers(1, 4))

    def conv(name: str, source: str, fan_in: int) -> Conv2d:
        weight = rng.normal(0, 0.5, (channels, fan_in, 3, 3))
        return Conv2d(name, (source,), weight, rng.normal(0, 0.1, channels), padding=(1, 1))

    joined = MultiThresholdLIF(**{**vars(neuron(rng, "n2", "b")), "inputs": ("b", "c2")})
    nodes = (
        Input("x", (), (1, 5, 4), scale=1 / 255),
        conv("c1", "x", 1),
        batch_norm(rng, "b", "c1", channels),
        neuron(rng, "n1", "b"),
        conv("c2", "n1", channels),
        joined,
        Flatten("f", ("n2",)),
        Linear("l", ("f",), rng.normal(0, 0.5, (3, channels * 20)), rng.normal(0, 0.1, 3)),
        Readout("out", ("l",)),
    )
    return Network(nodes, int(rng.integers(1, 4)))


def sparse_layer(rng: np.random.Generator, name: str, source: str, out: int, fan_in: int, bias: bool = True) -> Sparse:
    """Half of the synapses there could be; every target may have none, not all."""
    there = rng.random((out, fan_in)) < 0.5
    there[int(rng.integers(out)), int(rng.integers(fan_in))] = True
    row, column = np.nonzero(there)
    weight = rng.normal(0, 2 / np.sqrt(fan_in), len(row))
    return sparse(name, source, weight, row, column, rng.normal(0, 0.1, out) * bias)


def sparse_network(seed: int) -> Network:
    """A convolution, pooled and flattened into sparse layers, one with a norm, one a shortcut, one the readout's."""
    rng = np.random.default_rng(seed)
    channels, hidden = int(rng.integers(1, 4)), int(rng.integers(3, 9))
    joined = MultiThresholdLIF(**{**vars(neuron(rng, "n3", "s3")), "inputs": ("s3", "skip")})
    nodes = (
        Input("x", (), (1, 5, 4), scale=1 / 255),
        Conv2d("c1", ("x",), rng.normal(0, 0.6, (channels, 1, 3, 3)), rng.normal(0, 0.1, channels), padding=(1, 1)),
        neuron(rng, "n1", "c1"),
        AvgPool2d("p", ("n1",), kernel=(2, 1)),
        Flatten("f", ("p",)),
        sparse_layer(rng, "s2", "f", hidden, channels * 8),
        batch_norm(rng, "b", "s2", hidden),
        neuron(rng, "n2", "b"),
        sparse_layer(rng, "s3", "n2", 6, hidden),
        sparse_layer(rng, "skip", "f", 6, channels * 8),
        joined,
        sparse_layer(rng, "s4", "n3", 3, 6),
        Readout("out", ("s4",)),
    )
    return Network(nodes, timesteps=int(rng.integers(1, 5)))


def flat_sparse_network(seed: int) -> Network:
    """Sparse layers from features to features, as the mapping takes them."""
    rng = np.random.default_rng(seed)
    a, b = (int(n) for n in rng.integers(5, 30, 2))
    nodes = (
        Input("x", (), (7,), scale=1.0),
        sparse_layer(rng, "s1", "x", a, 7),
        neuron(rng, "n1", "s1"),
        sparse_layer(rng, "s2", "n1", b, a),
        neuron(rng, "n2", "s2"),
        sparse_layer(rng, "s3", "n2", 3, b),
        Readout("out", ("s3",)),
    )
    return Network(nodes, timesteps=int(rng.integers(2, 5)))


def recurrent_network(seed: int) -> Network:
    """Populations that read themselves: an image by a convolution, features by dense and by sparse synapses."""
    rng = np.random.default_rng(seed)
    channels, hidden = int(rng.integers(1, 4)), int(rng.integers(3, 8))

    def loop(name: str, own: str, source: str) -> MultiThresholdLIF:
        return MultiThresholdLIF(**{**vars(neuron(rng, name, source)), "inputs": (source, own)})

    def dense(name: str, source: str, out: int, fan_in: int) -> Linear:
        return Linear(name, (source,), rng.normal(0, 1 / np.sqrt(fan_in), (out, fan_in)), rng.normal(0, 0.1, out))

    image = (Input("x", (), (1, 4, 3), scale=1 / 255),
        Conv2d("c1", ("x",), rng.normal(0, 0.6, (channels, 1, 3, 3)), rng.normal(0, 0.1, channels), padding=(1, 1)),
        loop("n1", "r1", "c1"),
        Conv2d("r1", ("n1",), rng.normal(0, 0.4, (channels, channels, 3, 3)), np.full(channels, 0.1), padding=(1, 1)),
        Flatten("f", ("n1",)),
        dense("l2", "f", hidden, channels * 12))  # fmt: skip
    features = (Input("x", (), (6,)), dense("l2", "x", hidden, 6))
    nodes = (
        *(image if rng.random() < 0.5 else features),
        loop("n2", "r2", "l2"),
        dense("r2", "n2", hidden, hidden),
        dense("l3", "n2", 6, hidden),
        loop("n3", "r3", "l3"),
        sparse_layer(rng, "r3", "n3", 6, 6),
        dense("l4", "n3", 3, 6),
        Readout("out", ("l4",)),
    )
    return Network(nodes, timesteps=int(rng.integers(1, 6)))


def without_sparse(network: Network) -> Network:
    """The same network with zeros in dense layers for the synapses that sparse ones do not have."""
    changed = {}
    for node in network.of_type(Sparse):
        weight = np.zeros((node.features, int(np.prod(network.shapes[node.inputs[0]]))))
        weight[node.row, node.column] = node.weight
        changed[node.name] = Linear(node.name, node.inputs, weight, node.bias)
    return network.replacing(changed)


def random_network(seed: int) -> Network:
    return (shortcut_network, conv_network, residual_network, shared_network)[seed % 4](seed)


def quantized(
    network: Network, weight_bits: int = 8, chip: str = "loihi2", lowering: str = "auto"
) -> tuple[QuantNetwork, HostScales]:
    numerics = load_chip(chip).numerics
    return quantize(lower(network, numerics, lowering), numerics, weight_bits)


def images(network: Network | QuantNetwork, samples: int, seed: int) -> np.ndarray:
    """Sparse random payloads 0..255, (N, *input shape)."""
    shape = network.input.shape if isinstance(network, Network) else network.input_shape
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (samples, *shape)) * (rng.random((samples, *shape)) < 0.6)
