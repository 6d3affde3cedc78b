"""Where two stages first part, and why: the first neuron that fired differently, its membranes, the cause."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from snncompile import reference
from snncompile.errors import InternalError
from snncompile.levels import as_trained, levels_of
from snncompile.mapping.remedies import unsplit
from snncompile.network import MultiThresholdLIF, Network
from snncompile.passes.order_neurons import Orders
from snncompile.pipeline import lower
from snncompile.program import Program
from snncompile.proof.counterfactual import Exactly
from snncompile.proof.faults import Observed, Suspect
from snncompile.quant_network import IntArray, Population, QuantNetwork

TIE = 1e-9
"""A float membrane closer to a threshold than this fraction of it counts as a tie."""

SAME = 1e-6
"""Two float stages whose membranes differ by more than this fraction of the threshold differ by more than rounding."""

EXACT = ("integer", "simulator", "lava")
"""Stages of the integer network: they must be equal."""

SAMPLES, STATES, BEFORE = 100, 2_000_000, 20
"""Of a layer at fault: at most so many samples, so many neuron states, are run again, and samples before them."""

Form = Literal["trained", "chip"]


@dataclass(frozen=True, eq=False)
class StageRun:
    """One stage over some samples: level fired per layer (T, N, *shape), membranes where known, class (N,), readout.

    form: whether levels and membranes are those of the trained neurons, or of what the chip runs in their place.
    """

    name: str
    form: Form
    levels: Mapping[str, IntArray]
    membranes: Mapping[str, NDArray[np.generic]]
    prediction: NDArray[np.int64]
    output: NDArray[np.generic]


def in_chip_order(run: StageRun, orders: Orders) -> StageRun:
    """A run of the network as trained, its neurons where they stand on the chip (`passes.order_neurons`)."""

    def placed(values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {name: v[:, :, orders[name]] if name in orders else v for name, v in values.items()}

    return replace(run, levels=placed(run.levels), membranes=placed(run.membranes)) if orders else run


def trained_numbers(order: IntArray, form: Form, members: int) -> IntArray:
    """(channels,) the trained number of each; of the chip's form that of its neuron, with its member behind it."""
    if form == "trained" or members == 1:
        return order
    return (order[:, None] * members + np.arange(members)).ravel()


def in_one_form(a: StageRun, b: StageRun, network: QuantNetwork) -> tuple[StageRun, StageRun]:
    """Both in the trained neurons' form where either is; membranes are then those of first member and micro-step."""
    if a.form == b.form:
        return a, b
    return _trained(a, network), _trained(b, network)


def _trained(run: StageRun, network: QuantNetwork) -> StageRun:
    if run.form == "trained":
        return run
    micro, of = network.microsteps, network.populations_by_name
    levels = {name: as_trained(k, of[name].members, micro) for name, k in run.levels.items()}
    membranes = {name: u[::micro, :, :: of[name].members] for name, u in run.membranes.items() if name in levels}
    return replace(run, form="trained", levels=levels, membranes=membranes)


@dataclass(frozen=True, eq=False)
class Divergence:
    """Finds the first difference between two stages of one program.

    networks: its float networks by stage. x, payloads: the samples that the stages ran, and what the host sends.
    """

    program: Program
    networks: Mapping[str, Network]
    x: NDArray[np.generic]
    payloads: IntArray
    _floats: dict[tuple[str, int], reference.FloatTrace] = field(default_factory=dict)

    def first(self, a: StageRun, b: StageRun) -> dict[str, Any] | None:
        """The first difference of the first sample that has one: earliest layer, then step, then neuron; None if equal.

        Up to there both stages saw the same spikes, so its cause lies in that very neuron: `cause`, and in `evidence`
        what was tried to find it. Where every spike is equal, the first readout that is not.
        """
        one, two = in_one_form(a, b, self.program.network)
        samples = [sample for name in one.levels for sample in _differing(one.levels[name] != two.levels[name])]
        if not samples:
            return self._of_outputs(a, b)
        sample = min(samples)
        different = {name: one.levels[name][:, sample] != two.levels[name][:, sample] for name in one.levels}
        layer = next(name for name, where in different.items() if where.any())
        step, *neuron = (int(i) for i in np.argwhere(different[layer])[0])
        at = (step, sample, *neuron)
        return {
            "layer": layer,
            "neuron": self._as_trained(layer, neuron, one.form),
            "sample": sample,
            "step": step,
            f"level_{a.name}": int(one.levels[layer][at]),
            f"level_{b.name}": int(two.levels[layer][at]),
            **self._cause(layer, at, a, b),
        }

    def _as_trained(self, layer: str, neuron: list[int], form: Form) -> list[int]:
        """A neuron's number before neurons were renumbered."""
        order = self.program.provenance.orders.get(layer)
        if order is None:
            return neuron
        members = self.program.network.populations_by_name[layer].members
        return [int(trained_numbers(order, form, members)[neuron[0]])]

    def _cause(self, layer: str, at: tuple[int, ...], a: StageRun, b: StageRun) -> dict[str, Any]:
        one, two = in_one_form(a, b, self.program.network)
        if b.name not in EXACT:
            return self._of_floats(layer, at, one, two)
        faulty = [run for run in (a, b) if run.name in EXACT and not self._suspect(layer, run, at[1]).is_right()]
        if faulty:
            return self._of_fault(layer, at, faulty[-1], one)
        if a.name in EXACT:
            raise InternalError(f"{layer}: {a.name} and {b.name} differ, and both are right")
        return self._of_rounding(layer, at, one, b)

    def _sent(self, layer: str, run: StageRun, samples: slice) -> dict[str, IntArray]:
        """Payloads of the layer's sources in an integer stage, (T, N, *source shape)."""
        network, sent = self.program.network, {}
        forward = reference.forward_inputs(network, network.populations_by_name[layer])
        for name in dict.fromkeys(s.source for s in (*forward, *unsplit(network, forward))):
            if name == network.input_name:
                image = self.payloads[samples]
                sent[name] = reference.input_steps(image, network.input_shape, network.timesteps, network.microsteps)
            else:
                sent[name] = _payloads(network.populations_by_name[name], run.levels[name][:, samples])
        return sent

    def _suspect(self, layer: str, run: StageRun, sample: int, samples: int = 1) -> Suspect:
        """A layer of an integer stage on `samples` samples from `sample` on."""
        block = slice(sample, sample + samples)
        spiking = self.program.network.populations_by_name[layer].spiking
        result = run.levels[layer][:, block] if spiking else run.output[block].astype(np.int64)
        before = self._sent(layer, run, slice(max(0, sample - BEFORE), sample))
        return Suspect(self.program, layer, Observed(self._sent(layer, run, block), result, before))

    def _of_fault(self, layer: str, at: tuple[int, ...], run: StageRun, other: StageRun) -> dict[str, Any]:
        """What is wrong with an integer stage that does not do what the integers say; `other`: the form of `at`."""
        population = self.program.network.populations_by_name[layer]
        samples = max(1, min(SAMPLES, STATES // (population.size * self.program.network.timesteps)))
        start = max(0, min(at[1] - samples // 2, len(self.payloads) - samples))
        suspect = self._suspect(layer, run, start, samples)
        micro = 1 if other.form == "chip" else self.program.network.microsteps
        members = 1 if other.form == "chip" else population.members
        inside = (at[0] * micro, at[1] - start, at[2] * members, *at[3:])
        here = {"membrane_integer": int(suspect.right.u[inside])}
        if len(population.thresholds):
            thetas = population.thresholds[:, inside[2]]
            here["threshold"] = int(thetas[np.abs(thetas - here["membrane_integer"]).argmin()])
        cause, *others = suspect.faults(inside)
        right = f"the inputs of {layer} are right, its own spikes are not"
        evidence = [right if population.spiking else "every spike is right, the readout is not"]
        evidence += [f"so would: {name}" for name in others]
        return {**here, "cause": f"fault of {run.name}: {cause}", "evidence": evidence}

    def _of_outputs(self, a: StageRun, b: StageRun) -> dict[str, Any] | None:
        """The first readout that differs, of stages whose spikes are all equal; floats: the first prediction."""
        layer = self.program.network.readout.name
        if a.name in EXACT:
            different = a.output != b.output
        else:
            different = (a.prediction != b.prediction)[:, None] & (
                np.arange(b.output.shape[1]) == b.prediction[:, None]
            )
        if not different.any():
            return None
        sample, channel = (int(i) for i in np.argwhere(different)[0])
        steps = self.program.network.timesteps
        found: dict[str, Any] = {"layer": layer, "neuron": [channel], "sample": sample, "step": steps - 1}
        found |= {f"output_{run.name}": _plain(run.output[sample, channel]) for run in (a, b)}
        exact = [run for run in (a, b) if run.name in EXACT]
        faulty = [run for run in exact if not self._readout_is_right(run, sample)]
        if faulty and self.program.network.readout.spiking:
            return {**found, "cause": f"fault of {faulty[-1].name}: the output is not the sum of the spikes"}
        if faulty:
            return {**found, **self._of_fault(layer, (steps - 1, sample, channel), faulty[-1], exact[0])}
        return {**found, "cause": "rounding of the readout's weights and state" if exact else "rounding of float64"}

    def _readout_is_right(self, run: StageRun, sample: int) -> bool:
        readout = self.program.network.readout
        if readout.spiking:
            return bool((_payloads(readout, run.levels[readout.name][:, sample]).sum(0) == run.output[sample]).all())
        return self._suspect(readout.name, run, sample).is_right()

    def _of_floats(self, layer: str, at: tuple[int, ...], a: StageRun, b: StageRun) -> dict[str, Any]:
        """Two float stages, in one form."""
        members = self._node(layer).members if a.form == "trained" else 1
        thresholds = self._thresholds(self._node(layer), a.form, at[2] * members)
        u, w = float(a.membranes[layer][at]), float(b.membranes[layer][at])
        threshold = float(thresholds[np.abs(thresholds - u).argmin()])
        cause, evidence = self._float_cause(layer, at, (u, w, threshold), a, b)
        return {
            f"membrane_{a.name}": u,
            f"membrane_{b.name}": w,
            "threshold": threshold,
            "cause": cause,
            "evidence": evidence,
        }

    def _float_cause(
        self, layer: str, at: tuple[int, ...], state: tuple[float, float, float], a: StageRun, b: StageRun
    ) -> tuple[str, list[str]]:
        u, w, threshold = state
        made, declared = self.program.provenance, self.program.provenance.lowering[layer]
        if b.name == "lowered" and made.input_coding == "rate":
            direct = lower(self.networks["float"], self.program.chip.numerics, made.lowering_mode, orders=made.orders)
            trace = reference.run_float(direct, self.x[at[1] : at[1] + 1])
            k = as_trained(self._levels(trace, layer), self._node(layer).members, direct.microsteps)
            if k[(at[0], 0, *at[2:])] == a.levels[layer][at]:
                return "input coding (rate-coded spikes)", ["with the direct input the lowered neuron fires as trained"]
        if abs(u - w) <= TIE * threshold and abs(u - threshold) <= TIE * threshold:
            return self._tie(layer), [f"membranes differ by {abs(u - w):.1e}"]
        if b.name == "lowered" and not declared["exactness"].startswith("exact"):
            return f"lowering {declared['lowering']} ({declared['exactness']})", ["declared when it was compiled"]
        if abs(u - w) <= SAME * threshold:
            return "rounding of float64", [f"membranes differ by {abs(u - w):.1e}"]
        return "fault of a pass: the inputs are equal, the membranes are not", [f"membranes differ by {abs(u - w):.3g}"]

    def _tie(self, layer: str) -> str:
        return f"threshold tie: the float membrane lies on the threshold ({self._node(layer).fire})"

    def _of_rounding(self, layer: str, at: tuple[int, ...], a: StageRun, b: StageRun) -> dict[str, Any]:
        """A float stage against one that does what the integers say; `a` is in the form in which they were compared."""
        lowered = self._float_trace("lowered", at[1])
        population, node = self.program.network.populations_by_name[layer], self._node(layer)
        sent = self._sent(layer, b, slice(at[1], at[1] + 1))
        exactly = Exactly(
            self.program, self.networks["lowered"], layer, sent, lowered.outputs[self.networks["lowered"].input.name]
        )
        wanted = self._levels(lowered, layer)
        given = b.levels[layer][:, at[1] : at[1] + 1]
        inside: tuple[int, ...] = (at[0], 0, *at[2:])
        if a.form == "trained":
            micro = self.program.network.microsteps
            if (k := as_trained(wanted, node.members, micro)[inside]) != a.levels[layer][at]:
                return self._by_lowering(layer, at, a, lowered, int(k))
            inside = _first_inside(wanted != given, inside, node.members, micro)
        u = exactly.integer_membranes
        exact, integer = float(lowered.membranes[layer][inside]), int(u[inside])
        thresholds = self._thresholds(node, "chip", inside[2])
        threshold = float(thresholds[np.abs(thresholds - exact).argmin()])
        cause, mended = exactly.causes(inside, wanted)
        evidence = [f"made exact alone, this mends it: {', '.join(mended)}"] if mended else []
        if integer in population.thresholds[:, inside[2]]:
            evidence.append(f"the integer membrane equals the threshold {integer} (fires {population.fire})")
        if abs(exact - threshold) <= TIE * threshold and not cause.startswith(("fire rule", "clipping")):
            cause = self._tie(layer)
        value = integer * float(self.program.host.state[layer][inside[2]])
        return {
            f"membrane_{a.name}": exact,
            "membrane_integer": value,
            "threshold": threshold,
            "cause": cause,
            "evidence": evidence,
        }

    def _by_lowering(
        self, layer: str, at: tuple[int, ...], a: StageRun, lowered: reference.FloatTrace, level: int
    ) -> dict[str, Any]:
        """The lowered float neuron already fires unlike the trained one."""
        node, micro = self._node(layer), self.program.network.microsteps
        u = lowered.membranes[layer][::micro, :, :: node.members]
        whole = np.zeros((*u.shape[:1], at[1] + 1, *u.shape[2:]))
        whole[:, at[1]] = u[:, 0]
        none = np.zeros(0, np.int64)
        two = StageRun("lowered", "trained", {}, {layer: whole}, none, none)
        return {"level_lowered": level, **self._of_floats(layer, at, a, two)}

    def _float_trace(self, stage: str, sample: int) -> reference.FloatTrace:
        if (stage, sample) not in self._floats:
            self._floats[stage, sample] = reference.run_float(self.networks[stage], self.x[sample : sample + 1])
        return self._floats[stage, sample]

    def _levels(self, lowered: reference.FloatTrace, layer: str) -> IntArray:
        return levels_of(lowered.outputs[layer], self._node(layer).payload)

    def _node(self, layer: str) -> MultiThresholdLIF:
        node = self.networks["lowered"].by_name[layer]
        if not isinstance(node, MultiThresholdLIF):
            raise InternalError(f"{layer} is compared and is no neuron")
        return node

    def _thresholds(self, node: MultiThresholdLIF, form: Form, channel: int) -> NDArray[np.float64]:
        """Thresholds of the neuron at a channel of the chip's form; of the trained one, those of all its members."""
        if node.thresholds.ndim == 1:
            multiples = np.arange(1, 1 + (node.open_steps or 1))  # a burst takes one threshold off a spike
            return node.thresholds if form == "chip" or node.open_steps is None else node.thresholds[0] * multiples
        first = channel if form == "chip" else channel - channel % node.members
        return node.thresholds[0, first : first + (1 if form == "chip" else node.members)]


def _differing(different: NDArray[np.bool_]) -> list[int]:
    """Samples (axis 1 of (T, N, ...)) in which anything differs."""
    return [int(n) for n in np.unique(np.nonzero(different)[1])]


def _payloads(population: Population, levels: IntArray) -> IntArray:
    return reference.emitted(population, levels)


def _plain(value: Any) -> float | int:
    return int(value) if isinstance(value, np.integer) else float(value)


def _first_inside(different: NDArray[np.bool_], at: tuple[int, ...], members: int, micro: int) -> tuple[int, ...]:
    """The first difference (T * micro, 1, C * members, ...) among the members of a trained neuron at (t, 0, c, ...)."""
    step, _, channel, *position = at
    own = different[: (step + 1) * micro, 0, channel * members : (channel + 1) * members]
    series = own.reshape(*own.shape[:2], -1)[:, :, np.ravel_multi_index(position, own.shape[2:]) if position else 0]
    t, member = (int(i) for i in np.argwhere(series)[0])
    return (t, 0, channel * members + member, *position)
