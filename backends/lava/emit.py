"""Writes the stand-alone Lava program: the files of `emitted/` verbatim, the network as .json and .npz."""

import io
import json
from collections.abc import Mapping
from dataclasses import fields
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snncompile.quant_network import IntArray, Population, QuantNetwork, QuantSynapses

PROGRAM_FILES = (
    "README.md",
    "arithmetic.py",
    "compat.py",
    "files.py",
    "processes.py",
    "run.py",
    "simulation.py",
    "watch.py",
)
FORMAT = 1
"""Version of network.json and weights.npz; counts up when a reader must change."""


def emit(network: QuantNetwork, input_scale: float) -> dict[str, bytes]:
    """The files of the sealed directory's `lava/`, by path; the same network gives the same bytes.

    input_scale: value of one unit of stored data; a payload is rint(x * input_scale * input_payload_max).
    """
    emitted = files(f"{__package__}.emitted")
    program = {f"lava/{name}": emitted.joinpath(name).read_bytes() for name in PROGRAM_FILES}
    described = json.dumps(describe(network, input_scale), indent=1, sort_keys=True)
    return program | {
        "lava/network.json": f"{described}\n".encode(),
        "lava/weights.npz": npz_bytes(network_arrays(network)),
    }


def describe(network: QuantNetwork, input_scale: float) -> dict[str, object]:
    """Topology, shapes and scalars for network.json; a key is a field of QuantSynapses or Population."""
    return {
        "format": FORMAT,
        "timesteps": network.timesteps,
        "input": {
            "name": network.input_name,
            "shape": network.input_shape,
            "payload_max": network.input_payload_max,
            "scale": float(input_scale),
        },
        "synapses": [_scalars(synapses) for synapses in network.synapses],
        "populations": [_scalars(population) for population in network.populations],
    }


def network_arrays(network: QuantNetwork) -> dict[str, IntArray]:
    """SYNAPSES.weight and POPULATION.bias, .v0, .thresholds, .subtract, .payload."""
    nodes: tuple[QuantSynapses | Population, ...] = (*network.synapses, *network.populations)
    return {f"{node.name}.{name}": array for node in nodes for name, array in _arrays(node).items()}


def _scalars(node: QuantSynapses | Population) -> dict[str, object]:
    arrays = _arrays(node)
    return {field.name: getattr(node, field.name) for field in fields(node) if field.name not in arrays}


def _arrays(node: QuantSynapses | Population) -> dict[str, IntArray]:
    values = ((field.name, getattr(node, field.name)) for field in fields(node))
    return {name: value for name, value in values if isinstance(value, np.ndarray)}


def npz_bytes(arrays: Mapping[str, IntArray]) -> bytes:
    """An uncompressed .npz of the narrowest integers that hold the values; numpy writes no dates into it."""
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **{name: narrowed(arrays[name]) for name in sorted(arrays)})
    return stream.getvalue()


def narrowed(array: IntArray) -> NDArray[np.signedinteger[Any]]:
    """The array in the narrowest little-endian signed type that holds its values, in C order."""
    low, high = int(array.min(initial=0)), int(array.max(initial=0))
    width = next(w for w in (1, 2, 4, 8) if -(1 << (8 * w - 1)) <= low and high < 1 << (8 * w - 1))
    return np.ascontiguousarray(array, dtype=f"<i{width}")
