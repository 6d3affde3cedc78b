"""The files a run reads and writes. What is wrong with the user's file ends the program with one line."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from encoding import Encoder

HERE = Path(__file__).resolve().parent


def read_network() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """network.json, and the arrays of weights.npz by name: CONNECTION.weight, POPULATION.bias, .v0, .thresholds, ..."""
    return json.loads((HERE / "network.json").read_text()), read_arrays(HERE / "weights.npz")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def read_data(
    path: Path, network: dict[str, Any], arrays: dict[str, np.ndarray], limit: int | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Input payloads, integers (N, *shape) or, a frame a time step, (N, T, *shape), and labels (N,) or None.

    The file holds payloads as they are sent, or data x, which `Encoder` makes payloads of.
    """
    try:
        data = read_arrays(path)
    except (OSError, ValueError) as error:
        sys.exit(f"--data: {path} cannot be read: {error}")
    if "payloads" not in data and "x" not in data:
        sys.exit(f"--data: {path} holds {', '.join(data)}; needs x (values) or payloads (integers)")
    try:
        payloads = data["payloads"][:limit] if "payloads" in data else Encoder(network, arrays)(data["x"][:limit])
        check_payloads(payloads, network)
    except ValueError as error:
        sys.exit(f"--data: {path}: {error}")
    labels = data["y"][:limit] if "y" in data else None
    if labels is not None and labels.shape != (len(payloads),):
        sys.exit(f"--data: {path}: y has shape {labels.shape}; needs ({len(payloads)},), one label a sample")
    return payloads, labels


def check_payloads(payloads: np.ndarray, network: dict[str, Any]) -> None:
    """Raises ValueError, in one line, for payloads that the network's input cannot send."""
    entry, frames = network["input"], network["timesteps"] // network["microsteps"]
    shape = tuple(entry["shape"])
    if payloads.shape[1:] not in (shape, (frames, *shape)) or not len(payloads):
        needed = ", ".join(map(str, shape))
        raise ValueError(
            f"payloads of shape {payloads.shape}; needs (N, {needed}) or (N, {frames}, {needed}) with N > 0"
        )
    if payloads.dtype.kind not in "iu":
        raise ValueError(f"payloads of type {payloads.dtype}; needs integers")
    low = -entry["payload_max"] if entry["kind"] == "currents" else 0
    if payloads.min() < low or payloads.max() > entry["payload_max"]:
        raise ValueError(
            f"payloads from {payloads.min()} to {payloads.max()}; allowed: {low} to {entry['payload_max']}"
        )


def save(path: Path, result: Any, startup_s: float) -> None:
    """Writes output and prediction (N, ...), payloads/NAME and membranes/NAME (T, N, *shape), and the times."""
    np.savez(
        path,
        output=result.output,
        prediction=result.output.argmax(1),
        steps=result.steps,
        wall_s=result.wall_s,
        startup_s=startup_s,
        **{f"payloads/{name}": payloads for name, payloads in result.payloads.items()},
        **{f"membranes/{name}": membranes for name, membranes in result.membranes.items()},
    )
