"""What NIR's nodes say, step by step: a plain simulator to compare with, which shares no code with snncompile.

Euler's method: every node of a graph is evaluated in every step, in an order in which a node comes after those it
reads; what a neuron sends back to itself arrives a step later.
"""

from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]


def simulate(graph: nir.NIRGraph, order: list[str], frames: Array, dt: float) -> dict[str, Array]:
    """Every node's output (T, *shape) for input frames (T, *shape); `order` lists the nodes."""
    sources: dict[str, list[str]] = {name: [s for s, t in graph.edges if t == name] for name in graph.nodes}
    states: dict[str, dict[str, Any]] = {name: {} for name in graph.nodes}
    steps: dict[str, list[Array]] = {name: [] for name in graph.nodes}
    for t, frame in enumerate(frames):
        for name in order:
            node = graph.nodes[name]
            arriving: Any = 0.0
            for source in sources[name]:
                if len(steps[source]) > t:
                    arriving = arriving + steps[source][t]
                elif source in order[order.index(name) :] and t > 0:  # from itself, a step late
                    arriving = arriving + _lateral(graph, source, steps, t - 1)
                elif source in order[order.index(name) :]:
                    arriving = arriving + _lateral(graph, source, steps, None)
            steps[name].append(frame if isinstance(node, nir.Input) else _step(node, arriving, states[name], dt))
    return {name: np.stack(values) for name, values in steps.items()}


def _lateral(graph: nir.NIRGraph, name: str, steps: dict[str, list[Array]], t: int | None) -> Array:
    """Recurrent synapses on what their population sent in step t; None: before the sample."""
    (source,) = [s for s, target in graph.edges if target == name]
    node = graph.nodes[name]
    assert isinstance(node, nir.Affine | nir.Linear)
    sent = np.zeros(node.weight.shape[1]) if t is None else steps[source][t]
    return _step(node, sent, {}, 1.0)


def _step(node: nir.NIRNode, x: Any, state: dict[str, Any], dt: float) -> Array:
    kind = type(node).__name__
    return _STEPS[kind](node, np.asarray(x, np.float64), state, dt)


def _conv(node: Any, x: Array, state: dict[str, Any], dt: float) -> Array:
    function = torch.nn.functional.conv2d if node.weight.ndim == 4 else torch.nn.functional.conv1d

    def plain(value: Any) -> Any:
        return value if isinstance(value, str) else tuple(np.ravel(value).tolist())

    w, b = torch.tensor(node.weight, dtype=torch.float64), torch.tensor(node.bias, dtype=torch.float64)
    y = function(
        torch.tensor(x)[None], w, b, plain(node.stride), plain(node.padding), plain(node.dilation), int(node.groups)
    )
    return y[0].numpy()


def _pool(node: Any, x: Array, state: dict[str, Any], dt: float) -> Array:
    kernel, stride, padding = (tuple(np.ravel(v).tolist()) for v in (node.kernel_size, node.stride, node.padding))
    y = torch.nn.functional.avg_pool2d(torch.tensor(x)[None], kernel, stride, padding)[0].numpy()
    return y * np.prod(kernel) if isinstance(node, nir.SumPool2d) else y


def _fires(node: Any, v: Array, state: dict[str, Any]) -> Array:
    z = v > node.v_threshold
    state["v"] = np.where(z, node.v_reset, v)
    return z.astype(np.float64)


def _lif(node: Any, x: Array, state: dict[str, Any], dt: float) -> Array:
    v = state.get("v", 0.0)
    return _fires(node, v + dt / node.tau * (node.v_leak - v + node.r * x), state)


def _if(node: Any, x: Array, state: dict[str, Any], dt: float) -> Array:
    return _fires(node, state.get("v", 0.0) + dt * node.r * x, state)


def _current(node: Any, x: Array, state: dict[str, Any], dt: float) -> Any:
    i = state.get("i", 0.0)
    state["i"] = i + dt / node.tau_syn * (-i + node.w_in * x)
    return state["i"]


def _cuba_lif(node: Any, x: Array, state: dict[str, Any], dt: float) -> Array:
    i, v = _current(node, x, state, dt), state.get("v", 0.0)
    return _fires(node, v + dt / node.tau_mem * (node.v_leak - v + node.r * i), state)


def _li(node: Any, x: Array, state: dict[str, Any], dt: float) -> Array:
    v = state.get("v", 0.0)
    state["v"] = v + dt / node.tau * (node.v_leak - v + node.r * x)
    return np.asarray(state["v"])


def _cuba_li(node: Any, x: Array, state: dict[str, Any], dt: float) -> Array:
    i, v = _current(node, x, state, dt), state.get("v", 0.0)
    state["v"] = v + dt / node.tau_mem * (node.v_leak - v + node.r * i)
    return np.asarray(state["v"])


def _i(node: Any, x: Array, state: dict[str, Any], dt: float) -> Array:
    state["v"] = state.get("v", 0.0) + dt * node.r * x
    return np.asarray(state["v"])


def _delay(node: Any, x: Array, state: dict[str, Any], dt: float) -> Array:
    sent = state.setdefault("sent", [])
    sent.append(x)
    lags = np.broadcast_to(np.rint(node.delay / dt).astype(int), x.shape)
    past = [sent[len(sent) - 1 - lag] if lag < len(sent) else np.zeros_like(x) for lag in range(int(lags.max()) + 1)]
    return np.take_along_axis(np.stack(past), lags[None], 0)[0]


_STEPS: dict[str, Callable[[Any, Array, dict[str, Any], float], Array]] = {
    "Affine": lambda node, x, state, dt: node.weight @ x + node.bias,
    "Linear": lambda node, x, state, dt: node.weight @ x,
    "Scale": lambda node, x, state, dt: node.scale * x,
    "Conv1d": _conv,
    "Conv2d": _conv,
    "SumPool2d": _pool,
    "AvgPool2d": _pool,
    "Flatten": lambda node, x, state, dt: x.ravel(),
    "Threshold": lambda node, x, state, dt: (x > node.threshold).astype(np.float64),
    "Delay": _delay,
    "LIF": _lif,
    "IF": _if,
    "CubaLIF": _cuba_lif,
    "LI": _li,
    "CubaLI": _cuba_li,
    "I": _i,
    "Output": lambda node, x, state, dt: x,
}
