"""NIR's own neurons in discrete time: Euler's method with the time step of the reading.

    LIF      tau dv/dt = (v_leak - v) + r I            v[t] = leak v[t-1] + (r dt / tau) I[t] + (1 - leak) v_leak
    IF, I    dv/dt = r I                               v[t] = v[t-1] + r dt I[t]
    CubaLIF  tau_syn di/dt = -i + w_in S, then LIF     i[t] = (1 - dt/tau_syn) i[t-1] + (w_in dt / tau_syn) S[t]

leak = 1 - dt/tau. A spike where v > v_threshold, then v = v_reset. A reset to v_reset != 0 is one to 0 of v - v_reset.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import nir
import numpy as np

from snncompile.contract import Verdict
from snncompile.errors import CompileError
from snncompile.frontend.nir.pending import Comparison, Delayed, Gain, Gained, Integrator, Pool, per_channel
from snncompile.frontend.reading import DT_S, MOST_STEPS, Reading
from snncompile.frontend.untrusted import Fields
from snncompile.network import NO_MEMORY, Array, Node, Shape

UNIT_TOLERANCE = 1e-3
"""Relative; time constants are often single precision, and count whole steps all the same."""

Value = float | Array


@dataclass(frozen=True)
class Understood:
    """A node, and what of it the contract says."""

    node: Node
    verdict: Verdict
    note: str


def understood(name: str, inputs: tuple[str, ...], node: nir.NIRNode, shape: Shape, reading: Reading) -> Understood:
    """What one of `STANDARD` means for an input of `shape`; raises CompileError for values that cannot be."""
    return STANDARD[type(node)](_Given(name, inputs, node, shape, reading))


@dataclass(frozen=True)
class _Given:
    name: str
    inputs: tuple[str, ...]
    node: Any
    shape: Shape
    reading: Reading

    def value(self, key: str) -> Value:
        return per_channel(self.name, key, self.array(key), self.shape)

    def array(self, key: str) -> Array:
        """A parameter in the shape of the neurons here (an axis of rows is added to 1-d images), or of one entry."""
        values = Fields(self.name, vars(self.node)).array(key)
        if values.ndim == 2 and len(self.shape) == 3 and self.shape[1] == 1:
            values = values[:, None]
        return values

    def per_step(self, key: str) -> Value:
        """dt/tau; raises CompileError unless tau is at least a time step."""
        tau, dt = self.value(key), self.reading.dt_s
        steps = np.asarray(tau) / dt
        if not (steps >= 1 - UNIT_TOLERANCE).all():
            problem = f"{key} is {np.min(tau):g} s, {np.min(steps):g} of the time step of {dt:g} s"
            raise CompileError(self.name, problem, "say the time step: --dt SECONDS, --dt 1 where tau counts steps")
        return _plain(np.minimum(dt / np.asarray(tau), 1.0))

    def leak(self, key: str) -> Value:
        """1 - dt/tau."""
        return _plain(1 - np.asarray(self.per_step(key)))


def _plain(values: Any) -> Value:
    return float(values) if np.ndim(values) == 0 else np.asarray(values, np.float64)


def _lif(given: _Given) -> Understood:
    gain = _plain(np.asarray(given.value("r")) * given.per_step("tau"))
    return _population(given, given.leak("tau"), gain, given.value("v_leak"))


def _if(given: _Given) -> Understood:
    return _population(given, 1.0, _integration_gain(given), 0.0)


def _integration_gain(given: _Given) -> Value:
    """r dt; raises CompileError where r is 1 and nobody says what a step is, since then r may count steps."""
    r = given.value("r")
    if given.reading.dt is None and np.all(np.asarray(r) == 1):
        raise CompileError(
            given.name,
            "has r = 1 and no time constant, so that its time step is unknown",
            f"say it: --dt 1 where time counts steps (sinabs), --dt {DT_S:g} for seconds",
        )
    return _plain(np.asarray(r) * given.reading.dt_s)


def _cuba_lif(given: _Given) -> Understood:
    w_in = np.asarray(given.value("w_in")) * given.per_step("tau_syn")
    gain = _plain(w_in * np.asarray(given.value("r")) * given.per_step("tau_mem"))
    made = _population(given, given.leak("tau_mem"), gain, given.value("v_leak"))
    current = given.leak("tau_syn")
    neuron: Any = made.node
    return replace(made, node=replace(neuron, current_leak=None if np.all(np.asarray(current) == 0) else current))


def _population(given: _Given, leak: Value, gain: Value, v_leak: Value) -> Understood:
    reading = given.reading
    threshold = np.atleast_1d(given.value("v_threshold"))
    reset_to = 0.0 if given.node.v_reset is None else given.value("v_reset")
    reset, fire = reading.reset or "hard", reading.fire or "gt"
    shift = np.asarray(reset_to if reset == "hard" else 0.0)
    drive = (1 - np.asarray(leak)) * (np.asarray(v_leak) - shift)
    above = np.atleast_1d(threshold - shift)
    if not (above > 0).all():
        problem = f"v_threshold is {float(threshold.min()):g}, v_reset {float(np.max(reset_to)):g}"
        raise CompileError(given.name, problem, "a neuron must fire above its reset")
    subtract = np.broadcast_to(np.atleast_1d(threshold - np.asarray(reset_to)), above.shape)
    node = Gained(
        given.name,
        given.inputs,
        above[None] if above.size > 1 else above,
        np.ones(1),
        subtract[None] if above.size > 1 else subtract,
        _plain(np.maximum(leak, NO_MEMORY)),
        reset,
        fire,
        v0=_plain(0.0 - shift),
        drive=np.broadcast_to(drive, given.shape[:1]).copy() if drive.any() else None,
        gain=gain,
    )
    return Understood(node, "faithful", _said(reading, reset, fire))


def _said(reading: Reading, reset: str, fire: str) -> str:
    """dt, comparison and reset, and which of them the user set."""
    comparison = "v > v_threshold" if fire == "gt" else "v >= v_threshold"
    how = {"hard": "reset to v_reset", "soft": "reset by subtraction", "none": "no reset"}[reset]
    asked = [f"--{name}" for name in ("dt", "fire", "reset") if getattr(reading, name) is not None]
    return f"Euler steps of dt = {reading.dt_s:g}, {comparison}, {how}" + (f" ({', '.join(asked)})" if asked else "")


def _li(given: _Given) -> Understood:
    gain = _plain(np.asarray(given.value("r")) * given.per_step("tau"))
    return _integrator(given, given.leak("tau"), gain, given.value("v_leak"))


def _i(given: _Given) -> Understood:
    return _integrator(given, 1.0, _integration_gain(given), 0.0)


def _cuba_li(given: _Given) -> Understood:
    w_in = np.asarray(given.value("w_in")) * given.per_step("tau_syn")
    gain = _plain(w_in * np.asarray(given.value("r")) * given.per_step("tau_mem"))
    return _integrator(given, given.leak("tau_mem"), gain, given.value("v_leak"), given.leak("tau_syn"))


def _integrator(given: _Given, leak: Value, gain: Value, v_leak: Value, current: Value = 0.0) -> Understood:
    if np.ndim(leak) or np.ndim(current):
        raise CompileError(given.name, "its time constants differ between neurons", "a readout has one of each")
    drive = (1 - float(leak)) * np.asarray(v_leak)
    if drive.any() and current:
        raise CompileError(given.name, "has a v_leak beside a synaptic current", "supported: v_leak = 0")
    node = Integrator(
        given.name, given.inputs, max(float(leak), NO_MEMORY), gain, _plain(drive), float(current) or None
    )
    return Understood(node, "faithful", f"Euler steps of dt = {given.reading.dt_s:g}")


def _threshold(given: _Given) -> Understood:
    return Understood(Comparison(given.name, given.inputs, given.value("threshold")), "faithful", "no state")


def _delay(given: _Given) -> Understood:
    dt = given.reading.dt_s
    delay = given.array("delay")
    steps = delay / dt
    whole = np.rint(steps)
    if (np.abs(steps - whole) > UNIT_TOLERANCE * np.maximum(whole, 1)).any() or (whole < 0).any():
        problem = f"delays of {delay.min():g} to {delay.max():g} s are no whole steps of {dt:g} s"
        raise CompileError(given.name, problem, "say the time step: --dt SECONDS")
    if whole.max(initial=0) > MOST_STEPS:
        raise CompileError(given.name, f"delays by {whole.max():g} steps of {dt:g} s", f"at most {MOST_STEPS}")
    if whole.size > 1 and whole.shape != given.shape:
        raise CompileError(given.name, f"delay has shape {whole.shape}", f"needed: one number or {given.shape}")
    node = Delayed(given.name, given.inputs, whole.astype(np.int64))
    return Understood(node, "faithful", f"{int(whole.min())} to {int(whole.max())} steps of dt = {dt:g}")


def _scale(given: _Given) -> Understood:
    values = given.array("scale")
    if not values.size:
        raise CompileError(given.name, f"scale has shape {values.shape}", "needed: a value for every neuron")
    if values.size > 1 and values.shape != given.shape:
        raise CompileError(given.name, f"is made for an input of shape {values.shape}, gets {given.shape}")
    return Understood(Gain(given.name, given.inputs, values), "faithful", "")


def _pool(average: bool) -> Callable[[_Given], Understood]:
    def made(given: _Given) -> Understood:
        return Understood(pool_node(given.name, given.inputs, given.node, average), "faithful", "")

    return made


def pool_node(name: str, inputs: tuple[str, ...], node: Any, average: bool) -> Pool:
    values = Fields(name, vars(node))
    kernel, padding = values.pair("kernel_size", 1), values.pair("padding", 0)
    return Pool(name, inputs, kernel, values.pair("stride", 1), padding, average)


STANDARD: dict[type[nir.NIRNode], Callable[[_Given], Understood]] = {
    nir.LIF: _lif,
    nir.IF: _if,
    nir.CubaLIF: _cuba_lif,
    nir.LI: _li,
    nir.I: _i,
    nir.CubaLI: _cuba_li,
    nir.Threshold: _threshold,
    nir.Delay: _delay,
    nir.Scale: _scale,
    nir.SumPool2d: _pool(average=False),
    nir.AvgPool2d: _pool(average=True),
}
"""The nodes that become pending ones."""
