"""Reads the calls of a torch model, one after the other, into a graph: layers, neurons step by step, the output.

Who makes the calls (`torch_trace` from a saved module, `torch_fx` from a traced forward) does not matter here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import nir
import numpy as np
import torch
from torch import nn

from snncompile.contract import Verdict
from snncompile.errors import CompileError
from snncompile.frontend.reading import Reading
from snncompile.frontend.torch.graph import GraphBuilder, Parts, Population
from snncompile.frontend.torch.layers import Integrators, Layer, Neurons, Stateless, connected, total_shape, unchanged
from snncompile.frontend.torch.rules import RULES, unsupported
from snncompile.frontend.torch.values import LEADS, LayoutError, Lead, Part, Potential, Signal, State, Term, Total
from snncompile.nn import DirectCoding, EventCoding, LeakyReadout, MeanReadout

BATCH = (61, 59)
"""How many samples the tensors seem to hold; not a number of steps, so that axes can be told apart."""
CODINGS = (DirectCoding, EventCoding)
READOUTS = (MeanReadout, LeakyReadout)
EXTRA = ("Sequential", "PerStep", "Residual", *(kind.__name__ for kind in (*CODINGS, *READOUTS)))
SAY_STEPS = "say how many a sample takes: --timesteps T"


@dataclass(frozen=True, eq=False)
class Back:
    """Synapses that lead a step back: the node that stood for what they read, what they give, the node it became."""

    where: str
    source: int
    parts: Parts
    came: int | None = None


@dataclass(frozen=True, eq=False)
class Read:
    """The output of one of `READOUTS`: nothing comes after it."""

    signal: Signal
    metadata: dict[str, Any]


Value = Signal | Total | Potential | Read


@dataclass
class Reader:
    """The state of reading one model: the graph so far, the time steps, how often each stateful layer was called.

    unrolled: within a container that calls its layers once for every time step (MultiStepContainer).
    """

    graph: GraphBuilder
    reading: Reading
    rows: bool = False
    coded: bool = False
    timesteps: int | None = None
    calls: dict[str, int] = field(default_factory=dict)
    first: dict[str, Parts] = field(default_factory=dict)
    stepped: set[str] = field(default_factory=set)
    unrolled: bool = False
    back: dict[str, Back] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.timesteps = self.reading.timesteps
        self.coding: dict[str, Any] = {}
        self.entry_lead: Lead = "step"

    def entry(self, lead: Lead) -> Signal:
        self.entry_lead = lead
        return Signal(self.graph.input, lead, None, self.rows)

    @property
    def batch(self) -> int:
        return BATCH[1] if self.timesteps == BATCH[0] else BATCH[0]

    def steps(self, where: str) -> int:
        if self.timesteps is None:
            raise CompileError(where, "needs the number of time steps", SAY_STEPS)
        return self.timesteps

    def set_steps(self, where: str, steps: int) -> None:
        if self.timesteps not in (None, steps):
            raise CompileError(where, f"takes {steps} time steps, elsewhere there are {self.timesteps}")
        self.timesteps = steps

    def layer(self, path: str, module: nn.Module, given: Sequence[Any], named: Mapping[str, Any] | None = None) -> Any:
        """What a layer makes of its arguments; raises CompileError for a layer of no rule."""
        layer = Layer(f"{path or 'model'} ({type(module).__name__})", module)
        value = given[0] if given else next(iter((named or {}).values()), None)
        rule = RULES.get(layer_name(module))
        if isinstance(value, torch.Tensor):
            return self._awaited(path, layer, rule, value)
        if isinstance(module, CODINGS):
            return self._coding(layer, value)
        if isinstance(module, READOUTS):
            return self._readout(layer, value)
        if isinstance(rule, Stateless):
            return self._stateless(path, layer, rule, value)
        if isinstance(rule, Neurons | Integrators):
            if not isinstance(value, Signal):
                raise CompileError(layer.where, f"reads {told(value)}", "neurons read the values of time steps")
            states = [*given[1:], *(named or {}).values()] if given else [*(named or {}).values()][1:]
            return self._stateful(path, layer, rule, value, states)
        raise unsupported(layer.where, layer.kind, *EXTRA)

    def _stateless(self, path: str, layer: Layer, rule: Stateless, value: Any) -> Value:
        if rule.apply is unchanged and isinstance(value, Value):
            return value
        place = rule.place(layer) if callable(rule.place) else rule.place
        if isinstance(value, Total):
            return self.reduced(layer.where, value, lambda signal: self._apply(path, layer, rule, signal))
        if not isinstance(value, Signal):
            raise CompileError(layer.where, f"reads {told(value)}", "a layer reads the values of time steps")
        self.check_place(layer, place, value.lead)
        return self._apply(path, layer, rule, value)

    def _awaited(self, path: str, layer: Layer, rule: object, value: torch.Tensor) -> Signal:
        """Synapses that read zeros before the first step: what they read then is to come, from the step before."""
        known = isinstance(rule, Stateless) and not callable(rule.place) and path not in self.back
        shape = tuple(value.shape[1:])
        if not known or bool(value.any()) or len(shape) not in (1, 3):
            raise CompileError(
                layer.where, "reads a constant", "every layer lies on a way from the input to the output"
            )
        source = self.graph.add("awaited", nir.Input(np.array(shape)), (), shape)
        signal = self._apply(path, layer, rule, Signal((Part((Term(source),), shape),), at=0))  # type: ignore[arg-type]
        self.back[path] = Back(layer.where, source, signal.parts)
        return signal

    def _returned(self, path: str, layer: Layer, signal: Signal) -> Signal:
        """What comes back a step later through synapses that read zeros before the first."""
        back, (term, *others) = self.back[path], signal.parts[0].terms
        came = back.source if back.came is None else back.came
        if signal.lead != "step" or signal.at is None or len(signal.parts) > 1 or others or not term.plain:
            raise CompileError(layer.where, "does not read the spikes of one layer, of the step before")
        if back.came not in (None, term.node) or self.graph.shapes[came] != self.graph.shapes[term.node]:
            raise CompileError(layer.where, "reads other spikes than in the step before")
        self.graph.moved(came, term.node)
        self.back[path] = replace(back, came=term.node)
        return replace(signal, parts=back.parts, at=signal.at + 1)

    def _check_back(self) -> None:
        for back in self.back.values():
            ends = {target for part in back.parts for term in part.terms for target in self.graph.readers(term.node)}
            if back.came is None or ends != {back.came}:
                problem = "carries values to a later step, but not from a layer of neurons to itself"
                raise CompileError(back.where, problem, "feedback over several layers, and delays, are not read")

    def _apply(self, path: str, layer: Layer, rule: Stateless, signal: Signal) -> Signal:
        if path in self.back:
            return self._returned(path, layer, signal)
        parts = self.graph.once((path, signal.parts), lambda: rule.apply(self.graph, layer, signal.parts))
        rows = signal.rows and len(total_shape(parts)) == 3
        return replace(signal, parts=parts, rows=rows)

    def reduced(self, where: str, total: Total, apply: Callable[[Signal], Signal]) -> Total:
        """A layer of weights after the mean over time: the mean of what it makes of each step."""
        steps = self.steps(where) if total.steps is None else len(total.steps)
        if abs(total.factor * steps - 1) > 1e-12:
            raise CompileError(where, "reads a sum over time", "take the mean over time, or put the layer before it")
        return replace(total, signal=apply(total.signal))

    def check_place(self, layer: Layer, place: str, lead: Lead) -> None:
        alone: tuple[Lead, ...] = ("step", "(TB)", "(BT)")
        if (place == "step" and lead in alone) or (place == "sequence" and lead == "TB") or place == "any":
            return
        if self.coded and place == "step":
            problem = "stands outside PerStep, where it would take the time steps for the batch"
            raise CompileError(layer.where, problem, "wrap it: PerStep(...)")
        if self.coded and lead == "(TB)":
            problem = "stands within PerStep, where it cannot see the time steps"
            raise CompileError(layer.where, problem, "take it out of PerStep")
        wanted: Lead = "step" if place == "step" else "TB"
        raise LayoutError(layer.where, f"gets {LEADS[lead]}", f"needed: {LEADS[wanted]}")

    def _stateful(self, path: str, layer: Layer, rule: Neurons | Integrators, value: Signal, states: list[Any]) -> Any:
        lead = rule.lead(layer)
        if value.lead != lead:
            if self.coded and value.lead == "(TB)":
                self.check_place(layer, "sequence", value.lead)
            raise LayoutError(layer.where, f"gets {LEADS[value.lead]}", f"needed: {LEADS[lead]}")
        call = self.calls.get(path, 0)
        self.calls[path] = call + 1
        if rule.weights is not None:
            parts = self.graph.once(
                (path, "weights", value.parts),
                lambda: connected(self.graph, layer.where, "linear", value.parts, rule.weights(layer)),  # type: ignore[misc]
            )
            value = replace(value, parts=parts)
        by_step = lead == "step" and not self.unrolled
        if by_step:
            self._check_step(path, layer, value, call)
        elif rule.kept and call > 0:
            raise CompileError(
                layer.where, "is called twice in one run", "a layer of neurons has one place in a network"
            )
        self._check_states(path, layer, rule, states, call if by_step else 0)
        at = call if by_step else None
        if isinstance(rule, Integrators):
            out: Signal | Potential = Potential(replace(value, at=at), *rule.made(layer))
            potential: Potential | None = None
        else:
            out = self._population(path, layer, rule, value, at)
            potential = self._potential(out, replace(value, at=at))
        returned = rule.returns(layer)
        if returned is None:
            return out
        state = State(path, call if by_step else -1, potential)
        last = len(returned) - 1
        kinds = enumerate(returned)
        return tuple(
            out if kind == "spikes" else state if n == last else replace(state, potential=None) for n, kind in kinds
        )

    def _potential(self, sent: Signal, value: Signal) -> Potential | None:
        """Of neurons that are never reset: they integrate as readouts do, and fire besides."""
        made = self.graph.nodes[sent.parts[0].terms[0].node]
        plain = len(sent.parts) == 1 and made.reset == "none" and np.ndim(made.leak) == 0
        plain = plain and (made.current_leak is None or np.ndim(made.current_leak) == 0)
        if not plain or np.any(made.v0) or made.drive is not None or made.floor is not None or made.leak > 1:
            return None
        return Potential(value, made.leak, 1.0, made.current_leak)

    def _population(self, path: str, layer: Layer, rule: Neurons, value: Signal, at: int | None) -> Signal:
        def made() -> Parts:
            population = self._overridden(rule.made(layer, total_shape(value.parts)))
            self._check_mixing(layer, population)
            return self.graph.population(layer.where, value.parts, population)

        return replace(value, parts=self.graph.once((path, "neurons", value.parts), made), at=at)

    def _overridden(self, population: Population) -> Population:
        parameters, said = dict(population.parameters), []
        if self.reading.fire is not None:
            parameters["fire"] = self.reading.fire
            said.append(f"--fire {self.reading.fire}")
        if self.reading.reset is not None:
            parameters["reset"] = self.reading.reset
            said.append(f"--reset {self.reading.reset}")
        note = "; ".join(filter(None, (population.note, ", ".join(said))))
        return replace(population, parameters=parameters, note=note)

    def _check_mixing(self, layer: Layer, population: Population) -> None:
        mixing = population.parameters.get("mixing")
        if mixing is not None and len(mixing) != self.timesteps:
            made_for = f"is made for {len(mixing)} time steps, the input gives {self.timesteps}"
            raise CompileError(layer.where, made_for, "make both with the same timesteps")

    def _check_step(self, path: str, layer: Layer, value: Signal, call: int) -> None:
        """Call number t of a layer computes step t, from step t of what its first call read."""
        first = self.first.setdefault(path, value.parts)
        if first != value.parts:
            raise CompileError(
                layer.where,
                f"reads something else in its call {call + 1} than in its first",
                "a layer of neurons has one place in a network; what it sends may come back through its own recurrent "
                "weights only (RLeaky, LIFRecurrentCell, ...)",
            )
        if value.at not in (None, call):
            raise CompileError(layer.where, f"reads time step {value.at} in its own step {call}")
        self.stepped.add(path)

    def _check_states(
        self, path: str, layer: Layer, rule: Neurons | Integrators, states: Sequence[Any], call: int
    ) -> None:
        """States handed in are those that the call before returned; before the first call, zeros."""
        if len(states) > len(rule.takes):
            raise CompileError(layer.where, f"is given {len(states)} states, it has {len(rule.takes)}")
        given = [*states, *[None] * (len(rule.takes) - len(states))]
        for kind, state in zip(rule.takes, given, strict=True):
            if call == 0:
                fits = state is None or (isinstance(state, torch.Tensor) and not bool(state.any()))
            elif state is None:
                fits = rule.kept
            elif kind == "state":
                fits = isinstance(state, State) and (state.path, state.at) == (path, call - 1)
            else:
                fits = isinstance(state, Signal) and state.at == call - 1 and self._sent(path, state.parts)
            if not fits:
                problem = f"gets a state in step {call} that is not the one it had after the step before"
                raise CompileError(layer.where, problem, "hand on what the layer returned; it starts at zero")

    def _sent(self, path: str, parts: Parts) -> bool:
        return self.graph.once((path, "neurons", self.first[path]), lambda: ()) == parts

    def _coding(self, layer: Layer, value: Any) -> Signal:
        if not isinstance(value, Signal) or value.parts != self.graph.input or self.coding:
            raise CompileError(layer.where, "does not stand at the input", "a coding is the first layer")
        self.set_steps(layer.where, layer.fields.integer("timesteps", 1))
        coding = "direct" if isinstance(layer.module, DirectCoding) else "events"
        if self.reading.coding not in (None, coding):
            raise CompileError("--coding", f"is {self.reading.coding}", f"the model begins with its own: {layer.kind}")
        self.coding = {"coding": "events", "scale": 1.0}
        if isinstance(layer.module, DirectCoding):
            self.coding |= {"coding": "direct", "scale": layer.fields.number("scale")}
        return replace(value, lead="TB")

    def _readout(self, layer: Layer, value: Any) -> Read:
        if not isinstance(value, Signal):
            raise CompileError(layer.where, f"reads {told(value)}", "a readout reads the values of all time steps")
        self.check_place(layer, "sequence", value.lead)
        metadata = {"readout": "mean", "scale": 1.0}
        if isinstance(layer.module, LeakyReadout):
            leak = layer.fields.number("leak")
            if not 0 < leak <= 1:
                raise layer.fields.refuse("leak", leak, "a number in (0, 1]")
            metadata = {"leak": leak, "readout": "leaky", "scale": 1.0}
        return Read(value, metadata)

    def finish(self, value: Any) -> None:
        """Ends the graph with what the model returned, and says the time steps."""
        value, left = self._chosen(value)
        value = potential_of(value)
        if isinstance(value, list):
            value = self.stacked("model", value, 0)
        counts = {self.calls[path] for path in self.stepped}
        if len(counts) > 1:
            raise CompileError("model", f"calls layers of neurons {' and '.join(map(str, sorted(counts)))} times")
        called = max(counts, default=None)
        if called is not None and called > 1:
            self.set_steps("model", called)
        signal, metadata, note = self._output(value, called)
        steps = self.steps("model")
        if "factor" in metadata:
            metadata["scale"] = metadata.pop("factor") * steps
        if "leaky_gain" in metadata:
            metadata["scale"] = metadata.pop("leaky_gain") * float((metadata["leak"] ** np.arange(steps)).sum())
        self._check_back()
        coding = self.coding or {"coding": self._coding_of_data(), "scale": 1.0}
        self.graph.nodes[0].metadata = {**coding, "timesteps": steps}
        if left:
            note += f"; {left} further outputs of the model are left out"
        said: tuple[str, str, Verdict, str] = ("output", self.graph.producer, "faithful", note)
        if not self.coded:
            how = "the same values in every step" if coding["coding"] == "direct" else "a frame a step"
            told_coding = f"{steps} time steps, {how} (--timesteps, --coding)"
            self.graph.said[0] = ("input", self.graph.producer, "faithful", told_coding)
        self.graph.output("model", signal.parts, metadata, said)

    def _coding_of_data(self) -> str:
        if self.reading.coding is not None:
            return self.reading.coding
        return "direct" if self.entry_lead == "step" else "events"

    def _chosen(self, value: Any) -> tuple[Any, int]:
        """Which of several outputs is read, and how many are left out."""
        if not isinstance(value, tuple):
            return value, 0
        outputs = [v for v in value if is_output(v)]
        if not outputs:
            raise CompileError("model", "returns nothing that comes from its layers")
        wants_potential = self.reading.readout == "membrane"
        chosen = next((v for v in outputs if wants_potential and is_potential(v)), outputs[0])
        return chosen, len(outputs) - 1

    def _output(self, value: Any, called: int | None) -> tuple[Signal, dict[str, Any], str]:
        """The signal that is read, the metadata of its Output, what the contract says."""
        asked = self.reading.readout
        if isinstance(value, Read):
            return self._own_readout(value)
        if isinstance(value, Potential):
            self._check_last(value.signal, called)
            if asked not in (None, "last", "membrane"):
                raise CompileError("--readout", f"is {asked}, of leaky integrators", "last or membrane can be read")
            metadata: dict[str, Any] = {"leak": value.leak, "readout": "leaky", "leaky_gain": value.gain}
            if value.current_leak is not None:
                metadata["current_leak"] = value.current_leak
            return value.signal, metadata, "potential after the last step (--readout)"
        if asked in ("last", "membrane"):
            raise CompileError("--readout", f"is {asked}", "needed: leaky integrators as the last layer")
        if isinstance(value, Total):
            if value.steps is not None and len(value.steps) != (called or 1):
                raise CompileError("model", f"returns the sum over {len(value.steps)} of its time steps")
            metadata = {"readout": "mean", "factor": value.factor}
            if asked is None:
                return value.signal, metadata, "as the model sums over its time steps"
            value = value.signal
        elif isinstance(value, Signal):
            if value.lead in ("step", "1B") and (called or 1) > 1:
                raise CompileError("model", f"returns time step {value.at} alone", "return all time steps or their sum")
        else:
            raise CompileError("model", f"returns {told(value)}", "needed: values of its layers")
        metadata = {"readout": "mean", "scale": 1.0}
        if asked in ("count", "sum"):
            metadata = {"readout": "mean", "factor": 1.0}
        return value, metadata, f"{asked or 'mean'} over the time steps (--readout)"

    def _own_readout(self, read: Read) -> tuple[Signal, dict[str, Any], str]:
        """Of a model that ends with one of `READOUTS`; a mean may be asked for as a sum."""
        readout, asked = read.metadata["readout"], self.reading.readout
        if asked in (None, readout):
            return read.signal, read.metadata, readout
        if readout != "mean" or asked in ("last", "membrane"):
            raise CompileError("--readout", f"is {asked}", f"the model ends with its own readout: {readout}")
        return read.signal, {"readout": "mean", "factor": 1.0}, f"{asked} over the time steps (--readout)"

    def _check_last(self, signal: Signal, called: int | None) -> None:
        if signal.lead in ("step", "1B") and signal.at not in (None, (called or 1) - 1):
            raise CompileError("model", f"returns the potential of time step {signal.at}, not of the last")

    def stacked(self, where: str, values: Sequence[Any], axis: int) -> Value:
        """torch.stack of one value a step: all steps."""
        potentials = [v for v in map(potential_of, values) if isinstance(v, Potential)]
        if values and len(potentials) == len(values):
            inner = self.stacked(where, [v.signal for v in potentials], axis)
            if isinstance(inner, Signal):
                return replace(potentials[0], signal=inner)
        signals = [v for v in values if isinstance(v, Signal)]
        if len(signals) != len(values) or not signals or axis not in (0, 1):
            raise CompileError(where, "stacks values that are not those of the time steps")
        first = signals[0]
        if any(s.parts != first.parts or s.lead != "step" for s in signals):
            raise CompileError(where, "stacks values of different layers")
        if any(s.at not in (None, t) for t, s in enumerate(signals)):
            raise CompileError(where, "stacks time steps out of their order")
        self.set_steps(where, len(signals))
        return replace(first, lead="TB" if axis == 0 else "BT", at=None)

    def torch_shape(self, value: Any) -> tuple[int, ...]:
        """The shape of the tensor that a value stands for."""
        signal = value.signal if isinstance(value, Total | Potential | Read) else value
        batch = self.batch
        if isinstance(value, Total | Read) or signal.lead == "step":
            return (batch, *signal.shape)
        if signal.lead == "1B":
            return (1, batch, *signal.shape)
        steps = self.steps("model")
        axes = {"TB": (steps, batch), "BT": (batch, steps)}
        return (*axes.get(signal.lead, (steps * batch,)), *signal.shape)


def potential_of(value: Any) -> Any:
    """A state whose potential can be read, as that; anything else as it is."""
    return value.potential if isinstance(value, State) and value.potential is not None else value


def is_potential(value: Any) -> bool:
    return isinstance(potential_of(value[0] if isinstance(value, list) and value else value), Potential)


def is_output(value: Any) -> bool:
    return isinstance(potential_of(value), Value) or (
        isinstance(value, list) and bool(value) and all(map(is_output, value))
    )


def layer_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def told(value: Any) -> str:
    """What a value is, for errors."""
    names = {
        Total: "a sum over time",
        Potential: "the potential of integrators",
        State: "the state of a layer",
        Read: "the output of a readout",
        Signal: "the values of time steps",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def merged(where: str, value: Any) -> Signal:
    """What the layers read in a container that folds the time steps into the batch: PerStep, SeqToANNContainer."""
    if not isinstance(value, Signal) or value.lead != "TB":
        lead = LEADS[value.lead] if isinstance(value, Signal) else told(value)
        raise LayoutError(where, f"gets {lead}", f"needed: {LEADS['TB']}")
    return replace(value, lead="(TB)")


def unmerged(where: str, value: Any) -> Signal:
    if not isinstance(value, Signal) or value.lead != "(TB)":
        raise CompileError(where, f"its layers give {told(value)}", "they must keep the time steps")
    return replace(value, lead="TB")
