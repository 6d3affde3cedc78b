"""The network as it lies on the chip's cores: every population cut into its slices, each a Process with its synapses.

network.json says under "cores" how the compiler cut each population, and which slice sends to which. Here each slice
becomes a population of its own (`NAME@CORE`) with listed synapses from the slices that send to it, and from no others:
what the mapping forgot is lost, as it would be on the chip. numpy only.
"""

import sys
from itertools import pairwise
from typing import Any

import numpy as np
from arithmetic import Synapses
from layer import FIELDS, payload_max

MOST_PROCESSES = 64
"""Each is a process of the operating system, of 80 to 110 MB."""

AT_ONCE = 256
"""Sources whose synapses are listed at once."""

SHARED_FIELDS = ("payload", "mixing")
"""Arrays of a population that hold nothing for single channels."""


def placed(
    network: dict[str, Any], arrays: dict[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, list[tuple[str, np.ndarray]]]]:
    """The network of slices, its arrays, and by population its slices: (name, the neurons it holds).

    Ends the program where the network has more slices than `MOST_PROCESSES` allows.
    """
    cores = network["cores"]
    if cores["slices"] >= MOST_PROCESSES:
        sys.exit(f"--placement: {cores['slices']} slices and the input are processes each; at most {MOST_PROCESSES}")
    slices = {spec["name"]: slices_of(spec, cores["populations"][spec["name"]]) for spec in network["populations"]}
    entry = network["input"]
    held = slices | {entry["name"]: [(entry["name"], np.arange(int(np.prod(entry["shape"]))))]}
    synapses, listed = _synapses(network, arrays, held)
    populations = []
    for spec in network["populations"]:
        for name, neurons in slices[spec["name"]]:
            if all(one["source"] == name for one in synapses if one["target"] == name):
                synapses.append(_no_synapses(entry["name"], name, len(neurons), listed))
            own = [one["name"] for one in synapses if one["target"] == name]
            populations.append(spec | {"name": name, "shape": [len(neurons)], "synapses": own})
            listed |= _constants(spec, arrays, name, neurons)
    return network | {"populations": populations, "synapses": synapses}, listed, slices


def slices_of(spec: dict[str, Any], cut: dict[str, Any]) -> list[tuple[str, np.ndarray]]:
    """Name and neurons (places in the flattened population) of every slice; cut: edges along each axis, and cores."""
    places = np.arange(int(np.prod(spec["shape"]))).reshape((*spec["shape"], 1, 1)[:3])
    ends = [list(pairwise(edges)) for edges in cut["edges"]]
    boxes = [(c, y, x) for c in ends[0] for y in ends[1] for x in ends[2]]
    return [
        (f"{spec['name']}@{core}", places[tuple(slice(*side) for side in box)].ravel())
        for core, box in zip(cut["cores"], boxes, strict=True)
    ]


def _constants(spec: dict[str, Any], arrays: dict[str, np.ndarray], name: str, neurons: np.ndarray) -> dict[str, Any]:
    """The arrays of a slice: what is given by channel for each neuron of it."""
    constants = {}
    for field in FIELDS:
        array = arrays.get(f"{spec['name']}.{field}")
        if array is not None:
            by_neuron = array if field in SHARED_FIELDS else spread(array, spec["shape"])[..., neurons]
            constants[f"{name}.{field}"] = by_neuron
    return constants


def spread(array: np.ndarray, shape: list[int]) -> np.ndarray:
    """(..., neurons) from (..., channels)."""
    return np.repeat(array, int(np.prod(shape[1:])), axis=-1)


def _synapses(
    network: dict[str, Any], arrays: dict[str, np.ndarray], held: dict[str, list[tuple[str, np.ndarray]]]
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Specs and arrays of the listed synapses between slices that the mapping joins."""
    specs: list[dict[str, Any]] = []
    listed: dict[str, np.ndarray] = {}
    target_of = {name: spec["name"] for spec in network["populations"] for name in spec["synapses"]}
    for spec in network["synapses"]:
        source, target = spec["source"], target_of[spec["name"]]
        weight, row, column = list_of(network, arrays, spec)
        row_slice, row_place = _whereabouts(held[target])
        column_slice, column_place = _whereabouts(held[source])
        for i, j in network["cores"]["links"][spec["name"]]:
            here = (column_slice[column] == i) & (row_slice[row] == j)
            name = f"{spec['name']}:{held[source][i][0]}>{held[target][j][0]}"
            one = _listed(name, held[source][i][0], held[target][j][0], len(held[target][j][1]))
            specs.append(one | {"delay_steps": spec["delay_steps"], "lag": spec["lag"], "lateral": source == target})
            listed |= {f"{name}.weight": weight[here], f"{name}.row": row_place[row[here]]}
            listed[f"{name}.column"] = column_place[column[here]]
    return specs, listed


def _listed(name: str, source: str, target: str, features: int) -> dict[str, Any]:
    """Spec of listed synapses between slices."""
    one = {"name": name, "source": source, "target": target, "kind": "sparse", "features": features}
    return one | {"exponent": 0, "pool": [1, 1], "members": 1, "delay_steps": 1}


def _no_synapses(source: str, target: str, features: int, listed: dict[str, np.ndarray]) -> dict[str, Any]:
    """A connection that carries nothing: Lava runs the Processes that are joined to the first, and no others."""
    one = _listed(f"nothing:{source}>{target}", source, target, features)
    listed |= {f"{one['name']}.{field}": np.zeros(0, np.int64) for field in ("weight", "row", "column")}
    return one


def _whereabouts(slices: list[tuple[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Of every neuron of a population: the slice that holds it, and its place there."""
    owner, place = np.zeros((2, sum(len(neurons) for _, neurons in slices)), np.int64)
    for number, (_, neurons) in enumerate(slices):
        owner[neurons], place[neurons] = number, np.arange(len(neurons))
    return owner, place


def list_of(
    network: dict[str, Any], arrays: dict[str, np.ndarray], spec: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """weight << exponent, target and source of every synapse whose weight is not 0: what one spike of each source does.

    Targets and sources are places in the flattened populations.
    """
    senders = {sender["name"]: sender for sender in (network["input"], *network["populations"])}
    source = senders[spec["source"]]
    given = {field: arrays[key] for field in ("row", "column") if (key := f"{spec['name']}.{field}") in arrays}
    synapses = Synapses(
        spec,
        arrays[f"{spec['name']}.weight"],
        tuple(source["shape"]),
        payload_max(source, arrays),
        np.int64,
        **given,
    )
    size, found = int(np.prod(source["shape"])), []
    for first in range(0, size, AT_ONCE):
        block = np.arange(first, min(first + AT_ONCE, size))
        spikes = np.zeros((len(block), size), np.int32)
        spikes[block - first, block] = 1
        reached = synapses.current(spikes)
        of, row = np.nonzero(reached)
        found.append((reached[of, row], row, block[of]))
    weight, row, column = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return weight, row, column
