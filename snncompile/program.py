"""The placed program: integer network, host scales, cores, placement; and its plain form for the sealed directory."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from snncompile.chip import Chip
from snncompile.encoding import Encoder
from snncompile.mapping.partition import RESOURCES, CoreGraph, Grid
from snncompile.mapping.place import Placement
from snncompile.quant_network import IntArray, Population, QuantNetwork, QuantSynapses
from snncompile.quantization.quantize import HostScales

InputCoding = Literal["direct", "rate"]

Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Provenance:
    """What a program was made from and how: all that is needed to make it again."""

    model_sha256: str
    versions: Mapping[str, str]
    passes: tuple[str, ...]
    weight_bits: int
    """Of the layers that `bits` does not name."""
    rounding: str
    bits: Mapping[str, int]
    lowering_mode: str
    input_coding: InputCoding
    lowering: Mapping[str, Mapping[str, str]]
    """Per population: how its neurons were lowered and the exactness class of that."""
    remedies: tuple[Mapping[str, Any], ...] = ()
    """What was done so that every layer fits (`mapping.fit.Remedy`), in order."""
    orders: Mapping[str, IntArray] = field(default_factory=dict, compare=False)
    """By population whose neurons were renumbered (neurons,): the trained number of the one at each place."""
    ordering: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What orders save, by population that was looked at (`mapping.orders.Ordering.told`)."""
    contract: tuple[Mapping[str, str], ...] = ()
    """What was understood of each node of the model (`contract.NodeContract`)."""


@dataclass(frozen=True, eq=False)
class Program:
    """A network placed on a chip."""

    target: str
    chip: Chip
    network: QuantNetwork
    host: HostScales
    core_graph: CoreGraph
    placement: Placement
    provenance: Provenance

    @cached_property
    def neurons(self) -> int:
        return sum(population.size for population in self.network.populations)

    def encode(self, x: NDArray[np.generic], where: str = "x") -> IntArray:
        """Input payloads of data x (`encoding.Encoder`); raises CompileError where x is not what the network takes."""
        return self.host.encoder(x, where)


def to_plain(program: Program) -> tuple[dict[str, Any], Arrays]:
    """JSON-ready description and named arrays; `from_plain` is its inverse."""
    arrays: Arrays = {}
    network = program.network
    description = {
        "target": program.target,
        "chip": program.chip.model_dump(mode="json"),
        "network": {
            "input": {
                "name": network.input_name,
                "shape": network.input_shape,
                "payload_max": network.input_payload_max,
            },
            "timesteps": network.timesteps,
            "microsteps": network.microsteps,
            "input_kind": network.input_kind,
            "synapses": [_plain(s, f"synapses.{s.name}", arrays) for s in network.synapses],
            "populations": [_plain(p, f"populations.{p.name}", arrays) for p in network.populations],
        },
        "host": {"output_scale": program.host.output_scale, "encoder": _plain_encoder(program.host.encoder, arrays)},
        "grids": {name: [edges.tolist() for edges in grid.axes] for name, grid in program.core_graph.grids.items()},
        "formats": program.core_graph.formats,
        "shared_lists": program.core_graph.shared,
        "placement": {axis: getattr(program.placement, axis).tolist() for axis in ("chip", "x", "y", "slot")},
        "provenance": {
            declared.name: getattr(program.provenance, declared.name)
            for declared in fields(Provenance)
            if declared.name != "orders"
        },
    }
    arrays["cores.core_of"] = narrowed(program.core_graph.core_of)
    for resource in RESOURCES:
        arrays[f"cores.usage.{resource}"] = narrowed(program.core_graph.usage[resource])
    for name, order in program.provenance.orders.items():
        arrays[f"orders.{name}"] = narrowed(order)
    for name, scale in program.host.state.items():
        arrays[f"host.state.{name}"] = scale
    return description, arrays


def _plain_encoder(encoder: Encoder, arrays: Arrays) -> dict[str, Any]:
    if encoder.bias is not None:
        arrays["encoder.bias"] = narrowed(encoder.bias)
    scalars = ("kind", "scale", "shape", "timesteps", "payload_max", "shift")
    synapses = [_plain(s, f"encoder.synapses.{s.name}", arrays) for s in encoder.synapses]
    return {**{name: getattr(encoder, name) for name in scalars}, "synapses": synapses}


def _encoder(plain: dict[str, Any], arrays: Mapping[str, NDArray[np.generic]]) -> Encoder:
    restored = [QuantSynapses(**_restored(s, f"encoder.synapses.{s['name']}", arrays)) for s in plain["synapses"]]
    bias = np.asarray(arrays["encoder.bias"], np.int64) if "encoder.bias" in arrays else None
    return Encoder(**{**plain, "shape": tuple(plain["shape"]), "synapses": tuple(restored), "bias": bias})


def _plain(item: QuantSynapses | Population, prefix: str, arrays: Arrays) -> dict[str, Any]:
    plain = {}
    for declared in fields(item):
        value = getattr(item, declared.name)
        if isinstance(value, np.ndarray):
            arrays[f"{prefix}.{declared.name}"] = narrowed(value)
        else:
            plain[declared.name] = value
    return plain


def narrowed(values: IntArray) -> NDArray[np.signedinteger[Any]]:
    """The same integers in the narrowest signed type that holds them."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    kind = next(
        t for t in (np.int8, np.int16, np.int32, np.int64) if np.iinfo(t).min <= low and high <= np.iinfo(t).max
    )
    return values.astype(kind)


def from_plain(description: dict[str, Any], arrays: Mapping[str, NDArray[np.generic]]) -> Program:
    """A program from what `to_plain` gave."""
    net = description["network"]
    network = QuantNetwork(
        input_name=net["input"]["name"],
        input_shape=tuple(net["input"]["shape"]),
        input_payload_max=net["input"]["payload_max"],
        synapses=tuple(QuantSynapses(**_restored(s, f"synapses.{s['name']}", arrays)) for s in net["synapses"]),
        populations=tuple(Population(**_restored(p, f"populations.{p['name']}", arrays)) for p in net["populations"]),
        timesteps=net["timesteps"],
        microsteps=net["microsteps"],
        input_kind=net["input_kind"],
    )
    scales = {p.name: f"host.state.{p.name}" for p in network.populations}  # none of what remedies added
    state = {name: np.asarray(arrays[key], np.float64) for name, key in scales.items() if key in arrays}
    grids = {name: Grid(*(np.array(edges) for edges in axes)) for name, axes in description["grids"].items()}
    core_of = np.asarray(arrays["cores.core_of"], np.int64)
    usage = {resource: np.asarray(arrays[f"cores.usage.{resource}"], np.int64) for resource in RESOURCES}
    made = description["provenance"]
    ordered = {p.name: f"orders.{p.name}" for p in network.populations}
    orders = {name: np.asarray(arrays[key], np.int64) for name, key in ordered.items() if key in arrays}
    return Program(
        target=description["target"],
        chip=Chip.model_validate(description["chip"]),
        network=network,
        host=HostScales(_encoder(description["host"]["encoder"], arrays), state, description["host"]["output_scale"]),
        core_graph=CoreGraph(grids, core_of, usage, description["formats"], tuple(description["shared_lists"])),
        placement=Placement(**{axis: np.array(values) for axis, values in description["placement"].items()}),
        provenance=Provenance(
            **{
                **made,
                "passes": tuple(made["passes"]),
                "remedies": tuple(made["remedies"]),
                "contract": tuple(made.get("contract", ())),
                "orders": orders,
            }
        ),
    )


def _restored(plain: dict[str, Any], prefix: str, arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, Any]:
    tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
    stored = {
        key.removeprefix(f"{prefix}."): value for key, value in arrays.items() if key.rpartition(".")[0] == prefix
    }
    return {**tuples, **stored}
