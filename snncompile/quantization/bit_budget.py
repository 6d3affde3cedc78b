"""Weight bits per layer: as few cores as an allowed loss of accuracy buys, measured on samples kept apart.

1. sensitivity: each layer alone at each width, the others at the widest; how far the output is from the float one, on
   the samples that the statistics come from
2. path: from all layers at the widest, the step down that saves most (cores, then synapse words) for the sensitivity it
   adds, again and again, to all at the narrowest; and every width for all layers alike
3. held-out samples: the accuracy of the integer network in the simulator for the path, by bisection, and for the
   uniform widths; of those within the budget the cheapest, then single layers further down while that stays within it
4. GPTQ in 1 to 3 takes every layer by itself, so that each is rounded once a width; the choice is run once more with
   GPTQ that follows the data through the rounded layers, and keeps that where it is no worse on the held-out samples

Costs compare as (cores, energy to two digits, synapse words). All that was run stands in the table. Never give test
data.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snncompile.backend import load_backend
from snncompile.chip import Chip
from snncompile.errors import CompileError
from snncompile.float_engine import FloatEngine
from snncompile.mapping.partition import CoreGraph, partition
from snncompile.mapping.place import place_hilbert
from snncompile.network import INPUT_PAYLOAD_MAX, SYNAPSES, Array, Conv2d, Linear, Network
from snncompile.program import Program, Provenance
from snncompile.quant_network import QuantNetwork
from snncompile.quantization.calibration import calibrate, check_samples
from snncompile.quantization.layer import floats_of
from snncompile.quantization.quantize import HostScales, quantize
from snncompile.quantization.rounding import Method, Rounding, mean_current

Bits = dict[str, int]

SAMPLES_MIN = 40
"""Fewest calibration samples: half for statistics, half kept apart."""

SENSITIVITY_SAMPLES = 100
"""Samples that sensitivities are measured on."""

STEPS_DOWN_MAX = 12
"""Single steps that are tried below the best of the path."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """One choice of bits that was run on the held-out samples; accuracies as parts of one."""

    bits: Mapping[str, int] = field(hash=False)
    accuracy: float
    drop_points: float
    cores: int
    energy_pj: float
    synapse_words: int

    @property
    def cost(self) -> tuple[int, float, int]:
        # energy follows the spikes, which rounding moves a little: two digits, or chance would decide
        return self.cores, float(f"{self.energy_pj:.1e}"), self.synapse_words


@dataclass(frozen=True, eq=False)
class BitChoice:
    """Bits per layer of synapses within the budget, how to round them, and the table of what was tried (JSON-ready)."""

    bits: Bits
    how: Rounding
    table: dict[str, Any]


def choose_bits(
    network: Network,
    chip: Chip,
    x: NDArray[np.generic],
    y: NDArray[np.int64] | None,
    max_drop_points: float,
    method: Method = "gptq",
    tell: Tell = lambda text: None,
) -> BitChoice:
    """Bits of every layer of the lowered, aligned `network`: least cost for at most that loss against the floats.

    x (N, ...), y (N,): calibration data; every second sample is kept apart. Raises CompileError: unfit data, no labels,
    fewer than `SAMPLES_MIN`, a negative budget, or one that no width meets (with the best that can be reached).
    """
    if max_drop_points < 0:
        raise CompileError("--max-accuracy-drop", f"is {max_drop_points:g} points", "give 0 or more")
    check_samples(network, x, y, SAMPLES_MIN, labelled=True)
    assert y is not None
    tell("statistics")
    how = Rounding(method, calibrate(network, x[::2]), memo={}, follow=False)
    search = _Search(network, chip, how, x[1::2], y[1::2], max_drop_points, tell)
    tell("sensitivity")
    sensitivity = _sensitivity(search, x[::2][:SENSITIVITY_SAMPLES])
    best = _search(search, sensitivity)
    how = replace(how, bits=dict(best.bits), memo=None)
    table = _table(search, sensitivity, best, len(x[::2]))
    if method == "gptq":
        how = _followed(search, how, best, table)
    return BitChoice(dict(best.bits), how, table)


def _followed(search: "_Search", how: Rounding, best: "Trial", table: dict[str, Any]) -> Rounding:
    """`how`, following the data through the rounded layers where that is no worse on the held-out samples."""
    following = replace(how, follow=True)
    trial = search.measured(dict(best.bits), following)
    search.tell(f"following the rounded layers: {trial.drop_points:+.2f} points lost")
    taken = trial.accuracy >= best.accuracy
    table["following"] = {"accuracy": trial.accuracy, "drop_points": trial.drop_points, "chosen": taken}
    return following if taken else how


class _Search:
    """What is tried and what came of it."""

    def __init__(
        self,
        network: Network,
        chip: Chip,
        how: Rounding,
        x: NDArray[np.generic],
        y: NDArray[np.int64],
        budget: float,
        tell: Tell,
    ) -> None:
        self.network, self.chip, self.how, self.budget, self.tell = network, chip, how, budget, tell
        self.x, self.y = x, y
        self.widths = sorted(chip.numerics.weight_bits)
        on_chip = {s.name for s in self.quantized(dict.fromkeys((), 0))[0].synapses}
        trained = on_chip - network.of_resets
        self.layers = [n.name for n in network.nodes if isinstance(n, SYNAPSES) and n.name in trained]
        self.float_accuracy = float((FloatEngine(network).run(x).argmax(1) == y).mean())
        self.trials: dict[tuple[int, ...], Trial] = {}

    def quantized(self, bits: Bits) -> tuple[QuantNetwork, HostScales]:
        return self.rounded(replace(self.how, bits=bits))

    def rounded(self, how: Rounding) -> tuple[QuantNetwork, HostScales]:
        return quantize(self.network, self.chip.numerics, max(self.widths), how)

    def uniform(self, width: int) -> Bits:
        return dict.fromkeys(self.layers, width)

    def run(self, bits: Bits) -> Trial:
        """The integer network with these bits on the held-out samples."""
        key = tuple(bits[name] for name in self.layers)
        if key not in self.trials:
            self.trials[key] = trial = self.measured(bits, replace(self.how, bits=bits))
            self.tell(f"{len(self.trials)} tried: {trial.cores} cores, {trial.drop_points:+.2f} points lost")
        return self.trials[key]

    def measured(self, bits: Bits, how: Rounding) -> Trial:
        program = placed(self.chip, *self.rounded(how))
        run = load_backend("sim").run(program, Path(), program.encode(self.x, "--calibrate"))
        accuracy = float((run.prediction == self.y).mean())
        graph = program.core_graph
        drop = 100 * (self.float_accuracy - accuracy)
        energy = run.cost["energy_pj"]["nominal"]
        return Trial(bits, accuracy, drop, graph.core_count, float(energy), _words(graph))

    def within(self, trial: Trial) -> bool:
        return trial.drop_points <= self.budget + 1e-9


def placed(chip: Chip, quantized: QuantNetwork, host: HostScales) -> Program:
    graph = partition(quantized, chip)
    made = Provenance("", {}, (), max(chip.numerics.weight_bits), "max", {}, "auto", "direct", {})
    return Program(f"{chip.name}-sim", chip, quantized, host, graph, place_hilbert(graph.core_count, chip.mesh), made)


def _words(graph: CoreGraph) -> int:
    return int(graph.usage["synapse_words"].sum())


Sensitivity = dict[str, dict[int, float]]


def _sensitivity(search: _Search, x: NDArray[np.generic]) -> Sensitivity:
    """Per layer and width: mean squared error of the output with that layer alone at that width and all else float,
    over the output's variance."""
    network = search.network
    exact = FloatEngine(network).run(x)
    spread = float(exact.var()) or 1.0
    found: Sensitivity = {name: {} for name in search.layers}
    for width in search.widths:
        quantized, host = search.quantized(search.uniform(width))
        for name in search.layers:
            output = FloatEngine(_with_integers(network, name, quantized, host, search.how)).run(x)
            found[name][width] = float(((output - exact) ** 2).mean()) / spread
    return found


def _with_integers(network: Network, name: str, quantized: QuantNetwork, host: HostScales, how: Rounding) -> Network:
    """The float network with the weights of one layer as its integers have them, the mean error made up for."""
    node = network.by_name[name]
    assert isinstance(node, SYNAPSES)
    synapses = quantized.synapses_by_name[name]
    (target,) = (p.name for p in quantized.populations if name in p.synapses)
    analog = node.inputs[0] == network.input.name and network.input.coding == "direct"
    weight = floats_of(node, synapses, host.state[target], analog)
    bias = node.bias
    if isinstance(node, Conv2d | Linear) and how.calibration is not None:
        # per unit of payload, as the means are
        mean, unit = how.calibration.layers[name].mean, INPUT_PAYLOAD_MAX if analog else 1
        bias = bias + mean_current((node.weight - weight) / unit, mean)
    changed = replace(node, weight=weight, bias=bias)
    return replace(network, nodes=tuple(changed if other is node else other for other in network.nodes))


def _path(search: _Search, sensitivity: Sensitivity) -> list[Bits]:
    """From all at the widest to all at the narrowest, one layer one width a step, at the cost `_Prices` expects."""
    prices = _Prices(search)
    bits = search.uniform(max(search.widths))
    path = [bits]
    while True:
        options = []
        now = prices.of(bits)
        for name in search.layers:
            for width in (w for w in search.widths if w < bits[name]):
                then = prices.of({**bits, name: width})
                worse = max(sensitivity[name][width] - sensitivity[name][bits[name]], 1e-9)
                options.append(((now[0] - then[0]) / worse, (now[1] - then[1]) / worse, name, width))
        if not options:
            return path
        _, _, name, width = max(options)
        bits = {**bits, name: width}
        path.append(bits)


class _Prices:
    """Cores and synapse words expected of a choice of bits: what each layer alone saves, added up.

    Weights do not matter to either, only their widths.
    """

    def __init__(self, search: _Search) -> None:
        widest = max(search.widths)
        quantized, _ = search.quantized(search.uniform(widest))
        self.at_most = self._cost(search.chip, quantized)
        self.saved: dict[tuple[str, int], Array] = {
            (name, width): self.at_most - self._cost(search.chip, _narrowed(quantized, name, width))
            for name in search.layers
            for width in search.widths
        }

    @staticmethod
    def _cost(chip: Chip, quantized: QuantNetwork) -> Array:
        graph = partition(quantized, chip)
        return np.array([graph.core_count, _words(graph)], float)

    def of(self, bits: Bits) -> Array:
        total: Array = self.at_most - np.sum([self.saved[item] for item in bits.items()], axis=0)
        return total


def _narrowed(quantized: QuantNetwork, name: str, width: int) -> QuantNetwork:
    synapses = (replace(s, weight_bits=width) if s.name == name else s for s in quantized.synapses)
    return replace(quantized, synapses=tuple(synapses))


def _search(search: _Search, sensitivity: Sensitivity) -> Trial:
    """The cheapest trial within the budget. Raises CompileError where there is none."""
    path = _path(search, sensitivity)
    low, high = 0, len(path) - 1
    search.run(path[0])
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if search.within(search.run(path[middle])) else (low, middle - 1)
    for width in search.widths:
        search.run(search.uniform(width))
    best = _cheapest(search)
    for _ in range(STEPS_DOWN_MAX):
        down = [
            {**best.bits, name: max(w for w in search.widths if w < best.bits[name])}
            for name in search.layers
            if best.bits[name] > search.widths[0]
        ]
        down = [bits for bits in down if tuple(bits[n] for n in search.layers) not in search.trials]
        if not down:
            break
        search.run(min(down, key=lambda bits: sum(sensitivity[name][width] for name, width in bits.items())))
        best = _cheapest(search)
    return best


def _cheapest(search: _Search) -> Trial:
    within = [trial for trial in search.trials.values() if search.within(trial)]
    if not within:
        best = min(search.trials.values(), key=lambda trial: (trial.drop_points, trial.cost))
        raise CompileError(
            "--max-accuracy-drop",
            f"no width loses at most {search.budget:g} points: the best loses {best.drop_points:.2f} on "
            f"{len(search.y)} held-out samples ({search.float_accuracy:.2%} as float, {best.accuracy:.2%} deployed)",
            f"allow {best.drop_points:.2f} points, give more calibration samples, or train with the integers in mind",
        )
    return min(within, key=lambda trial: trial.cost)


def _table(search: _Search, sensitivity: Sensitivity, best: Trial, samples: int) -> dict[str, Any]:
    rows = sorted(search.trials.values(), key=lambda trial: (trial.cost, -trial.accuracy))
    return {
        "method": search.how.method,
        "max_accuracy_drop_points": search.budget,
        "samples_statistics": samples,
        "samples_held_out": len(search.y),
        "accuracy_float": search.float_accuracy,
        "chosen": dict(best.bits),
        "sensitivity": {name: {str(w): value for w, value in row.items()} for name, row in sensitivity.items()},
        "tried": [
            {
                "bits": dict(trial.bits),
                "accuracy": trial.accuracy,
                "drop_points": trial.drop_points,
                "within_budget": search.within(trial),
                "cores": trial.cores,
                "energy_pj": trial.energy_pj,
                "synapse_words": trial.synapse_words,
                "cost": list(trial.cost),
                "chosen": trial is best,
            }
            for trial in rows
        ],
    }
