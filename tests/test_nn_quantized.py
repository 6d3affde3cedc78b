"""Fine-tuning on integers: what is trained is what is compiled, bit for bit."""

import math
import runpy
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from snncompile import reference
from snncompile.backend import load_backend
from snncompile.chip import load_target
from snncompile.compiler import Options, compile_file
from snncompile.data import load_samples
from snncompile.errors import CompileError, InternalError
from snncompile.frontend.nir.to_network import to_network
from snncompile.frontend.torch.trace import trace
from snncompile.nn import (
    LMHT,
    DirectCoding,
    EventCoding,
    GroupNeuron,
    LeakyReadout,
    MeanReadout,
    MultiThresholdLIF,
    PerStep,
    QuantizedNetwork,
    Residual,
    StbpLIF,
    TdBatchNorm1d,
    TdBatchNorm2d,
    prepare_quantized,
)
from snncompile.pipeline import lower
from snncompile.quant_network import QuantNetwork
from snncompile.quantization.calibration import calibrate
from snncompile.quantization.quantize import HostScales, quantize
from snncompile.quantization.rounding import Rounding

EXAMPLES = Path(__file__).parent.parent / "examples"
Neuron = Callable[[], nn.Module]
NUMERICS = load_target("loihi2-sim").numerics


def learned_lm_ht(timesteps: int = 3, leak: float = 0.3) -> LMHT:
    neuron = LMHT(3, timesteps, threshold=0.7, v0=0.1)
    with torch.no_grad():
        neuron.mixing.copy_(torch.linspace(-0.6, 0.8, timesteps**2).reshape(timesteps, timesteps))
        neuron.raw_leak.fill_(leak)
    return neuron


NEURONS: dict[str, Neuron] = {
    "mtlif": lambda: MultiThresholdLIF(threshold=0.45, levels=3, leak=0.7, v0=0.05),
    "hard": lambda: MultiThresholdLIF(threshold=0.6, levels=2, leak=0.9, reset="hard", fire="gt"),
    "none": lambda: MultiThresholdLIF(threshold=0.6, levels=2, leak=0.5, reset="none", detach_reset=False),
    "group": lambda: GroupNeuron(scale=1.7, members=5),
    "stbp": StbpLIF,
    "lm_ht": learned_lm_ht,
    "lm_ht_untrained": lambda: LMHT(2, 3),
}


def with_statistics(network: nn.Sequential) -> nn.Sequential:
    """Norms as after training, one of their channels all but dead."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.1, 0.5)
            nn.init.uniform_(layer.bias, 0, 0.3)
    return network.eval()


def chain(neuron: Neuron, timesteps: int = 3) -> nn.Sequential:
    torch.manual_seed(1)
    return with_statistics(
        nn.Sequential(
            DirectCoding(timesteps, input_shape=(2, 8, 8), scale=1 / 255),
            PerStep(nn.Conv2d(2, 4, 3, padding="same", bias=False)),
            TdBatchNorm2d(4),
            neuron(),
            PerStep(nn.AvgPool2d(2), nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6), nn.Dropout(0.5)),
            neuron(),
            PerStep(nn.Flatten(), nn.Linear(6, 5)),
            TdBatchNorm1d(5),
            neuron(),
            PerStep(nn.Linear(5, 4)),
            MeanReadout(),
        )
    )


def residual(neuron: Neuron) -> nn.Sequential:
    torch.manual_seed(2)

    def conv(fan_in: int, channels: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
        layer = nn.Conv2d(fan_in, channels, kernel, stride, kernel // 2, bias=False)
        return nn.Sequential(PerStep(layer), TdBatchNorm2d(channels))

    return with_statistics(
        nn.Sequential(
            DirectCoding(3, input_shape=(1, 8, 8)),
            conv(1, 6),
            neuron(),
            Residual(nn.Sequential(conv(6, 6), neuron(), conv(6, 6))),
            neuron(),
            Residual(nn.Sequential(conv(6, 8, 2), neuron(), conv(8, 8)), conv(6, 8, 2, kernel=1)),
            neuron(),
            Residual(conv(8, 8), PerStep(nn.Identity())),
            neuron(),
            PerStep(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(8, 10)),
            neuron(),
            Residual(nn.Sequential(PerStep(nn.Linear(10, 10)))),
            neuron(),
            nn.Linear(10, 3),
            LeakyReadout(0.6),
        )
    )


def moved(quantized: QuantizedNetwork, steps: int = 4) -> QuantizedNetwork:
    """Trained for a few large steps, so that weights, scales and biases leave where they were put."""
    coding = quantized.network[0]
    shape = (
        (16, coding.timesteps, *coding.input_shape) if isinstance(coding, EventCoding) else (16, *coding.input_shape)
    )
    quantized.train()
    for _ in range(steps):
        logits = quantized((torch.rand(shape) > 0.5).float() / getattr(coding, "scale", 1.0))
        step(quantized, nn.functional.cross_entropy(logits, torch.arange(16) % logits.shape[1]), 0.05)
    return quantized.eval()


def step(network: nn.Module, loss: torch.Tensor, lr: float) -> None:
    """By the sign of the gradient; the optimizers of torch take seconds to import."""
    network.zero_grad()
    loss.backward()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter.sub_(lr * parameter.grad.sign())


def compiled(network: nn.Module, bits: int) -> tuple[QuantNetwork, HostScales]:
    return quantize(lower(to_network(trace(network)), NUMERICS), NUMERICS, bits)


def check_equal(quantized: QuantizedNetwork, x: np.ndarray, bits: int) -> None:
    """Same integers, and outputs equal up to the rounding of the scale that turns integers into floats."""
    finished = quantized.finish(torch.float64)
    integers, host = compiled(finished, bits)
    for mine, theirs in zip(quantized.populations, integers.populations, strict=True):
        for layer, synapses in zip(mine.layers, integers.inputs_of(theirs), strict=True):
            np.testing.assert_array_equal(layer.integers().detach().numpy(), synapses.weight)
        assert mine.largest == max(int(np.abs(s.weight).max()) for s in integers.inputs_of(theirs))
    expected = reference.run_integer(integers, host.encoder(x)).output * host.output_scale
    with torch.no_grad():
        given = quantized(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-6)
    assert np.ptp(expected) > 0
    with torch.no_grad():  # the weights are exact, so float and integer network differ by biases and thresholds only
        floats = finished.float()(torch.from_numpy(x).float()).numpy()
    assert np.abs(floats - expected).mean() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("name", NEURONS)
def test_a_trained_chain_is_the_compiled_one(name: str) -> None:
    quantized = moved(prepare_quantized(chain(NEURONS[name]), 3))
    check_equal(quantized, np.random.default_rng(0).integers(0, 256, (8, 2, 8, 8)), 3)


@pytest.mark.parametrize("name", ["mtlif", "lm_ht"])
def test_one_time_step(name: str) -> None:
    neuron = (lambda: learned_lm_ht(1)) if name == "lm_ht" else NEURONS[name]
    quantized = moved(prepare_quantized(chain(neuron, timesteps=1), 2))
    check_equal(quantized, np.random.default_rng(0).integers(0, 256, (8, 2, 8, 8)), 2)


@pytest.mark.parametrize(("name", "bits"), [("mtlif", 2), ("stbp", 3), ("lm_ht", 4), ("group", 8)])
def test_layers_that_meet_in_a_neuron(name: str, bits: int) -> None:
    quantized = moved(prepare_quantized(residual(NEURONS[name]), bits))
    x = np.random.default_rng(0).integers(0, 256, (8, 1, 8, 8)) / 255
    check_equal(quantized, x.astype(np.float32), bits)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("name", [*NEURONS, "residual"])
def test_gptq_is_where_training_starts(name: str, bits: int) -> None:
    """The compiler's own integers of rounding "gptq", but for rows whose largest |q| is not n."""
    network = residual(NEURONS["mtlif"]) if name == "residual" else chain(NEURONS[name])
    channels = 1 if name == "residual" else 2
    x = np.random.default_rng(0).integers(0, 256, (60, channels, 8, 8)) * (1 / 255 if name == "residual" else 1)
    quantized = prepare_quantized(network, bits, calibration=x)
    lowered = lower(to_network(trace(network)), NUMERICS)
    compiled, _ = quantize(lowered, NUMERICS, bits, Rounding("gptq", calibrate(lowered, x)))
    same = []
    for mine, theirs in zip(quantized.populations, compiled.populations, strict=True):
        for layer, synapses in zip(mine.layers, compiled.inputs_of(theirs), strict=True):
            q, wanted = layer.integers().detach().numpy().reshape(len(synapses.weight), -1), synapses.weight
            wanted = np.diag(wanted.ravel()) if wanted.size < q.size else wanted.reshape(q.shape)
            if len(mine.log_scale) == 1:
                wanted, q = wanted.reshape(1, -1), q.reshape(1, -1)
            reached = np.abs(wanted).max(1) == mine.largest
            same += list((q == wanted)[reached].ravel())
            assert (layer.currents().abs().amax(1) <= mine.scale() * 2.0**layer.exponent * mine.largest * 1.001).all()
    assert np.mean(same) > 0.98  # a coarser layer may have to raise one integer for its exponent to be found
    check_equal(moved(quantized), x[:8].astype(np.float32), bits)


def test_events() -> None:
    torch.manual_seed(3)
    neuron = NEURONS["mtlif"]
    layers = PerStep(nn.Conv2d(2, 3, 3)), neuron(), PerStep(nn.Flatten(), nn.Linear(48, 4)), MeanReadout()
    quantized = moved(prepare_quantized(nn.Sequential(EventCoding(5, (2, 6, 6)), *layers), 2))
    check_equal(quantized, np.random.default_rng(0).integers(0, 2, (8, 5, 2, 6, 6)), 2)


def test_bits_of_single_layers() -> None:
    bits = {"1.0": 8, "4.1": 2, "6.1": 3, "9.0": 4}
    quantized = moved(prepare_quantized(chain(NEURONS["mtlif"]), bits))
    assert [population.largest for population in quantized.populations] == [127, 1, 3, 7]
    finished = quantized.finish()
    for i, b in enumerate(bits.values()):
        integers = compiled(finished, b)[0]
        mine = quantized.populations[i].layers[0].integers().detach().numpy()
        np.testing.assert_array_equal(mine, integers.inputs_of(integers.populations[i])[0].weight)


def test_a_dead_channel_costs_its_population_no_fraction() -> None:
    network = chain(NEURONS["mtlif"])
    with torch.no_grad():
        network[1][0].weight[0] = 0
        network[4][1].weight[1] = 1e-12
    quantized = prepare_quantized(network, 2)
    assert min(population.fraction for population in quantized.populations) >= 6
    check_equal(quantized, np.random.default_rng(0).integers(0, 256, (8, 2, 8, 8)), 2)


def test_weights_change_little_at_eight_bits() -> None:
    network = chain(NEURONS["mtlif"])
    x = torch.randint(0, 256, (32, 2, 8, 8))
    with torch.no_grad():
        difference = prepare_quantized(network, 8)(x) - network(x)
    assert float(difference.abs().median()) < 0.02


def test_gradients_are_those_of_the_float_network_on_the_same_weights() -> None:
    """With 8 bits the integers are close to float, and the straight-through gradient to the float network's."""
    network = chain(NEURONS["group"]).train()
    quantized = prepare_quantized(network, 8).eval()
    finished = quantized.finish(torch.float64)
    x = torch.randint(0, 256, (64, 2, 8, 8))
    (quantized(x) ** 2).sum().backward()
    (finished(x.double()) ** 2).sum().backward()
    for population, path in zip(quantized.populations, ((1, 0), (4, 1), (6, 1), (9, 0)), strict=True):
        mine, theirs = population.layers[0].weight.grad, finished[path[0]][path[1]].weight.grad
        assert torch.cosine_similarity(mine.flatten(), theirs.flatten().float(), 0) > 0.9
        bias = finished[path[0]][path[1]].bias.grad
        assert torch.cosine_similarity(population.bias.grad, bias.float(), 0) > 0.9


def test_the_gradient_of_the_scale_is_that_of_lsq() -> None:
    """d(s q)/ds = q - W/s where W/s is in range, +-n outside (arXiv 1902.08153, equation 3)."""
    quantized = prepare_quantized(chain(NEURONS["mtlif"]), 3)
    population = quantized.populations[1]
    layer = population.layers[0]
    scale = population.scale().detach().requires_grad_()
    weight = (
        layer.integers(scale) * (scale.detach() / 1)[:, None, None, None]
    )  # s q, as far as the current is concerned
    ratio = (layer.currents() / scale.detach()[:, None]).detach()
    weight.reshape(len(scale), -1).sum().backward()
    q = ratio.round().clamp(-3, 3)
    expected = torch.where(ratio.abs() <= 3, q - ratio, q).sum(1)
    np.testing.assert_allclose(scale.grad, expected, rtol=1e-4, atol=1e-4)


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    quantized = prepare_quantized(chain(NEURONS["mtlif"]), 2)
    x, y = torch.randint(0, 256, (64, 2, 8, 8)), torch.arange(64) % 4
    losses = []
    for _ in range(50):
        loss = nn.functional.cross_entropy(quantized(x), y)
        step(quantized, loss, 0.003)
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.93 * np.mean(losses[:5])


def test_it_is_a_copy_and_saves_its_state() -> None:
    network = chain(NEURONS["mtlif"])
    before = deepcopy(network.state_dict())
    quantized = moved(prepare_quantized(network, 3))
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in before.items())
    other = prepare_quantized(network, 3)
    other.load_state_dict(quantized.state_dict())
    x = torch.randint(0, 256, (4, 2, 8, 8))
    assert torch.equal(other.eval()(x), quantized(x))
    assert torch.equal(deepcopy(quantized)(x), quantized(x))


def test_other_weights_are_not_taken_for_those_trained() -> None:
    quantized = prepare_quantized(chain(NEURONS["mtlif"]), 3)
    network = quantized.finish()
    with torch.no_grad():
        network[4][1].weight[0, 0, 0, 0] += 1
    with pytest.raises(InternalError, match=r"layer 4\.1 are not those trained on"):
        quantized.check(network)


@pytest.mark.parametrize(
    ("change", "bits", "target", "error", "message"),
    [
        (None, 9, "loihi2-sim", CompileError, "9-bit weights"),
        (None, 3, "loihi3-sim", CompileError, "loihi3-sim"),
        (None, 3, "loihi1-sim", ValueError, "binary spikes"),
        (None, {"1.0": 3}, "loihi2-sim", ValueError, r"does not name layer 4\.1"),
        (None, {"1.0": 3, "4.1": 3, "6.1": 3, "9.0": 3, "7": 3}, "loihi2-sim", ValueError, "'7', which is no layer"),
        (nn.MaxPool2d(2), 3, "loihi2-sim", CompileError, "MaxPool2d"),
    ],
)
def test_what_is_refused(
    change: nn.Module | None, bits: Any, target: str, error: type[Exception], message: str
) -> None:
    network = chain(NEURONS["mtlif"])
    if change is not None:
        network.insert(4, PerStep(change))
    with pytest.raises(error, match=message):
        prepare_quantized(network, bits, target)


def test_several_layers_before_the_readout_are_refused() -> None:
    layers = nn.Linear(3, 4), NEURONS["mtlif"](), Residual(nn.Linear(4, 2), nn.Linear(4, 2)), MeanReadout()
    with pytest.raises(ValueError, match=r"layer 4 \(MeanReadout\): reads the sum of several layers"):
        prepare_quantized(nn.Sequential(DirectCoding(2, input_shape=(3,)), *layers), 3)


def test_layers_that_meet_need_one_number_of_bits() -> None:
    both = Residual(nn.Linear(4, 4), nn.Linear(4, 4))
    layers = nn.Linear(4, 4), StbpLIF(), both, StbpLIF(), nn.Linear(4, 2), MeanReadout()
    network = nn.Sequential(DirectCoding(1, input_shape=(4,)), *layers)
    bits = {"1": 3, "3.body": 3, "3.shortcut": 2, "5": 3}
    with pytest.raises(ValueError, match=r"layer 4 \(StbpLIF\): the layers 3\.body, 3\.shortcut meet in it"):
        prepare_quantized(network, bits)
    prepare_quantized(network, bits | {"3.shortcut": 3})


def test_currents_that_several_neurons_read_are_refused() -> None:
    neuron = NEURONS["mtlif"]
    block = Residual(nn.Sequential(neuron(), nn.Linear(4, 4)))
    layers = nn.Linear(3, 4), block, neuron(), nn.Linear(4, 2), MeanReadout()
    with pytest.raises(ValueError, match=r"layer 2 \(Residual\): currents that several neurons read"):
        prepare_quantized(nn.Sequential(DirectCoding(2, input_shape=(3,)), *layers), 3)


def test_scales_stay_where_the_compiler_finds_them() -> None:
    """A scale above what the largest weight reaches would give integers that the compiler would not."""
    quantized = prepare_quantized(chain(NEURONS["mtlif"]), 3)
    with torch.no_grad():
        for population in quantized.populations:
            population.log_scale += math.log(10)
    check_equal(quantized, np.random.default_rng(0).integers(0, 256, (8, 2, 8, 8)), 3)


def test_the_example_saves_what_the_simulator_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fashion_data: Path
) -> None:
    samples = load_samples(fashion_data)
    for stem, part in (("train", slice(0, 200)), ("t10k", slice(200, 300))):
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte", samples.x[part, 0])
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte", samples.y[part])
    model, out = EXAMPLES / "models" / "fashion_residual.pt", tmp_path / "m.pt"
    given = {"data": tmp_path, "out": out, "weight-bits": 2, "epochs": 1, "batch": 20, "validation": 100, "lr": 1e-3}
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr("sys.argv", ["x", str(model), *(f"--{key}={value}" for key, value in given.items())])
    runpy.run_path(str(EXAMPLES / "fine_tune_quantized.py"), run_name="__main__")
    said = capsys.readouterr().out
    trained, *_ = (float(part.split(" %")[0]) for part in said.split("fine-tuned ")[1:])
    program = compile_file(out, "loihi2-sim", tmp_path / "out", Options(weight_bits=2)).program
    run = load_backend("sim").run(program, tmp_path / "out", program.encode(samples.x[200:300]))
    assert 100 * float((run.prediction == samples.y[200:300]).mean()) == pytest.approx(trained)


def write_idx(path: Path, array: np.ndarray) -> None:
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes())
