"""Containers known by type: their layers run in the order their forward runs them, and nothing of theirs is called."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from snncompile.errors import CompileError
from snncompile.frontend.torch import sinabs, spikingjelly
from snncompile.frontend.torch.layers import Layer
from snncompile.frontend.torch.reader import Reader, layer_name, merged, told, unmerged
from snncompile.frontend.torch.values import LEADS, LayoutError, Lead, Signal
from snncompile.frontend.untrusted import shown

MOST_LAYERS = 10_000
DEEPEST = 64
SEQUENTIAL = "torch.nn.modules.container.Sequential"
PER_STEP = "snncompile.nn.coding.PerStep"
RESIDUAL = "snncompile.nn.residual.Residual"
REPEAT, SINABS_NETWORK = sinabs.CONTAINERS
FOREIGN_CONTAINERS = (*spikingjelly.CONTAINERS, *sinabs.CONTAINERS, *sinabs.RESHAPING)
NOT_IN_PER_STEP = {
    PER_STEP: ("is a PerStep within a PerStep", "use nn.Sequential for the inner one"),
    RESIDUAL: ("stands within PerStep", "turn them round: Residual(PerStep(...))"),
}
How = Literal["plain", "merge", "merge_bt", "unroll"]


@dataclass(frozen=True)
class Leaf:
    """One layer to run, and whether it stands in a container that folds the time steps into the batch."""

    path: str
    module: nn.Module
    inside: bool

    @property
    def where(self) -> str:
        return _where(self.path, self.module)


@dataclass(frozen=True)
class Group:
    """A container's layers, and how it gives them its time steps."""

    where: str
    how: How
    branch: "Branch"


@dataclass(frozen=True)
class Fork:
    """A Residual, opened: the layers of its branches; no shortcut is the identity."""

    where: str
    body: "Branch"
    shortcut: "Branch | None"


@dataclass(frozen=True)
class Axes:
    """A layer of sinabs that joins or parts batch and time."""

    where: str
    lead: Any


Branch = tuple[Leaf | Group | Fork | Axes, ...]


def has_hooks(module: nn.Module) -> bool:
    """Whether a module calls something before or after its forward."""
    kinds = (vars(module).get(hooks) for hooks in ("_forward_hooks", "_forward_pre_hooks"))
    return any(hooks is not None and not (isinstance(hooks, dict) and not hooks) for hooks in kinds)


def is_container(module: nn.Module) -> bool:
    """Whether the layers of a live module are read rather than its forward followed."""
    name = layer_name(module)
    return name in (PER_STEP, RESIDUAL, *FOREIGN_CONTAINERS)


def run_container(reader: Reader, path: str, module: nn.Module, value: Any) -> Any:
    return run(reader, opened(module, path), value)


def opened(module: object, path: str = "") -> Branch:
    """The layers of a module in the order they run; raises CompileError for what is no layer or has hooks."""
    return tuple(_Walk().open(path, module))


def run(reader: Reader, branch: Branch, value: Any) -> Any:
    for step in branch:
        if isinstance(step, Fork):
            value = _forked(reader, step, value)
        elif isinstance(step, Group):
            value = _grouped(reader, step, value)
        elif isinstance(step, Axes):
            value = _reshaped(step, value)
        else:
            value = reader.layer(step.path, step.module, (value,))
            value = value[0] if isinstance(value, tuple) else value
    return value


def leaves(branch: Branch | None) -> Iterator[Leaf]:
    for step in branch or ():
        if isinstance(step, Fork):
            yield from leaves(step.body)
            yield from leaves(step.shortcut)
        elif isinstance(step, Group):
            yield from leaves(step.branch)
        elif isinstance(step, Leaf):
            yield step


class _Walk:
    """Opens containers, counting what it visits: a module may hold itself, or one layer many times."""

    def __init__(self) -> None:
        self.visited = 0

    def open(self, path: str, found: object, inside: bool = False, depth: int = 0) -> Iterator[Any]:
        where = _where(path, found)
        self.visited += 1
        if not isinstance(found, nn.Module):
            raise CompileError(where, "is not a layer")
        if self.visited > MOST_LAYERS or depth > DEEPEST:
            raise CompileError(
                "model", f"has more than {MOST_LAYERS} layers, or containers nested deeper than {DEEPEST}"
            )
        if has_hooks(found):
            problem = "has forward hooks, which may change what it computes"
            raise CompileError(where, problem, "remove them before saving")
        name = layer_name(found)
        if name in sinabs.RESHAPING:
            yield Axes(where, sinabs.RESHAPING[name])
            return
        how = _how(where, found)
        if how is None and name != RESIDUAL:
            yield Leaf(path, found, inside)
            return
        if inside and name in NOT_IN_PER_STEP:
            raise CompileError(where, *NOT_IN_PER_STEP[name])
        children = _children(where, found)
        if name == RESIDUAL:
            yield self._fork(path, where, children, depth + 1)
            return
        merges = how in ("merge", "merge_bt")
        branch = (self.open(_joined(path, n), c, inside or merges, depth + 1) for n, c in children.items())
        steps = tuple(step for steps in branch for step in steps)
        if how == "plain":
            yield from steps
        else:
            yield Group(where, how or "plain", steps)

    def _fork(self, path: str, where: str, children: dict[str, object], depth: int) -> Fork:
        if children.keys() != {"body", "shortcut"}:
            raise CompileError(where, "its branches are not body and shortcut")
        body = tuple(self.open(_joined(path, "body"), children["body"], depth=depth))
        if children["shortcut"] is None:
            return Fork(where, body, None)
        return Fork(where, body, tuple(self.open(_joined(path, "shortcut"), children["shortcut"], depth=depth)))


def _how(where: str, module: nn.Module) -> How | None:
    """How a container gives its layers the time steps; None for what is no container."""
    name = layer_name(module)
    fixed: dict[str, How] = {SEQUENTIAL: "plain", PER_STEP: "merge", REPEAT: "merge_bt", SINABS_NETWORK: "plain"}
    if name in fixed:
        return fixed[name]
    if name not in spikingjelly.CONTAINERS:
        return None
    if name.endswith("SeqToANNContainer"):
        return "merge"
    if name.endswith("MultiStepContainer"):
        return "unroll"
    if spikingjelly.step_mode(Layer(where, module)) == "s":
        return "plain"
    return "unroll" if vars(module).get("stateful") is True else "merge"


def _children(where: str, module: nn.Module) -> dict[str, object]:
    children = vars(module).get("_modules")
    if not isinstance(children, dict):
        raise CompileError(where, "has no list of layers")
    if layer_name(module) == SINABS_NETWORK:
        if children.get("spiking_model") is None:
            raise CompileError(where, "has no spiking_model")
        return {"spiking_model": children["spiking_model"]}
    return children


def _grouped(reader: Reader, group: Group, value: Any) -> Any:
    if group.how == "merge":
        return unmerged(group.where, run(reader, group.branch, merged(group.where, value)))
    wanted: Lead = "BT" if group.how == "merge_bt" else "TB"
    if not isinstance(value, Signal) or value.lead != wanted:
        lead = LEADS[value.lead] if isinstance(value, Signal) else told(value)
        raise LayoutError(group.where, f"gets {lead}", f"needed: {LEADS[wanted]}")
    inner = replace(value, lead="(BT)" if group.how == "merge_bt" else "step")
    outer, reader.unrolled = reader.unrolled, reader.unrolled or group.how == "unroll"
    result = run(reader, group.branch, inner)
    reader.unrolled = outer
    if not isinstance(result, Signal) or result.lead != inner.lead:
        raise CompileError(group.where, f"its layers give {told(result)}", "they must keep the time steps")
    return replace(result, lead=wanted, at=None)


def _reshaped(step: Axes, value: Any) -> Signal:
    wanted: Lead = "BT" if step.lead == "(BT)" else "(BT)"
    if not isinstance(value, Signal) or value.lead != wanted:
        lead = LEADS[value.lead] if isinstance(value, Signal) else told(value)
        raise LayoutError(step.where, f"gets {lead}", f"needed: {LEADS[wanted]}")
    return replace(value, lead=step.lead)


def _forked(reader: Reader, fork: Fork, value: Any) -> Any:
    body = run(reader, fork.body, value)
    shortcut = value if fork.shortcut is None else run(reader, fork.shortcut, value)
    if not isinstance(body, Signal) or not isinstance(shortcut, Signal) or body.lead != shortcut.lead:
        raise CompileError(fork.where, f"adds {told(body)} and {told(shortcut)}")
    if body.shape != shortcut.shape:
        side = "identity" if fork.shortcut is None else "shortcut"
        raise CompileError(
            fork.where,
            f"the body gives shape {body.shape}, the {side} {shortcut.shape}",
            "needed: equal shapes, e.g. a 1x1 convolution of the body's stride as the shortcut",
        )
    one, other = ({term.node for part in s.parts for term in part.terms} for s in (body, shortcut))
    if one & other:
        hint = "the body and the shortcut both hand on what they read: put a layer into one of them"
        raise CompileError(fork.where, "adds the same values twice", hint)
    parts = reader.graph.once(
        ("add", body.parts, shortcut.parts), lambda: reader.graph.added(fork.where, body.parts, shortcut.parts)
    )
    return replace(body, parts=parts)


def _where(path: str, module: object) -> str:
    return f"{path or 'model'} ({type(module).__name__})"


def _joined(path: str, name: str) -> str:
    return f"{path}.{shown(name, 40)}".lstrip(".")


__all__ = ["is_container", "leaves", "opened", "run", "run_container"]
