"""Weight bits per layer: as few cores as an allowed loss of accuracy buys, measured on samples kept apart.

1. sensitivity: each layer alone at each width, the others at the widest; how far the output is from the float one, on
   the samples that the statistics come from
2. path: from all layers at the widest, the step down that saves most (cores, then synapse words) for the sensitivity it
   adds, again and again, to all at the narrowest; and every width for all layers alike
3. held-out samples: the accuracy of the integer network in the simulator for the path, by bisection, and for the
   uniform widths; of those within the budget the cheapest, then single layers further down while that stays within it

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
from snncompile.network import SYNAPSES, Array, Network
from snncompile.program import Program, Provenance
from snncompile.quant_network import QuantNetwork
from snncompile.quantization.calibration import calibrate, check_samples
from snncompile.quantization.quantize import HostScales, quantize
from snncompile.quantization.rounding import Method, Rounding

Bits = dict[str, int]

SAMPLES_MIN = 40
"""Fewest calibration samples: half for statistics, half kept apart."""

SENSITIVITY_SAMPLES = 200
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
    how = Rounding(method, calibrate(network, x[::2]), memo={})
    search = _Search(network, chip, how, x[1::2], y[1::2], max_drop_points, tell)
    tell("sensitivity")
    sensitivity = _sensitivity(search, x[::2][:SENSITIVITY_SAMPLES])
    best = _search(search, sensitivity)
    bits = dict(best.bits)
    return BitChoice(bits, replace(how, bits=bits, memo=None), _table(search, sensitivity, best, len(x[::2])))


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
        lateral = {name for neuron in network.neurons for name in network.laterals(neuron)}
        on_chip = {s.name for s in self.quantized(dict.fromkeys((), 0))[0].synapses}
        self.layers = [n.name for n in network.nodes if isinstance(n, SYNAPSES) and n.name in on_chip - lateral]
        self.float_accuracy = float((FloatEngine(network).run(x).argmax(1) == y).mean())
        self.trials: dict[tuple[int, ...], Trial] = {}

    def quantized(self, bits: Bits) -> tuple[QuantNetwork, HostScales]:
        return quantize(self.network, self.chip.numerics, max(self.widths), replace(self.how, bits=bits))

    def uniform(self, width: int) -> Bits:
        return dict.fromkeys(self.layers, width)

    def run(self, bits: Bits) -> Trial:
        """The integer network with these bits on the held-out samples."""
        key = tuple(bits[name] for name in self.layers)
        if key not in self.trials:
            program = placed(self.chip, *self.quantized(bits))
            run = load_backend("sim").run(program, Path(), program.encode(self.x, "--calibrate"))
            accuracy = float((run.prediction == self.y).mean())
            graph = program.core_graph
            drop = 100 * (self.float_accuracy - accuracy)
            energy = run.cost["energy_pj"]["nominal"]
            trial = Trial(bits, accuracy, drop, len(graph.cores), float(energy), _words(graph))
            self.trials[key] = trial
            self.tell(f"{len(self.trials)} tried: {trial.cores} cores, {drop:+.2f} points lost")
        return self.trials[key]

    def within(self, trial: Trial) -> bool:
        return trial.drop_points <= self.budget + 1e-9


def placed(chip: Chip, quantized: QuantNetwork, host: HostScales) -> Program:
    graph = partition(quantized, chip)
    made = Provenance("", {}, (), max(chip.numerics.weight_bits), "max", {}, "auto", "direct", {})
    return Program(f"{chip.name}-sim", chip, quantized, host, graph, place_hilbert(len(graph.cores), chip.mesh), made)


def _words(graph: CoreGraph) -> int:
    return sum(core.usage["synapse_words"] for core in graph.cores)


Sensitivity = dict[str, dict[int, float]]


def _sensitivity(search: _Search, x: NDArray[np.generic]) -> Sensitivity:
    """Per layer and width: mean squared error of the output with that layer alone at that width, over the output's
    variance."""
    exact = FloatEngine(search.network).run(x)
    spread = float(exact.var()) or 1.0
    widest = max(search.widths)
    found: Sensitivity = {}
    for name in search.layers:
        found[name] = {}
        for width in search.widths:
            quantized, host = search.quantized({**search.uniform(widest), name: width})
            output = _output(search.chip, quantized, host, x)
            found[name][width] = float(((output - exact) ** 2).mean()) / spread
    return found


def _output(chip: Chip, quantized: QuantNetwork, host: HostScales, x: NDArray[np.generic]) -> Array:
    program = placed(chip, quantized, host)
    run = load_backend("sim").run(program, Path(), program.encode(x, "--calibrate"))
    output: Array = run.output * np.float64(host.output_scale)
    return output


def _path(search: _Search, sensitivity: Sensitivity) -> list[Bits]:
    """From all at the widest to all at the narrowest, one layer one width a step."""
    bits = search.uniform(max(search.widths))
    path = [bits]
    price = {bits_key(bits): _price(search, bits)}
    while True:
        options = []
        for name in search.layers:
            narrower = [w for w in search.widths if w < bits[name]]
            for width in narrower:
                after = {**bits, name: width}
                key = bits_key(after)
                price.setdefault(key, _price(search, after))
                now, then = price[bits_key(bits)], price[key]
                worse = max(sensitivity[name][width] - sensitivity[name][bits[name]], 1e-9)
                options.append(((now[0] - then[0]) / worse, (now[1] - then[1]) / worse, name, width))
        if not options:
            return path
        _, _, name, width = max(options)
        bits = {**bits, name: width}
        path.append(bits)


def bits_key(bits: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(bits.items()))


def _price(search: _Search, bits: Bits) -> tuple[int, int]:
    """Cores and synapse words; weights do not matter to either, so they are rounded plainly."""
    quantized, _ = quantize(search.network, search.chip.numerics, max(search.widths), Rounding(bits=bits))
    graph = partition(quantized, search.chip)
    return len(graph.cores), _words(graph)


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
