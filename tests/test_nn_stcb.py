"""STCB-R: the identity, its gradient, the memory of a training step, and the network it deploys as."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from snncompile.nn import (
    DirectCoding,
    LeakyReadout,
    MeanReadout,
    MultiThresholdLIF,
    PerStep,
    PerTrain,
    Residual,
    SpikeTrain,
    SpikeTrainCoding,
    StcbLIF,
    TrainReadout,
    to_sequential,
)
from snncompile.nn.stcb import weighted_mean


def small_network(timesteps: int = 4, leak: float = 0.5, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    body = nn.Sequential(
        PerTrain(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)),
        StcbLIF(0.5, 3),
        PerTrain(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)),
    )
    network = nn.Sequential(
        SpikeTrainCoding(timesteps, leak, input_shape=(1, 8, 8), scale=1 / 255),
        PerTrain(nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)),
        StcbLIF(0.5, 4),
        Residual(body, PerTrain(nn.Conv2d(6, 6, 1))),
        nn.Sequential(
            StcbLIF(0.4, 4, v0=0.2), PerTrain(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(96, 30), nn.BatchNorm1d(30))
        ),
        StcbLIF(0.5, 2),
        PerTrain(nn.Linear(30, 10)),
        TrainReadout(),
    ).double()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.momentum = 0.9  # a few steps of training suffice
    return network


def images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(1)).double()


@given(
    st.integers(1, 8), st.floats(0.05, 1), st.integers(1, 6), st.floats(0.1, 2), st.floats(-1, 1), st.integers(0, 999)
)
def test_the_mean_spike_is_the_mean_current_less_the_last_membrane(
    timesteps: int, leak: float, levels: int, threshold: float, v0: float, seed: int
) -> None:
    """a = Z - (v(T) - lam^T v0) / sum kappa; v(T) from the equations of the neuron."""
    z = torch.randn(timesteps, 3, 50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    out = StcbLIF(threshold, levels, v0)(SpikeTrain(z, weighted_mean(z, leak), leak))
    v = torch.full_like(z[0], v0)
    for t in range(timesteps):
        v = leak * v + z[t] - out.steps[t]
        assert (v < threshold).logical_or(out.steps[t] == levels * threshold).all()
    kappa = sum(leak ** (timesteps - t) for t in range(1, timesteps + 1))
    residual = out.mean - (weighted_mean(z, leak) - (v - leak**timesteps * v0) / kappa)
    assert residual.abs().max() < 1e-12
    torch.testing.assert_close(out.mean, weighted_mean(out.steps, leak), rtol=0, atol=1e-13)


@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_is_the_numeric_derivative_of_the_clip_form(training: bool) -> None:
    torch.manual_seed(0)
    spikes = 0.5 * torch.randint(0, 4, (3, 5, 2, 4, 4)).double()
    train = SpikeTrain(spikes, weighted_mean(spikes, 0.5), 0.5)
    layers = PerTrain(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).double().train(training)
    nn.init.uniform_(layers[1].weight, 0.5, 1)
    nn.init.uniform_(layers[1].bias, 0.5, 1)
    plain = nn.Sequential(*layers)
    weight = torch.randn(5, 3, 2, 2, dtype=torch.float64)
    Z = layers(train).mean
    assert torch.minimum(Z.abs(), (Z - 1.5).abs()).min() > 1e-4  # no kink within the step
    assert 0.1 < ((Z > 0) & (Z < 1.5)).double().mean() < 0.95
    (StcbLIF(0.5, 3)(layers(train)).mean * weight).sum().backward()
    for parameter in layers.parameters():
        for i in range(min(parameter.numel(), 6)):
            values, slope, step = parameter.data.flatten(), parameter.grad.flatten()[i], 1e-6
            sides = []
            for sign in (1, -1):
                moved = values.clone()
                moved[i] += sign * step
                parameter.data = moved.reshape(parameter.shape)
                with torch.no_grad():
                    sides.append((plain(train.mean).clamp(0, 1.5) * weight).sum())
            parameter.data = values.reshape(parameter.shape)
            assert float(slope) == pytest.approx(float((sides[0] - sides[1]) / (2 * step)), abs=1e-6)


def test_the_gradient_passes_from_zero_to_the_limit() -> None:
    Z = torch.tensor([[-0.1, 0.0, 0.7, 1.5, 1.6]], requires_grad=True)
    StcbLIF(0.5, 3)(SpikeTrain(Z.detach()[None], Z, 0.5)).mean.sum().backward()
    assert Z.grad.tolist() == [[0, 1, 1, 1, 0]]


@pytest.mark.parametrize("leak", [0.5, 1.0])
@pytest.mark.parametrize("timesteps", [1, 4])
def test_the_deployed_network_spikes_as_the_trained_one(timesteps: int, leak: float) -> None:
    network = small_network(timesteps, leak)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    x = images(64)
    for _ in range(3):  # so that running statistics and weights are those of a training
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), torch.arange(64) % 10).backward()
        optimizer.step()
    deployed = to_sequential(network.eval())
    with torch.no_grad():
        ours, theirs = x, x
        for layer, other in zip(network[:-1], deployed[:-1], strict=True):
            ours, theirs = layer(ours), other(theirs)
            if isinstance(layer, StcbLIF):
                assert torch.equal(ours.steps, theirs)
                assert 0.02 < float((theirs > 0).double().mean()) < 0.98
            torch.testing.assert_close(ours.mean, weighted_mean(theirs, leak), rtol=0, atol=1e-12)
        torch.testing.assert_close(network[-1](ours), deployed[-1](theirs), rtol=0, atol=1e-12)


def test_the_deployed_network_is_of_layers_the_compiler_knows() -> None:
    network = small_network()
    deployed = to_sequential(network)
    layer, neuron = PerStep, MultiThresholdLIF
    kinds = (DirectCoding, layer, neuron, Residual, nn.Sequential, neuron, layer, LeakyReadout)
    assert tuple(type(layer) for layer in deployed) == kinds
    assert (deployed[0].timesteps, deployed[0].input_shape, deployed[0].scale) == (4, (1, 8, 8), 1 / 255)
    assert (deployed[4][0].threshold, deployed[4][0].levels, deployed[4][0].leak) == (0.4, 4, 0.5)
    assert (deployed[4][0].v0, deployed[4][0].reset, deployed[4][0].fire) == (0.2, "soft", "ge")
    assert [type(layer) for layer in deployed[3].body] == [PerStep, MultiThresholdLIF, PerStep]
    assert not any(layer.training for layer in deployed.modules())
    deployed[1][0].weight.data.zero_()
    assert network[1][0].weight.any()


def test_in_training_steps_and_mean_pass_one_affine_map() -> None:
    torch.manual_seed(0)
    steps = torch.randn(3, 6, 4, 5, 5, dtype=torch.float64)
    layers = PerTrain(nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2)).double()
    out = layers(SpikeTrain(steps, weighted_mean(steps, 0.5), 0.5))
    torch.testing.assert_close(weighted_mean(out.steps, 0.5), out.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(out.mean.mean((0, 2, 3)), torch.zeros(2).double(), rtol=0, atol=1e-12)
    assert layers[1].num_batches_tracked == 1
    assert not out.steps.requires_grad


def test_a_layer_is_differentiated_once_a_train() -> None:
    network = small_network(timesteps=4)
    calls: dict[nn.Module, list[tuple[int, bool]]] = {}
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            note = lambda layer, x, y: calls.setdefault(layer, []).append((len(y), y.requires_grad))  # noqa: E731
            layer.register_forward_hook(note)
    network(images(5))
    first, *others = calls.values()
    assert first == [(5, True)]  # the image is the same in every step
    assert all(other == [(5, True), (20, False)] for other in others)
    assert len(others) == 5


def test_a_sum_of_trains_is_constant_if_both_are() -> None:
    image, spikes = torch.rand(2, 3), torch.rand(4, 2, 3)
    constant = SpikeTrainCoding(4, leak=0.5)(image)
    varying = SpikeTrain(spikes, weighted_mean(spikes, 0.5), 0.5)
    for total, factor in ((constant + varying, 1), (varying + constant, 1), (constant + constant, 0)):
        expected = image + (spikes if factor else image.expand(4, 2, 3))
        assert torch.equal(total.steps, expected)
        torch.testing.assert_close(total.mean, weighted_mean(expected, 0.5))
        assert total.constant is (factor == 0)


def saved_bytes(network: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps for the backward pass of a training step, every storage counted once."""
    kept: dict[int, Tensor] = {}
    parameters = {parameter.data_ptr() for parameter in network.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = network(x).square().sum()
    loss.backward()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_a_training_step_keeps_less_than_surrogate_gradients_through_time() -> None:
    x = images(16)
    network = small_network(timesteps=4)
    through_time = to_sequential(network).train()
    trains, steps = saved_bytes(network, x), saved_bytes(through_time, x)
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert trains < steps / 4  # a T-th, and masks of one byte instead of membranes
    longer = saved_bytes(small_network(timesteps=16), x)
    assert longer == trains


def test_a_training_step_lowers_the_loss() -> None:
    network = small_network()
    x, labels = images(64), torch.arange(64) % 10
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(network(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_the_leaky_readout_is_a_leaky_accumulator() -> None:
    x = torch.randn(5, 3, 10, dtype=torch.float64)
    v, kappa = torch.zeros(3, 10).double(), 0.0
    for step in x:
        v, kappa = 0.7 * v + step, 0.7 * kappa + 1
    torch.testing.assert_close(LeakyReadout(0.7)(x), v / kappa)
    torch.testing.assert_close(LeakyReadout(1.0)(x), MeanReadout()(x))


def test_refuses() -> None:
    train = SpikeTrain(torch.zeros(1, 1, 2), torch.zeros(1, 2), 0.5)
    other = SpikeTrain(torch.zeros(1, 1, 2), torch.zeros(1, 2), 0.25)
    strange = nn.Sequential(SpikeTrainCoding(2), Residual(nn.Sequential(PerTrain(), nn.ReLU())))
    for make, message in (
        (lambda: SpikeTrainCoding(0), "timesteps must be at least 1, got 0"),
        (lambda: SpikeTrainCoding(2, leak=0.0), r"SpikeTrainCoding: leak must lie in \(0, 1\], got 0.0"),
        (lambda: LeakyReadout(1.5), r"LeakyReadout: leak must lie in \(0, 1\], got 1.5"),
        (lambda: StcbLIF(threshold=0), "threshold must be positive, got 0"),
        (lambda: StcbLIF(levels=0), "levels must be at least 1, got 0"),
        (lambda: PerTrain(nn.Conv2d(1, 1, 1), nn.ReLU()), "PerTrain: ReLU is not one of Conv2d, Linear, "),
        (lambda: train + other, "adds trains of leak 0.5 and 0.25; they need one leak"),
        (lambda: to_sequential(nn.Sequential(DirectCoding(2))), "the first layer is not SpikeTrainCoding"),
        (lambda: to_sequential(strange), r"layer 1\.body\.1 \(ReLU\) is not one of PerTrain, "),
    ):
        with pytest.raises(ValueError, match=message):
            make()
