"""What benchmarks/peers.py, sanafe_wired.py and watch.py make of what they measure; no peer is run."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import peers
import sanafe_wired
import snncompile_peer
import watch
from sanafe_compare import against

from snncompile import reference
from snncompile.chip import load_chip

ROOT = Path(__file__).parent.parent


def spikes(*counts: int) -> dict[str, np.ndarray]:
    """Two layers that fire so often in four steps of five neurons."""
    fired = {f"fired_{i}": (np.arange(20) < n).reshape(4, 5) for i, n in enumerate(counts)}
    return {**fired, "synops": np.array(50.0), "packets": np.array(9.0)}


def test_a_peer_that_fires_otherwise_is_told() -> None:
    ours = spikes(3, 4)
    assert peers.compared("thrindex", ours, spikes(3, 4))["differs"] == []
    found = peers.compared("thrindex", ours, spikes(3, 6) | {"synops": np.array(51)})
    assert (found["spikes_apart"], found["neuron_steps"], found["differs"]) == (2, 40, ["spikes", "synops"])


def test_step_times_are_compared_where_all_layers_work() -> None:
    steps = np.array([5.0, 6.0, 100.0, 200.0, 7.0, 8.0])
    ours = spikes(3, 4) | {"step_ns": steps, "cycle_step_ns": 2 * steps}
    other = steps * np.array([3, 3, 1, 1, 3, 3])
    peer = spikes(3, 4) | {"simple.sim_time": other * 1e-9, "cycle.sim_time": 2e-9 * steps[:2]}
    found = peers.compared("sanafe", ours, peer)
    assert (found["steps_compared"], found["differs"]) == (2, [])
    assert found["clocked_from_cycle_percent"] == pytest.approx(0, abs=1e-9)
    peer["simple.sim_time"][2] *= 1 + 1e-6
    peer["packets"] += 1
    assert peers.compared("sanafe", ours, peer)["differs"] == ["packets", "step times"]


def test_times_are_of_a_sample_and_ratios_within_a_round() -> None:
    every = {
        "ours batch": [{"cpu_s": s, "wall_s": 2 * s} for s in (0.1, 0.2, 0.4)],
        "ours cycle": [{"cpu_s": 0.1, "wall_s": 0.1}] * 3,
        "thrindex sample": [{"cpu_s": s, "wall_s": s} for s in (0.01, 0.02, 0.04)],
        "sanafe cycle": [{"cpu_s": 3.0, "wall_s": 3.0}],
    }
    shares = peers.of_a_sample(
        {"ours": {"samples": 100, "cycle_samples": 10}, "sanafe": {"cycle_steps": 3, "chip_steps": 28}}
    )
    found = peers.timings(every, shares)
    assert found["ours batch"] == pytest.approx({"cpu_ms": 2.0, "wall_ms": 4.0, "times_ours": 1.0})
    assert found["thrindex sample"]["times_ours"] == pytest.approx(10)
    assert found["sanafe cycle"]["cpu_ms"] == pytest.approx(28_000)
    assert found["sanafe cycle"]["times_ours"] == pytest.approx(2800)


def figures() -> dict[str, Any]:
    ready = {"ours": {"samples": 100, "sample": {"synops": 1.35e6}}, "thrindex": {"thrindex": "0.5.0"}}
    times = {"ours batch": {"cpu_ms": 0.5, "wall_ms": 0.6, "times_ours": 1.0}}
    times |= {"thrindex sample": {"cpu_ms": 17.0, "wall_ms": 17.5, "times_ours": 34.0}}
    times |= {"ours cycle": {"cpu_ms": 1234.5, "wall_ms": 1234.5, "times_ours": 1.0}}
    ours = {"compile_first_s": 0.234, "compile_later_s": 0.12, "memory_beyond_torch_mb": 250.0}
    compared = {"thrindex": peers.compared("thrindex", spikes(3, 4), spikes(3, 5))}
    return {
        "rounds": 7,
        "ready": ready,
        "times": times,
        "ours": ours,
        "goals": peers.goals(times, ours),
        "compared": compared,
        "thrindex_simulation_ms": [12.0],
        "errors": {"sanafe": "Traceback\nno wheel for this Python"},
    }


def test_the_section_tells_what_is_missed_what_differs_and_what_did_not_run() -> None:
    text = " ".join(peers.section(figures()).split())
    assert "| thrindex 0.5.0: function | 17 | 17.5 | 34 |" in text
    assert "a clocked sample (ms) 1,234, goal 100: missed" in text
    assert "a sample (ms) 0.5, goal 0.7: met" in text
    assert "the first compile beyond imports (s) 0.234, goal 0.1: missed" in text
    assert "1 of 40 neurons' steps differ" in text
    assert "DIFFER in spikes" in text
    assert "sanafe did not run: no wheel for this Python" in text
    assert "SANA-FE" not in text
    assert "its simulation alone takes 12 ms" in text


def test_the_section_stands_between_its_markers() -> None:
    text = f"# a\n{peers.BEGIN}\nold\n{peers.END}\nb\n"
    assert peers.with_section(text, "new") == f"# a\n{peers.BEGIN}\nnew\n{peers.END}\nb\n"
    with pytest.raises(ValueError, match="no <!-- peers: begin"):
        peers.with_section("# a\n", "new")
    docs = (ROOT / "docs" / "benchmarks.md").read_text()
    assert peers.with_section(docs, "new").count("new\n<!-- peers: end -->") == 1


def test_a_peer_that_fails_is_an_error_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cannot be installed, one ends with an error; ours waits for work."""
    (tmp_path / "nengo_loihi" / "bin").mkdir(parents=True)
    (tmp_path / "nengo_loihi" / "bin" / "python").symlink_to(sys.executable)
    program = tmp_path / "peer.py"
    program.write_text(
        "import sys\nfrom peer_protocol import serve\n"
        "def prepare():\n    if 'case.npz' in sys.argv[1]: raise ValueError('old numpy needed')\n"
        "    return {'samples': 1}, {'batch': lambda: print('said') or 4}\n"
        "serve(prepare)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "benchmarks"))
    monkeypatch.setattr(peers, "HERE", tmp_path)
    monkeypatch.setattr(peers, "PROGRAMS", {"thrindex": "peer.py", "nengo_loihi": "peer.py"})
    monkeypatch.setitem(peers.REQUIREMENTS, "thrindex", ["no such requirement ?"])
    (tmp_path / "snncompile_peer.py").write_text(program.read_text())
    running, errors = peers.started(tmp_path, tmp_path, 1)
    took = running["ours"].do("batch")
    running["ours"].close()
    assert set(running) == {"ours"}
    assert took["result"] == 4
    assert took["cpu_s"] >= 0
    assert "no such requirement" in errors["thrindex"]
    assert errors["nengo_loihi"].endswith("ValueError: old numpy needed")


def test_the_network_of_the_peers_is_what_is_deployed(tmp_path: Path) -> None:
    """Weights come through 8 bits unchanged; the integers given to peers fire as the reference does."""
    snncompile_peer.save_model(tmp_path / "lif.pt")
    program = snncompile_peer.compiled(tmp_path)
    events = snncompile_peer.spikes_of(0, 1)
    case = snncompile_peer.case_of(program, program.encode(events)[0])
    fired = reference.run_integer(program.network, program.encode(events)).payloads
    sent = events[0]
    for i, population in enumerate(program.network.populations):
        v, expected = np.zeros(population.size), fired[population.name][:, 0] != 0
        for t, arriving in enumerate(sent):
            v = case["leak"] * v + case[f"weights_{i}"] @ arriving
            assert ((v > case["threshold"]) == expected[t]).all()
            v[v > case["threshold"]] = 0
        sent = expected.astype(np.int64)
        assert len(case[f"core_{i}"]) == population.size
    cores = np.concatenate([case[f"core_{i}"] for i in range(3)])
    assert case["input_core"] not in cores
    assert case["input_core"] // 4 in cores // 4


def two_layers(size: int, steps: int) -> dict[str, np.ndarray]:
    """What sanafe_peer.py writes of two layers that fire in every step, without SANA-FE's times."""
    arrays: dict[str, Any] = {"layers": 2, "simple.sim_time": np.zeros(steps), "weights_0": np.ones((size, size))}
    for i in range(2):
        arrays |= {f"cores_{i}": [size], f"threshold_{i}": 0.0, f"leak_{i}": 1.0, f"bias_{i}": np.ones(size)}
    events = [(t, i, n) for t in range(steps) for i in range(2) for n in range(size)]
    arrays["simple.fired_neurons"] = np.array(events)
    return {name: np.asarray(value) for name, value in arrays.items()}


def test_the_wired_router_gives_sanafes_cycles() -> None:
    """Two layers of 64: 17188.8 ns a step event-timed, 17225 in its cycle model; both as SANA-FE 2.2.9 said."""
    arrays = two_layers(64, 4)
    arrays["simple.sim_time"] = np.full(4, 17188.8e-9)
    arrays["cycle.sim_time"] = np.full(3, 17225e-9)
    found = sanafe_wired.figures_of("dense-64", arrays, load_chip("loihi1"))
    assert found["spikes_apart"] == 0
    assert found["spikes"] == 2 * 64 * 4
    assert abs(found["event-timed from simple"]["total_percent"]) < 1e-9
    assert abs(found["clocked from cycle"]["total_percent"]) < 1e-9
    assert against(np.array([2.0, 1.0]), np.array([1.0, 1.0]))["total_percent"] == 50


def test_a_ratio_that_falls_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Measured again before it counts; a stored tolerance stays; storing takes the lower of two."""
    path = tmp_path / "ratios.json"
    path.write_text(
        json.dumps({"router": {"ratio": 2.0, "tolerance": 0.1}, "compile": {"ratio": 1.0, "tolerance": 0.5}})
    )
    given = iter([{"router": 1.7, "compile": 0.6}, {"router": 1.79}])
    asked = []

    def measured(names: Any, rounds: int) -> dict[str, float]:
        asked.append(list(names))
        return next(given)

    monkeypatch.setattr(watch, "measured", measured)
    monkeypatch.setattr(sys, "argv", ["watch.py", "--ratios", str(path), "--only", "router", "compile"])
    assert watch.main() == 1
    assert asked == [["router", "compile"], ["router"]]
    assert "fell: router\n" in capsys.readouterr().err
    given = iter([{"router": 1.7, "compile": 0.6}, {"router": 1.81}])
    assert watch.main() == 0
    given = iter([{"router": 3.0}, {"router": 2.5}])
    monkeypatch.setattr(sys, "argv", ["watch.py", "--ratios", str(path), "--store", "--only", "router"])
    assert watch.main() == 0
    assert json.loads(path.read_text()) == {
        "router": {"ratio": 2.5, "tolerance": 0.1},
        "compile": {"ratio": 1.0, "tolerance": 0.5},
    }


def test_every_stored_ratio_is_one_that_is_measured() -> None:
    stored = json.loads(watch.STORED.read_text())
    assert set(stored) == set(watch.NAMES)
    assert all(entry["ratio"] > 0 and 0 < entry["tolerance"] < 1 for entry in stored.values())
