"""Fine-tuning on the integers that the compiler will emit.

    quantized = prepare_quantized(network, weight_bits=3)
    ...                                                     train it as any module
    torch.save(quantized.finish(), "model_3_bits.pt")       snncompile compile model_3_bits.pt --weight-bits 3

`snncompile.nn.quantized_layers` says what is computed. `finish` writes the weights s 2^e q / u. So that the compiler
finds the same s, e and q again from the largest weights (rounding "max"), the largest |q| of a channel is n in the
finest layer of a population and at least n / 2^e, or 0, in the others; where training leaves it smaller, that weight
is raised, in training too. This form is ours.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snncompile.chip import Numerics, load_target
from snncompile.errors import InternalError
from snncompile.network import INPUT_PAYLOAD_MAX, Network
from snncompile.nn.coding import DirectCoding, EventCoding, PerStep
from snncompile.nn.lm_ht import LMHT
from snncompile.nn.quantized_layers import NEURONS, READOUTS, Pixels, QuantizedPopulation, QuantizedWeights
from snncompile.nn.residual import Residual
from snncompile.quant_network import QuantNetwork, QuantSynapses

KEPT = (
    EventCoding,
    nn.Flatten,
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)


class QuantizedNetwork(nn.Module):
    """What `prepare_quantized` gives: a network whose forward is that of the chip's integers.

    The same shapes as the network it was made of. `populations` in the compiler's order. `finish` and `check` compile,
    and set every population's F to what the compiler found.
    """

    def __init__(self, network: nn.Sequential, populations: list[QuantizedPopulation], numerics: Numerics) -> None:
        super().__init__()
        self.network, self._populations, self._numerics = network, tuple(populations), numerics

    @property
    def populations(self) -> tuple[QuantizedPopulation, ...]:
        return self._populations

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.network(x))

    @torch.no_grad()
    def finish(self, dtype: torch.dtype | None = None) -> nn.Sequential:
        """The network to compile, at the bits it was prepared for: plain layers in evaluation mode, on the CPU.

        Norms are gone (`nn.Identity` keeps the paths), one layer of those that meet in a neuron has the bias, an
        identity shortcut is a convolution of 1x1 (of features: a linear layer) of what its integers stand for.
        dtype: float32 where one layer feeds each neuron; else float64, since there the scales of layers must agree.
        Raises InternalError where the compiler would not emit the integers trained on, CompileError as it does.
        """
        if dtype is None:
            single = all(len(population.layers) == 1 for population in self.populations)
            dtype = torch.float32 if single else torch.float64
        # neurons keep their precision: their thresholds are Python floats, and LM-HT's parameters are few
        finished = cast(nn.Sequential, _finished(deepcopy(self.network).cpu())).to(dtype).eval()
        self.check(finished)
        return finished

    @torch.no_grad()
    def check(self, network: nn.Module) -> None:
        """Raises InternalError unless the compiler makes of `network` the weights that this one trains on."""
        for bits in sorted({population.bits for population in self.populations}):
            compiled = _compiled(network, self._numerics, bits)
            for mine, theirs in zip(self.populations, compiled.populations, strict=False):
                if mine.bits == bits:
                    synapses = compiled.inputs_of(theirs)
                    self._compare(theirs.name, mine, list(synapses))

    @staticmethod
    def _compare(name: str, mine: QuantizedPopulation, compiled: list[QuantSynapses]) -> None:
        scale = mine.scale()
        ours = [layer.integers(scale).cpu().numpy() for layer in mine.layers]
        shifts = [layer.exponent for layer in mine.layers]
        mine.fraction = compiled[mine.finest_at].exponent
        for layer, q, shift, synapses in zip(mine.layers, ours, shifts, compiled, strict=True):
            same = np.array_equal(q.astype(np.int64), synapses.weight)
            if not same or (q.any() and synapses.exponent != mine.fraction + shift):
                raise InternalError(f"{name}: the compiler's integers of layer {layer.where} are not those trained on")


def _lowered(network: nn.Module, numerics: Numerics) -> Network:
    # these read snncompile.nn
    from snncompile.frontend.nir.to_network import to_network  # noqa: PLC0415
    from snncompile.frontend.torch.trace import trace  # noqa: PLC0415
    from snncompile.pipeline import lower  # noqa: PLC0415

    return lower(to_network(trace(network)), numerics)


def _compiled(network: nn.Module, numerics: Numerics, bits: int) -> QuantNetwork:
    from snncompile.quantization.quantize import quantize  # noqa: PLC0415

    return quantize(_lowered(network, numerics), numerics, bits)[0]


def _finished(module: nn.Module) -> nn.Module:
    match module:
        case QuantizedWeights():
            layers = module.population.layers
            holds_bias = next(layer for layer in layers if layer.only is None) is module
            return module.finished(module.population.bias.double() if holds_bias else None)
        case QuantizedPopulation():
            return deepcopy(module.target)
        case Pixels():
            return DirectCoding(module.timesteps, module.input_shape, module.scale)
        case nn.Sequential():
            return type(module)(OrderedDict((name, _finished(child)) for name, child in module.named_children()))
        case Residual():
            return Residual(_finished(module.body), None if module.shortcut is None else _finished(module.shortcut))
    return deepcopy(module)


@dataclass(frozen=True)
class _Spikes:
    """What a layer reads: spikes whose payload has this unit."""

    unit: float
    is_input: bool = False


@dataclass(frozen=True)
class _Currents:
    layers: tuple[QuantizedWeights, ...]


_Value = _Spikes | _Currents


class _Preparer:
    """Walks a network in its order of execution and makes the quantised one."""

    def __init__(self, weight_bits: int | Mapping[str, int], numerics: Numerics, timesteps: int) -> None:
        self.weight_bits, self.numerics, self.timesteps = weight_bits, numerics, timesteps
        self.populations: list[QuantizedPopulation] = []
        self.seen: set[str] = set()

    def open(self, path: str, module: nn.Module, value: _Value) -> tuple[nn.Module, _Value]:
        if isinstance(module, Residual):
            return self._residual(path, module, value)
        if isinstance(module, (*NEURONS, *READOUTS)):
            return self._population(path, module, value)
        if isinstance(module, nn.Sequential):
            children = OrderedDict[str, nn.Module]()
            for name, child in module.named_children():
                children[name], value = self.open(f"{path}.{name}".lstrip("."), child, value)
            return type(module)(children), value
        return self._leaf(path, module, value)

    @staticmethod
    def _leaf(path: str, module: nn.Module, value: _Value) -> tuple[nn.Module, _Value]:
        made: nn.Module = deepcopy(module)
        match module, value:
            case DirectCoding(), _:
                made = Pixels(module.timesteps, module.input_shape, module.scale)
                value = _Spikes(1 / INPUT_PAYLOAD_MAX, True)
            case nn.Conv2d() | nn.Linear(), _Spikes(unit, is_input):
                made = QuantizedWeights(module, unit, path, is_input)
                value = _Currents((made,))
            case nn.AvgPool2d(), _Spikes(unit, is_input):
                kernel = module.kernel_size
                area = math.prod(kernel if isinstance(kernel, tuple) else (kernel, kernel))
                value = _Spikes(unit / area, is_input)
            case nn.BatchNorm1d() | nn.BatchNorm2d(), _Currents((layer,)):
                _fold(layer, module)
                made = nn.Identity()
            case _ if not isinstance(module, KEPT):
                raise _refused(path, module, "is not supported here")
        return made, value

    def _residual(self, path: str, module: Residual, value: _Value) -> tuple[nn.Module, _Value]:
        if not isinstance(value, _Spikes):
            raise _refused(path, module, "currents that several neurons read cannot be fine-tuned; needed: spikes")
        body, one = self.open(f"{path}.body", module.body, value)
        shortcut, other = None, cast(_Value, value)
        if module.shortcut is not None:
            shortcut, other = self.open(f"{path}.shortcut", module.shortcut, value)
        if not isinstance(one, _Currents):
            raise _refused(path, module, "the body must end in weights or a norm")
        if isinstance(other, _Spikes):
            identity = QuantizedWeights.identity(one.layers[0], other.unit, f"{path}.shortcut", other.is_input)
            carried = PerStep(identity)
            shortcut = carried if shortcut is None else nn.Sequential(shortcut, carried)
            other = _Currents((identity,))
        return Residual(body, shortcut), _Currents(one.layers + other.layers)

    def _population(self, path: str, module: nn.Module, value: _Value) -> tuple[nn.Module, _Value]:
        unit = module.threshold if isinstance(module, LMHT) else getattr(module, "spike_value", 0.0)
        if isinstance(value, _Spikes):
            if isinstance(module, READOUTS):
                return deepcopy(module), value  # the host counts spikes
            raise _refused(path, module, "reads spikes; a convolution or linear layer must come between")
        if isinstance(module, READOUTS) and len(value.layers) > 1:
            raise _refused(path, module, "reads the sum of several layers; put a neuron or one linear layer before it")
        population = QuantizedPopulation(
            module, value.layers, self._bits(path, module, value), self.numerics, self.timesteps
        )
        self.populations.append(population)
        return population, _Spikes(unit)

    def _bits(self, path: str, module: nn.Module, value: _Currents) -> int:
        bits = self.weight_bits
        if isinstance(bits, int):
            return bits
        named = [layer.where for layer in value.layers if not layer.where.endswith(".shortcut") or layer.where in bits]
        if missing := [where for where in named if where not in bits]:
            raise ValueError(f"prepare_quantized: weight_bits does not name layer {missing[0]}")
        self.seen |= set(named)
        if len(found := {bits[where] for where in named}) > 1:
            raise _refused(path, module, f"the layers {', '.join(named)} meet in it; they need one number of bits")
        return found.pop()


def _fold(layer: QuantizedWeights, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """W' = g W, b' = g (b - mean) + beta, g = gamma / sqrt(var + eps), by running statistics."""
    mean, var = cast(Tensor, norm.running_mean).double(), cast(Tensor, norm.running_var).double()
    g = (1.0 if norm.weight is None else norm.weight.detach().double()) / (var + norm.eps).sqrt()
    beta = 0.0 if norm.bias is None else norm.bias.detach().double()
    weight = layer.weight.detach()
    layer.weight.data = (g.reshape(-1, *(1,) * (weight.ndim - 1)) * weight).to(weight.dtype)
    layer.bias = (g * (layer.bias - mean) + beta).to(weight.dtype)


def _refused(path: str, module: nn.Module, why: str) -> ValueError:
    return ValueError(f"prepare_quantized: layer {path or 'of the network'} ({type(module).__name__}): {why}")


def prepare_quantized(
    network: nn.Sequential,
    weight_bits: int | Mapping[str, int],
    target: str = "loihi2-sim",
    calibration: NDArray[np.generic] | None = None,
) -> QuantizedNetwork:
    """A network that trains on the integers the compiler will emit for `network`.

    Needs: a trained network the frontend accepts, for a chip of graded spikes. weight_bits: of all layers, or by the
    path of each layer ("1.0"); layers that meet in a neuron take the same (an identity shortcut theirs).
    Gives: a `QuantizedNetwork` in float32 with copies of the weights, norms folded by their running statistics (bias
    and s take their place in training), every s where rounding the weights loses the least square. With `calibration`,
    data (N, *input shape) as the network takes it, training starts at the integers, s and bias of the compiler's
    rounding "gptq" (a row whose largest |q| is below n, which `finish` could not hand over, gets one that is n).
    Train it as any module (biases and s need no weight decay), in float32: with bfloat16 or TF32 sums are not exact.
    Raises CompileError: what the compiler refuses, bits or a target that do not exist. ValueError: a chip of binary
    spikes (there the host computes the first layer, and levels become neurons: integers of other shapes); currents that
    several neurons read; several layers before the readout; weight_bits that do not fit the layers.
    """
    numerics = load_target(target).numerics
    if not numerics.graded_spikes:
        raise ValueError(f"prepare_quantized: {target} has binary spikes; fine-tune for a target with graded spikes")
    plain = deepcopy(network).float().cpu().eval()
    for bits in sorted({weight_bits} if isinstance(weight_bits, int) else set(weight_bits.values())):
        _compiled(plain, numerics, bits)  # what the compiler refuses is refused here
    preparer = _Preparer(weight_bits, numerics, _timesteps(plain))
    with torch.no_grad():
        made, _ = preparer.open("", plain, _Spikes(1.0))
    if not isinstance(weight_bits, int) and (strange := weight_bits.keys() - preparer.seen):
        raise ValueError(f"prepare_quantized: weight_bits names {sorted(strange)[0]!r}, which is no layer of weights")
    quantized = QuantizedNetwork(cast(nn.Sequential, made), preparer.populations, numerics)
    if calibration is not None:
        _start_from_gptq(quantized, plain, numerics, calibration)
    quantized.finish()
    return quantized


def _start_from_gptq(
    quantized: QuantizedNetwork, network: nn.Module, numerics: Numerics, x: NDArray[np.generic]
) -> None:
    from snncompile.quantization.calibration import calibrate  # noqa: PLC0415 - reads snncompile.nn
    from snncompile.quantization.quantize import quantize  # noqa: PLC0415
    from snncompile.quantization.rounding import Rounding  # noqa: PLC0415

    lowered = _lowered(network, numerics)
    widest = max(numerics.weight_bits)
    plain, _ = quantize(lowered, numerics, widest)
    pairs = list(zip(quantized.populations, plain.populations, strict=False))
    bits = {name: mine.bits for mine, theirs in pairs for name in theirs.synapses}
    rounded, host = quantize(lowered, numerics, widest, Rounding("gptq", calibrate(lowered, x), bits))
    for mine, theirs in zip(quantized.populations, rounded.populations, strict=False):
        synapses = rounded.inputs_of(theirs)
        integers = [torch.from_numpy(s.weight.copy()) for s in synapses]
        unit, bias = torch.from_numpy(host.state[theirs.name].copy()), torch.from_numpy(theirs.bias.copy())
        mine.start_from(integers, [s.exponent for s in synapses], unit, bias)


def _timesteps(network: nn.Module) -> int:
    coding = next(module for module in network.modules() if isinstance(module, DirectCoding | EventCoding))
    return coding.timesteps
