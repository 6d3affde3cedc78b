"""Traces of stages as one .npz: what every neuron of every layer did, for a look by other tools."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snncompile.errors import CompileError
from snncompile.network import Network
from snncompile.passes.order_neurons import places
from snncompile.program import Program, narrowed
from snncompile.proof.divergence import EXACT, StageRun, trained_numbers

BYTES_MAX = 2_000_000_000


class Traces:
    """Collects the runs of stages, batch by batch, and writes them.

    Arrays of N samples, T steps (of float and folded those of the trained network, else of the chip):
        STAGE/LAYER/levels      (T, N, *shape)  level that each neuron fired, 0: none
        STAGE/LAYER/membranes   (T, N, *shape)  u before firing; float stages in the network's units, integer in its own
        STAGE/output            (N, classes)    STAGE/prediction (N,)
    Neurons stand in the order of the trained network in every stage.
    Raises CompileError: a path that cannot be written, or more than 2 GB of traces, with how many samples do fit.
    """

    def __init__(self, path: Path, program: Program, networks: Mapping[str, Network]) -> None:
        self.path, self.program, self.networks = path, program, networks
        self._parts: dict[str, list[NDArray[np.generic]]] = {}
        folder = path.absolute().parent
        if not folder.is_dir():
            raise CompileError(str(path), "is in a folder that does not exist", "make the folder first")
        if path.is_dir() or not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
            raise CompileError(str(path), "cannot be written", "give --dump a file in a folder of your own")

    def check_size(self, stages: Sequence[str], samples: int) -> None:
        """Refuses what would be larger than 2 GB, before anything has run."""
        each = sum(map(self._bytes, stages))
        if each * samples > BYTES_MAX:
            fit, size = BYTES_MAX // each, each * samples / 1e9
            hint = f"--limit {fit} fits" if fit else "leave stages out with --stages"
            raise CompileError("--dump", f"traces of {samples} samples take {size:.1f} GB, more than 2", hint)

    def _bytes(self, stage: str) -> int:
        """Of one sample."""
        if stage not in EXACT:
            network = self.networks[stage]
            states = sum(int(np.prod(network.shapes[n.name])) for n in network.neurons)
            return states * network.timesteps * 9
        states = self.program.neurons * self.program.network.timesteps
        return states * (9 if stage == "integer" else 1)

    def add(self, stage: str, run: StageRun) -> None:
        """The next samples of a stage."""
        arrays: dict[str, NDArray[np.generic]] = {}
        arrays |= {f"{stage}/{layer}/levels": narrowed(self._ordered(k, layer, run)) for layer, k in run.levels.items()}
        arrays |= {f"{stage}/{layer}/membranes": self._ordered(u, layer, run) for layer, u in run.membranes.items()}
        arrays |= {f"{stage}/output": run.output, f"{stage}/prediction": run.prediction}
        for name, values in arrays.items():
            self._parts.setdefault(name, []).append(values)

    def _ordered(self, values: NDArray[Any], layer: str, run: StageRun) -> NDArray[Any]:
        """Values (T, N, *shape) of a layer in the trained order of its neurons."""
        order = self.program.provenance.orders.get(layer)
        if order is None:
            return np.asarray(values)
        members = self.program.network.populations_by_name[layer].members
        return np.asarray(values)[:, :, places(trained_numbers(order, run.form, members))]

    def write(self) -> None:
        arrays = {
            name: np.concatenate(parts, axis=1 if name.count("/") == 2 else 0) for name, parts in self._parts.items()
        }
        folder = self.path.absolute().parent
        temporary: str | None = None
        try:
            handle, temporary = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=folder)
            with os.fdopen(handle, "wb") as file:
                np.savez_compressed(file, allow_pickle=False, **{n: arrays[n] for n in sorted(arrays)})
            os.chmod(temporary, 0o644)
            os.replace(temporary, self.path)
            temporary = None
        except OSError as error:
            raise CompileError(str(self.path), f"cannot be written ({error})") from error
        finally:
            if temporary is not None:
                os.unlink(temporary)
