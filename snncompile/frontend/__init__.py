"""Reading models: `model.pt` or `.nir` -> nir.NIRGraph (`load_model`) -> Network (`to_network.to_network`).

Every file is taken as hostile: nothing in it is executed, its size is bounded, and whatever cannot be used is a
one-line CompileError. Importing this package loads neither torch nor nir.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from snncompile.errors import CompileError

if TYPE_CHECKING:
    import nir
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from snncompile.frontend.reading import Reading

TORCH_SUFFIXES = (".pt", ".pth")
NIR_SUFFIXES = (".nir",)
NET_SUFFIXES = (".net",)


def load_model(
    path: str | Path, input_shape: tuple[int, ...] | None = None, reading: "Reading | None" = None
) -> "nir.NIRGraph":
    """The model in a file, as a NIR graph.

    Needs a module saved whole with torch.save (`.pt`, `.pth`), its weights where `reading.factory` says what builds it,
    or a NIR file (`.nir`).
    Gives a graph of NIR nodes and of the operations of `nir_nodes`. `input_shape` (C, H, W) or (features,) overrides
    what a torch module says; a NIR file must agree with it. reading: what the user says of it; the graph bears it.
    Refuses all else with a CompileError that names the file.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in TORCH_SUFFIXES:
        return _load_torch(path, input_shape, reading)
    if suffix in NIR_SUFFIXES:
        from snncompile.frontend.nir.file import read_nir  # noqa: PLC0415 - so does nir, through h5py
        from snncompile.frontend.nir.to_network import with_reading  # noqa: PLC0415

        graph = read_nir(path, input_shape)
        return graph if reading is None else with_reading(graph, reading)
    if suffix in NET_SUFFIXES:
        from snncompile.frontend.lava_dl_net import read_net  # noqa: PLC0415

        return read_net(path, reading)
    accepted = ", ".join(TORCH_SUFFIXES + NIR_SUFFIXES + NET_SUFFIXES)
    raise CompileError(str(path), f"is not a model file: it ends in {path.suffix!r}", f"accepted: {accepted}")


def _load_torch(path: Path, input_shape: tuple[int, ...] | None, reading: "Reading | None") -> "nir.NIRGraph":
    from snncompile.frontend.torch import checkpoint  # noqa: PLC0415 - torch takes seconds to import
    from snncompile.frontend.torch.trace import trace, trace_live  # noqa: PLC0415

    if reading is None or reading.factory is None:
        return trace(checkpoint.load_module(path), input_shape, reading)
    from snncompile.frontend.torch.model import built_module  # noqa: PLC0415

    return trace_live(built_module(reading.factory, path), input_shape, reading=reading)


def load_module(
    module: "nn.Module",
    example: "Tensor | NDArray[Any] | None" = None,
    reading: "Reading | None" = None,
    input_shape: tuple[int, ...] | None = None,
) -> "nir.NIRGraph":
    """A torch module that is there, as a NIR graph, by following its forward on an input like `example`.

    example: [B, ...], or with an axis of time steps as the module takes it; only its shape is read. input_shape
    (C, H, W), (C, L) or (features,): of one step of one sample, where the example does not say it.
    Raises CompileError naming the line of the module's source that is not understood.
    """
    from snncompile.frontend.torch.trace import trace_live  # noqa: PLC0415 - torch takes seconds to import

    shape = None if example is None else tuple(int(n) for n in example.shape)
    return trace_live(module, input_shape, shape, reading)


__all__ = ["load_model", "load_module"]
