"""The Lava backend: emits a stand-alone Lava program and runs it in a sub-process. Lava is never imported here."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from snncompile.backend import Activity, ProcessOptions, Progress, Run, silent
from snncompile.errors import CompileError, nearest
from snncompile.quant_network import IntArray

from .emit import emit as emit_program
from .runtime import require_lava, run_program
from .slices import MOST_PROCESSES
from .stock import fused_because

if TYPE_CHECKING:
    from pathlib import Path

    from snncompile.program import Program


STYLES = ("fused", "stock")


DEFAULT = ProcessOptions()


class LavaBackend:
    """Implements `snncompile.backend.ProcessBackend`. `batch`: samples side by side through the same processes.

    Style "stock": Lava's own Processes where they are exact, one sample at a time.
    """

    name = "lava"
    styles = STYLES

    def __init__(self, batch: int = 16) -> None:
        self.batch = batch

    def emit(self, program: "Program") -> Mapping[str, bytes]:
        return emit_program(program.network, program.host.encoder, program.core_graph)

    def estimate(self, program: "Program", activity: Activity) -> Mapping[str, Any] | None:
        """None: Lava computes what the chip computes, not what it costs."""
        return None

    def run(
        self,
        program: "Program",
        directory: "Path",
        payloads: IntArray,
        record: Sequence[str] = (),
        progress: Progress = silent,
        options: ProcessOptions = DEFAULT,
    ) -> Run:
        """Runs the sealed lava/run.py. Raises CompileError without lava-nc, or naming the layer whose process fails."""
        require_lava()
        known = program.network.populations_by_name
        if unknown := [name for name in (*record, *options.membranes) if name not in known]:
            raise CompileError("record", f"no population {unknown[0]!r}", nearest(unknown[0], tuple(known)))
        _check(options, program)
        if not (directory / "lava" / "run.py").is_file():
            raise CompileError(str(directory), "holds no lava/run.py", "compile the model again")
        chosen = [f"--style={options.style or STYLES[0]}", *(["--placement"] if options.placement else [])]
        chosen += ["--membranes", *options.membranes] if options.membranes else []
        chosen += ["--record", *record] if record else []
        chosen.append(f"--batch={min(self.batch, len(payloads))}")
        result = run_program(directory / "lava", payloads, record, options.membranes, chosen, progress)
        return Run(
            self.name,
            result.output,
            result.wall_s,
            result.startup_s,
            result.payloads,
            membranes=result.membranes,
            notes=_notes(options, program),
        )


def _check(options: ProcessOptions, program: "Program") -> None:
    if options.style is not None and options.style not in STYLES:
        raise CompileError("--lava-style", f"no style {options.style!r}", nearest(options.style, STYLES))
    if not options.placement:
        return
    if options.style == "stock":
        raise CompileError("--lava-placement", "a slice is a fused Process", "leave out --lava-style stock")
    slices = sum(grid.tiles for grid in program.core_graph.grids.values())
    if slices >= MOST_PROCESSES:
        raise CompileError(
            "--lava-placement",
            f"the program has {slices} core slices; each is a process, and with the input {MOST_PROCESSES} may be",
            "leave it out, or compile a smaller network",
        )


def _notes(options: ProcessOptions, program: "Program") -> dict[str, Any]:
    """What `run --json` says of the style and of the placement, where one was asked for."""
    network = program.network
    if options.style == "stock":
        because = {population.name: fused_because(network, population) for population in network.populations}
        return {"lava": {"style": "stock", "fused_because": because}}
    slices = {name: grid.tiles for name, grid in program.core_graph.grids.items()}
    return {"lava": {"slices": slices}} if options.placement else {}
