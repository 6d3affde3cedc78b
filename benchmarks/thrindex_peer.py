"""Runs thrindex's simulator on the network of peers.py, in thrindex's own environment; snncompile is not there.

    ENV/bin/python benchmarks/thrindex_peer.py CASE.npz OUT.npz

Work "sample": one call of its simulator on the sample, the file of the compiled network read anew as it always does.
The result is the time that it says the simulation alone took. OUT.npz: spikes of every layer (it gives those of the
last layer only, so networks of one, two and three layers were run), and the synaptic operations that it counts.

Its neuron: mem = alpha * mem + x in float32, alpha = exp(-1 / tau); fires where mem >= threshold, then mem = 0. Ours
fires above the threshold, so it is given the next float32 above it.
"""

import math
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import thrindex
import torch
from peer_protocol import serve
from thrindex import _core, snn


def compiled(case: Any, layers: int, folder: Path) -> str:
    """The first layers of the network as its compiler seals them."""
    parts = []
    for i in range(layers):
        weight = torch.from_numpy(case[f"weights_{i}"].astype(np.float32))
        dense = snn.Dense(weight.shape[1], weight.shape[0], bias=False)
        dense.linear.weight.data = weight
        above = float(np.nextafter(np.float32(case["threshold"]), np.float32(np.inf)))
        parts += [dense, snn.LIF(threshold=above, tau_mem=-1 / math.log(float(case["leak"])), reset="zero")]
    path = folder / f"{layers}.thx"
    thrindex.compile(snn.Sequential(*parts), path)
    return str(path)


def prepare() -> tuple[Any, Any]:
    torch.set_num_threads(1)
    case = np.load(sys.argv[1])
    count = int(case["layers"])
    folder = Path(tempfile.mkdtemp())
    paths = [compiled(case, n + 1, folder) for n in range(count)]
    events = case["spikes"].astype(float)[None].tolist()
    runs = [_core.run_sim(path, events, 1, 0) for path in paths]
    arrays = {f"fired_{i}": np.array(spikes[0]) != 0 for i, (spikes, _, _) in enumerate(runs)}
    np.savez(sys.argv[2], synops=runs[-1][1]["synaptic_ops"], **arrays)

    def sample() -> dict[str, float]:
        return {"simulation_s": _core.run_sim(paths[-1], events, 1, 0)[1]["wall_secs"]}

    return {"thrindex": version("thrindex")}, {"sample": sample}


if __name__ == "__main__":
    serve(prepare)
