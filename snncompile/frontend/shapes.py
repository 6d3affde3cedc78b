"""Networks by their shapes alone, before anybody trains them: a YAML file of layers.

    timesteps: 4
    input: [3, 32, 32]                  # (channels, height, width), or [features]
    neuron: {levels: 1, reset: hard}    # of every layer that does not say its own; then also leak: 0.5
    layers:
      - {conv: 64, name: stem}          # kernel: 3, stride: 1, padding: kernel // 2, groups: 1
      - {pool: 2}                       # average
      - {conv: 64, add: [stem]}         # the spikes of `stem` are added to its input current: a residual connection
      - {linear: 10}                    # the last layer is the readout: it sums and never fires

Weights are random stand-ins (normal, variance 2 / fan-in, seed 0): what depends on their values, such as the width of
a state, is a guess; what depends on shapes alone is exact.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from snncompile.chip.reading import Document, Merged, validated
from snncompile.errors import CompileError, nearest
from snncompile.network import (
    Array,
    AvgPool2d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MultiThresholdLIF,
    Network,
    Node,
    Readout,
    verify,
)

Count = Annotated[int, Field(gt=0)]
LARGEST_WEIGHTS = 2**28
"""Weights that a file may ask for in all: 2 GiB of stand-ins."""


class _Keys(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NeuronShape(_Keys):
    """A neuron with thresholds 1, 2, ... `levels`."""

    levels: Annotated[int, Field(gt=0, le=255)] = 1
    reset: Literal["soft", "hard", "none"] = "soft"
    leak: Annotated[float, Field(gt=0, lt=2)] = 1.0


class LayerShape(_Keys):
    """One of conv (channels), linear (features) and pool (window)."""

    conv: Count | None = None
    linear: Count | None = None
    pool: Count | None = None
    name: Annotated[str, Field(min_length=1)] | None = None
    kernel: Count = 3
    stride: Count = 1
    padding: Annotated[int, Field(ge=0)] | None = None
    groups: Count = 1
    add: tuple[str, ...] = ()
    neuron: NeuronShape | None = None

    @model_validator(mode="after")
    def _is_one_of_three(self) -> "LayerShape":
        given = [key for key in ("conv", "linear", "pool") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"a layer has one of conv, linear and pool, this one {' and '.join(given) or 'none'}")
        allowed = {
            "conv": self.model_fields_set,
            "linear": {"linear", "name", "add", "neuron"},
            "pool": {"pool", "name"},
        }
        if more := self.model_fields_set - allowed[given[0]]:
            raise ValueError(f"{', '.join(sorted(more))} is not for a {given[0]} layer")
        return self


class NetworkShape(_Keys):
    """A whole file."""

    timesteps: Count
    input: Annotated[tuple[Count, ...], Field(min_length=1, max_length=3)]
    input_coding: Literal["direct", "events"] = "direct"
    neuron: NeuronShape = NeuronShape()
    layers: Annotated[tuple[LayerShape, ...], Field(min_length=1)]


def read_shapes(path: Path) -> Network:
    """The network that a file of shapes describes. Raises CompileError naming file, line and key, or the layer."""
    try:
        document = Document.parse(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise CompileError(str(path), f"cannot be read ({error})") from error
    hint = "docs/quick-start.md shows such a file"
    return network_of(validated(Merged((document,), document.data), NetworkShape, hint), str(path))


def network_of(shape: NetworkShape, where: str) -> Network:
    """Stand-in weights on the given shapes. Raises CompileError where they do not fit each other."""
    builder = _Builder(shape, where)
    for number, layer in enumerate(shape.layers):
        builder.add(number, layer, last=number == len(shape.layers) - 1)
    network = Network(tuple(builder.nodes), shape.timesteps)
    verify(network)
    return network


class _Builder:
    def __init__(self, shape: NetworkShape, where: str) -> None:
        if len(shape.input) == 2:
            raise CompileError(f"{where}: input", "has 2 axes", "give [channels, height, width] or [features]")
        self.where, self.neuron = where, shape.neuron
        self.nodes: list[Node] = [Input("input", (), shape.input, coding=shape.input_coding)]
        self.shapes: dict[str, tuple[int, ...]] = {"input": shape.input}
        self.named: dict[str, str] = {}
        self.weights = 0
        self.random = np.random.default_rng(0)

    @property
    def end(self) -> str:
        return self.nodes[-1].name

    def add(self, number: int, layer: LayerShape, last: bool) -> None:
        where = f"{self.where}: layers.{number}"
        name = layer.name or f"{number:02d}_{'conv' if layer.conv else 'linear' if layer.linear else 'pool'}"
        if name in self.named:
            raise CompileError(where, f"a second layer has the name {name!r}")
        if layer.pool is not None:
            if last:
                raise CompileError(where, "the last layer is a pool", "end with a linear or conv layer: the readout")
            self._append(where, AvgPool2d(name, (self.end,), (layer.pool, layer.pool)))
            self.named[name] = self.end
            return
        self._append(
            where, self._conv(where, name, layer) if layer.conv is not None else self._linear(where, name, layer)
        )
        added = tuple(self._named(where, source) for source in layer.add)
        inputs = (self.end, *added)
        if last:
            self._append(where, Readout(f"{name}_readout", inputs))
        else:
            self._append(where, _neuron(f"{name}_neuron", inputs, layer.neuron or self.neuron))
        self.named[name] = self.end

    def _append(self, where: str, node: Node) -> None:
        try:
            self.nodes.append(node)
            self.shapes = dict(Network(tuple(self.nodes), 1).shapes)
        except CompileError as error:
            raise CompileError(where, f"{error.where} {error.problem}", error.hint) from None

    def _named(self, where: str, name: str) -> str:
        if name not in self.named:
            raise CompileError(where, f"adds {name!r}, which is no layer before it", nearest(name, [*self.named]))
        return self.named[name]

    def _conv(self, where: str, name: str, layer: LayerShape) -> Conv2d:
        source = self.shapes[self.end]
        channels, out, groups = source[0], layer.conv or 0, layer.groups
        if channels % groups or out % groups:
            raise CompileError(where, f"{channels} to {out} channels do not divide into {groups} groups")
        kernel, padding = layer.kernel, layer.kernel // 2 if layer.padding is None else layer.padding
        weight = self._stand_in(where, (out, channels // groups, kernel, kernel))
        step, pad = (layer.stride, layer.stride), (padding, padding)
        return Conv2d(name, (self.end,), weight, np.zeros(out), step, pad, groups=groups)

    def _linear(self, where: str, name: str, layer: LayerShape) -> Linear:
        if len(self.shapes[self.end]) > 1:
            self._append(where, Flatten(f"{name}_flatten", (self.end,)))
        out, (features,) = layer.linear or 0, self.shapes[self.end]
        return Linear(name, (self.end,), self._stand_in(where, (out, features)), np.zeros(out))

    def _stand_in(self, where: str, shape: tuple[int, ...]) -> Array:
        fan_in = int(np.prod(shape[1:]))
        self.weights += shape[0] * fan_in
        if self.weights > LARGEST_WEIGHTS:
            raise CompileError(
                where, f"the layers have {self.weights:,} weights", f"at most {LARGEST_WEIGHTS:,} are taken"
            )
        values = self.random.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan_in))
        return values.astype(np.float64)


def _neuron(name: str, inputs: tuple[str, ...], shape: NeuronShape) -> MultiThresholdLIF:
    levels: Any = np.arange(1, shape.levels + 1, dtype=np.float64)
    return MultiThresholdLIF(name, inputs, levels, levels, levels, shape.leak, shape.reset, "ge")
