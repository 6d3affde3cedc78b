"""Reading models: `model.pt` or `.nir` -> nir.NIRGraph (`load_model`) -> Network (`to_network.to_network`).

Every file is taken as hostile: nothing in it is executed, its size is bounded, and whatever cannot be used is a
one-line CompileError. Importing this package loads neither torch nor nir.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from snncompile.errors import CompileError

if TYPE_CHECKING:
    import nir

TORCH_SUFFIXES = (".pt", ".pth")
NIR_SUFFIXES = (".nir",)


def load_model(path: str | Path, input_shape: tuple[int, ...] | None = None) -> "nir.NIRGraph":
    """The model in a file, as a NIR graph.

    Needs a module saved whole with torch.save (`.pt`, `.pth`) or a NIR file (`.nir`).
    Gives a graph of NIR nodes and of the operations of `nir_nodes`. `input_shape` (C, H, W) or (features,) overrides
    what a torch module says; a NIR file must agree with it.
    Refuses all else with a CompileError that names the file.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in TORCH_SUFFIXES:
        from snncompile.frontend.checkpoint import load_module  # noqa: PLC0415 - torch takes seconds to import
        from snncompile.frontend.torch_trace import trace  # noqa: PLC0415

        return trace(load_module(path), input_shape)
    if suffix in NIR_SUFFIXES:
        from snncompile.frontend.nir_file import read_nir  # noqa: PLC0415 - so does nir, through h5py

        return read_nir(path, input_shape)
    accepted = ", ".join(TORCH_SUFFIXES + NIR_SUFFIXES)
    raise CompileError(str(path), f"is not a model file: it ends in {path.suffix!r}", f"accepted: {accepted}")


__all__ = ["load_model"]
