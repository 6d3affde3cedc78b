# ruff: noqa: PLC0415 - each framework is in an environment of its own
"""Reads an exported NIR file in one framework and runs it: for the environment of that framework.

    python read_nir.py FRAMEWORK model.nir frames.npy out.npy

frames (T, features or C, H, W) of spikes; out (T, classes): the output of the last node in every step. FRAMEWORK is
nir (reads and writes again only), norse, sinabs, snntorch or spikingjelly, all of which read through nirtorch.
"""

import sys

import nir
import numpy as np
import torch


def first(y: object) -> torch.Tensor:
    """The output of a module that may give a state as well."""
    return y[0] if isinstance(y, tuple) else y


def step_by_step(module: torch.nn.Module, frames: torch.Tensor) -> torch.Tensor:
    """Runs a module that takes and gives a state, on single samples without a batch axis or with one."""
    steps, state = [], None
    for frame in frames:
        y, state = module(frame, state)
        steps.append(y.flatten())
    return torch.stack(steps)


def norse(graph: nir.NIRGraph, frames: torch.Tensor) -> torch.Tensor:
    from norse.torch.utils.import_nir import from_nir

    return step_by_step(from_nir(graph, dt=1e-4, ignore_warnings=True), frames)


def sinabs(graph: nir.NIRGraph, frames: torch.Tensor) -> torch.Tensor:
    from sinabs import from_nir

    return first(from_nir(graph, batch_size=1)(frames))


def snntorch(graph: nir.NIRGraph, frames: torch.Tensor) -> torch.Tensor:
    from snntorch.import_nir import import_from_nir

    return step_by_step(import_from_nir(graph), frames[:, None])


def spikingjelly(graph: nir.NIRGraph, frames: torch.Tensor) -> torch.Tensor:
    from spikingjelly.activation_based import functional
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    module = import_from_nir(graph, dt=1e-4)
    functional.set_step_mode(module, "s")
    return step_by_step(module, frames[:, None])


def main(framework: str, model: str, frames: str, out: str) -> None:
    graph = nir.read(model)
    if framework == "nir":
        nir.write(out, graph)
        return
    x = torch.from_numpy(np.load(frames)).float()
    with torch.no_grad():
        y = globals()[framework](graph, x)
    np.save(out, y.numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
