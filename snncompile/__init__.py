"""snncompile: compile trained spiking neural networks to neuromorphic chips.

    import snncompile as sc

    program = sc.compile(model, target="loihi2-sim", example=x)
    run = program.run((x, y))
    program.report()

`compile`, `load`, `diff`, `targets` (see `snncompile.api`) and `CompileError`. Importing the package loads nothing
heavy; the first use of a name does.
"""

from typing import TYPE_CHECKING, Any

from snncompile.errors import CompileError

if TYPE_CHECKING:
    from snncompile.api import compile, diff, load, targets

__version__ = "0.1.0"

__all__ = ["CompileError", "compile", "diff", "load", "targets"]


def __getattr__(name: str) -> Any:
    """A public name, from `snncompile.api` on its first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from snncompile import api  # noqa: PLC0415

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
