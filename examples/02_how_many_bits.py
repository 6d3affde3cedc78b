"""Accuracy, cores and energy of one network at 8, 6, 4 and 2 bits a weight.

uv run python examples/02_how_many_bits.py
"""

from pathlib import Path

import numpy as np

import snncompile as sc

HERE = Path(__file__).parent

with np.load(HERE / "data" / "fashion_mnist_test_1k.npz") as file:
    x, y = file["x"][:200], file["y"][:200]

programs = {}
print("bits  accuracy  cores  uJ (low to high)")
for bits in (8, 6, 4, 2):
    program = sc.compile(HERE / "models" / "fashion_mtlif.pt", "loihi2-sim", weight_bits=bits, rounding="mse")
    run = program.run((x, y))
    energy, cores = run.energy_uj, program.content["cores_used"]
    print(f"{bits:>4}  {100 * run.accuracy:7.1f}%  {cores:>5}  {energy['low']:.1f} to {energy['high']:.1f}")
    programs[bits] = program

print(sc.diff(programs[8], programs[4]))
