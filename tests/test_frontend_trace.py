# ruff: noqa: E501 - golden error texts are one line each
"""Tracing: the Network computes what the module computes, and what it cannot is refused by path."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from snncompile.errors import CompileError
from snncompile.frontend import load_model
from snncompile.frontend.nir.to_network import to_network
from snncompile.frontend.torch.trace import trace
from snncompile.network import Conv2d
from snncompile.network import MultiThresholdLIF as Neuron
from snncompile.nn import DirectCoding, MeanReadout, MultiThresholdLIF, PerStep, TdBatchNorm1d, TdBatchNorm2d
from snncompile.reference import run_float


def with_statistics(module: nn.Module, seed: int) -> nn.Module:
    """The module with running statistics and gains as training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2, generator=generator)
            layer.running_var.uniform_(0.05, 2, generator=generator)
            if layer.affine:
                nn.init.uniform_(layer.weight, 0.2, 1.5)
                nn.init.normal_(layer.bias, 0, 0.2)
    return module.eval()


@st.composite
def modules(draw: st.DrawFn) -> nn.Module:
    """Small networks of every supported layer."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    channels, size = draw(st.integers(1, 3)), draw(st.integers(6, 10))
    neuron = MultiThresholdLIF(
        threshold=draw(st.sampled_from([0.1, 0.25, 1 / 3])),
        levels=draw(st.integers(1, 5)),
        leak=draw(st.sampled_from([0.25, 0.7, 1.0])),
        reset=draw(st.sampled_from(["soft", "hard", "none"])),
        fire=draw(st.sampled_from(["ge", "gt"])),
        v0=draw(st.sampled_from([0.0, 0.05])),
    )
    kernel = draw(st.sampled_from([1, 3, (3, 1), (2, 3)]))
    conv = nn.Conv2d(
        2 * channels,
        4,
        kernel,
        stride=draw(st.sampled_from([1, (1, 2)])),
        padding=draw(st.sampled_from(["valid", 1, (0, 1)])),
        dilation=draw(st.sampled_from([1, (2, 1)])),
        groups=draw(st.sampled_from([1, 2])),
        bias=draw(st.booleans()),
    )
    first = nn.Conv2d(channels, 2 * channels, 3, padding="same", bias=draw(st.booleans()))
    norm = nn.BatchNorm2d(4, affine=draw(st.booleans()))
    pool = nn.AvgPool2d(draw(st.sampled_from([2, (1, 2)])))
    front = [PerStep(first), TdBatchNorm2d(2 * channels), neuron, PerStep(nn.Sequential(conv, nn.Dropout(0.5)), norm)]
    shape = (channels, size, size)
    module = nn.Sequential(nn.Identity(), DirectCoding(draw(st.integers(1, 4)), shape, 0.5), *front, neuron)
    module.append(PerStep(pool, nn.Flatten()))
    features = module.double().eval()(torch.zeros(1, *shape).double()).shape[-1]
    module.extend([PerStep(nn.Linear(features, 5, bias=draw(st.booleans()))), TdBatchNorm1d(5), neuron])
    module.extend([nn.Sequential(nn.Sequential(nn.Linear(5, 3))), MeanReadout(), nn.Identity()])
    return with_statistics(module, draw(st.integers(0, 2**31))).double()


@settings(max_examples=40, deadline=None)
@given(modules())
def test_every_spike_is_that_of_the_module(module: nn.Sequential) -> None:
    network = to_network(trace(module))
    x = np.random.default_rng(0).uniform(0, 2, (3, *network.input.shape))
    spikes: list[np.ndarray] = []
    for layer in module:
        if isinstance(layer, MultiThresholdLIF):
            layer._forward_hooks.clear()
            layer.register_forward_hook(lambda _layer, _x, y: spikes.append(y.numpy()))
    with torch.no_grad():
        output = module(torch.from_numpy(x)).numpy()
    result = run_float(network, x)
    neurons = list(network.of_type(Neuron))
    assert len(neurons) == 3
    for neuron, expected in zip(neurons, spikes, strict=False):
        assert np.array_equal(result.outputs[neuron.name], expected)
    np.testing.assert_allclose(result.output, output, rtol=0, atol=1e-12)


def sequence(*layers: nn.Module, shape: tuple[int, ...] | None = (1, 8, 8)) -> nn.Sequential:
    return nn.Sequential(DirectCoding(2, shape), *layers, MeanReadout())


def test_names_and_types_help_people() -> None:
    step = PerStep(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    rest = PerStep(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(18, 3))
    graph = trace(sequence(step, MultiThresholdLIF(), rest))
    names = [
        "00_input",
        "01_conv2d",
        "02_batch_norm",
        "03_mtlif",
        "04_avg_pool",
        "05_flatten",
        "06_linear",
        "07_output",
    ]
    assert list(graph.nodes) == names
    assert graph.edges == list(pairwise(names))
    shapes = [tuple(node.output_type[next(iter(node.output_type))]) for node in graph.nodes.values()]
    assert shapes == [(1, 8, 8), (2, 6, 6), (2, 6, 6), (2, 6, 6), (2, 3, 3), (18,), (3,), (3,)]


def test_half_precision_becomes_float64_unchanged() -> None:
    module = sequence(PerStep(nn.Conv2d(1, 2, 3))).half()
    conv = next(to_network(trace(module)).of_type(Conv2d))
    assert conv.weight.dtype == np.float64
    assert np.array_equal(conv.weight, module[1][0].weight.detach().double().numpy())
    assert np.array_equal(conv.bias, module[1][0].bias.detach().double().numpy())


def test_input_shape_overrides_the_module(tmp_path: Path) -> None:
    torch.save(sequence(PerStep(nn.Conv2d(1, 2, 3)), shape=None), tmp_path / "model.pt")
    assert to_network(load_model(tmp_path / "model.pt", (1, 9, 7))).shapes["01_conv2d"] == (2, 7, 5)
    with pytest.raises(CompileError) as caught:
        load_model(str(tmp_path / "model.pt"))
    assert str(caught.value) == "0 (DirectCoding): says no input shape; say it: --input-shape 1,28,28"


class Overriding(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -super().forward(x)


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_pre_hook(lambda _module, x: x)
    return module


def changed(module: nn.Module, **attributes: object) -> nn.Module:
    vars(module).update(attributes)
    return module


def itself() -> nn.Module:
    module = nn.Sequential()
    module.append(module)
    return module


def doubling(depth: int) -> nn.Module:
    module: nn.Module = nn.Identity()
    for _ in range(depth):
        module = nn.Sequential(module, module)
    return module


def poisoned(module: nn.Module, value: float = float("nan")) -> nn.Module:
    with torch.no_grad():
        module.weight.view(-1)[0] = value
    return module


LAYERS = (
    "AdaptiveAvgPool2d, AlphaDropout, AvgPool2d, BatchNorm1d, BatchNorm2d, Conv1d, Conv2d, DirectCoding, Dropout, Dropout1d, Dropout2d, Dropout3d, "
    "EventCoding, FeatureAlphaDropout, Flatten, GroupNeuron, Identity, LMHT, LeakyReadout, Linear, MaxPool2d, MeanReadout, MultiThresholdLIF, PerStep, "
    "Residual, Sequential, StbpLIF, TdBatchNorm1d, TdBatchNorm2d, neurons of spikingjelly, sinabs, snntorch, norse"
)
CONV = "1.0 (Conv2d)"
EXPANDED = nn.Parameter(torch.zeros(1).expand(10**5, 10**5))
HUGE = 2**31 - 1

# fmt: off
REFUSED: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: PerStep(nn.Identity(), nn.MaxPool2d(2)), "1.1 (MaxPool2d): takes the largest of values that are not spikes of 0 and 1; pool after the neuron, or use average pooling"),
    (lambda: PerStep(nn.Upsample(scale_factor=2)), f"1.0 (Upsample): this layer is not supported; synapses that write more places than they read are not there: upsample the data; supported: {LAYERS}"),
    (lambda: PerStep(nn.Sequential(nn.ReLU())), f"1.0.0 (ReLU): this layer is not supported; a rectifier does not spike: use snncompile.nn.MultiThresholdLIF; supported: {LAYERS}"),
    (lambda: PerStep(Overriding(1, 1, 1)), f"1.0 (Overriding): this layer is not supported; replace it by supported layers; supported: {LAYERS}"),
    (lambda: hooked(MultiThresholdLIF()), "1 (MultiThresholdLIF): has forward hooks, which may change what it computes; remove them before saving"),
    (lambda: nn.Conv2d(1, 1, 1), "1 (Conv2d): stands outside PerStep, where it would take the time steps for the batch; wrap it: PerStep(...)"),
    (lambda: PerStep(MultiThresholdLIF()), "1.0 (MultiThresholdLIF): stands within PerStep, where it cannot see the time steps; take it out of PerStep"),
    (lambda: PerStep(nn.Sequential(PerStep())), "1.0.0 (PerStep): is a PerStep within a PerStep; use nn.Sequential for the inner one"),
    (lambda: PerStep(nn.Conv2d(2, 1, 1)), f"{CONV}: takes 2 channels, its input (1, 8, 8) has 1"),
    (lambda: PerStep(nn.Conv2d(1, 1, 9)), f"{CONV}: a kernel of (9, 9) is larger than its padded input (1, 8, 8)"),
    (lambda: PerStep(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")), f"{CONV}: padding_mode is reflect; needed: 'zeros'"),
    (lambda: PerStep(nn.Conv2d(1, 1, 2, padding="same")), f"{CONV}: padding 'same' with kernel (2, 2) and stride (1, 1); say the padding as numbers"),
    (lambda: PerStep(changed(nn.Conv2d(1, 1, 1), padding="full")), f"{CONV}: padding is full; needed: 'same' or 'valid'"),
    (lambda: PerStep(changed(nn.Conv2d(1, 1, 1), stride=(0, 1))), f"{CONV}: stride is (0, 1); needed: integers from 1 to 2147483647"),
    (lambda: PerStep(changed(nn.Conv2d(1, 1, 1), stride="1")), f"{CONV}: stride is 1; needed: one or two integers"),
    (lambda: PerStep(changed(nn.Conv2d(1, 1, 1), padding=(HUGE, HUGE))), f"{CONV}: puts out 18446744125249159204 values; a layer may put out 268435456"),
    (lambda: PerStep(changed(nn.Conv2d(1, 1, 1), groups=3)), f"{CONV}: 1 output channels do not divide into 3 groups"),
    (lambda: PerStep(changed(nn.Conv2d(1, 1, 1), _parameters=None)), f"{CONV}: has no weight"),
    (lambda: PerStep(poisoned(nn.Conv2d(1, 1, 1))), f"{CONV}: weight holds NaN or infinite values; train or export the model again"),
    (lambda: PerStep(nn.Linear(64, 2)), "1.0 (Linear): its input has shape (1, 8, 8); needed: (features,): flatten it first"),
    (lambda: PerStep(nn.Flatten(), nn.Linear(63, 2)), "1.1 (Linear): takes 63 features, its input (64,) gives 64"),
    (lambda: PerStep(nn.Flatten(), changed(nn.Linear(1, 1), _parameters={"weight": EXPANDED})), "1.1 (Linear): weight holds no values of its own; save the module's tensors on the CPU"),
    (lambda: PerStep(nn.Linear(1, 1, device="meta")), "1.0 (Linear): weight holds no values of its own; save the module's tensors on the CPU"),
    (lambda: PerStep(nn.Flatten(0)), "1.0 (Flatten): does not flatten one step's data to features; needed: nn.Flatten(), axes 1 to -1"),
    (lambda: PerStep(nn.AvgPool2d(3, ceil_mode=True)), "1.0 (AvgPool2d): pooling with kernel (3, 3), stride (3, 3), padding (0, 0), ceil_mode; needed: kernel_size, stride and padding alone"),
    (lambda: PerStep(nn.AvgPool2d(3, padding=1, count_include_pad=False)), "1.0 (AvgPool2d): leaves the padding out of the mean; count_include_pad=True is supported"),
    (lambda: PerStep(nn.AvgPool2d(9)), "1.0 (AvgPool2d): a pool window of (9, 9) with padding (0, 0) is larger than its input (1, 8, 8); at most half the window is padding"),
    (lambda: PerStep(changed(nn.AvgPool2d(2), kernel_size=2**20, stride=1, padding=2**19)), "1.0 (AvgPool2d): a pool window of (1048576, 1048576) with padding (524288, 524288) is larger than its input (1, 8, 8); at most half the window is padding"),
    (lambda: TdBatchNorm2d(3), "1 (TdBatchNorm2d): normalises 3 channels, its input (1, 8, 8) has 1"),
    (lambda: TdBatchNorm1d(1), "1 (TdBatchNorm1d): its input has shape (1, 8, 8); needed: 1 axes"),
    (lambda: PerStep(nn.BatchNorm2d(1, track_running_stats=False)), "1.0 (BatchNorm2d): has no running statistics; train it with track_running_stats=True"),
    (lambda: changed(TdBatchNorm2d(1), eps=-2.0), "1 (TdBatchNorm2d): has a variance that is not positive"),
    (lambda: changed(MultiThresholdLIF(), levels=10**9), "1 (MultiThresholdLIF): levels is 1000000000; needed: an integer from 1 to 255"),
    (lambda: changed(MultiThresholdLIF(), levels=True), "1 (MultiThresholdLIF): levels is True; needed: an integer from 1 to 255"),
    (lambda: changed(MultiThresholdLIF(), threshold=-1.0), "1 (MultiThresholdLIF): thresholds are [-1.0, -2.0, -3.0, -4.0], they must be positive and increasing"),
    (lambda: changed(MultiThresholdLIF(), threshold=float("inf")), "1 (MultiThresholdLIF): threshold is inf; needed: a finite number"),
    (lambda: changed(MultiThresholdLIF(), leak=3.0), "1 (MultiThresholdLIF): leak is 3.0, must lie in (0, 2)"),
    (lambda: changed(MultiThresholdLIF(), reset="\x1b[2J"), "1 (MultiThresholdLIF): reset is \\x1b[2J; needed: 'soft' or 'hard' or 'none'"),
    (lambda: changed(nn.Sequential(), _modules=[1]), "1 (Sequential): has no list of layers"),
    (lambda: changed(nn.Sequential(), _modules={"0": 1}), "1.0 (int): is not a layer"),
    (itself, "model: has more than 10000 layers, or containers nested deeper than 64"),
    (lambda: doubling(60), "model: has more than 10000 layers, or containers nested deeper than 64"),
    (lambda: DirectCoding(2, (1,)), "1 (DirectCoding): a network has one DirectCoding or EventCoding, first and outside PerStep and Residual"),
]
# fmt: on


@pytest.mark.parametrize(("layer", "message"), REFUSED, ids=[text.partition(";")[0][:50] for _, text in REFUSED])
def test_refuses_by_path(layer: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(CompileError) as caught:
        trace(sequence(layer()))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Linear(2, 2), "model: has no DirectCoding or EventCoding; snncompile.nn.DirectCoding is the first layer"),
        (nn.Sequential(DirectCoding(1, (2,))), "model: has no MeanReadout or LeakyReadout; snncompile.nn.MeanReadout is the last layer"),
        (nn.Softmax(), f"model (Softmax): this layer is not supported; replace it by supported layers; supported: {LAYERS}"),
        (nn.Sequential(PerStep(DirectCoding(1, (2,))), MeanReadout()), "0.0 (DirectCoding): a network has one DirectCoding or EventCoding, first and outside PerStep and Residual"),
        (nn.Sequential(DirectCoding(1, (2, 2)), MeanReadout()), "0 (DirectCoding): the input shape is (2, 2); needed: (channels, height, width) or (features,)"),
        (nn.Sequential(DirectCoding(1, (1, 10**6, 10**6)), MeanReadout()), "0 (DirectCoding): puts out 1000000000000 values; a layer may put out 268435456"),
        (nn.Sequential(changed(DirectCoding(1, (1,)), timesteps=0), MeanReadout()), "0 (DirectCoding): timesteps is 0; needed: an integer from 1 to 2147483647"),
    ],
)  # fmt: skip
def test_refuses_what_is_no_network(module: nn.Module, message: str) -> None:
    with pytest.raises(CompileError) as caught:
        trace(module)
    assert str(caught.value) == message


def test_other_suffixes_are_named() -> None:
    with pytest.raises(CompileError) as caught:
        load_model("model.onnx")
    assert str(caught.value) == "model.onnx: is not a model file: it ends in '.onnx'; accepted: .pt, .pth, .nir, .net"
