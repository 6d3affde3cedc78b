"""The layers that train on the compiler's integers (`snncompile.nn.quantized`): weights and populations.

A population is a neuron layer (or the readout) with the layers of weights that meet in it. Per output channel:

    q_i = clip(rint(W_i u_i / (s 2^e_i)), -n, n),  n = 2^(bits-1) - 1       u_i: value of a unit of the source's payload
    a   = sum_i 2^e_i q_i p_i                                               p_i: payloads
    A   = a 2^F + rint(bias 2^F / s)                                        what arrives, in units s / 2^F of the state
    thresholds rint(j theta 2^F / s), v0 alike, decay of 12 bits that truncates, mixing of 12 bits: all as the chip's

s (channels,), of a readout one number, is learned: weights beyond n*s are clipped. e_i is 0 for the layer of the finest
weights and fixed at the start; F comes from the compiler. Every forward pass runs these integers; gradients pass every
rounding as if it were not there, and the neuron's own surrogate. dL/ds is that of LSQ (arXiv 1902.08153), for log s.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from snncompile.chip import Numerics
from snncompile.network import INPUT_PAYLOAD_MAX
from snncompile.nn.coding import DirectCoding, MeanReadout
from snncompile.nn.group_neuron import GroupNeuron
from snncompile.nn.lm_ht import LMHT
from snncompile.nn.mtlif import MultiThresholdLIF
from snncompile.nn.stbp import StbpLIF
from snncompile.nn.stcb import LeakyReadout
from snncompile.nn.surrogate import Fire, Surrogate, surrogate_slope
from snncompile.quant_network import DECAY_ONE, MIX_SHIFT

NEURONS = (MultiThresholdLIF, GroupNeuron, StbpLIF, LMHT)
READOUTS = (MeanReadout, LeakyReadout)
EXPONENTS = 9
"""How many powers of two other layers' weights may be coarser by."""
FRACTION = 6
"""Fractional bits of the state that a channel of tiny weights must leave to its population."""
WITHIN = 0.4
"""How far from its integer a weight may start, in steps."""
CLIPS = 60
"""Candidates for the first s of a channel; the one of least squared error is taken."""


def straight_through(exact: Tensor, smooth: Tensor) -> Tensor:
    """The values of `exact` with the gradient of `smooth`."""
    return smooth + (exact - smooth).detach()


def _rounded(x: Tensor) -> Tensor:
    return straight_through(x.detach().round(), x)


class _Fire(torch.autograd.Function):
    """k = number of thresholds reached and what a soft reset subtracts; dk/du = sum_j h(u - theta_j)."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, thetas: Tensor, steps: Tensor, fire: Fire, kind: Surrogate, width: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(u, thetas, width)
        ctx.kind = kind
        k, subtract = torch.zeros_like(u), torch.zeros_like(u)
        for theta, step in zip(thetas, steps, strict=True):
            reached = (u >= theta if fire == "ge" else u > theta).to(u.dtype)
            k += reached
            subtract += step * reached
        ctx.mark_non_differentiable(subtract)
        return k, subtract

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        u, thetas, width = ctx.saved_tensors
        slope = torch.zeros_like(u)
        for theta in thetas:
            slope += surrogate_slope(u - theta, ctx.kind, width)
        return grad_outputs[0] * slope, None, None, None, None, None


class Pixels(DirectCoding):
    """`DirectCoding` of what the chip is sent: pixels rounded to 1/255, one step `[1, B, ...]` for all T."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * (self.scale * INPUT_PAYLOAD_MAX)).round()[None] / INPUT_PAYLOAD_MAX


class QuantizedWeights(nn.Module):
    """A convolution or linear layer; gives its integer currents 2^e q p in units of the population's s.

    unit: value of a unit of the source's payload, pools in between included. `weight` is the float weight that is
    trained; `bias` is only handed to the population. where: path of the layer.
    """

    only: Tensor | None

    def __init__(self, layer: nn.Conv2d | nn.Linear, unit: float, where: str, reads_input: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().clone())
        bias = layer.bias
        self.bias = torch.zeros(len(layer.weight)) if bias is None else bias.detach().clone()
        self.geometry = _geometry(layer)
        self.unit, self.where, self.reads_input = unit, where, reads_input
        self.exponent = 0
        self.register_buffer("only", None)
        self._population: tuple[QuantizedPopulation, ...] = ()

    @classmethod
    def identity(cls, of: "QuantizedWeights", unit: float, where: str, reads_input: bool) -> "QuantizedWeights":
        """Weights 1 from every neuron to the one at its place, as many channels as `of` has outputs."""
        channels = len(of.weight)
        if of.geometry is None:
            layer: nn.Conv2d | nn.Linear = nn.Linear(channels, channels, bias=False)
            nn.init.eye_(layer.weight)
        else:
            layer = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
            nn.init.ones_(layer.weight)
        made = cls(layer, unit, where, reads_input)
        if of.geometry is None:
            made.only = torch.eye(channels)
        return made

    @property
    def population(self) -> "QuantizedPopulation":
        return self._population[0]

    def currents(self) -> Tensor:
        """W u, as rows of the population's scales: (channels, n), of a readout (1, n)."""
        weight = self.weight if self.only is None else self.weight * self.only
        return weight.reshape(len(self.population.log_scale), -1) * self.unit

    def integers(self, scale: Tensor | None = None) -> Tensor:
        """q, of the weight's shape; the gradient is that of W u / (s 2^e) and of s, for s held fixed outside."""
        population = self.population
        n = population.largest
        scale = (population.scale() if scale is None else scale)[:, None] * 2.0**self.exponent
        ratio = self.currents() / scale
        clipped = ratio.clamp(-n, n)
        smooth = straight_through(clipped.detach().round(), clipped) * (scale / scale.detach())
        exact = _reachable(ratio.detach(), n, self.exponent, self is population.finest)
        return straight_through(exact, smooth).reshape(self.weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.integers() * 2.0**self.exponent
        if self.geometry is None:
            return _rounded(linear(x, weight) / self.unit)
        return _rounded(conv2d(x, weight, None, **self.geometry) / self.unit)

    @torch.no_grad()
    def finished(self, bias: Tensor | None) -> nn.Module:
        """The plain layer, float64, its weights on the grid."""
        scale = self.population.scale()
        per_row = (scale.double() * 2.0**self.exponent / self.unit)[:, None]
        grid = self.integers(scale).double().reshape(len(scale), -1) * per_row
        layer = _plain(self.weight.shape, self.geometry, bias is not None)
        layer.weight.copy_(grid.reshape(self.weight.shape))
        if layer.bias is not None and bias is not None:
            layer.bias.copy_(bias)
        return layer

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, exponent={self.exponent}, bits={self.population.bits}"


def _geometry(layer: nn.Conv2d | nn.Linear) -> dict[str, Any] | None:
    if isinstance(layer, nn.Linear):
        return None
    return {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}


def _plain(shape: torch.Size, geometry: dict[str, Any] | None, bias: bool) -> nn.Conv2d | nn.Linear:
    if geometry is None:
        return nn.Linear(shape[1], shape[0], bias, dtype=torch.float64)
    fan_in = shape[1] * geometry["groups"]
    return nn.Conv2d(fan_in, shape[0], (shape[2], shape[3]), bias=bias, dtype=torch.float64, **geometry)


def _reachable(ratio: Tensor, n: int, exponent: int, finest: bool) -> Tensor:
    """rint and clip of rows (rows, m), changed where the compiler would find another s or e for them.

    The largest of each row is n in the finest layer. In others it is at least n / 2^exponent, or the row is 0 where
    that is nearer; and the largest of all is above n / 2, else a smaller exponent would do.
    """
    q = ratio.round().clamp(-n, n)
    least = n if finest else math.ceil(n / 2**exponent)
    at = ratio.abs().argmax(1, keepdim=True)
    largest = ratio.gather(1, at)
    short = q.gather(1, at).abs() < least
    raised = torch.where(largest < 0, -least, least).to(q.dtype)
    raised = torch.where(short, raised, q.gather(1, at))
    if finest:
        return q.scatter(1, at, raised)
    q = torch.where(short & (2 * largest.abs() < least), 0, q.scatter(1, at, raised))
    flat = q.flatten()
    place = flat.abs().argmax(keepdim=True)
    top = flat.gather(0, place)
    wanted = torch.where((top != 0) & (top.abs() <= n // 2), top.sign() * (n // 2 + 1), top)
    return flat.scatter(0, place, wanted).reshape(q.shape)


class QuantizedPopulation(nn.Module):
    """A neuron layer, or the readout, on integer currents `[T, B, channels, ...]`; see the module for the equations.

    Gives spikes (their float values), of a readout `[B, classes]`: the floats the integers stand for.
    `fraction` is F; `constant`: the input current is the same in every step (T-GIM then is simpler, as compiled).
    """

    def __init__(
        self, target: nn.Module, layers: tuple[QuantizedWeights, ...], bits: int, numerics: Numerics, timesteps: int
    ) -> None:
        super().__init__()
        self.target, self.bits, self.timesteps = deepcopy(target), bits, timesteps
        self.largest, self.state_bits = 2 ** (bits - 1) - 1, numerics.state_bits
        self.fraction = numerics.fraction_bits_max
        self.layers = layers
        self.bias = nn.Parameter(cast(Tensor, sum(layer.bias for layer in layers)).clone())
        rows = len(self.bias) if isinstance(target, NEURONS) else 1
        self.log_scale = nn.Parameter(torch.zeros(rows))
        for layer in layers:
            layer._population = (self,)
        with torch.no_grad():
            self._choose_scales()

    @property
    def finest(self) -> QuantizedWeights:
        return self.layers[self.finest_at]

    def _choose_scales(self) -> None:
        """The s of least squared error, and how many times 2 the other layers' weights are coarser."""
        scales = [_least_error(layer.currents(), self.largest) for layer in self.layers]
        medians = [float(scale.median()) for scale in scales]
        self.finest_at = int(np.argmin(medians))
        self.log_scale.copy_(scales[self.finest_at].log())
        for layer in self.layers:
            if layer is not self.finest:
                layer.exponent = int(np.argmin([self._error(layer, e) for e in range(EXPONENTS)]))

    @torch.no_grad()
    def start_from(self, integers: Sequence[Tensor], exponents: Sequence[int], unit: Tensor, bias: Tensor) -> None:
        """Begins at integers of the compiler (a tensor a layer) worth unit (channels,) * 2^exponent, and at its bias.

        A weight that rounds to another integer goes to the nearest value that rounds to this one, so the others still
        tell which integer they are closest to next; none is beyond n, so all have a gradient.
        """
        gain = self._gain()
        scale = unit.double() * 2.0 ** min(exponents) / gain
        self.finest_at = int(np.argmin(exponents))
        self.bias.copy_(bias.double() * unit / gain)
        self.log_scale.copy_(scale[: len(self.log_scale)].log())
        for layer, wanted, exponent in zip(self.layers, integers, exponents, strict=True):
            layer.exponent = exponent - min(exponents)
            step = self.log_scale.double().exp()[:, None] * 2.0**layer.exponent
            rows = layer.currents().double() / step
            q = wanted.double().flatten()
            q = torch.diag(q) if len(q) < rows.numel() else q.reshape(rows.shape)  # an identity, one weight a neuron
            rows = rows.clamp(q - WITHIN, q + WITHIN).clamp(-self.largest, self.largest)
            rows = torch.where(q.abs() == self.largest, q, rows)
            layer.weight.copy_((rows * step / layer.unit).reshape(layer.weight.shape))

    def _gain(self) -> float:
        """What the compiler multiplies s by (`_mixed`)."""
        neuron = self.target
        return self._mixed(neuron, torch.zeros(self.timesteps, 1))[1] if isinstance(neuron, LMHT) else 1.0

    def _error(self, layer: QuantizedWeights, exponent: int) -> float:
        """Square of what a layer's weights lose with this exponent."""
        scale = self.scale()[:, None] * 2.0**exponent
        rows = layer.currents()
        kept = _reachable(rows / scale, self.largest, exponent, finest=False) * scale
        return float((kept - rows).square().sum())

    def scale(self) -> Tensor:
        """s (channels,), of a readout (1,): at most what the finest weights reach, at least what leaves F its bits."""
        wanted = self.log_scale.exp()
        reach = self.finest.currents().detach().abs().amax(1) / self.largest
        constants = self._constants()
        bias = self.bias.detach().abs()
        bias = bias if len(wanted) > 1 else bias.max()
        lowest = bias.clamp(min=max(constants, 1e-30)) * 2.0 ** (FRACTION + 2 - self.state_bits)
        return straight_through(torch.maximum(torch.minimum(wanted, reach), lowest).detach(), wanted)

    def _constants(self) -> float:
        neuron = self.target
        if not isinstance(neuron, NEURONS):
            return 0.0
        return max(abs(neuron.v0), neuron.threshold * neuron.levels)

    def forward(self, a: Tensor) -> Tensor:
        a = a.expand(self.timesteps, *a.shape[1:])
        scale = self.scale().detach()
        unit = scale.double() / 2**self.fraction
        bias = straight_through((self.bias.detach().double() / unit).round().to(a.dtype), self.bias / unit.to(a.dtype))
        arriving = a * 2.0**self.fraction + _per_channel(bias, a)
        neuron = self.target
        if isinstance(neuron, LMHT):
            return self._lm_ht(neuron, arriving, unit)
        if isinstance(neuron, MultiThresholdLIF):
            return self._lif(neuron, arriving, unit)
        leak = neuron.leak if isinstance(neuron, LeakyReadout) else 1.0
        v = torch.zeros_like(arriving[0])
        for current in arriving:
            v = _decayed(v, leak) + current
        return v * unit.to(a.dtype) / sum(leak**t for t in range(self.timesteps))

    def _constants_in(self, unit: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Thresholds and steps of what is subtracted (levels, channels, 1..), theta not rounded (channels, 1..)."""
        neuron = cast(MultiThresholdLIF | LMHT, self.target)
        j = torch.arange(1, neuron.levels + 1, dtype=torch.float64, device=unit.device)[:, None]
        thetas = (neuron.threshold * j / unit).round()
        steps = thetas.diff(dim=0, prepend=torch.zeros_like(thetas[:1]))
        shape = (-1, len(unit), *(1,) * (like.ndim - 3))
        theta = _per_channel((neuron.threshold / unit).to(like.dtype), like)
        return thetas.clamp(min=1).to(like.dtype).reshape(shape), steps.to(like.dtype).reshape(shape), theta

    def _lif(self, neuron: MultiThresholdLIF, arriving: Tensor, unit: Tensor) -> Tensor:
        thetas, steps, theta = self._constants_in(unit, arriving)
        width = theta * (neuron.width / neuron.threshold)
        one_step = self.timesteps == 1
        start = (neuron.leak if one_step else 1.0) * neuron.v0
        v = _per_channel((start / unit).round().to(arriving.dtype), arriving).expand_as(arriving[0])
        spikes = []
        for current in arriving:
            u = (v if one_step else _decayed(v, neuron.leak)) + current
            fired: Any = _Fire.apply(u, thetas, steps, neuron.fire, neuron.surrogate, width)  # type: ignore[no-untyped-call]
            k, subtract = fired
            spikes.append(neuron.spike_value * k)
            level = k.detach() if neuron.detach_reset else k
            if type(neuron) is StbpLIF:
                v = u * (1 - level)
            elif neuron.reset == "soft":
                v = u - straight_through(subtract, theta * level)
            else:
                v = u * (k == 0).to(u.dtype) if neuron.reset == "hard" else u
        return torch.stack(spikes)

    def _lm_ht(self, neuron: LMHT, arriving: Tensor, unit: Tensor) -> Tensor:
        leak, one_step = neuron.leak, self.timesteps == 1
        currents, gain = self._mixed(neuron, arriving)
        unit = unit * gain
        thetas, steps, theta = self._constants_in(unit, arriving)
        raw = torch.sigmoid(neuron.raw_leak.detach().double()) + 0.5
        start = (raw if one_step else 1.0) * neuron.v0
        v = _per_channel((start / unit).round().to(arriving.dtype), arriving).expand_as(arriving[0])
        value = _per_channel(unit.to(arriving.dtype), arriving)
        spikes = []
        for current in currents:
            m = (v if one_step else _decayed(v, leak, raw.item())) + current
            fired: Any = _Fire.apply(m.detach(), thetas, steps, "ge", "rectangular", theta)  # type: ignore[no-untyped-call]
            k, subtract = fired
            passed = torch.minimum(torch.maximum(m, theta / 2), (neuron.levels + 0.5) * theta)
            spikes.append(straight_through(neuron.threshold * k, value * passed))
            v = (m - subtract).detach()
        return torch.stack(spikes)

    def _mixed(self, neuron: LMHT, arriving: Tensor) -> tuple[Tensor, float]:
        """T-GIM, and what the compiler multiplies s by instead of mixing (`passes.simplify_steps`)."""
        smooth = neuron.omega
        exact = 2 * torch.sigmoid(neuron.mixing.detach().double()) / self.timesteps
        sums = exact.sum(1)
        if self.timesteps == 1 or (self.constant and float(sums.max() - sums.min()) == 0):
            return arriving * (smooth.sum(1)[0] / smooth.sum(1)[0].detach()), float(sums[0])
        if self.constant:
            smooth, exact = torch.diag(smooth.sum(1)), torch.diag(sums)
        integers = (exact * 2**MIX_SHIFT).round() @ arriving.detach().double().flatten(1)
        mixed = (integers / 2**MIX_SHIFT).floor().to(arriving.dtype)
        return straight_through(mixed, smooth @ arriving.flatten(1)).reshape(arriving.shape), 1.0

    @property
    def constant(self) -> bool:
        return all(layer.reads_input for layer in self.layers)


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    """(channels,) or (1,), shaped to broadcast over like [T, B, channels, ...]."""
    return values.reshape(-1, *(1,) * (like.ndim - 3))


def _decayed(v: Tensor, leak: float | Tensor, exact_leak: float | None = None) -> Tensor:
    """leak * v as the chip does it: 12 bits, toward zero."""
    keep = DECAY_ONE - round((1 - (cast(float, leak) if exact_leak is None else exact_leak)) * DECAY_ONE)
    if keep == DECAY_ONE and exact_leak is None:
        return v
    wide = v.detach() if keep.bit_count() == 1 else v.detach().double()
    return straight_through((wide * (keep / DECAY_ONE)).trunc().to(v.dtype), leak * v)


def _least_error(rows: Tensor, n: int) -> Tensor:
    """(rows,) the s for which rows (rows, m) rounded to -n..n lose the least square; 1 for a row of zeros."""
    largest = rows.abs().amax(1) / n
    best, error = largest.clone(), torch.full_like(largest, math.inf)
    for part in torch.linspace(0.1, 1, CLIPS).tolist():
        s = (largest * part).clamp(min=torch.finfo(rows.dtype).tiny)[:, None]
        squared = ((rows / s).round().clamp(-n, n) * s - rows).square().sum(1)
        better = squared < error
        best, error = torch.where(better, s[:, 0], best), torch.where(better, squared, error)
    return torch.where(largest > 0, best, torch.ones_like(best))
