"""Compiles the model of the repository, runs it on test images, and shows that it is the same network.

uv run python examples/01_compile_and_run.py
"""

from pathlib import Path

import numpy as np

import snncompile as sc

HERE = Path(__file__).parent

with np.load(HERE / "data" / "fashion_mnist_test_1k.npz") as file:
    x, y = file["x"][:100], file["y"][:100]

program = sc.compile(HERE / "models" / "fashion_mtlif.pt", target="loihi2-sim")
print(program.report())

run = program.run((x, y))
print(run)

proof = program.verify((x, y), limit=5, stages=("float", "integer", "simulator"))
print(proof)
assert proof.equal
