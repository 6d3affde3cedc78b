"""The networks of the literature, in every neuron system: shapes, a training step, the frontend and the passes."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from snncompile.compiler import run_passes
from snncompile.frontend import load_model
from snncompile.frontend.nir.to_network import to_network
from snncompile.nn import (
    LMHT,
    QCFS,
    EventCoding,
    LmHt,
    MultiThreshold,
    MultiThresholdLIF,
    QcfsAnn,
    Residual,
    StbpTdbn,
    Stcb,
    System,
    TdBatchNorm2d,
    cifarnet,
    convert_to_group_neurons,
    residual_block,
    resnet19,
    resnet20,
    resnet34,
    resnet50,
    to_sequential,
    vgg,
)
from snncompile.nn.networks import VGG_PLANS
from snncompile.reference import run_float

T, CLASSES = 2, 5
SYSTEMS = {
    "stbp": StbpTdbn(),
    "mtlif": MultiThreshold(input_scale=0.5),
    "lm_ht": LmHt(levels=2),
    "stcb": Stcb(leak=0.7),
    "qcfs": QcfsAnn(init=1.0),
}
Make = Callable[..., nn.Sequential]
SMALL: dict[str, tuple[Make, dict, int]] = {
    "vgg": (vgg, {"plan": "4C3-AP2-6C5S2-AP2-5", "input_shape": (2, 8, 8)}, 3),
    "cifarnet": (cifarnet, {"input_shape": (3, 8, 8), "width": 1 / 64}, 7),
    "resnet19": (resnet19, {"input_shape": (3, 8, 8), "width": 1 / 64}, 18),
    "resnet20": (resnet20, {"input_shape": (1, 8, 6), "width": 1 / 8}, 19),
}
LARGE: dict[str, tuple[Make, dict, int]] = {
    "VGG-11": (vgg, {"plan": "VGG-11", "width": 1 / 32}, 8),
    "VGG-13": (vgg, {"plan": "vgg-13", "width": 1 / 32}, 10),
    "VGG-16": (vgg, {"width": 1 / 32}, 13),
    "resnet34": (resnet34, {"input_shape": (3, 32, 32), "width": 1 / 32, "classes": CLASSES}, 33),
    "resnet50": (resnet50, {"input_shape": (3, 32, 32), "width": 1 / 32, "classes": CLASSES}, 49),
}
CASES = [(topology, system) for topology in SMALL for system in SYSTEMS] + list(zip(LARGE, SYSTEMS, strict=True))
NEURONS = (MultiThresholdLIF, LMHT)


def deployable(network: nn.Sequential, system: System, shape: tuple[int, ...]) -> nn.Sequential:
    if isinstance(system, QcfsAnn):
        return convert_to_group_neurons(network, system.levels, T, shape)
    return to_sequential(network) if isinstance(system, Stcb) else network.eval()


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks as tiny as these only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def differentiate(network: nn.Sequential, shape: tuple[int, ...]) -> None:
    """Shape and gradients of one training step, which also gives the norms the statistics of its batch.

    The norms start with positive biases, so that spikes reach the last layer of a network this narrow.
    """
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.momentum = 1.0
            nn.init.uniform_(layer.bias, 0.2, 0.8)
    network.train()
    logits = network(torch.rand(3, *shape))
    assert logits.shape == (3, CLASSES)
    cross_entropy(logits, torch.arange(3)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def spikes_of(network: nn.Sequential, x: Tensor) -> tuple[list[np.ndarray], np.ndarray]:
    spikes: list[np.ndarray] = []
    hooks = [
        layer.register_forward_hook(lambda _layer, _x, y: spikes.append(y.numpy()))
        for layer in network.modules()
        if isinstance(layer, NEURONS)
    ]
    with torch.no_grad():
        output = network(x).numpy()
    for hook in hooks:
        hook.remove()
    return spikes, output


@pytest.mark.parametrize(("topology", "kind"), CASES, ids=["-".join(case) for case in CASES])
def test_trains_and_compiles_to_what_it_computes(topology: str, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, options, neurons = (SMALL | LARGE)[topology]
    options = {"input_shape": (3, 32, 32), "classes": CLASSES, "timesteps": T} | options
    shape, system = options["input_shape"], SYSTEMS[kind]
    network = make(system, **options)
    differentiate(network, shape)
    network = deployable(network, system, shape).double()

    torch.save(network, tmp_path / "model.pt")
    read = to_network(load_model(tmp_path / "model.pt"))
    folded = run_passes(read)
    x = torch.rand(1, *shape, dtype=torch.float64)
    spikes, output = spikes_of(network, x)
    assert len(spikes) == len(read.neurons) == len(folded.neurons) == neurons
    assert all(layer.any() for layer in spikes)
    result = run_float(read, x.numpy())
    for neuron, expected in zip(read.neurons, spikes, strict=True):
        assert np.array_equal(result.outputs[neuron.name], expected), neuron.name
    np.testing.assert_allclose(result.output, output, rtol=0, atol=1e-12)
    np.testing.assert_allclose(run_float(folded, x.numpy()).output, output, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "parameters", "neurons"),
    [(vgg, 14_724_042, 13), (resnet20, 272_474, 19), (resnet34, 21_797_672, 33), (resnet50, 25_557_032, 49)],
)
def test_as_large_as_published(make: Make, parameters: int, neurons: int) -> None:
    """Of public implementations: VGG-16 for CIFAR-10 less its 4,224 convolution biases; ResNet-20 with projections."""
    with torch.device("meta"):
        network = make(QcfsAnn())
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters + neurons
    assert sum(isinstance(layer, QCFS) for layer in network.modules()) == neurons


def channels_of(network: nn.Sequential) -> list[int]:
    return [len(layer.weight) for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def test_the_chains_are_those_of_their_plans() -> None:
    with torch.device("meta"):
        assert channels_of(cifarnet(StbpTdbn())) == [128, 256, 512, 1024, 512, 1024, 512, 10]
        assert channels_of(vgg(StbpTdbn(), "VGG-11")) == [64, 128, 256, 256, 512, 512, 512, 512, 10]
        assert channels_of(vgg(StbpTdbn(), "vgg-13", width=0.5)) == [32, 32, 64, 64, 128, 128, *[256] * 4, 10]
        paper = vgg(StbpTdbn(), VGG_PLANS["VGG-16"] + "-4096-4096", 1000, (3, 224, 224))
    assert [tuple(layer.weight.shape) for layer in paper.modules() if isinstance(layer, nn.Linear)] == [
        (4096, 512 * 7 * 7),
        (4096, 4096),
        (1000, 4096),
    ]


def test_resnet19_is_that_of_stbp_tdbn() -> None:
    with torch.device("meta"):
        network = resnet19(StbpTdbn(threshold=0.5))
    blocks = [layer for layer in network.modules() if isinstance(layer, Residual)]
    assert [channels_of(block.body) for block in blocks] == [[c, c] for c in [128] * 3 + [256] * 3 + [512] * 2]
    assert [block.shortcut is not None for block in blocks] == [False, False, False, True, False, False, True, False]
    assert [layer.kernel_size for layer in network.modules() if isinstance(layer, nn.AvgPool2d)] == [(8, 8)]
    assert channels_of(network)[-2:] == [256, 10]


def test_norms_start_at_the_scale_of_the_branch() -> None:
    network = resnet20(MultiThreshold(threshold=0.4), width=1 / 16, input_shape=(3, 8, 8))
    block = next(layer for layer in network.modules() if isinstance(layer, Residual) and layer.shortcut is not None)
    norms = [layer for layer in block.modules() if isinstance(layer, TdBatchNorm2d)]
    for norm, gain in zip(norms, [0.4, 0.4 / math.sqrt(2), 0.4 / math.sqrt(2)], strict=True):
        assert norm.weight.tolist() == pytest.approx([gain] * norm.num_features)


@pytest.mark.parametrize("system", [StbpTdbn(events=True), MultiThreshold(events=True), LmHt(events=True)])
def test_event_frames_go_in_as_they_are(system: System) -> None:
    network = vgg(system, "4C3-AP2", CLASSES, input_shape=(2, 4, 4), timesteps=3)
    assert isinstance(network[0], EventCoding)
    assert network(torch.randint(0, 2, (2, 3, 2, 4, 4))).shape == (2, CLASSES)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (vgg, {"plan": "VGG-12"}, "vgg: the plan 'VGG-12' has the part 'VGG'; needed: VGG-11, VGG-13, VGG-16, or e.g"),
        (vgg, {"plan": "8C3--4"}, "has the part ''"),
        (vgg, {"plan": "8C0"}, "has the part '8C0'; .* numbers at least 1"),
        (vgg, {"plan": "8C4"}, "vgg: 8C4 has an even kernel; needed: an odd one"),
        (vgg, {"plan": "8-AP2"}, "vgg: AP2 stands after a linear layer"),
        (vgg, {"plan": "8C3-AP2-AP2"}, "vgg: AP2 follows a pool; needed: one pool of the product of their sizes"),
        (vgg, {"input_shape": (3, 28, 28)}, "vgg: AP2 meets a map of 7x7; needed: a size divisible by 2"),
        (
            cifarnet,
            {"input_shape": (3, 32)},
            r"cifarnet: input_shape is \(3, 32\); needed: \(channels, height, width\)",
        ),
        (resnet19, {"width": 0.0}, "resnet19: width must be positive, got 0.0"),
        (resnet20, {"timesteps": 0}, "resnet20: timesteps must be at least 1, got 0"),
        (resnet34, {"classes": 0, "width": 1 / 64}, "resnet34: classes must be at least 1, got 0"),
        (resnet50, {"input_shape": (3, 33, 34)}, "resnet50: AP2 meets a map of 17x17; needed: a size divisible by 2"),
    ],
)
def test_refuses(make: Make, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(StbpTdbn(), **options)


@pytest.mark.parametrize("convs", [[], [(4, 3, 0)], [(0, 3, 1), (4, 3, 1)]])
def test_a_residual_block_refuses(convs: list[tuple[int, int, int]]) -> None:
    with pytest.raises(ValueError, match=r"residual_block: got 4 channels .* one or more \(channels, kernel, stride\)"):
        residual_block(4, convs, lambda *_: [], nn.Identity)


def test_refuses_what_is_not_a_system() -> None:
    with pytest.raises(ValueError, match=r"vgg: the system is .*StbpTdbn.*; needed: a System, e.g. StbpTdbn\(\)"):
        vgg(StbpTdbn)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("system", "options", "message"),
    [
        (StbpTdbn, {"threshold": 0.0}, "threshold must be positive"),
        (MultiThreshold, {"levels": 0}, "levels must be at least 1"),
        (LmHt, {"levels": 0}, "levels must be at least 1"),
        (LmHt, {"events": True, "input_scale": 0.5}, "LmHt: events are not scaled, input_scale is 0.5; needed: 1"),
        (Stcb, {"leak": 0.0}, r"leak must lie in \(0, 1\]"),
        (QcfsAnn, {"init": 0.0}, "init must be positive"),
    ],
)
def test_a_system_refuses_what_its_neuron_refuses(system: type[System], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        system(**options)
