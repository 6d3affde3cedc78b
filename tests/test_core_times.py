"""How long cores are busy: the same in one go and in parts, in memory that does not grow with the samples."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import program_of
from random_networks import conv_network, images
from snncompile.backends.chipsim import cost
from snncompile.backends.chipsim.cost import CoreTimes, Reception, Traffic, step_times_ns
from snncompile.backends.chipsim.flows import mesh_packets

from snncompile.backend import load_backend
from snncompile.chip import Chip, load_chip

SIM = load_backend("sim")


def traffic_of(seed: int, samples: int, timesteps: int = 3) -> Traffic:
    """Random counts of six tiles on four cores, at depths 1 to 3; the tiles of two layers are read."""
    rng = np.random.default_rng(seed)
    core, depth = np.array([0, 1, 1, 2, 3, 0]), np.array([1, 1, 2, 2, 3, 3])

    def counts(tiles: int) -> np.ndarray:
        return rng.integers(0, 50, (samples, timesteps, tiles)).astype(np.float64)

    receptions = (Reception(0, 0, counts(2), counts(2)), Reception(1, 2, counts(4), counts(4)))
    hops = [np.zeros((samples, timesteps)) for _ in range(3)]
    return Traffic(core, rng.integers(1, 9, 6), depth, counts(6), counts(6), counts(6), receptions, *hops)


def plain(traffic: Traffic, chip: Chip) -> np.ndarray:
    """(2, steps, cores): generation and reception, tile by tile and step by step."""
    time, logical = chip.time, traffic.samples * traffic.timesteps
    busy = np.zeros((2, logical + int(traffic.depth.max()), int(traffic.core.max()) + 1))
    for n, t in np.ndindex(traffic.samples, traffic.timesteps):
        step = n * traffic.timesteps + t
        for tile, (core, depth) in enumerate(zip(traffic.core, traffic.depth, strict=True)):
            at = busy[0, step + depth]
            at[core] += time.time_neuron_ns * traffic.neurons[tile]
            at[core] += (
                time.time_update_ns * traffic.updated[n, t, tile] + time.time_spike_ns * traffic.fired[n, t, tile]
            )
            at[core] += time.time_packet_out_ns * traffic.packets_out[n, t, tile]
        for r in traffic.receptions:
            for i in range(r.packets.shape[2]):
                at = busy[1, step + r.depth]
                ns = time.time_packet_in_ns * r.packets[n, t, i] + time.time_synop_ns * r.synops[n, t, i]
                at[traffic.core[r.first_tile + i]] += ns
    return busy


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 40))
@settings(max_examples=25)
def test_parts_equal_the_plain_count(seed: int, samples: int, values: int) -> None:
    traffic, chip = traffic_of(seed, samples), load_chip("loihi1")
    generation, reception = expected = plain(traffic, chip)
    times = CoreTimes(traffic, chip)
    np.testing.assert_allclose(np.stack(times.of(0, times.steps)), expected, rtol=1e-12)
    for first in range(0, times.steps, 3):
        stop = min(first + 3, times.steps)
        np.testing.assert_allclose(np.stack(times.of(first, stop)), expected[:, first:stop], rtol=1e-12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "BUSY_VALUES", values)
        longest = times.longest
    np.testing.assert_allclose(longest.generation, generation.max(1), rtol=1e-12)
    np.testing.assert_allclose(longest.reception, reception.max(1), rtol=1e-12)
    busy = np.maximum(generation, reception)
    np.testing.assert_allclose(busy[np.arange(len(busy)), longest.core], busy.max(1), rtol=1e-12)
    for ours, theirs in ((longest.core_generation, generation), (longest.core_reception, reception)):
        np.testing.assert_allclose(ours, theirs.sum(0), rtol=1e-12)
    np.testing.assert_allclose(longest.core_busy, busy.sum(0), rtol=1e-12)
    barrier = chip.time.barrier_ns(2)
    np.testing.assert_allclose(step_times_ns(traffic, chip, 2), busy.max(1) + barrier, rtol=1e-12)


def test_memory_does_not_grow_with_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond three numbers a chip step: the times of all cores and steps would take 64 bytes a step here."""
    monkeypatch.setattr(cost, "BUSY_VALUES", 20_000)
    traffic, chip = traffic_of(0, 60_000), load_chip("loihi1")
    steps = traffic.samples * traffic.timesteps
    tracemalloc.start()
    times = step_times_ns(traffic, chip, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(times) == steps + 3
    kept = 2 * 3 * 8 * steps  # by step, in parts and joined
    assert peak < kept + 3_000_000 < (2 * 4 + 3) * 8 * steps


@given(st.integers(0, 1000))
@settings(max_examples=5)
def test_packets_over_the_mesh_in_parts_equal_those_in_one_go(seed: int) -> None:
    from snncompile.backends.chipsim.counting import CoreCounter
    from snncompile.backends.chipsim.function import FunctionEngine
    from snncompile.backends.chipsim.simulator import _Simulation

    program = program_of(conv_network(seed))
    counter = CoreCounter(program)
    x = images(program.network, samples=2, seed=seed)
    parts = _Simulation(program, FunctionEngine(program.network), counter, frozenset()).batch(x).parts
    traffic = counter.traffic([parts])
    steps = traffic.samples * traffic.timesteps + int(traffic.depth.max())
    whole = mesh_packets(program, traffic, 0, steps)
    assert whole[0].sum() == traffic.packets_out.sum()
    for way in range(2):
        some = [mesh_packets(program, traffic, i, min(i + 2, steps))[way] for i in range(0, steps, 2)]
        np.testing.assert_array_equal(np.concatenate(some), whole[way])


def test_a_run_tells_the_kernel_of_every_layer() -> None:
    program = program_of(conv_network(3))
    kernels = SIM.run(program, Path(), images(program.network, samples=1, seed=0)).cost["kernels"]
    assert set(kernels) == {synapses.name for synapses in program.network.synapses}
    assert all(name.split()[0] in ("int8", "float32", "float64", "int64") for name in kernels.values())
