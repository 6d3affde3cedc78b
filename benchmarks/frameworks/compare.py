"""Reads the networks of a framework with the framework there, and compares every spike with what it computed.

    python benchmarks/frameworks/compare.py snntorch FOLDER      (FOLDER as make_golden.py wrote it)

Run in the framework's own environment, with snncompile and its dependencies importable. Prints a line a network and
ends with 1 where a spike differs; the one network whose contract is approximate is told, not counted.
"""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

APPROXIMATE = ("delayless",)


def main() -> int:
    from framework_golden import read, run, spikes_of  # noqa: PLC0415 - found through sys.path

    framework, folder = sys.argv[1], Path(sys.argv[2])
    file = f"{framework.rstrip('0123456789')}_models"
    failed = 0
    for name, said in import_module(file).MODELS.items():
        factory = None if said.get("whole") else f"{Path(__file__).parent / file}.py:{name}"
        network, golden = read(f"{framework}_{name}", folder, factory)
        result = run(network, golden)
        layers = [neuron for neuron in network.neurons if "max_pool" not in neuron.name]
        compared = differing = 0
        for number, neuron in enumerate(layers):
            expected = spikes_of(golden, number)
            sent = result.outputs[neuron.name].reshape(expected.shape)
            compared += expected.size
            differing += int(np.count_nonzero(sent != expected))
        print(f"{framework} {name}: {len(layers)} layers, {differing} of {compared} spikes differ")
        failed += differing > 0 and name not in APPROXIMATE
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
