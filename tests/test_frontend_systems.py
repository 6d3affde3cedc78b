"""The five systems, residuals and readouts: traced networks compute what the modules compute, spike for spike."""

import hashlib
from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_frontend_trace import with_statistics
from test_nir_round_trip import assert_equal
from torch import nn

from snncompile.frontend import load_model
from snncompile.frontend.nir.file import read_nir
from snncompile.frontend.nir.to_network import to_network
from snncompile.frontend.nir.write import write_nir
from snncompile.frontend.torch.trace import trace
from snncompile.network import Network
from snncompile.nn import (
    LMHT,
    QCFS,
    DirectCoding,
    GroupNeuron,
    LeakyReadout,
    MeanReadout,
    MultiThresholdLIF,
    PerStep,
    PerTrain,
    Residual,
    SpikeTrainCoding,
    StbpLIF,
    StcbLIF,
    TdBatchNorm1d,
    TdBatchNorm2d,
    TrainReadout,
    basic_block,
    convert_to_group_neurons,
    to_sequential,
)
from snncompile.reference import run_float

T = 3
CHANNELS = 4


def random_neuron(draw: st.DrawFn) -> nn.Module:
    kind = draw(st.sampled_from(["mtlif", "stbp", "group", "lm_ht"]))
    if kind == "mtlif":
        value = draw(st.sampled_from([None, 1.0, 0.3]))
        return MultiThresholdLIF(0.2, 3, 0.7, reset=draw(st.sampled_from(["soft", "hard"])), v0=0.05, spike_value=value)
    if kind == "stbp":
        return StbpLIF(threshold=0.15, leak=draw(st.sampled_from([0.25, 0.9])))
    if kind == "group":
        return GroupNeuron(scale=0.9, members=draw(st.integers(1, 5)))
    neuron = LMHT(draw(st.integers(1, 4)), T, threshold=draw(st.sampled_from([None, 0.2])), v0=0.1)
    nn.init.normal_(neuron.mixing, 0, 2)
    nn.init.normal_(neuron.raw_leak, 0, 2)
    return neuron


def conv(stride: int = 1, kernel: int = 3) -> nn.Sequential:
    layer = nn.Conv2d(CHANNELS, CHANNELS, kernel, stride=stride, padding=kernel // 2)
    return nn.Sequential(PerStep(layer, nn.Dropout(0.5)), TdBatchNorm2d(CHANNELS, 0.8))


@st.composite
def modules(draw: st.DrawFn) -> nn.Sequential:
    """Networks of residual blocks of every shape around every neuron, with every readout."""
    torch.manual_seed(draw(st.integers(0, 2**31)))

    def neuron() -> nn.Module:
        return random_neuron(draw)

    blocks: dict[str, Callable[[], nn.Module]] = {
        "plain": lambda: nn.Sequential(conv(), neuron()),
        "identity": lambda: nn.Sequential(Residual(nn.Sequential(conv(), neuron(), conv())), neuron()),
        "convolution": lambda: nn.Sequential(Residual(nn.Sequential(conv(2), neuron(), conv()), conv(2, 1)), neuron()),
        "two convolutions": lambda: nn.Sequential(Residual(conv(), nn.Sequential(conv(), neuron(), conv())), neuron()),
        "nested": lambda: nn.Sequential(
            Residual(nn.Sequential(Residual(conv()), neuron(), nn.Sequential(Residual(conv(), conv())))), neuron()
        ),
        "pre-activation": lambda: nn.Sequential(
            conv(), *(Residual(nn.Sequential(neuron(), conv())) for _ in range(2)), neuron()
        ),
        "pooled": lambda: nn.Sequential(PerStep(nn.AvgPool2d(2)), Residual(conv()), neuron()),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(blocks)), min_size=1, max_size=3))
    front = [PerStep(nn.Conv2d(2, CHANNELS, 3, padding=1)), TdBatchNorm2d(CHANNELS), neuron()]
    module = nn.Sequential(DirectCoding(T, (2, 9, 9)), *front, *(blocks[name]() for name in chosen))
    module.append(PerStep(nn.Flatten())).eval()
    last = nn.Linear(module.double()(torch.zeros(1, 2, 9, 9).double()).shape[-1], 3)
    module.extend([PerStep(last), *([neuron()] if draw(st.booleans()) else [])])
    return with_statistics(module.append(draw(st.sampled_from([MeanReadout(), LeakyReadout(0.6)]))), 1).double()


def run(module: nn.Module, x: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Spikes of every neuron in execution order, and the output."""
    spikes: list[np.ndarray] = []
    kinds = (MultiThresholdLIF, LMHT)
    hooks = [
        layer.register_forward_hook(lambda _layer, _x, y: spikes.append(y.numpy()))
        for layer in module.modules()
        if isinstance(layer, kinds)
    ]
    with torch.no_grad():
        output = module(torch.from_numpy(x)).numpy()
    for hook in hooks:
        hook.remove()
    return spikes, output


def assert_same(network: Network, module: nn.Module, x: np.ndarray) -> None:
    spikes, output = run(module, x)
    result = run_float(network, x)
    assert len(network.neurons) == len(spikes)
    for neuron, expected in zip(network.neurons, spikes, strict=True):
        assert np.array_equal(result.outputs[neuron.name], expected), neuron.name
    np.testing.assert_allclose(result.output, output, rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(modules())
def test_every_spike_is_that_of_the_module(module: nn.Sequential) -> None:
    graph = trace(module)
    assert list(graph.nodes) == sorted(graph.nodes)
    assert all(source < target for source, target in graph.edges)
    network = to_network(graph)
    assert [node.name for node in network.nodes] == list(graph.nodes)
    assert_same(network, module, np.random.default_rng(0).uniform(0, 2, (2, 2, 9, 9)))


@settings(max_examples=8, deadline=None)
@given(modules())
def test_files_give_the_same_network_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, module: nn.Module) -> None:
    folder = tmp_path_factory.mktemp("systems")
    torch.save(module, folder / "model.pt")
    graph = trace(module)
    (folder / "model.nir").write_bytes(write_nir(graph))
    again = read_nir(folder / "model.nir")
    assert write_nir(again) == write_nir(graph) == write_nir(load_model(folder / "model.pt"))
    assert_equal(to_network(again), to_network(graph))


def example(block: nn.Module, neuron: Callable[[], nn.Module], readout: nn.Module) -> nn.Sequential:
    step = PerStep(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8 * 2 * 2, 5))
    first = [DirectCoding(2, (1, 8, 8)), PerStep(nn.Conv2d(1, 4, 3, padding=1)), TdBatchNorm2d(4), neuron()]
    return nn.Sequential(*first, block, step, TdBatchNorm1d(5), neuron(), readout)


def group_neurons() -> nn.Sequential:
    body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), QCFS(4), nn.Conv2d(4, 4, 3, padding=1))
    ann = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), QCFS(4, 2.0), Residual(body), QCFS(4, 2.0)]
    return convert_to_group_neurons(nn.Sequential(*ann, nn.Flatten(), nn.Linear(144, 3)), 2, T, (2, 8, 8), 0.5)


def stcb() -> nn.Sequential:
    block = Residual(PerTrain(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)))
    first = [SpikeTrainCoding(T, 0.5, (2, 8, 8)), PerTrain(nn.Conv2d(2, 4, 3)), StcbLIF(0.3)]
    return to_sequential(
        nn.Sequential(*first, block, StcbLIF(0.3), PerTrain(nn.Flatten(), nn.Linear(144, 3)), TrainReadout())
    )


def stbp_tdbn() -> nn.Sequential:
    blocks = [basic_block(4, 4, 1, StbpLIF, 0.2), basic_block(4, 4, 2, StbpLIF, 0.2)]
    first = [DirectCoding(T, (2, 8, 8)), PerStep(nn.Conv2d(2, 4, 3, padding=1)), TdBatchNorm2d(4, 0.2), StbpLIF()]
    return nn.Sequential(*first, *blocks, PerStep(nn.Flatten(), nn.Linear(64, 3)), StbpLIF(), MeanReadout())


def lm_ht() -> nn.Sequential:
    layers = [
        DirectCoding(T, (2, 8, 8)),
        PerStep(nn.Conv2d(2, 4, 3)),
        LMHT(2, T),
        PerStep(nn.Flatten(), nn.Linear(144, 3)),
    ]
    return nn.Sequential(*layers, MeanReadout())


SYSTEMS = [(group_neurons, 3), (stcb, 2), (stbp_tdbn, 6), (lm_ht, 1)]


@pytest.mark.parametrize(("make", "neurons"), SYSTEMS, ids=[make.__name__ for make, _ in SYSTEMS])
def test_what_the_layers_of_a_system_make_comes_in_from_a_checkpoint(
    tmp_path: Path, make: Callable[[], nn.Sequential], neurons: int
) -> None:
    torch.manual_seed(3)
    module = with_statistics(make(), 3).double()
    torch.save(module, tmp_path / "model.pt")
    network = to_network(load_model(tmp_path / "model.pt"))
    assert len(network.neurons) == neurons
    assert_same(network, module, np.random.default_rng(1).uniform(0, 1, (3, 2, 8, 8)))


def test_lm_ht_becomes_mixing_and_leak() -> None:
    module = lm_ht()
    nn.init.normal_(module[2].mixing)
    nn.init.constant_(module[2].raw_leak, 3.0)
    neuron = to_network(trace(module)).neurons[0]
    assert np.allclose(neuron.mixing, module[2].omega.detach().numpy())
    assert neuron.leak == pytest.approx(1.452574)
    assert (neuron.reset, neuron.fire, neuron.thresholds.tolist()) == ("soft", "ge", [1.0, 2.0])


def test_an_identity_shortcut_is_an_edge_from_the_spikes() -> None:
    module = nn.Sequential(
        DirectCoding(1, (2,)), Residual(nn.Linear(2, 2)), StbpLIF(), Residual(nn.Linear(2, 2)), MeanReadout()
    )
    graph = trace(module)
    names = ["00_input", "01_linear", "02_stbp_lif", "03_linear", "04_output"]
    assert graph.edges == [
        *pairwise(names[:2]),
        (names[0], names[2]),
        (names[1], names[2]),
        (names[2], names[3]),
        (names[2], names[4]),
        (names[3], names[4]),
    ]
    network = to_network(graph)
    assert network.by_name["02_stbp_lif"].inputs == ("00_input", "01_linear")
    assert network.readout.inputs == ("02_stbp_lif", "03_linear")


def test_the_example_gives_the_network_it_always_gave(fashion_model: Path) -> None:
    network = to_network(load_model(fashion_model))
    digest = hashlib.sha256()
    for node in network.nodes:
        digest.update(repr((node.name, node.kind, node.inputs, network.shapes[node.name])).encode())
        for field in fields(node):
            value = getattr(node, field.name)
            digest.update(value.tobytes() if isinstance(value, np.ndarray) else b"")
    assert digest.hexdigest() == "fa84cdb0dd760ae1e828fc66f7b61b68b63c0ca5bd6066fa8c128cefaa8bccd4"
    assert {(n.leak, n.reset, n.fire, n.v0, n.mixing) for n in network.neurons} == {(0.5, "soft", "ge", 0.0, None)}


def test_a_neuron_pickled_without_spike_value_emits_its_threshold() -> None:
    neuron = MultiThresholdLIF(0.25, 3)
    del vars(neuron)["spike_value"]
    traced = to_network(trace(nn.Sequential(DirectCoding(1, (2,)), neuron, MeanReadout()))).neurons[0]
    assert traced.payload.tolist() == traced.thresholds.tolist() == [0.25, 0.5, 0.75]
