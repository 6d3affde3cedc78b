"""Stand-ins of snntorch, spikingjelly, sinabs and norse: the classes with their names and attributes.

Reading a model calls none of its layers of neurons, so that a factory file can be traced without the package. Only
snntorch's has a forward, for tests that run a module beside what was read of it. That the
real classes have these attributes is shown by test_framework_environments.py.
"""

import sys
from collections import namedtuple
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn


def _module(name: str, **members: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(members)
    return made


def _class(name: str, base: type, init: Callable[..., None] | None = None, **more: Any) -> type:
    package, _, kind = name.rpartition(".")
    methods = {} if init is None else {"__init__": init}
    return type(kind, (base,), {"__module__": package, "__qualname__": kind, **methods, **more})


def snntorch() -> dict[str, ModuleType]:
    resets = {"subtract": 0, "zero": 1, "none": 2}

    def neuron(kind: str, recurrent: bool, states: int) -> type:
        def init(self: Any, **given: Any) -> None:
            nn.Module.__init__(self)
            reset = resets[given.get("reset_mechanism", "subtract")]
            functions = ("_base_sub", "_base_zero", "_base_int")
            self.state_function = getattr(self, functions[reset])
            values = {"threshold": given.get("threshold", 1.0), "graded_spikes_factor": 1.0, "beta": given.get("beta")}
            values |= {
                key: given[key] for key in ("graded_spikes_factor", "alpha", "R", "C", "time_step") if key in given
            }
            if kind == "lapicque":
                values.setdefault("time_step", 1)
                step = torch.as_tensor(values["time_step"])
                if values["beta"] is None:
                    values["beta"] = torch.exp(-step / (values["R"] * values["C"]) * torch.ones(1))
                else:
                    values |= {"R": 1, "C": step / torch.log(1 / torch.as_tensor(values["beta"]))}
            for key, value in values.items():
                tensor = torch.as_tensor(value)
                if given.get(f"learn_{key}"):
                    self.register_parameter(key, nn.Parameter(tensor))
                else:
                    self.register_buffer(key, tensor)
            self.register_buffer("reset_mechanism_val", torch.as_tensor(reset))
            for state in ("mem", "syn", "spk")[:3]:
                self.register_buffer(state, torch.zeros(0), False)
            for key in ("init_hidden", "output", "inhibition", "state_quant"):
                setattr(self, key, given.get(key, False))
            self.reset_delay = given.get("reset_delay", True)
            if recurrent and given.get("all_to_all", True):
                self.recurrent = nn.Linear(given["linear_features"], given["linear_features"])
            elif recurrent:
                self.V = nn.Parameter(given["V"])
                self.recurrent = one_to_one()
                self.recurrent.V = self.V

        def initial(self: Any) -> Any:
            zeros = tuple(torch.zeros(0) for _ in range(states))
            return zeros if states > 1 else zeros[0]

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            """Leaky with init_hidden and reset by subtraction, one step later."""
            mem = self.mem if self.mem.shape == x.shape else torch.zeros_like(x)
            reset = (mem > self.threshold).to(x)
            self.mem = self.beta.clamp(0, 1) * mem + x - reset * self.threshold
            return (self.mem > self.threshold).to(x)

        functions = {name: lambda self, x: x for name in ("_base_sub", "_base_zero", "_base_int")}
        for name, function in functions.items():
            function.__name__ = name
        names = {"leaky": "Leaky", "synaptic": "Synaptic", "rleaky": "RLeaky", "rsynaptic": "RSynaptic"}
        title = names.get(kind, "Lapicque")
        return _class(
            f"snntorch._neurons.{kind}.{title}",
            nn.Module,
            init,
            forward=forward,
            **functions,
            **{f"init_{kind}": initial},
        )

    one_to_one = _class("snntorch._neurons.rleaky.RecurrentOneToOne", nn.Module)
    made = {
        "Leaky": neuron("leaky", False, 1),
        "Lapicque": neuron("lapicque", False, 1),
        "Synaptic": neuron("synaptic", False, 2),
        "RLeaky": neuron("rleaky", True, 2),
        "RSynaptic": neuron("rsynaptic", True, 3),
    }
    return {"snntorch": _module("snntorch", **made)}


def spikingjelly() -> dict[str, ModuleType]:
    package = "spikingjelly.activation_based"

    def wrapped(kind: type) -> type:
        def init(self: Any, *given: Any, **named: Any) -> None:
            kind.__init__(self, *given, **named)
            self._step_mode = "s"

        return _class(f"{package}.layer.{kind.__name__}", kind, init)

    def container(kind: str) -> type:
        return _class(f"{package}.layer.{kind}", nn.Sequential)

    def neuron(kind: str, **defaults: Any) -> type:
        def init(self: Any, *given: Any, **named: Any) -> None:
            nn.Module.__init__(self)
            usual = {"v_threshold": 1.0, "v_reset": 0.0, **defaults}
            first = {"LIFNode": "tau", "ParametricLIFNode": "init_tau"}.get(kind)
            vars(self).update({**usual, **named, **({first: given[0]} if given and first else {})})
            self._step_mode, self._memories = "s", {"v": 0.0}
            self.surrogate_function = _class(f"{package}.surrogate.Sigmoid", nn.Module)()
            self.surrogate_function.spiking = True
            if kind == "ParametricLIFNode":
                self.w = nn.Parameter(torch.zeros(()))

        return _class(f"{package}.neuron.{kind}", nn.Module, init)

    def set_step_mode(net: nn.Module, mode: str) -> None:
        for part in net.modules():
            inside = any(
                part in list(c.modules())[1:] for c in net.modules() if type(c).__name__ == "SeqToANNContainer"
            )
            if hasattr(part, "_step_mode") and not inside:
                part._step_mode = mode

    def seq_to_ann_forward(x_seq: Any, module: Any) -> Any:
        shape = [x_seq.shape[0], x_seq.shape[1]]
        y = module(x_seq.flatten(0, 1))
        shape.extend(y.shape[1:])
        return y.view(shape)

    layers = {kind.__name__: wrapped(kind) for kind in (nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.Flatten)}
    layers |= {kind: container(kind) for kind in ("SeqToANNContainer", "MultiStepContainer")}
    neurons = {
        "IFNode": neuron("IFNode"),
        "LIFNode": neuron("LIFNode", decay_input=True, tau=2.0),
        "ParametricLIFNode": neuron("ParametricLIFNode", decay_input=True),
    }
    functional = _module(f"{package}.functional", set_step_mode=set_step_mode, seq_to_ann_forward=seq_to_ann_forward)
    parts = {"layer": _module("layer", **layers), "neuron": _module("neuron", **neurons), "functional": functional}
    based = _module(package, **parts)
    named = {f"{package}.{name}": part for name, part in parts.items()}
    return {"spikingjelly": _module("spikingjelly", activation_based=based), package: based, **named}


def sinabs() -> dict[str, ModuleType]:
    def function(kind: str, **defaults: Any) -> type:
        def init(self: Any, *given: Any) -> None:
            vars(self).update(defaults | dict(zip(defaults, given, strict=False)))

        at = "reset_mechanism" if kind.startswith("Membrane") else "spike_generation"
        return _class(f"sinabs.activation.{at}.{kind}", object, init)

    def neuron(kind: str, at: str, **defaults: Any) -> type:
        def init(self: Any, **given: Any) -> None:
            nn.Module.__init__(self)
            usual = {"spike_fn": activation["MultiSpike"], "reset_fn": activation["MembraneSubtract"](None)}
            values = {**usual, "train_alphas": False, "norm_input": at == "lif", **defaults, **given}
            self.register_buffer("v_mem", torch.zeros(0))
            taus = ("tau_mem", "tau_syn")
            if values.get("tau_syn") is not None:
                self.register_buffer("i_syn", torch.zeros(0))
            for key in taus:
                tau = values.pop(key, None)
                if values["train_alphas"] and tau is not None:
                    self.register_parameter(f"alpha_{key[4:]}", nn.Parameter(torch.exp(-1.0 / torch.as_tensor(tau))))
                elif tau is not None:
                    self.register_parameter(key, nn.Parameter(torch.as_tensor(tau)))
            for key in ("spike_threshold", "min_v_mem"):
                value = values.pop(key, 1.0 if key == "spike_threshold" and kind != "ExpLeak" else None)
                if value is not None:
                    self.register_parameter(key, nn.Parameter(torch.as_tensor(value), requires_grad=False))
            vars(self).update(values)

        return _class(f"sinabs.layers.{at}.{kind}", nn.Module, init)

    def merge(self: Any, a: Any, b: Any) -> Any:
        return a + b

    functions = {"SingleSpike": {}, "MultiSpike": {}, "MaxSpike": {"max_num_spikes_per_bin": None}}
    functions |= {"MembraneSubtract": {"subtract_value": None}, "MembraneReset": {"reset_value": 0.0}}
    activation = {kind: function(kind, **defaults) for kind, defaults in functions.items()}
    kinds = {"LIF": "lif", "IAF": "iaf", "IAFSqueeze": "iaf", "ExpLeak": "exp_leak"}
    layers = {kind: neuron(kind, at) for kind, at in kinds.items()}
    layers["Merge"] = _class("sinabs.layers.merge.Merge", nn.Module, forward=merge)
    named = {"sinabs.activation": _module("activation", **activation), "sinabs.layers": _module("layers", **layers)}
    return {"sinabs": _module("sinabs"), **named}


def norse() -> dict[str, ModuleType]:
    usual = {"v_leak": 0.0, "v_th": 1.0, "v_reset": 0.0}
    mem, syn = {"tau_mem_inv": 100.0}, {"tau_syn_inv": 200.0}

    def reset_value(*given: Any) -> None: ...

    def reset_subtract(*given: Any) -> None: ...

    def parameters(name: str, **defaults: Any) -> Any:
        values = [torch.as_tensor(v) if isinstance(v, float) else v for v in defaults.values()]
        return namedtuple(name, list(defaults), defaults=values)

    lif = parameters("LIFParameters", **syn, **mem, **usual, method="super")
    box = parameters("LIFBoxParameters", **mem, **usual, method="super", reset_method=reset_value)
    leaky = parameters("LIParameters", **syn, **mem, v_leak=0.0)

    def cell(kind: str, at: str, usual_p: Any, sizes: bool = False, recurrent: bool = False) -> type:
        def init(self: Any, *given: Any, **named: Any) -> None:
            nn.Module.__init__(self)
            more = given[2:] if sizes else given
            self.p, self.dt = more[0] if more else usual_p(), named.get("dt", 0.001)
            if sizes:
                self.input_weights = nn.Parameter(torch.randn(given[1], given[0]))
            if recurrent:
                self.recurrent_weights = nn.Parameter(torch.randn(given[1], given[1]))

        return _class(f"norse.torch.module.{at}.{kind}", nn.Module, init)

    class SequentialState(nn.Sequential):
        def forward(self, x: Any, state: Any = None) -> Any:
            state = [None] * len(self) if state is None else state
            for n, module in enumerate(self):
                if type(module).__module__.startswith("norse."):
                    x, state[n] = module(x, state[n])
                else:
                    x = module(x)
            return x, state

    class Lift(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.lifted_module = module

        def forward(self, x: Any) -> Any:
            return torch.stack([self.lifted_module(x[t]) for t in range(x.shape[0])])

    made = {
        "LIFParameters": lif,
        "LIParameters": leaky,
        "LIFCell": cell("LIFCell", "lif", lif),
        "LIF": cell("LIF", "lif", lif),
        "LIFRecurrent": cell("LIFRecurrent", "lif", lif, True, True),
        "LIFRecurrentCell": cell("LIFRecurrentCell", "lif", lif, True, True),
        "LIFBoxCell": cell("LIFBoxCell", "lif_box", box),
        "LILinearCell": cell("LILinearCell", "leaky_integrator", leaky, True),
        "SequentialState": SequentialState,
        "Lift": Lift,
    }
    inner = _module("norse.torch", **made)
    return {
        "norse": _module("norse", torch=inner),
        "norse.torch": inner,
        "norse.torch.functional": _module("functional"),
        "norse.torch.functional.lif_box": _module("lif_box", LIFBoxParameters=box),
        "norse.torch.functional.reset": _module("reset", reset_subtract=reset_subtract),
    }


PACKAGES = {"snntorch": snntorch, "spikingjelly": spikingjelly, "sinabs": sinabs, "norse": norse}


def install(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Makes `import package` give the stand-in, unless the package itself is there."""
    if package not in sys.modules:
        for name, module in PACKAGES[package]().items():
            monkeypatch.setitem(sys.modules, name, module)
