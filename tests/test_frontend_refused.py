# ruff: noqa: E501 - golden error texts are one line each
"""Systems and residuals that cannot be: refused by path, in one line."""

from collections.abc import Callable

import pytest
from test_frontend_trace import changed, hooked, poisoned
from torch import nn

from snncompile.errors import CompileError
from snncompile.frontend.torch.trace import trace
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
    TrainReadout,
)


def spiking(value: float) -> nn.Module:
    return changed(MultiThresholdLIF(), spike_value=value)


def lm(timesteps: int = 2, **attributes: object) -> LMHT:
    return changed(LMHT(2, timesteps), **attributes)


def poisoned_mixing(key: str) -> nn.Module:
    neuron = LMHT(2, 2)
    nn.init.constant_(getattr(neuron, key), float("nan"))
    return neuron


def without(module: nn.Module, key: str) -> nn.Module:
    del module._parameters[key]
    return module


def residuals(count: int) -> nn.Module:
    def block() -> nn.Module:
        return Residual(nn.Sequential(StbpLIF(), PerStep(nn.Conv2d(1, 1, 1))))

    return nn.Sequential(*(block() for _ in range(count)))


def step(*shape: int, **more: int) -> PerStep:
    return PerStep(nn.Conv2d(*shape, **more))


TRAIN_AGAIN = "holds NaN or infinite values; train or export the model again"
EQUAL_SHAPES = "needed: equal shapes, e.g. a 1x1 convolution of the body's stride as the shortcut"
TWICE = (
    "adds the same values twice; the body and the shortcut both hand on what they read: put a layer into one of them"
)

# fmt: off
REFUSED: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: spiking(0.0), "1 (MultiThresholdLIF): spike_value is 0.0; needed: a positive number"),
    (lambda: spiking(-0.5), "1 (MultiThresholdLIF): spike_value is -0.5; needed: a positive number"),
    (lambda: spiking(float("nan")), "1 (MultiThresholdLIF): spike_value is nan; needed: a finite number"),
    (lambda: changed(StbpLIF(), levels=2), "1 (StbpLIF): levels is 2; needed: an integer from 1 to 1"),
    (lambda: changed(StbpLIF(), reset="soft"), "1 (StbpLIF): reset is soft; needed: 'hard'"),
    (lambda: changed(GroupNeuron(1.0, 2), leak=3.0), "1 (GroupNeuron): leak is 3.0, must lie in (0, 2)"),
    (lambda: changed(GroupNeuron(1.0, 2), threshold=0.0), "1 (GroupNeuron): thresholds are [0.0, 0.0], they must be positive and increasing"),
    (lambda: poisoned_mixing("mixing"), f"1 (LMHT): mixing {TRAIN_AGAIN}"),
    (lambda: poisoned_mixing("raw_leak"), f"1 (LMHT): raw_leak {TRAIN_AGAIN}"),
    (lambda: without(lm(), "mixing"), "1 (LMHT): has no mixing"),
    (lambda: without(lm(), "raw_leak"), "1 (LMHT): has no raw_leak"),
    (lambda: lm(timesteps=3), "1 (LMHT): is made for 3 time steps, the input gives 2; make both with the same timesteps"),
    (lambda: changed(lm(), timesteps=3), "1 (LMHT): mixing has shape (2, 2); needed: (3, 3)"),
    (lambda: changed(lm(), levels=0), "1 (LMHT): levels is 0; needed: an integer from 1 to 255"),
    (lambda: changed(lm(), threshold=-1.0), "1 (LMHT): thresholds are [-1.0, -2.0], they must be positive and increasing"),
    (lambda: PerStep(lm()), "1.0 (LMHT): stands within PerStep, where it cannot see the time steps; take it out of PerStep"),
    (lambda: PerStep(Residual(nn.Conv2d(1, 1, 1))), "1.0 (Residual): stands within PerStep; turn them round: Residual(PerStep(...))"),
    (lambda: Residual(step(1, 1, 3)), f"1 (Residual): the body gives shape (1, 6, 6), the identity (1, 8, 8); {EQUAL_SHAPES}"),
    (lambda: Residual(step(1, 2, 1), step(1, 3, 1)), f"1 (Residual): the body gives shape (2, 8, 8), the shortcut (3, 8, 8); {EQUAL_SHAPES}"),
    (lambda: Residual(nn.Sequential(StbpLIF(), Residual(step(1, 1, 2)))), f"1.body.1 (Residual): the body gives shape (1, 7, 7), the identity (1, 8, 8); {EQUAL_SHAPES}"),
    (lambda: Residual(nn.Identity()), f"1 (Residual): {TWICE}"),
    (lambda: Residual(Residual(step(1, 1, 1))), f"1 (Residual): {TWICE}"),
    (lambda: nn.Sequential(*(Residual(nn.Identity()) for _ in range(60))), f"1.0 (Residual): {TWICE}"),
    (lambda: residuals(256), "1.255 (Residual): adds up 257 layers; at most 256 meet in a neuron"),
    (lambda: Residual(nn.ReLU()), "1.body (ReLU): this layer is not supported; a rectifier does not spike: use snncompile.nn.MultiThresholdLIF"),
    (lambda: Residual(step(1, 1, 1), nn.Conv2d(1, 1, 1)), "1.shortcut (Conv2d): stands outside PerStep, where it would take the time steps for the batch; wrap it: PerStep(...)"),
    (lambda: Residual(PerStep(poisoned(nn.Conv2d(1, 1, 1)))), f"1.body.0 (Conv2d): weight {TRAIN_AGAIN}"),
    (lambda: Residual(hooked(nn.Identity())), "1.body (Identity): has forward hooks, which may change what it computes; remove them before saving"),
    (lambda: changed(Residual(nn.Identity()), _modules={"body": None, "shortcut": None}), "1.body (NoneType): is not a layer"),
    (lambda: changed(Residual(nn.Identity()), _modules={"body": nn.Identity()}), "1 (Residual): its branches are not body and shortcut"),
    (lambda: Residual(MeanReadout()), "2 (MeanReadout): a network has one MeanReadout or LeakyReadout, last and outside PerStep and Residual"),
    (lambda: LeakyReadout(0.5), "2 (MeanReadout): a network has one MeanReadout or LeakyReadout, last and outside PerStep and Residual"),
    (StcbLIF, "1 (StcbLIF): this layer is not supported; deploy what snncompile.nn.to_sequential(network) gives"),
    (lambda: PerTrain(nn.Identity()), "1 (PerTrain): this layer is not supported; deploy what snncompile.nn.to_sequential(network) gives"),
    (lambda: PerStep(QCFS(2)), "1.0 (QCFS): this layer is not supported; deploy what snncompile.nn.convert_to_group_neurons(network, ...) gives"),
]
# fmt: on


@pytest.mark.parametrize(("layer", "message"), REFUSED, ids=[text.partition(";")[0][:60] for _, text in REFUSED])
def test_refuses_by_path(layer: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(CompileError) as caught:
        trace(nn.Sequential(DirectCoding(2, (1, 8, 8)), layer(), MeanReadout()))
    assert str(caught.value).partition("; supported: ")[0] == message


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(DirectCoding(1, (2,)), changed(LeakyReadout(0.5), leak=3.0)), "1 (LeakyReadout): leak is 3.0; needed: a number in (0, 1]"),
        (nn.Sequential(DirectCoding(1, (2,)), changed(LeakyReadout(0.5), leak="1")), "1 (LeakyReadout): leak is 1; needed: a finite number"),
        (nn.Sequential(SpikeTrainCoding(1), TrainReadout()), "0 (SpikeTrainCoding): this layer is not supported; deploy what snncompile.nn.to_sequential(network) gives"),
        (nn.Sequential(nn.Linear(2, 2), QCFS(2)), "1 (QCFS): this layer is not supported; deploy what snncompile.nn.convert_to_group_neurons(network, ...) gives"),
    ],
)  # fmt: skip
def test_refuses_what_is_no_network(module: nn.Module, message: str) -> None:
    with pytest.raises(CompileError) as caught:
        trace(module)
    assert str(caught.value).partition("; supported: ")[0] == message
