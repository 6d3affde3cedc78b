"""Writes the stand-alone Lava program: the files of `emitted/` verbatim, the network as .json and .npz."""

import json
from dataclasses import fields
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snncompile.encoding import Encoder
from snncompile.mapping.partition import CoreGraph
from snncompile.program import narrowed
from snncompile.quant_network import IntArray, Population, QuantNetwork, QuantSynapses
from snncompile.sealed import npz_bytes

from .slices import cut
from .stock import fused_because

PROGRAM_FILES = (
    "README.md",
    "arithmetic.py",
    "compat.py",
    "dynamics.py",
    "encoding.py",
    "files.py",
    "layer.py",
    "placement.py",
    "processes.py",
    "run.py",
    "simulation.py",
    "stock.py",
    "watch.py",
)
FORMAT = 6
"""Version of network.json and weights.npz; counts up when a reader must change."""


def emit(network: QuantNetwork, encoder: Encoder, graph: CoreGraph) -> dict[str, bytes]:
    """The files of the sealed directory's `lava/`, by path; the same network gives the same bytes.

    encoder: what makes payloads of data; the program encodes by the same rules. graph: the core slices.
    """
    emitted = files(f"{__package__}.emitted")
    program = {f"lava/{name}": emitted.joinpath(name).read_bytes() for name in PROGRAM_FILES}
    described = json.dumps(describe(network, encoder) | {"cores": cut(network, graph)}, indent=1, sort_keys=True)
    arrays = network_arrays(network) | encoder_arrays(network, encoder)
    return program | {"lava/network.json": f"{described}\n".encode(), "lava/weights.npz": npz_bytes(arrays)}


def describe(network: QuantNetwork, encoder: Encoder) -> dict[str, object]:
    """Topology, shapes and scalars for network.json; a key is a field of QuantSynapses, Population or Encoder."""
    return {
        "format": FORMAT,
        "timesteps": network.timesteps,
        "microsteps": network.microsteps,
        "input": {
            "name": network.input_name,
            "shape": network.input_shape,
            "payload_max": network.input_payload_max,
            "kind": network.input_kind,
        },
        "encoder": _scalars(encoder) | {"synapses": [_scalars(synapses) for synapses in encoder.synapses]},
        "synapses": [_scalars(synapses) for synapses in network.synapses],
        "populations": [
            _scalars(population) | {"waits": population.waits, "fused_because": fused_because(network, population)}
            for population in network.populations
        ],
    }


def network_arrays(network: QuantNetwork) -> dict[str, NDArray[np.generic]]:
    """SYNAPSES.weight and POPULATION.bias, .v0, .thresholds, .subtract, .payload, as narrow as the values allow.

    POPULATION.mixing is there only where the population mixes steps, SYNAPSES.row and .column where they are sparse.
    """
    nodes: tuple[QuantSynapses | Population, ...] = (*network.synapses, *network.populations)
    return {f"{node.name}.{name}": narrowed(array) for node in nodes for name, array in _arrays(node).items()}


def encoder_arrays(network: QuantNetwork, encoder: Encoder) -> dict[str, NDArray[np.generic]]:
    """What the host computes with: SYNAPSES.host_weight (sparse: .host_row, .host_column), INPUT.host_bias.

    Fields that no node on the chip has.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    for synapses in encoder.synapses:
        arrays |= {f"{synapses.name}.host_{name}": narrowed(array) for name, array in _arrays(synapses).items()}
    if encoder.bias is not None:
        arrays[f"{network.input_name}.host_bias"] = narrowed(encoder.bias)
    return arrays


def _scalars(node: QuantSynapses | Population | Encoder) -> dict[str, object]:
    return {name: value for name, value in _values(node).items() if not isinstance(value, np.ndarray)}


def _arrays(node: QuantSynapses | Population) -> dict[str, IntArray]:
    return {name: value for name, value in _values(node).items() if isinstance(value, np.ndarray)}


def _values(node: QuantSynapses | Population | Encoder) -> dict[str, Any]:
    """The fields by name; what is None (no mixing) is left out."""
    return {field.name: value for field in fields(node) if (value := getattr(node, field.name)) is not None}
