"""A chip of your own: Loihi 2 with half the synapse memory, and what that costs a network.

uv run python examples/03_your_own_chip.py
"""

import tempfile
from pathlib import Path

import snncompile as sc

HERE = Path(__file__).parent

CHIP = """
name: half_memory
extends: loihi2
core: {synapse_words: 6000}
sources:
  - {covers: [core.synapse_words], source: "what if", basis: ours, confidence: high}
"""

with tempfile.TemporaryDirectory() as folder:
    chip = Path(folder) / "half_memory.yaml"
    chip.write_text(CHIP)
    model = HERE / "models" / "fashion_mtlif.pt"
    whole = sc.compile(model, target="loihi2-sim")
    half = sc.compile(model, target=str(chip))
    print(sc.diff(whole, half))

    try:
        sc.compile(model, target="tiny-sim")
    except sc.CompileError as error:
        print(f"and on a chip that is too small: {error}")
