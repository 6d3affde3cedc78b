"""The Lava backend: emits a stand-alone Lava program and runs it in a sub-process. Lava is never imported here."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from snncompile.backend import Activity, Progress, Run, silent
from snncompile.errors import CompileError, nearest
from snncompile.quant_network import IntArray

from .emit import emit as emit_program
from .runtime import require_lava, run_program

if TYPE_CHECKING:
    from pathlib import Path

    from snncompile.program import Program


class LavaBackend:
    """Implements `snncompile.backend.Backend`. `batch`: samples that run side by side through the same processes."""

    name = "lava"

    def __init__(self, batch: int = 16) -> None:
        self.batch = batch

    def emit(self, program: "Program") -> Mapping[str, bytes]:
        return emit_program(program.network, program.host.encoder)

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
    ) -> Run:
        """Runs the sealed lava/run.py. Raises CompileError without lava-nc, or naming the layer whose process fails."""
        require_lava()
        known = program.network.populations_by_name
        if unknown := [name for name in record if name not in known]:
            raise CompileError("record", f"no population {unknown[0]!r}", nearest(unknown[0], tuple(known)))
        if not (directory / "lava" / "run.py").is_file():
            raise CompileError(str(directory), "holds no lava/run.py", "compile the model again")
        result = run_program(directory / "lava", payloads, record, min(self.batch, len(payloads)), progress)
        return Run(self.name, result.output, result.wall_s, result.startup_s, result.payloads)
