"""What other frameworks make of exported NIR: the share of the output's steps that equal ours.

    python benchmarks/frameworks/export_round_trip.py norse=/envs/norse/bin/python snntorch=... [--out DIR]

Networks: mlp (8-20-5 LIF), conv (IF, sum pooling), recurrent (LIF with recurrent weights), random weights, 30 steps of
random spikes. Each framework runs in its own environment (read_nir.py). For norse, which leaves r out of account, the
weights carry it. What cannot be equal: spikingjelly fires at the threshold, sinabs subtracts and counts steps.
"""

import argparse
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import nir
import numpy as np

from snncompile.frontend.nir.export import exported
from snncompile.frontend.nir.to_network import to_network
from snncompile.frontend.nir.write import write_nir
from snncompile.frontend.reading import Reading
from snncompile.network import Network
from snncompile.pipeline import run_passes
from snncompile.reference import run_float

DT, STEPS = 1e-4, 30
READER = Path(__file__).with_name("read_nir.py")


def chained(shape: tuple[int, ...], *nodes: nir.NIRNode, classes: int = 5) -> nir.NIRGraph:
    listed = [nir.Input(np.array(shape)), *nodes, nir.Output(np.array([classes]))]
    named = {f"{i:02d}": node for i, node in enumerate(listed)}
    return nir.NIRGraph(named, list(pairwise(named)), type_check=False)


def lif(*shape: int) -> nir.LIF:
    values = {"tau": 5 * DT, "r": 4.0, "v_leak": 0.0, "v_threshold": 0.8, "v_reset": 0.0}
    return nir.LIF(**{key: np.full(shape, value) for key, value in values.items()})


def networks(rng: np.random.Generator) -> dict[str, Network]:
    def affine(out: int, fan_in: int) -> nir.Affine:
        return nir.Affine(rng.normal(0.2, 1, (out, fan_in)), rng.normal(0, 0.3, out))

    def conv(out: int, fan_in: int) -> nir.Conv2d:
        one, weight = np.ones(2, np.int64), rng.normal(0.1, 0.6, (out, fan_in, 3, 3))
        return nir.Conv2d(None, weight, one, one, one, 1, rng.normal(0, 0.2, out))

    def integrate(*shape: int) -> nir.IF:
        return nir.IF(np.full(shape, 0.3 / DT), np.full(shape, 0.9))

    two, none = np.full(2, 2, np.int64), np.zeros(2, np.int64)
    pooled = (nir.SumPool2d(two, two, none), conv(4, 6), integrate(4, 4, 4), nir.Flatten(None, 0, -1), affine(5, 64))
    recurrent = chained((8,), affine(20, 8), lif(20), affine(5, 20), lif(5))
    recurrent.nodes["02_recurrent"] = affine(20, 20)
    recurrent.edges += [("02", "02_recurrent"), ("02_recurrent", "02")]
    graphs = {
        "mlp": chained((8,), affine(20, 8), lif(20), affine(5, 20), lif(5)),
        "conv": chained((2, 8, 8), conv(6, 2), integrate(6, 8, 8), *pooled, integrate(5)),
        "recurrent": recurrent,
    }
    reading = Reading(timesteps=STEPS, dt=DT)
    return {name: run_passes(to_network(graph, reading)) for name, graph in graphs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frameworks", nargs="+", metavar="NAME=PYTHON")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = options.out or Path(tempfile.mkdtemp())
    rng = np.random.default_rng(0)
    for name, network in networks(rng).items():
        frames = (rng.random((STEPS, *network.input.shape)) < 0.4).astype(np.float32)
        np.save(folder / f"{name}.npy", frames)
        wanted = run_float(network, frames[None]).outputs[network.neurons[-1].name][:, 0]
        for framework, _, python in (entry.partition("=") for entry in options.frameworks):
            model, found = folder / f"{name}_{framework}.nir", folder / f"{name}_{framework}.npy"
            model.write_bytes(write_nir(exported(network, r_is_one=framework == "norse")[0]))
            command = [python or sys.executable, READER, framework, model, folder / f"{name}.npy", found]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{name} {framework}: {done.stderr.strip().rpartition(chr(10))[2]}")
                continue
            sent = np.load(found).reshape(wanted.shape)
            print(f"{name} {framework}: {100 * (sent == wanted).mean():.1f} % of {wanted.size} outputs are equal")


if __name__ == "__main__":
    main()
