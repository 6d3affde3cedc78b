"""Folds what NIR has and our network has not (`pending`) into neurons and synapses."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from snncompile.errors import CompileError
from snncompile.frontend.nir.linear_maps import composed, pooling
from snncompile.frontend.nir.pending import (
    Comparison,
    Delayed,
    Gain,
    Gained,
    Integrator,
    Pool,
    pending_shape,
    per_channel,
)
from snncompile.network import (
    NO_MEMORY,
    SYNAPSES,
    Array,
    AvgPool2d,
    BatchNorm,
    Flatten,
    Input,
    MultiThresholdLIF,
    Node,
    Readout,
    Shape,
    Synapses,
    one_to_one,
    scaled,
)

SPIKES = (Input, MultiThresholdLIF, Comparison)
PASSIVE = (AvgPool2d, Flatten)
"""Nodes through which spikes stay spikes."""


MOST_NODES = 5_000
"""Nodes of a network; sums without neurons between them multiply."""
MOST_DELAYS = 256
"""Different delays behind one population."""


@dataclass(frozen=True)
class Draft:
    """Nodes in topological order, lateral synapses after their population, with the shape of each one's output."""

    nodes: tuple[Node, ...]
    shapes: Mapping[str, Shape]

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        return {node.name: node for node in self.nodes}

    def __getitem__(self, name: str) -> Node:
        return self.by_name[name]

    def users(self, name: str) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if name in node.inputs)

    def of(self, *kinds: type[Node]) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if isinstance(node, kinds))

    def exchanging(self, name: str, nodes: Iterable[Node]) -> "Draft":
        """The draft with `nodes` where the node `name` stood; those that read it read them all, if it is gone."""
        new = tuple(nodes)
        gone = all(node.name != name for node in new)
        listed: list[Node] = []
        for node in self.nodes:
            listed += new if node.name == name else [node]
        names = tuple(node.name for node in new)
        rewired = tuple(_reading(node, name, names) if gone else node for node in listed)
        shapes = dict(self.shapes)
        for node in rewired:
            if node.name not in shapes:
                shapes[node.name] = pending_shape(node, [shapes[i] for i in node.inputs if i in shapes])
        return Draft(rewired, shapes)

    def without_unread(self) -> "Draft":
        """The draft without synapses and pools that nobody reads."""
        kept = self.nodes
        while True:
            read = {name for node in kept for name in node.inputs}
            left = tuple(n for n in kept if n.name in read or not isinstance(n, (*SYNAPSES, *PASSIVE)))
            if len(left) == len(kept):
                return Draft(kept, self.shapes)
            kept = left


def _reading(node: Node, name: str, names: tuple[str, ...]) -> Node:
    """The node reading `names` where it read `name`, none of them twice."""
    if name not in node.inputs:
        return node
    inputs = tuple(new for old in node.inputs for new in (names if old == name else (old,)))
    return replace(node, inputs=tuple(dict.fromkeys(inputs)))


def settled(draft: Draft) -> Draft:
    """The draft in nodes of `network` alone; raises CompileError naming what cannot be folded."""
    linear = (_pools, _gains, _delays, _sums, _compositions, _recurrences)
    for step in (*linear, _comparisons, _integrators, _neurons, _selves):
        draft = step(draft)
    return draft.without_unread()


def _pools(draft: Draft) -> Draft:
    for pool in draft.of(Pool):
        assert isinstance(pool, Pool)
        _one_input(pool)
        source = pool.inputs[0]
        tiles = pool.stride == pool.kernel and pool.padding == (0, 0)
        pooled_again = any(isinstance(user, Pool) for user in draft.users(pool.name))
        if pool.average and tiles and not pooled_again and _are_spikes(draft, source):
            made: Node = AvgPool2d(pool.name, pool.inputs, pool.kernel)
        else:
            channels = draft.shapes[source][0]
            made = pooling(pool.name, source, channels, pool.kernel, pool.stride, pool.padding, pool.average)
        draft = draft.exchanging(pool.name, [made])
    return draft


def _are_spikes(draft: Draft, name: str) -> bool:
    node = draft[name]
    while isinstance(node, PASSIVE):
        node = draft[node.inputs[0]]
    return isinstance(node, SPIKES)


def _gains(draft: Draft) -> Draft:
    for gain in draft.of(Gain):
        assert isinstance(gain, Gain)
        _one_input(gain)
        source = draft[gain.inputs[0]]
        if gain.values.size > 1 and np.ptp(gain.values.reshape(len(gain.values), -1), axis=1).any():
            draft = _neuron_gains(draft, gain)
            continue
        values = per_channel(gain.name, "scale", gain.values, draft.shapes[source.name])
        weight = np.broadcast_to(np.asarray(values), draft.shapes[source.name][:1])
        draft = draft.exchanging(gain.name, [one_to_one(gain.name, source.name, weight)])
    return draft


def _neuron_gains(draft: Draft, gain: Gain) -> Draft:
    """A value a neuron of an image, folded into the linear layers that read it flattened."""
    flat = gain.values.ravel()
    for reader in draft.users(gain.name):
        layers = draft.users(reader.name)
        if not isinstance(reader, Flatten) or not all(isinstance(s, SYNAPSES) and s.pool == (1, 1) for s in layers):
            raise CompileError(
                gain.name, "scales the neurons of one channel differently", "needed: one value a channel"
            )
        for layer in layers:
            assert isinstance(layer, SYNAPSES)
            first = one_to_one(gain.name, reader.name, flat)
            made = composed(layer.name, first, layer, flat.shape)
            draft = draft.exchanging(layer.name, [replace(made, inputs=layer.inputs)])
    return _bypassed(draft, gain)


def _bypassed(draft: Draft, node: Node) -> Draft:
    """The draft without a node of one input: those that read it read its source."""
    kept = tuple(_reading(n, node.name, node.inputs) for n in draft.nodes if n.name != node.name)
    return Draft(kept, draft.shapes)


def _delays(draft: Draft) -> Draft:
    """Delays as one-to-one synapses with a lag, one layer for every delay there is."""
    for node in draft.of(Delayed):
        assert isinstance(node, Delayed)
        _one_input(node)
        source = node.inputs[0]
        shape = draft.shapes[source]
        steps = per_channel(node.name, "delay", node.steps.astype(np.float64), shape)
        per = np.broadcast_to(np.asarray(steps), shape[:1])
        lags = np.unique(per).astype(int).tolist()
        if len(lags) > MOST_DELAYS:
            raise CompileError(node.name, f"delays by {len(lags)} different times", f"at most {MOST_DELAYS}")
        made = [
            replace(one_to_one(_lag_name(node.name, lag, lags), source, (per == lag).astype(np.float64)), lag=lag)
            for lag in lags
        ]
        draft = draft.exchanging(node.name, made)
    return draft


def _lag_name(name: str, lag: int, lags: list[int]) -> str:
    return name if len(lags) == 1 else f"{name}_{lag}"


def _sums(draft: Draft) -> Draft:
    """W (x + y) + b = (W x + b) + W y: synapses of several inputs become a layer for each; likewise a Flatten."""
    while summing := next((n for n in draft.of(*SYNAPSES, Flatten) if len(n.inputs) > 1), None):
        copies: list[Node] = []
        for i, source in enumerate(summing.inputs):
            one = replace(summing, name=summing.name if i == 0 else f"{summing.name}_of_{source}", inputs=(source,))
            copies.append(replace(one, bias=0 * one.bias) if i and isinstance(one, SYNAPSES) else one)
        readers = draft.users(summing.name)
        extra = tuple(copy.name for copy in copies[1:])
        draft = draft.exchanging(summing.name, copies)
        if len(draft.nodes) > MOST_NODES:
            raise CompileError(summing.name, f"adds up ways that need more than {MOST_NODES} layers", "add neurons")
        for reader in readers:
            wider = replace(draft[reader.name], inputs=tuple(dict.fromkeys((*draft[reader.name].inputs, *extra))))
            draft = draft.exchanging(reader.name, [wider])
    return draft


def _compositions(draft: Draft) -> Draft:
    """Synapses that read synapses, as they are or flattened, become one layer."""
    while found := next(filter(None, (_in_a_row(draft, node) for node in draft.of(*SYNAPSES))), None):
        first, second = found
        made = composed(second.name, first, second, draft.shapes[first.inputs[0]])
        draft = draft.exchanging(second.name, [made]).without_unread()
    return draft


def _in_a_row(draft: Draft, node: Node) -> tuple[Synapses, Synapses] | None:
    """The synapses that a layer of synapses reads, as they are or flattened, and that layer."""
    before = draft[node.inputs[0]]
    first = draft[before.inputs[0]] if isinstance(before, Flatten) else before
    return (first, node) if isinstance(first, SYNAPSES) and isinstance(node, SYNAPSES) else None


def _recurrences(draft: Draft) -> Draft:
    """What a population sends itself takes a step as it is: a delay of d steps is a lag of d - 1."""
    for node in draft.of(*SYNAPSES):
        assert isinstance(node, SYNAPSES)
        if node.lag and node.name in draft[node.inputs[0]].inputs:
            draft = draft.exchanging(node.name, [replace(node, lag=node.lag - 1)])
    return draft


def _comparisons(draft: Draft) -> Draft:
    """A comparison is a population that keeps nothing; at a threshold of 0 or less it is driven up to 1."""
    for node in draft.of(Comparison):
        assert isinstance(node, Comparison)
        threshold = np.atleast_1d(np.asarray(node.threshold))
        drive = None
        if (threshold <= 0).any():
            if _counts_spikes(draft, node) and not threshold.any():
                threshold = np.full(1, 0.5)
            else:
                channels = draft.shapes[node.name][:1]
                drive = np.broadcast_to(np.where(threshold > 0, 0.0, 1 - threshold), channels).copy()
                threshold = np.where(threshold > 0, threshold, 1.0)
        levels = threshold[None] if threshold.size > 1 else threshold
        made = MultiThresholdLIF(
            node.name, node.inputs, levels, np.ones(1), levels, NO_MEMORY, "hard", "gt", drive=drive
        )
        draft = draft.exchanging(node.name, [made])
    return draft


def _counts_spikes(draft: Draft, node: Comparison) -> bool:
    """Whether the inputs are whole numbers, 0 or more: sums of binary spikes."""
    for name in node.inputs:
        source = draft[name]
        if isinstance(source, SYNAPSES):
            whole = (
                not source.bias.any() and (source.weight >= 0).all() and (source.weight == np.rint(source.weight)).all()
            )
            if not whole:
                return False
            source = draft[source.inputs[0]]
        while isinstance(source, Flatten):
            source = draft[source.inputs[0]]
        if isinstance(source, MultiThresholdLIF):
            if not (source.payload == np.rint(source.payload)).all():
                return False
        elif not isinstance(source, Comparison) and not (isinstance(source, Input) and source.coding == "events"):
            return False
    return True


def _integrators(draft: Draft) -> Draft:
    """The integrator before the Output is its leaky sum: v[T] = sum of leak^(T-t) (gain x[t] + drive)."""
    for node in draft.of(Integrator):
        assert isinstance(node, Integrator)
        readers = draft.users(node.name)
        if len(readers) != 1 or not isinstance(readers[0], Readout) or readers[0].inputs != (node.name,):
            read = ", ".join(f"{reader.name} ({_kind(reader)})" for reader in readers)
            raise CompileError(
                node.name, f"integrates without firing, and is read by {read}", "supported right before the Output"
            )
        draft = _amplified(draft, node, np.asarray(node.gain))
        integrator = draft[node.name]
        if (drive := np.asarray(node.drive)).any():
            draft = _driven(draft, integrator, drive)
        readout = replace(draft[readers[0].name], inputs=draft[node.name].inputs)
        without = Draft(tuple(n for n in draft.nodes if n.name != node.name), draft.shapes)
        draft = without.exchanging(readout.name, [readout])
    return draft


def _driven(draft: Draft, node: Node, drive: Array) -> Draft:
    first = next((draft[name] for name in node.inputs if isinstance(draft[name], SYNAPSES)), None)
    if not isinstance(first, SYNAPSES):
        raise CompileError(node.name, "has a v_leak and reads spikes directly", "put a linear layer before it")
    return draft.exchanging(first.name, [replace(first, bias=first.bias + drive)])


def _neurons(draft: Draft) -> Draft:
    """The gain of a population goes into what ends in it."""
    for node in draft.of(Gained):
        assert isinstance(node, Gained)
        draft = _amplified(draft, node, np.asarray(node.gain))
        plain = {f.name: getattr(draft[node.name], f.name) for f in fields(MultiThresholdLIF)}
        draft = draft.exchanging(node.name, [MultiThresholdLIF(**plain)])
    return draft


def _amplified(draft: Draft, node: Node, gain: Array) -> Draft:
    """Everything that ends in `node` times `gain`, () or (channels,)."""
    if (gain == 1).all():
        return draft
    for name in draft[node.name].inputs:
        source, own = draft[name], len(draft.users(name)) == 1
        shared = f"{name}_into_{node.name}"
        if isinstance(source, SYNAPSES):
            made: Node = scaled(replace(source, name=name if own else shared), gain)
        elif isinstance(source, BatchNorm) and own:
            made = replace(source, gamma=source.gamma * gain, beta=source.beta * gain)
        elif isinstance(source, BatchNorm):
            raise CompileError(name, f"is read by {node.name} and others", "a batch norm has one reader")
        else:
            made = one_to_one(shared, name, np.broadcast_to(gain, draft.shapes[name][:1]))
        if made.name == name:
            draft = draft.exchanging(name, [made])
            continue
        draft = draft.exchanging(name, [source, made])
        draft = draft.exchanging(node.name, [_reading(draft[node.name], name, (made.name,))])
    return draft


def _selves(draft: Draft) -> Draft:
    """A population that reads itself reads itself through synapses of weight 1."""
    for node in draft.of(MultiThresholdLIF):
        if node.name in node.inputs:
            name = f"{node.name}_from_itself"
            identity = one_to_one(name, node.name, np.ones(draft.shapes[node.name][0]))
            draft = draft.exchanging(node.name, [_reading(node, node.name, (name,)), identity])
    return draft


def _one_input(node: Node) -> None:
    if len(node.inputs) > 1:
        raise CompileError(
            node.name, f"a {_kind(node)} has {len(node.inputs)} inputs, needs 1", "currents add up in a neuron"
        )


def _kind(node: Node) -> str:
    names = {Gain: "Scale", Delayed: "Delay", Comparison: "Threshold", Gained: "neuron", Pool: "pool"}
    return names.get(type(node), node.kind)
