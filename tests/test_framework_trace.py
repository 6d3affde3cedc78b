"""Tracing a forward of one's own: what is read computes what the module computes; what is not names file and line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stand_ins
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snncompile.contract import from_json
from snncompile.errors import CompileError
from snncompile.frontend import load_module
from snncompile.frontend.nir.to_network import to_network
from snncompile.frontend.reading import Reading
from snncompile.nn import DirectCoding, MeanReadout, MultiThresholdLIF, PerStep
from snncompile.reference import run_float

STEPS = 4
SNN = stand_ins.snntorch()["snntorch"]
HERE = Path(__file__).name


def lif(threshold: float = 0.4, beta: float = 0.7) -> nn.Module:
    """A layer named as snntorch's Leaky."""
    return SNN.Leaky(beta=beta, threshold=threshold, init_hidden=True)


class Own(nn.Module):
    """A module of layers by name, whose forward is a function of it and its input."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.of = [forward]
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.of[0](self, x)


def concatenated(net: Any, x: Tensor) -> Tensor:
    a, b = net.lif_a(net.conv_a(x)), net.lif_b(net.conv_b(x))
    c = net.lif_c(net.norm(net.conv_c(torch.cat((a, b), dim=1))))
    both = net.lif_d(torch.cat([c, a], 1))
    return net.lif_e(net.fc(torch.flatten(both, 1)))


def normed(net: Any, x: Tensor) -> Tensor:
    y = net.lif_a(net.conv_a(x))
    y = net.lif_b(net.norm_b(net.conv_b(net.norm_a(y)) + net.conv_c(y)))
    y = net.lif_c(net.norm_c(y))
    return net.lif_d(net.fc(net.norm_d(F.avg_pool2d(y, 2).flatten(1))))


def arithmetic(net: Any, x: Tensor) -> Tensor:
    mean, std = torch.tensor([0.2, 0.3]).view(1, 2, 1, 1), torch.tensor([[[0.5]], [[0.7]]])
    y = net.lif_a(net.conv_a((x - mean) / std))
    z = net.lif_b(0.5 * net.conv_b(y) - net.conv_c(y) / 4 + 2 * y - 0.1)
    z = F.dropout(z, 0.5, net.training)
    return net.lif_c(net.fc((z + y).mean([2, 3])))


def functional(net: Any, x: Tensor) -> Tensor:
    batch = x.shape[0]
    y = net.lif_a(F.conv2d(x, net.conv_a.weight, net.conv_a.bias, padding=1, groups=2))
    y = F.max_pool2d(y, 2, stride=1, padding=1)
    y = net.lif_b(net.depthwise(y))
    y = F.adaptive_avg_pool2d(y, 1)
    return net.lif_c(F.linear(y.view(batch, -1), net.fc.weight, net.fc.bias))


def overlapping(net: Any, x: Tensor) -> Tensor:
    y = net.lif_a(net.conv_a(x))
    y = net.lif_b(net.conv_b(F.avg_pool2d(y, 3, 2)))
    y = net.lif_c(net.fc(F.avg_pool2d(y, 2, 1).reshape(x.size(0), -1)))
    return y


def rows(net: Any, x: Tensor) -> Tensor:
    y = net.lif_a(net.norm(net.conv_a(x)))
    y = net.lif_b(net.conv_b(y))
    return net.lif_c(net.fc(y.flatten(1)))


IMAGE = (2, 6, 6)
MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "concatenated": (
        lambda: Own(
            concatenated,
            conv_a=nn.Conv2d(2, 3, 3, padding=1),
            conv_b=nn.Conv2d(2, 2, 1, bias=False),
            conv_c=nn.Conv2d(5, 4, 3, padding=1),
            norm=nn.BatchNorm2d(4),
            fc=nn.Linear(7 * 36, 5),
            **{f"lif_{k}": lif(0.3) for k in "abcde"},
        ),
        IMAGE,
    ),
    "normed": (
        lambda: Own(
            normed,
            conv_a=nn.Conv2d(2, 3, 3, padding=1),
            conv_b=nn.Conv2d(3, 3, 3),
            conv_c=nn.Conv2d(3, 3, 3),
            fc=nn.Linear(12, 5),
            norm_d=nn.BatchNorm1d(12),
            **{f"norm_{k}": nn.BatchNorm2d(3) for k in "abc"},
            **{f"lif_{k}": lif(0.3) for k in "abcd"},
        ),
        IMAGE,
    ),
    "arithmetic": (
        lambda: Own(
            arithmetic,
            conv_a=nn.Conv2d(2, 3, 3),
            conv_b=nn.Conv2d(3, 3, 3, padding=1),
            conv_c=nn.Conv2d(3, 3, 1),
            fc=nn.Linear(3, 5),
            **{f"lif_{k}": lif(0.3) for k in "abc"},
        ),
        IMAGE,
    ),
    "functional": (
        lambda: Own(
            functional,
            conv_a=nn.Conv2d(2, 4, 3, groups=2),
            depthwise=nn.Conv2d(4, 8, 3, stride=2, groups=4),
            fc=nn.Linear(8, 5),
            **{f"lif_{k}": lif(0.2) for k in "abc"},
        ),
        IMAGE,
    ),
    "overlapping": (
        lambda: Own(
            overlapping,
            conv_a=nn.Conv2d(2, 3, 3, padding=1),
            conv_b=nn.Conv2d(3, 4, 1),
            fc=nn.Linear(4, 5),
            **{f"lif_{k}": lif(0.2) for k in "abc"},
        ),
        IMAGE,
    ),
    "rows": (
        lambda: Own(
            rows,
            conv_a=nn.Conv1d(2, 3, 3, padding=1),
            norm=nn.BatchNorm1d(3),
            conv_b=nn.Conv1d(3, 4, 2, stride=2, groups=1),
            fc=nn.Linear(16, 5),
            **{f"lif_{k}": lif(0.2) for k in "abc"},
        ),
        (2, 9),
    ),
}


def trained(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.2)
            nn.init.uniform_(layer.running_var, 0.1, 1)
            nn.init.uniform_(layer.weight, 0.3, 1.5)
            nn.init.normal_(layer.bias, 0, 0.3)
    return module.double().eval()


def outputs(module: nn.Module, x: Tensor) -> np.ndarray:
    """The mean over the time steps of a module that computes one a call."""
    with torch.no_grad():
        found = torch.stack([module(x) for _ in range(STEPS)]).mean(0)
    return found.numpy()


@pytest.mark.parametrize("name", MODULES)
def test_computes_what_the_module_computes(name: str) -> None:
    make, shape = MODULES[name]
    torch.manual_seed(11)
    module, x = trained(make()), torch.rand(6, *shape, dtype=torch.float64)
    network = to_network(load_module(module, x, Reading(timesteps=STEPS)))
    expected = outputs(module, x)
    assert 0 < expected.mean() < 1
    data = x.numpy().reshape(len(x), *network.input.shape)
    np.testing.assert_allclose(run_float(network, data).output, expected, rtol=0, atol=1e-12)


def test_a_module_of_snncompile_within_a_forward_of_ones_own() -> None:
    layers = {"code": DirectCoding(3, (2, 6, 6)), "conv": PerStep(nn.Conv2d(2, 3, 3)), "flat": PerStep(nn.Flatten())}

    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.spike(net.conv(net.code(x)))
        return net.read(net.fc(net.flat(y)))

    module = Own(forward, **layers, spike=MultiThresholdLIF(0.2), fc=nn.Linear(48, 4), read=MeanReadout()).double()
    x = torch.rand(5, 2, 6, 6, dtype=torch.float64)
    network = to_network(load_module(module, x))
    assert network.timesteps == 3
    np.testing.assert_allclose(run_float(network, x.numpy()).output, module(x).detach().numpy(), rtol=0, atol=1e-12)


def test_the_module_is_left_as_it_was() -> None:
    module = trained(MODULES["rows"][0]()).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    load_module(module, torch.zeros(1, 2, 9), Reading(timesteps=2))
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(layer.mem.shape == (0,) for layer in module.modules() if type(layer).__name__ == "Leaky")


def test_the_reading_overrides_and_the_contract_says_so() -> None:
    module = Own(lambda net, x: net.lif(net.fc(x)), fc=nn.Linear(3, 2), lif=lif())
    reading = Reading(timesteps=5, fire="ge", reset="hard", readout="count", coding="events")
    graph = load_module(module, torch.zeros(1, 3), reading)
    network = to_network(graph)
    assert (network.neurons[0].fire, network.neurons[0].reset) == ("ge", "hard")
    assert (network.input.coding, network.readout.scale, network.timesteps) == ("events", 5.0, 5)
    said = {node.name: (node.verdict, node.note) for node in from_json(graph.metadata["contract"])}
    assert "--fire ge" in said["02_leaky"][1]
    assert "--reset hard" in said["02_leaky"][1]
    assert "count" in said["03_output"][1]


def looped(body: Callable[[Any, Tensor], Any], steps: int = STEPS) -> Callable[[Any, Tensor], Any]:
    def forward(net: Any, x: Tensor) -> Any:
        return torch.stack([body(net, x) for _ in range(steps)])

    return forward


def two_layers_back(net: Any, x: Tensor) -> Tensor:
    spikes, out = torch.zeros(x.shape[0], 4), []
    for _ in range(STEPS):
        spikes = net.lif2(net.square(net.lif(net.fc(x) + net.back(spikes))))
        out.append(spikes)
    return torch.stack(out)


def delaying(net: Any, x: Tensor) -> Tensor:
    spikes, out = torch.zeros(x.shape[0], 4), []
    for _ in range(STEPS):
        out.append(net.lif2(net.back(spikes)))
        spikes = net.lif(net.fc(x))
    return torch.stack(out)


def dropping_state(net: Any, x: Tensor) -> Tensor:
    out = []
    for _ in range(STEPS):
        spikes, _ = net.stateful(net.fc(x), torch.zeros(x.shape[0], 4))
        out.append(spikes)
    return torch.stack(out)


def resetting(net: Any, x: Tensor) -> Tensor:
    out = []
    for _ in range(STEPS):
        net.lif.mem = torch.zeros(0)
        out.append(net.lif(net.fc(x)))
    return torch.stack(out)


def branching(net: Any, x: Tensor) -> Tensor:
    return net.lif(net.fc(x)) if (x > 0).any() else net.fc(x)


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "a rectifier": (lambda net, x: net.lif(F.relu(net.fc(x))), "calls relu, which is not supported; a rectifier"),
    "a rectifier of its own": (lambda net, x: net.lif(net.relu(net.fc(x))), "relu (ReLU): this layer is not supported"),
    "neurons of no rule": (lambda net, x: net.alpha(net.fc(x)), "alpha (Alpha): this layer is not supported"),
    "upsampling": (lambda net, x: F.interpolate(net.lif(net.fc(x)), scale_factor=2), "calls interpolate, which is not"),
    "a branch on data": (branching, "calls gt, which is not supported"),
    "a largest of currents": (
        lambda net, x: F.max_pool2d(net.conv(x.view(-1, 1, 2, 2)), 2),
        "views (61, 4) as (61, 1, 2, 2)",
    ),
    "a product of spikes": (lambda net, x: net.lif(net.fc(x)) * net.lif2(net.fc(x)), "multiplies the values of time"),
    "a constant input": (lambda net, x: net.lif(net.fc(x) + net.back(torch.ones(1, 4))), "reads a constant"),
    "zeros for ever": (looped(lambda net, x: net.lif(net.fc(x) + net.back(torch.zeros(1, 4)))), "reads a constant"),
    "feedback over two layers": (two_layers_back, "back (Linear): carries values to a later step, but not from"),
    "a delay": (delaying, "back (Linear): carries values to a later step, but not from a layer of neurons to itself"),
    "a state not handed on": (
        dropping_state,
        "gets a state in step 1 that is not the one it had after the step before",
    ),
    "a reset within": (resetting, "lif is reset between two time steps"),
    "a second place": (lambda net, x: net.lif(net.square(net.lif(net.fc(x)))), "reads something else in its call 2"),
    "the last step alone": (
        lambda net, x: looped(lambda n, y: n.lif(n.fc(y)))(net, x)[-1],
        "returns time step 3 alone",
    ),
    "a wrong order": (
        lambda net, x: torch.stack([net.lif(net.fc(x)) for _ in range(STEPS)][::-1]),
        "stacks time steps out of their order",
    ),
    "a constant": (lambda net, x: torch.zeros(3), "returns a Tensor"),
    "an index of channels": (lambda net, x: net.lif(net.fc(x)[:, 1:]), "takes a part of a tensor other than one time"),
    "code that fails": (
        lambda net, x: net.absent(x),
        "cannot be traced: AttributeError: 'Own' object has no attribute",
    ),
}


def refused(forward: Callable[[Any, Tensor], Any], reading: Reading | None = None) -> CompileError:
    layers: dict[str, nn.Module] = {"fc": nn.Linear(4, 4), "square": nn.Linear(4, 4), "back": nn.Linear(4, 4)}
    alpha = type("Alpha", (nn.Module,), {"__module__": "snntorch._neurons.alpha", "forward": lambda self, x: x})
    layers |= {
        "alpha": alpha(),
        "lif": lif(),
        "lif2": lif(),
        "stateful": SNN.Leaky(beta=0.5),
        "relu": nn.ReLU(),
        "conv": nn.Conv2d(1, 1, 1),
    }
    with pytest.raises(CompileError) as caught:
        load_module(Own(forward, **layers), torch.zeros(1, 4), reading or Reading(timesteps=STEPS))
    return caught.value


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_the_line_of_the_model(name: str) -> None:
    forward, message = REFUSED[name]
    error = refused(forward)
    assert message in str(error)
    if not error.where.startswith(("model", "back")):  # found once all calls were made
        file, _, line = error.where.partition(": ")[0].partition(":")
        assert file == HERE
        assert int(line) > 0


def test_refuses_without_the_number_of_time_steps() -> None:
    error = refused(lambda net, x: net.lif(net.fc(x)), Reading())
    assert str(error) == "model: needs the number of time steps; say how many a sample takes: --timesteps T"
    error = refused(looped(lambda net, x: net.lif(net.fc(x))), Reading(timesteps=STEPS + 1))
    assert "takes 4 time steps, elsewhere there are 5" in str(error)


def test_refuses_hooks_and_readouts_that_cannot_be() -> None:
    module = Own(lambda net, x: net.lif(net.fc(x)), fc=nn.Linear(4, 4), lif=lif())
    with pytest.raises(CompileError, match="--readout: is membrane; needed: leaky integrators as the last layer"):
        load_module(module, torch.zeros(1, 4), Reading(timesteps=2, readout="membrane"))
    module.fc.register_forward_hook(lambda _module, _given, given_back: given_back)
    with pytest.raises(CompileError, match=r"fc \(Linear\): has forward hooks, which may change what it computes"):
        load_module(module, torch.zeros(1, 4), Reading(timesteps=2))


def test_recurrent_weights_of_ones_own() -> None:
    def forward(net: Any, x: Tensor) -> Any:
        spikes, total = torch.zeros(x.shape[0], 4), 0.0
        for t in range(x.shape[1]):
            spikes = net.lif(net.fc(x[:, t]) + net.back(spikes))
            total = total + net.last(net.out(spikes))
        return total

    torch.manual_seed(4)
    layers = {"fc": nn.Linear(3, 4), "back": nn.Linear(4, 4), "out": nn.Linear(4, 2)}
    module = Own(forward, **layers, lif=lif(0.2), last=lif(0.05)).double()
    nn.init.normal_(module.back.weight)
    nn.init.normal_(module.out.weight)
    x = (torch.rand(8, 7, 3) < 0.5).double()
    network = to_network(load_module(module, x))
    assert len(network.laterals(network.neurons[0])) == 1
    expected = torch.zeros(8, 2, dtype=torch.float64)
    spikes = torch.zeros(8, 4, dtype=torch.float64)
    with torch.no_grad():
        for t in range(7):
            spikes = module.lif(module.fc(x[:, t]) + module.back(spikes))
            expected += module.last(module.out(spikes))
    assert expected.any()
    np.testing.assert_allclose(run_float(network, x.numpy()).output, expected.numpy(), rtol=0, atol=1e-12)


def test_what_a_module_of_snncompile_says_itself_is_not_overridden_unseen() -> None:
    module = nn.Sequential(DirectCoding(2, (3,)), nn.Linear(3, 2), MeanReadout())
    x = torch.zeros(1, 3)
    assert to_network(load_module(module, x, Reading(readout="sum"))).readout.scale == 2.0
    for reading, message in (
        (Reading(coding="events"), "--coding: is events; the model begins with its own: DirectCoding"),
        (Reading(readout="last"), "--readout: is last; the model ends with its own readout: mean"),
        (Reading(timesteps=3), "takes 2 time steps, elsewhere there are 3"),
        (Reading(dt=1e-3), "--dt: is of no use to a torch module, whose layers count time steps"),
    ):
        with pytest.raises(CompileError) as caught:
            load_module(module, x, reading)
        assert message in str(caught.value)


def test_a_potential_that_is_never_reset_is_read() -> None:
    neuron = SNN.Leaky(beta=0.8, reset_mechanism="none")

    def forward(net: Any, x: Tensor) -> Any:
        mem, potentials, spikes = net.read.init_leaky(), [], []
        for _ in range(STEPS):
            spk, mem = net.read(net.fc(net.lif(net.first(x))), mem)
            spikes.append(spk)
            potentials.append(mem)
        return torch.stack(spikes), torch.stack(potentials)

    module = Own(forward, first=nn.Linear(4, 6), lif=lif(), fc=nn.Linear(6, 3), read=neuron).double()
    x = torch.rand(5, 4, dtype=torch.float64)
    network = to_network(load_module(module, x, Reading(readout="membrane")))
    v = torch.zeros(5, 3, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(STEPS):
            v = float(neuron.beta) * v + module.fc(module.lif(module.first(x)))
    np.testing.assert_allclose(run_float(network, x.numpy()).output, v.numpy(), rtol=0, atol=1e-12)
