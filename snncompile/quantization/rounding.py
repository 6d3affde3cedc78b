"""Weights to integers of few bits: where each method clips, and how it rounds.

A row w of weights (one neuron, or one kernel) becomes w_q = unit * q, q integers within +-(2^(bits-1) - 1); a clip
below max |w| saturates a few weights and rounds the others more finely. Methods, by what they minimise per row:

    max         no clip                        percentile   clip at a percentile of |w|
    mse         |w - w_q|^2                    activation   (w - w_q)^T H (w - w_q), H = E[s s^T] of the input spikes s
    gptq        as activation, and each rounding error is made up for in the weights not yet rounded: column by column
                with the Cholesky factor of the inverse of H + damping (GPTQ, arXiv 2210.17323), then single integers
                are moved by coordinate descent while that lowers the error

GPTQ takes H, and what to round, from the network whose earlier layers are rounded already (`propagation`), unless
`follow` is off. With `correct_bias` the mean error of the current, (w - w_q) E[s], goes into the bias, so only what
varies is left and H is the covariance of s. H is damped: damping * mean(diag H) is added to its diagonal, more where
fewer vectors s were seen than there are weights (`damping_of`). Without H (a fan-in too large) its diagonal is taken.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from snncompile.errors import CompileError, nearest
from snncompile.network import Array, Conv2d, Linear, Network
from snncompile.quant_network import IntArray

if TYPE_CHECKING:  # calibration loads torch
    from snncompile.quantization.calibration import Calibration, LayerStatistics
    from snncompile.quantization.propagation import Propagation

Method = Literal["max", "percentile", "mse", "activation", "gptq"]
METHODS: tuple[Method, ...] = get_args(Method)
STATISTICAL: tuple[Method, ...] = ("activation", "gptq")
"""Methods that need calibration data."""

CLIPS = np.linspace(0.1, 1.0, 19)
"""Clips that are tried, as parts of max |w|."""

GPTQ_CLIPS = np.array([0.85, 0.92, 1.0, 1.1, 1.25])
"""Units that are tried with error feedback, as parts of the best one without."""

SPREAD_MAX = 12
"""Layers that meet in a neuron have units at most 2^12 apart from the one that sets the scale."""

PRECISE_FAN_IN = 512
"""Errors of wider layers are compared in float32."""

DRIFT_DAMPING = 10.0
"""How much more than H the regression on the rounded network's spikes is damped: at 1 it fits the calibration data at
8 bits, from 5 to 20 the output on other images errs about as much."""

BLOCK = 128
SWEEPS = 4


Key = tuple[tuple[str, int], ...]


FOLLOWED_BITS_MAX = 4


def method_of(name: str) -> Method:
    """The method of that name; raises CompileError with the nearest one."""
    for method in METHODS:
        if method == name:
            return method
    raise CompileError("--rounding", f"no method {name!r}", nearest(name, METHODS))


@dataclass(frozen=True, eq=False)
class Rounding:
    """How weights are rounded. `bits`: of single layers of synapses, by name; the others have the common width.

    calibration: of the very network that is quantised; activation and gptq need it. percentile: of |w|, for that
    method. memo: keeps what was rounded, where one network is quantised again and again with other bits.
    follow: gptq follows the calibration data through the rounded layers; `propagation` is what does, one a network.
    """

    method: Method = "max"
    calibration: "Calibration | None" = None
    bits: Mapping[str, int] = field(default_factory=dict)
    percentile: float = 99.0
    correct_bias: bool = True
    memo: "dict[Key, Rounded] | None" = None
    follow: bool = True
    propagation: "Propagation | None" = None

    def __post_init__(self) -> None:
        method_of(self.method)
        if self.calibration is None and self.method in STATISTICAL:
            raise CompileError(
                "--rounding", f"{self.method} needs calibration data", "give --calibrate, or use --rounding mse"
            )

    def follows(self, weight_bits: int) -> bool:
        """Whether gptq follows its data through the rounded layers: where a layer has FOLLOWED_BITS_MAX bits or fewer.

        With more bits the rounding error is smaller than what some samples can tell of it: on held-out images the
        output's error then grows (docs/benchmarks.md, Bits).
        """
        narrow = min([weight_bits, *self.bits.values()]) <= FOLLOWED_BITS_MAX
        known = self.calibration is not None and self.calibration.x is not None
        return self.method == "gptq" and self.follow and known and narrow

    def calibrated_on(self, weight_bits: int) -> dict[str, int | bool | list[str]] | None:
        """For the report: samples of the statistics, layers of which only the diagonal of H is known, and whether the
        samples are followed through the rounded layers. The seconds are those of the step "calibrate"."""
        known = self.calibration
        if known is None:
            return None
        follows = self.follows(weight_bits)
        return {"samples": known.samples, "diagonal_only": list(known.diagonal_only), "follows_rounding": follows}

    def moments(self, name: str, weight: Array) -> "Moments":
        """Of the layer `name`, for weight (out, ...) per unit of payload."""
        rows = weight.reshape(len(weight), -1)
        layer = self.calibration.layers.get(name) if self.calibration is not None else None
        if layer is None or self.method not in STATISTICAL:
            if self.method in STATISTICAL:
                raise CompileError(name, "has no statistics", "calibrate the network that is quantised")
            return Moments(np.ones((1, rows.shape[1])), None, np.zeros((1, rows.shape[1])))
        _check_fan_in(name, layer, rows)
        if self.propagation is not None:
            layer = self.propagation.statistics(name)
        return self.of_layer(layer)

    def of_layer(self, layer: "LayerStatistics") -> "Moments":
        """Those moments, damped and about the mean if the bias is corrected."""
        return _moments(layer, self.correct_bias)


def _check_fan_in(name: str, layer: "LayerStatistics", rows: Array) -> None:
    groups, fan_in = layer.mean.shape
    if fan_in != rows.shape[1] or len(rows) % groups:
        raise CompileError(
            name,
            f"statistics of fan-in {fan_in}, weights of {rows.shape[1]}",
            "calibrate the network that is quantised",
        )


def following(network: Network, how: Rounding, weight_bits: int) -> Rounding:
    """`how`, with what follows its calibration data through `network` as that is rounded, where it is to (`follows`).

    Raises CompileError where the calibration is of another network.
    """
    calibration = how.calibration
    if calibration is None or calibration.x is None or not how.follows(weight_bits):
        return how
    for node in network.nodes:
        if isinstance(node, Conv2d | Linear) and node.name in calibration.layers:
            _check_fan_in(node.name, calibration.layers[node.name], node.weight.reshape(len(node.weight), -1))
    from snncompile.quantization.propagation import Propagation  # noqa: PLC0415 - loads torch

    return replace(how, propagation=Propagation(network, calibration, calibration.x))


@dataclass(frozen=True, eq=False)
class Moments:
    """What weighs the error of a layer: `full` (g, n, n) or None, then `diagonal` (g, n); mean (g, n) for the bias.

    exact_mean (g, n): E[x] of the float network where that differs from mean; drift (g, n, n): what W (1 + drift) gives
    on the rounded network's spikes is nearest to what W does on the float network's.
    """

    diagonal: Array
    full: Array | None
    mean: Array
    exact_mean: Array | None = None
    drift: Array | None = None

    def target(self, weight: Array) -> Array:
        """What is rounded for rows (out, n)."""
        if self.drift is None:
            return weight
        rows = weight.reshape(len(self.drift), -1, weight.shape[1])
        target: Array = (rows + rows @ self.drift).reshape(weight.shape)
        return target

    def error(self, difference: Array) -> Array:
        """d^T H d of differences (..., out, n); (..., out)."""
        groups, fan_in = self.diagonal.shape
        *batch, out, _ = difference.shape
        d = difference.reshape(-1, groups, out // groups, fan_in)
        if self.full is None:
            weighed = d * d * self.diagonal[:, None]
        else:
            # one product a group: (R * out / g, n) @ (n, n)
            flat = d.swapaxes(0, 1).reshape(groups, -1, fan_in)
            precise = flat @ self.full if fan_in <= PRECISE_FAN_IN else flat.astype(np.float32) @ self._single
            weighed = (flat * precise).reshape(groups, len(d), -1, fan_in).swapaxes(0, 1)
        return np.maximum(weighed.sum(-1), 0).reshape(*batch, out)

    @cached_property
    def _single(self) -> NDArray[np.float32]:
        assert self.full is not None
        return self.full.astype(np.float32)

    def mean_lost(self, weight: Array, rounded: Array) -> Array:
        """w E[x] - w_q E[s] of rows (out, n); (out,)."""
        exact = self.mean if self.exact_mean is None else self.exact_mean
        return mean_current(weight, exact) - mean_current(rounded, self.mean)


def mean_current(rows: Array, mean: Array) -> Array:
    """w E[s] of rows (out, ...) of g groups, mean (g, n); (out,)."""
    current: Array = np.einsum("gon,gn->go", rows.reshape(len(mean), -1, mean.shape[1]), mean).reshape(-1)
    return current


def damping_of(layer: "LayerStatistics") -> float:
    """0.03 to 0.3: 0.03 + 0.2 * fan-in / vectors seen, of several steps of one sample those of one.

    Measured on other images than H: a linear layer of fan-in 1568 errs least at 0.3 after 100 and after 1000 images
    (0.01, GPTQ's own value: 40 % more), a convolution of fan-in 288 at 0.03.
    """
    return min(0.3, 0.03 + 0.2 * layer.mean.shape[1] / max(1, layer.vectors))


def _moments(layer: "LayerStatistics", centred: bool) -> Moments:
    """Damped; inputs that are never active get the mean, so that their weights are just rounded."""
    mean = layer.mean if centred else np.zeros_like(layer.mean)
    exact_mean = layer.exact_mean if centred else None
    diagonal = np.maximum(layer.square - mean**2, 0)
    average = diagonal.mean(1, keepdims=True)
    average = np.where(average > 0, average, 1.0)
    added = damping_of(layer) * average + np.where(diagonal > 0, 0.0, average)
    if layer.second_moment is None:
        return Moments(diagonal + added, None, mean, exact_mean)
    full = layer.second_moment - mean[:, :, None] * mean[:, None, :]
    fan_in = np.arange(full.shape[1])
    drift = None
    if layer.cross_moment is not None:
        cross = layer.cross_moment - (mean if exact_mean is None else exact_mean)[:, :, None] * mean[:, None, :]
        drift = _regression(cross - full, full, DRIFT_DAMPING * damping_of(layer) * average + added)
    full[:, fan_in, fan_in] = diagonal + added
    return Moments(diagonal + added, full, mean, exact_mean, drift)


def _regression(difference: Array, h: Array, added: Array) -> Array:
    """difference (h + diag(added))^-1 of (g, n, n); added (g, n)."""
    import torch  # noqa: PLC0415 - as in `inverse_factor`

    damped = h.copy()
    fan_in = np.arange(h.shape[1])
    damped[:, fan_in, fan_in] += added
    factor = torch.linalg.cholesky(torch.from_numpy(damped))
    solved: Array = torch.cholesky_solve(torch.from_numpy(difference).mT, factor).mT.numpy()
    return solved


@dataclass(frozen=True, eq=False)
class Rounded:
    """Integers of the layers into one population: q (out, n) each, worth scale (out,) * 2^exponent; and the mean error
    of their current (out,), to be added to the bias."""

    integers: list[IntArray]
    exponents: list[int]
    scale: Array
    bias: Array


def round_rows(
    weights: Sequence[Array],
    moments: Sequence[Moments],
    bits: Sequence[int],
    how: Rounding,
    shared: bool,
    floor: float = 0.0,
) -> Rounded:
    """Rounds all layers into one population, rows (out, n_l) each.

    shared: one scale for all rows (a readout). floor: the scale is at least that (thresholds must fit the state).
    """
    largest = [2 ** (b - 1) - 1 for b in bits]
    exact, weights = weights, [moment.target(w) for w, moment in zip(weights, moments, strict=True)]
    scale, exponents = _scale(weights, moments, largest, how, shared)
    scale = np.maximum(scale, floor * 2.0 ** -min(exponents))
    units = [scale * 2.0**e for e in exponents]
    integers = [nearest_integers(w, unit, top) for w, unit, top in zip(weights, units, largest, strict=True)]
    if how.method == "gptq":
        scale, integers = _fed_back(weights, moments, largest, scale, exponents, integers, shared)
        units = [scale * 2.0**e for e in exponents]
    bias = np.zeros(len(scale))
    for w, q, unit, moment in zip(exact, integers, units, moments, strict=True):
        bias += moment.mean_lost(w, q * unit[:, None])
    lowest = min(exponents)
    return Rounded(integers, [e - lowest for e in exponents], scale * 2.0**lowest, bias)


def nearest_integers(weight: Array, unit: Array, largest: int) -> IntArray:
    """rint(w / unit) within +-largest; weight (..., out, n), unit (..., out)."""
    return np.clip(np.rint(weight / unit[..., None]), -largest, largest).astype(np.int64)


def _scale(
    weights: Sequence[Array], moments: Sequence[Moments], largest: Sequence[int], how: Rounding, shared: bool
) -> tuple[Array, list[int]]:
    """The scale (out,) and the exponents of the layers' units relative to it with the least error.

    Each layer in turn sets the scale by its clips, the others follow in powers of two; the best of these is taken.
    """
    best: tuple[float, Array, list[int]] | None = None
    for anchor in range(len(weights)):
        candidates = _candidates(weights[anchor], largest[anchor], how, shared)
        exponents = [0] * len(weights)
        total = _error(weights[anchor], candidates, largest[anchor], moments[anchor])
        first = _least(candidates, total, shared)
        for i, (w, moment, top) in enumerate(zip(weights, moments, largest, strict=True)):
            if i != anchor:
                spread = range(-SPREAD_MAX, SPREAD_MAX + 1)
                errors = [float(_error(w, first[None] * 2.0**e, top, moment).sum()) for e in spread]
                exponents[i] = spread[int(np.argmin(errors))]
                total = total + _error(w, candidates * 2.0 ** exponents[i], top, moment)
        scale = _least(candidates, total, shared)
        found = float(_at(total, candidates, scale).sum())
        if best is None or found < best[0]:
            best = found, scale, exponents
    assert best is not None
    return best[1], best[2]


def _candidates(weight: Array, largest: int, how: Rounding, shared: bool) -> Array:
    """Units (R, out) that are tried for a layer (out, n). A row of zeros takes what the others have."""
    magnitude = np.abs(weight)
    clip = np.percentile(magnitude, how.percentile, axis=1) if how.method == "percentile" else magnitude.max(1)
    clip = np.where(clip > 0, clip, magnitude.max(1))
    if shared:
        clip = np.full_like(clip, clip.max())
    clip = np.where(clip > 0, clip, clip.max() if clip.max() > 0 else 1.0)
    parts = CLIPS if how.method in ("mse", "activation", "gptq") else np.ones(1)
    units: Array = parts[:, None] * clip / largest
    return units


def _error(weight: Array, units: Array, largest: int, moments: Moments) -> Array:
    """(R, out) errors of a layer (out, n) rounded to units (R, out); one candidate at a time, to save memory."""
    return np.stack([moments.error(weight - nearest_integers(weight, unit, largest) * unit[:, None]) for unit in units])


def _least(candidates: Array, errors: Array, shared: bool) -> Array:
    """Of candidates (R, out) that of least error, row by row, or for all rows together; the largest of equals."""
    errors = np.broadcast_to(errors.sum(1, keepdims=True), errors.shape) if shared else errors
    chosen = len(errors) - 1 - errors[::-1].argmin(0)
    scale: Array = candidates[chosen, np.arange(candidates.shape[1])]
    return scale


def _at(errors: Array, candidates: Array, scale: Array) -> Array:
    found: Array = errors[(candidates == scale).argmax(0), np.arange(len(scale))]
    return found


def _fed_back(
    weights: Sequence[Array],
    moments: Sequence[Moments],
    largest: Sequence[int],
    scale: Array,
    exponents: Sequence[int],
    plain: Sequence[IntArray],
    shared: bool,
) -> tuple[Array, list[IntArray]]:
    """Scale and integers with error feedback; row by row (shared: together) never worse than `plain` at `scale`."""
    candidates = np.concatenate([scale[None], GPTQ_CLIPS[:, None] * scale])
    total = np.zeros(candidates.shape)
    tried: list[IntArray] = []
    for w, moment, top, e, rounded in zip(weights, moments, largest, exponents, plain, strict=True):
        q = np.concatenate([rounded[None], feedback(w, candidates[1:] * 2.0**e, top, moment)])
        total += np.stack([moment.error(w - a * unit[:, None]) for a, unit in zip(q, candidates * 2.0**e, strict=True)])
        tried.append(q)
    errors = np.broadcast_to(total.sum(1, keepdims=True), total.shape) if shared else total
    chosen, rows = errors.argmin(0), np.arange(len(scale))
    scale = candidates[chosen, rows]
    best = [
        descended(w, scale * 2.0**e, top, moment, q[chosen, rows])
        for w, moment, top, e, q in zip(weights, moments, largest, exponents, tried, strict=True)
    ]
    return scale, best


def feedback(weight: Array, units: Array, largest: int, moments: Moments) -> IntArray:
    """GPTQ of rows (out, n) for every unit of (R, out): integers (R, out, n). Where H is diagonal: plain rounding."""
    repeats, out = units.shape
    groups, fan_in = moments.diagonal.shape
    if moments.full is None or fan_in == 1:
        return nearest_integers(weight[None], units, largest)
    result = np.zeros((repeats, out, fan_in), np.int64)
    for g, rows in enumerate(_rows(groups, out)):
        w = np.broadcast_to(weight[rows], (repeats, *weight[rows].shape)).reshape(-1, fan_in)
        q = gptq(w, units[:, rows].reshape(-1), largest, moments.full[g])
        result[:, rows] = q.reshape(repeats, -1, fan_in)
    return result


def _rows(groups: int, out: int) -> list[slice]:
    size = out // groups
    return [slice(g * size, (g + 1) * size) for g in range(groups)]


def gptq(weight: Array, unit: Array, largest: int, h: Array) -> IntArray:
    """Integers (rows, n) of weight (rows, n): columns by falling H_ii, the error of each spread over those to come.

    With U the upper Cholesky factor of H^-1: q_i = round(w_i / unit), w_j -= (w_i - unit q_i) / U_ii * U_ij for j > i.
    """
    order = np.argsort(-h.diagonal(), kind="stable")
    upper = inverse_factor(h[np.ix_(order, order)])
    w, q = weight[:, order].copy(), np.zeros(weight.shape, np.int64)
    for start in range(0, w.shape[1], BLOCK):
        stop = min(start + BLOCK, w.shape[1])
        errors = np.zeros((len(w), stop - start))
        for i in range(start, stop):
            q[:, i] = nearest_integers(w[:, i : i + 1], unit, largest)[:, 0]
            errors[:, i - start] = (w[:, i] - unit * q[:, i]) / upper[i, i]
            w[:, i + 1 : stop] -= errors[:, i - start, None] * upper[i, i + 1 : stop]
        w[:, stop:] -= errors @ upper[start:stop, stop:]
    result = np.empty_like(q)
    result[:, order] = q
    return result


def inverse_factor(h: Array) -> Array:
    """Upper U with H^-1 = U^T U, without the inverse: H = R R^T with R upper (the Cholesky factor of H reversed), so
    U = R^-1."""
    import torch  # noqa: PLC0415 - takes a second to load; numpy's routines are several times slower

    reversed_h = torch.from_numpy(np.ascontiguousarray(h[::-1, ::-1]))
    upper = torch.linalg.cholesky(reversed_h).flip(0, 1)
    one = torch.eye(len(h), dtype=upper.dtype)
    factor: Array = torch.linalg.solve_triangular(upper, one, upper=True).numpy()
    return factor


def descended(weight: Array, unit: Array, largest: int, moments: Moments, integers: IntArray) -> IntArray:
    """Coordinate descent on (w - unit q)^T H (w - unit q), rows (out, n), unit (out,): each integer in turn goes to its
    best value, so the error never grows."""
    groups, fan_in = moments.diagonal.shape
    if moments.full is None or fan_in == 1:
        return integers
    result = integers.copy()
    for g, rows in enumerate(_rows(groups, len(weight))):
        _descend(weight[rows], unit[rows], largest, moments.full[g], result[rows])
    return result


def _descend(weight: Array, unit: Array, largest: int, h: Array, q: IntArray) -> None:
    gradient = (q * unit[:, None] - weight) @ h
    for _ in range(SWEEPS):
        moved = 0
        for i in range(len(h)):
            step = gradient[:, i] / (h[i, i] * unit)
            change = np.clip(np.rint(q[:, i] - step), -largest, largest).astype(np.int64) - q[:, i]
            rows = np.flatnonzero(change)
            if len(rows):
                q[rows, i] += change[rows]
                gradient[rows] += (change[rows] * unit[rows])[:, None] * h[i]
                moved += len(rows)
        if not moved:
            break
