"""Us beside thrindex, nengo-loihi and SANA-FE: the same network, weights and input spikes, each a program of its own.

    OMP_NUM_THREADS=1 uv run python benchmarks/peers.py --environments DIR [--rounds 7] [--out peers.json] [--docs]

784-512-256-10 LIF, T = 25, input spikes at 10 % (`snncompile_peer.py`). Makes the environments in DIR with uv where
they are not there (REQUIREMENTS). Every peer is a process that prepares and then waits (`peer_protocol.py`); in each
round all do their works in turn, on one core and one thread, so that a change of the machine's speed meets all. Given
are medians of CPU time, wall time beside it, and ratios to ours within a round. Building a network is not in any of
these times.

Compared, and exit 1 where it must be equal and is not: spikes of every neuron and step (nengo-loihi computes our
integers; SANA-FE and thrindex the same neuron in floats, so only where no membrane comes within our truncation of its
threshold), synaptic operations, packets at SANA-FE's cores, and the steps of its simple model in which all layers are
at work, at our placement. What cannot be installed or fails is in the JSON with its error, and the others are
compared all the same.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
REQUIREMENTS = {
    "thrindex": ["thrindex==0.5.0", "torch==2.13.0", "numpy"],
    "nengo_loihi": ["nengo-loihi==1.1.0", "nengo==3.2.0", "numpy==1.23.5", "scipy==1.15.3"],
    "sanafe": ["sanafe==2.2.9", "numpy"],
}
"""Of Python 3.11. nengo-loihi uses numpy's old type names, so numpy < 1.24."""

PROGRAMS = {"thrindex": "thrindex_peer.py", "nengo_loihi": "nengo_loihi_peer.py", "sanafe": "sanafe_lif_peer.py"}
WORKS = {
    "ours": ("single", "batch", "cycle"),
    "thrindex": ("sample",),
    "nengo_loihi": ("build", "sample"),
    "sanafe": ("build", "simple", "build", "detailed"),
}
"""In a round; what is built is not timed."""

GOALS = {"batch_ms": 0.7, "cycle_ms": 100.0, "compile_s": 0.1, "memory_mb": 300.0}
"""At most: function, counts, event timing and energy of a sample; a sample with every step through the clocked router;
a compile beyond imports; peak memory beyond torch's."""

STEP_RELATIVE = 1e-9
WIDTH = 130
BEGIN, END = "<!-- peers: begin, written by benchmarks/peers.py --docs -->", "<!-- peers: end -->"


class PeerError(Exception):
    """A peer that cannot be installed or ends with an error; its text tells why."""


def environment(name: str, folder: Path) -> str:
    """Python of a peer's environment, made where it is not there. Raises PeerError."""
    python = folder / name / "bin" / "python"
    if python.exists():
        return str(python)
    made = [["uv", "venv", "-q", "--python", "3.11", str(folder / name)]]
    made += [["uv", "pip", "install", "-q", "--python", str(python), *REQUIREMENTS[name]]]
    for command in made:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise PeerError(f"{' '.join(command[:3])} {' '.join(REQUIREMENTS[name])}: {done.stderr.strip()[-2000:]}")
    return str(python)


class Peer:
    """A peer's process, ready to work. Raises PeerError where it is not."""

    def __init__(self, command: Sequence[str]) -> None:
        quiet = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, text=True, env=quiet, **pipes)
        try:
            self.ready = self._answer()["ready"]
        except PeerError:
            self.close()
            raise

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline() if self.process.stdout else ""
        answer = json.loads(line) if line else {"error": f"ended with status {self.process.wait()}"}
        if "error" in answer:
            raise PeerError(answer["error"].strip()[-2000:])
        return answer

    def do(self, work: str) -> dict[str, Any]:
        """{"wall_s", "cpu_s", "result"} of a work."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"do": work}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """No more work: the process ends."""
        self.process.communicate()


def started(folder: Path, environments: Path, cycle_steps: int) -> tuple[dict[str, Peer], dict[str, str]]:
    """Peers that are ready, ours among them, and the errors of the others."""
    ours = [sys.executable, str(HERE / "snncompile_peer.py"), "serve", str(folder), str(folder / "ours.npz")]
    peers, errors = {"ours": Peer(ours)}, {}
    for name, program in PROGRAMS.items():
        try:
            command = [environment(name, environments), str(HERE / program), str(folder / "case.npz")]
            command += [str(folder / f"{name}.npz"), *([str(cycle_steps)] if name == "sanafe" else [])]
            peers[name] = Peer(command)
        except (PeerError, OSError) as error:
            errors[name] = str(error)
    return peers, errors


def measured(peers: Mapping[str, Peer], rounds: int, cycle: bool) -> dict[str, list[dict[str, Any]]]:
    """What every work took in each round, by "peer work"; SANA-FE's clocked model once, at the end."""
    every: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for name, peer in peers.items():
            for work in WORKS[name]:
                took = peer.do(work)
                if work != "build":
                    every.setdefault(f"{name} {work}", []).append(took)
    if cycle and "sanafe" in peers:
        peers["sanafe"].do("build")
        every["sanafe cycle"] = [peers["sanafe"].do("cycle")]
    return every


def of_a_sample(peers: Mapping[str, Any]) -> dict[str, float]:
    """By "peer work": what share of a sample it is; a chip step's share for SANA-FE's clocked model."""
    ours = peers["ours"]
    shares = {"ours batch": ours["samples"], "ours cycle": ours["cycle_samples"]}
    if "sanafe" in peers:
        shares["sanafe cycle"] = peers["sanafe"]["cycle_steps"] / peers["sanafe"]["chip_steps"]
    return shares


def timings(
    every: Mapping[str, Sequence[Mapping[str, float]]], shares: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Milliseconds a sample by "peer work", and the median over rounds of its ratio to "ours batch" (CPU time)."""
    cpu = {name: [took["cpu_s"] / shares.get(name, 1) for took in rounds] for name, rounds in every.items()}
    found = {}
    for name, seconds in cpu.items():
        walls = [took["wall_s"] / shares.get(name, 1) for took in every[name]]
        ours = cpu["ours cycle" if name.endswith("cycle") else "ours batch"]
        within = seconds if len(seconds) == len(ours) else [statistics.median(seconds)] * len(ours)
        found[name] = {
            "cpu_ms": 1e3 * statistics.median(seconds),
            "wall_ms": 1e3 * statistics.median(walls),
            "times_ours": statistics.median(s / o for s, o in zip(within, ours, strict=True)),
        }
    return found


def compared(name: str, ours: Mapping[str, np.ndarray], peer: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What a peer computes beside us; `differs` holds what should be equal and is not."""
    layers = [key for key in sorted(ours) if key.startswith("fired_")]
    apart = {key: int((ours[key] != peer[key]).sum()) for key in layers}
    found: dict[str, Any] = {
        "spikes": sum(int(ours[key].sum()) for key in layers),
        "neuron_steps": sum(ours[key].size for key in layers),
        "spikes_apart": sum(apart.values()),
        "synops": {"ours": int(ours["synops"]), "peer": int(peer["synops"])},
    }
    differs = ["spikes"] * bool(found["spikes_apart"]) + ["synops"] * (int(ours["synops"]) != int(peer["synops"]))
    if name == "sanafe":
        found["packets"] = {"ours": int(ours["packets"]), "peer": int(peer["packets"])}
        differs += ["packets"] * (int(ours["packets"]) != int(peer["packets"]))
        full = slice(len(layers), len(ours["fired_0"]))  # before and after, a layer of ours has no logical step
        step, theirs = ours["step_ns"], peer["simple.sim_time"] * 1e9
        found["step_times_apart"] = float(np.max(np.abs(step[full] / theirs[full] - 1)))
        found["steps_compared"] = full.stop - full.start
        differs += ["step times"] * (found["step_times_apart"] > STEP_RELATIVE)
        found["sample_us"] = {"ours": float(step.sum()) / 1e3, "peer": float(theirs.sum()) / 1e3}
        cycle = peer["cycle.sim_time"] * 1e9
        found["clocked_from_cycle_percent"] = 100 * (float(ours["cycle_step_ns"][: len(cycle)].sum() / cycle.sum()) - 1)
        found["cycle_steps"] = len(cycle)
    return found | {"differs": differs}


def alone(folder: Path, processes: int = 3) -> dict[str, Any]:
    """Compile times and memory of ours, each measured in processes of their own; medians."""

    def of(what: str) -> Any:
        command = [sys.executable, str(HERE / "snncompile_peer.py"), what, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    (folder / "modules.json").write_text(json.dumps(of("modules")))
    compiles, memory = [of("compile") for _ in range(processes)], [of("memory") for _ in range(processes)]
    return {
        "compile_first_s": statistics.median(c["first"]["cpu_s"] for c in compiles),
        "compile_later_s": statistics.median(later["cpu_s"] for c in compiles for later in c["later"]),
        "memory_beyond_torch_mb": statistics.median(m["run_mb"] - m["torch_mb"] for m in memory),
        "memory_of_compile_beyond_torch_mb": statistics.median(m["compiled_mb"] - m["torch_mb"] for m in memory),
        "torch_mb": statistics.median(m["torch_mb"] for m in memory),
    }


def goals(times: Mapping[str, Mapping[str, float]], ours: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """What was asked for, what was measured, and whether it is met. A compile is the first one in its process."""
    measured = {
        "batch_ms": times["ours batch"]["cpu_ms"],
        "cycle_ms": times["ours cycle"]["cpu_ms"],
        "compile_s": ours["compile_first_s"],
        "memory_mb": ours["memory_beyond_torch_mb"],
    }
    return {key: {"goal": GOALS[key], "measured": value, "met": value <= GOALS[key]} for key, value in measured.items()}


ROWS = {
    "ours batch": "snncompile: function, counts, event timing, energy; {samples} samples in one run",
    "ours single": "snncompile: the same, one sample alone (most of it starts the engine)",
    "thrindex sample": "thrindex {thrindex}: function",
    "nengo_loihi sample": "nengo-loihi {nengo_loihi}: function (emulator)",
    "sanafe simple": "SANA-FE {sanafe}: function, simple timing, energy",
    "sanafe detailed": "SANA-FE: function, detailed timing, energy",
    "ours cycle": "snncompile: every chip step through the clocked router",
    "sanafe cycle": "SANA-FE: cycle model (BookSim 2), from {cycle_steps} of {chip_steps} chip steps",
}


def section(figures: Mapping[str, Any]) -> str:
    """The part of docs/benchmarks.md that this program writes."""
    ready, times = figures["ready"], figures["times"]
    words = {"samples": ready["ours"]["samples"], "cycle_steps": 0, "chip_steps": 0} | ready.get("sanafe", {})
    words |= {
        "thrindex": ready.get("thrindex", {}).get("thrindex", ""),
        "sanafe": ready.get("sanafe", {}).get("sanafe"),
    }
    words["nengo_loihi"] = ready.get("nengo_loihi", {}).get("nengo-loihi", "")
    sample = ready["ours"]["sample"]
    lines = [
        f"784-512-256-10 LIF, T = 25, {sample['synops'] / 1e6:.2f} M synaptic operations a sample, one core of a "
        f"shared machine, medians of {figures['rounds']} interleaved rounds; ratios within a round, cycle to cycle:",
        "",
        "| | CPU ms a sample | wall ms | times ours |",
        "|---|---|---|---|",
    ]
    for name, text in ROWS.items():
        if name in times:
            t = times[name]
            row = [text.format(**words), digits(t["cpu_ms"]), digits(t["wall_ms"]), digits(t["times_ours"])]
            lines.append(f"| {' | '.join(row)} |")
    simulated = figures["thrindex_simulation_ms"]
    if simulated:
        only = digits(statistics.median(simulated))
        told = f"thrindex reads its compiled file in every call; its simulation alone takes {only} ms (wall)."
        lines += ["", f"{told} Peers build their networks before; ours starts its engine in every run."]
    lines += ["", *_compared_lines(figures), "", *_goal_lines(figures)]
    lines += [f"{name} did not run: {error.splitlines()[-1]}" for name, error in figures["errors"].items()]
    return "\n".join(wrapped for line in lines for wrapped in wrap(line))


def wrap(line: str) -> list[str]:
    """A line of Markdown as lines of at most `WIDTH` characters; rows of tables stay whole."""
    if line.startswith("|") or not line:
        return [line]
    indent = "  " if line.startswith(("- ", "  ")) else ""
    return textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)


def digits(value: float) -> str:
    """Three digits that count, thousands set apart."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _compared_lines(figures: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, found in figures["compared"].items():
        equal = "equal" if not found["differs"] else f"DIFFER in {', '.join(found['differs'])}"
        lines.append(
            f"- {name}: {found['spikes_apart']} of {found['neuron_steps']:,} neurons' steps differ; synaptic "
            f"operations {found['synops']['ours']:,} and {found['synops']['peer']:,}: {equal}."
        )
        if "packets" in found:
            lines.append(
                f"  Packets {found['packets']['ours']:,} and {found['packets']['peer']:,}; times of the "
                f"{found['steps_compared']} steps in which all layers work within {found['step_times_apart']:.0e} of "
                f"its simple model; `--timing cycle` {found['clocked_from_cycle_percent']:+.1f} % from its cycle model "
                f"over {found['cycle_steps']} steps, mostly since what the host sends crosses its mesh and not ours "
                "(`benchmarks/sanafe_wired.py` has the input on the chip)."
            )
    return lines


def _goal_lines(figures: Mapping[str, Any]) -> list[str]:
    names = {
        "batch_ms": "a sample (ms)",
        "cycle_ms": "a clocked sample (ms)",
        "compile_s": "the first compile beyond imports (s)",
        "memory_mb": "peak memory beyond torch's (MB)",
    }
    told = [
        f"{names[key]} {digits(g['measured'])}, goal {digits(g['goal'])}: {'met' if g['met'] else 'missed'}"
        for key, g in figures["goals"].items()
    ]
    later = digits(figures["ours"]["compile_later_s"])
    return [f"Goals: {'; '.join(told)}. A later compile in the same process takes {later} s."]


def with_section(text: str, new: str) -> str:
    """The text with what stands between the markers replaced. Raises ValueError where they are not there."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} ... {END}")
    return f"{head}{BEGIN}\n{new}\n{END}{tail}"


def figures_of(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    peers, errors = started(folder, asked.environments, asked.cycle_steps)
    every = measured(peers, asked.rounds, asked.cycle_steps > 0)
    ready = {name: peer.ready for name, peer in peers.items()}
    for peer in peers.values():
        peer.close()
    arrays = {name: dict(np.load(folder / f"{name}.npz")) for name in peers}
    times, ours = timings(every, of_a_sample(ready)), alone(folder)
    return {
        "rounds": asked.rounds,
        "ready": ready,
        "errors": errors,
        "times": times,
        "ours": ours,
        "goals": goals(times, ours),
        "compared": {name: compared(name, arrays["ours"], arrays[name]) for name in arrays if name != "ours"},
        "thrindex_simulation_ms": [1e3 * r["result"]["simulation_s"] for r in every.get("thrindex sample", [])],
        "ours_engine_ms": [1e3 * r["result"]["engine_s"] for r in every["ours batch"]],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, required=True, help="folder of the peers' environments")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cycle-steps", type=int, default=3, help="chip steps that SANA-FE's clocked model runs")
    parser.add_argument("--cpu", type=int, help="number of the core that all are kept on; default: any")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--docs", action="store_true", help="write the section of docs/benchmarks.md")
    asked = parser.parse_args()
    if asked.cpu is not None:
        os.sched_setaffinity(0, {asked.cpu})
    with tempfile.TemporaryDirectory() as folder:
        figures = figures_of(asked, Path(folder))
    print(json.dumps(figures, indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(figures, indent=1) + "\n")
    if asked.docs:
        docs = HERE.parent / "docs" / "benchmarks.md"
        docs.write_text(with_section(docs.read_text(), section(figures)))
    return int(any(found["differs"] for found in figures["compared"].values()))


if __name__ == "__main__":
    sys.exit(main())
