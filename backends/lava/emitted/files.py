"""The files a run reads and writes. What is wrong with the user's file ends the program with one line."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent


def read_network() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """network.json, and the arrays of weights.npz by name: SYNAPSES.weight, POPULATION.bias, .v0, .thresholds, ..."""
    return json.loads((HERE / "network.json").read_text()), read_arrays(HERE / "weights.npz")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def read_data(path: Path, entry: dict[str, Any], limit: int | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Input payloads (N, *shape) int32 and labels (N,) or None.

    The file holds payloads as they are sent, or values x: payload = rint(x * scale * payload_max).
    """
    try:
        arrays = read_arrays(path)
    except (OSError, ValueError) as error:
        sys.exit(f"--data: {path} cannot be read: {error}")
    if "payloads" in arrays:
        payloads = arrays["payloads"]
    elif "x" in arrays:
        payloads = np.rint(np.asarray(arrays["x"], np.float64) * entry["scale"] * entry["payload_max"])
    else:
        sys.exit(f"--data: {path} holds {', '.join(arrays)}; needs x (values) or payloads (integers)")
    payloads, labels = payloads[:limit], arrays.get("y")
    if payloads.shape[1:] != tuple(entry["shape"]) or not len(payloads):
        sys.exit(f"--data: {path} holds {payloads.shape}; needs (N, {', '.join(map(str, entry['shape']))}) with N > 0")
    if not (payloads.min() >= 0 and payloads.max() <= entry["payload_max"]):
        sys.exit(
            f"--data: payloads from {payloads.min():g} to {payloads.max():g}; allowed: 0 to {entry['payload_max']}"
        )
    return payloads.astype(np.int32), None if labels is None else labels[:limit]


def save(path: Path, result: Any, startup_s: float) -> None:
    """Writes output and prediction (N, ...), payloads/NAME (T, N, *shape), and the times."""
    np.savez(
        path,
        output=result.output,
        prediction=result.output.argmax(1),
        steps=result.steps,
        wall_s=result.wall_s,
        startup_s=startup_s,
        **{f"payloads/{name}": payloads for name, payloads in result.payloads.items()},
    )
