"""Runs the compiled network in the Lava simulator: python run.py --data FILE.npz. Needs lava-nc and numpy only."""

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()
sys.dont_write_bytecode = True

import compat  # noqa: E402 - this directory is sealed: no __pycache__ in it


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Runs the compiled network in the Lava simulator.")
    parser.add_argument(
        "--data", type=Path, required=True, help=".npz with x (N, ...), or payloads (N, ...) as sent; y (N,)"
    )
    parser.add_argument("--out", type=Path, help=".npz to write: output, prediction, payloads/NAME and membranes/NAME")
    parser.add_argument(
        "--record", default=[], nargs="+", metavar="NAME", help="populations whose payloads are kept, or 'all'"
    )
    parser.add_argument(
        "--membranes", default=[], nargs="+", metavar="NAME", help="populations whose u before firing is kept, or 'all'"
    )
    parser.add_argument(
        "--style", choices=["fused", "stock"], default="fused", help="stock: Lava's own Processes where they are exact"
    )
    parser.add_argument("--placement", action="store_true", help="a Process for every core slice")
    parser.add_argument("--batch", type=int, default=16, metavar="B", help="samples side by side (default 16)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N samples")
    parser.add_argument(
        "--events", action="store_true", help="one JSON object a line on standard output; ends with its parent"
    )
    options = parser.parse_args()
    if options.style == "stock" and options.placement:
        parser.error("--placement needs --style fused")
    if options.batch < 1 or (options.limit is not None and options.limit < 1):
        parser.error("--batch and --limit must be at least 1")
    return options


def main() -> None:
    """Runs; however it ends, no process of Lava's is left."""
    options = parse_options()
    compat.prepare()
    import watch  # noqa: PLC0415 - needs numpy, which comes after compat

    if options.events:
        watch.end_with_parent()
    watch.tame_children()
    tell = tell_events if options.events else tell_person
    interrupted: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        interrupted.append(number)  # Lava's runtime turns what is raised within it into errors of its own
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        run(options, tell)
        code = 0
    except watch.LayerError as failure:
        if not interrupted:
            tell("failed", layer=failure.layer, problem=failure.problem, details=failure.details)
        code = 1
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        if not interrupted:
            tell("failed", layer="", problem=f"{type(error).__name__}: {error}", details=traceback.format_exc())
        code = 1
    watch.kill_workers()
    code = 130 if interrupted else code
    sys.stdout.flush()
    sys.stderr.flush()
    # Lava's destructors would wait for processes that are gone.
    os._exit(code)


def run(options: argparse.Namespace, tell: Callable[..., None]) -> None:
    """Loads, simulates, saves, tells."""
    import files  # noqa: PLC0415 - needs numpy, which comes after compat
    from simulation import Simulation, Wanted  # noqa: PLC0415 - needs Lava, which comes after compat

    network, arrays = files.read_network()
    wanted = Wanted(named("record", options, network), named("membranes", options, network))
    payloads, labels = files.read_data(options.data, network, arrays, options.limit)
    lanes = 1 if options.style == "stock" else min(options.batch, len(payloads))
    simulation = Simulation(network, arrays, payloads, wanted, lanes, options.style, options.placement)
    if options.style == "stock":
        tell("style", populations={spec["name"]: spec["fused_because"] for spec in network["populations"]})
    simulation.start()
    startup_s = time.perf_counter() - STARTED
    tell("started", startup_s=startup_s, processes=len(simulation.journals))
    result = simulation.run(Progress(len(payloads), tell))
    if options.out:
        files.save(options.out, result, startup_s)
    accuracy = None if labels is None else float((result.output.argmax(1) == labels).mean())
    tell(
        "done", samples=len(payloads), accuracy=accuracy, startup_s=startup_s, wall_s=result.wall_s, steps=result.steps
    )


def named(option: str, options: argparse.Namespace, network: dict[str, Any]) -> list[str]:
    """The populations that --record or --membranes names."""
    names, known = getattr(options, option), [spec["name"] for spec in network["populations"]]
    if unknown := [name for name in names if name not in known and names != ["all"]]:
        sys.exit(f"--{option}: no population {unknown[0]!r}; known: {', '.join(known)}")
    return known if names == ["all"] else names


class Progress:
    """Tells the samples done twice a second; by these lines a supervising program knows that the run lives."""

    def __init__(self, total: int, tell: Callable[..., None]) -> None:
        self.total, self.tell, self.told_at = total, tell, 0.0

    def __call__(self, done: int) -> None:
        if done == self.total or time.monotonic() - self.told_at > 0.5:
            self.told_at = time.monotonic()
            self.tell("progress", done=done, total=self.total)


def tell_events(event: str, **values: Any) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


def tell_person(event: str, **values: Any) -> None:
    if event == "failed":
        print(f"{values['details']}\n{values['layer'] or 'lava'}: {values['problem']}".lstrip(), file=sys.stderr)
    elif event == "style":
        for name, reason in values["populations"].items():
            print(f"{name}: {f'fused: {reason}' if reason else 'stock'}")
    elif event == "progress" and sys.stderr.isatty():
        end = "\n" if values["done"] == values["total"] else "\r"
        print(f"{values['done']}/{values['total']} samples", end=end, file=sys.stderr, flush=True)
    elif event == "done":
        accuracy = "" if values["accuracy"] is None else f", accuracy {values['accuracy']:.4f}"
        step_ms = 1000 * values["wall_s"] / values["steps"]
        took = f"{values['wall_s']:.2f} s in {values['steps']} steps ({step_ms:.2f} ms a step)"
        print(f"{values['samples']} samples{accuracy}; {took}, start-up {values['startup_s']:.2f} s")


if __name__ == "__main__":
    main()
