"""The chip simulator: spikes equal the reference, counts equal brute force, costs equal hand-made sums."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import program_of
from random_networks import conv_network, images, random_network
from snncompile.backends.chipsim.cost import Reception, Traffic, energy_report, event_counts, step_times_ns, time_report

from snncompile import reference
from snncompile.backend import load_backend
from snncompile.chip import EnergySet, EventTime, load_chip
from snncompile.levels import activity_of, default_levels
from snncompile.program import Program

SIM = load_backend("sim")


@given(st.integers(0, 10_000))
def test_every_spike_equals_the_reference(seed: int) -> None:
    program = program_of(random_network(seed))
    x = images(program.network, samples=4, seed=seed)
    exact = reference.run_integer(program.network, x)
    run = SIM.run(program, Path(), x, [p.name for p in program.network.populations])
    np.testing.assert_array_equal(run.output, exact.output)
    for name, payloads in run.payloads.items():
        np.testing.assert_array_equal(payloads, exact.payloads[name])


@given(st.integers(0, 10_000))
@settings(max_examples=15)
def test_counts_equal_brute_force(seed: int) -> None:
    program = program_of(random_network(seed))
    network = program.network
    x = images(network, samples=3, seed=seed)
    exact = reference.run_integer(network, x)
    cost = SIM.run(program, Path(), x).cost
    spikes = sum(int((exact.payloads[p.name] != 0).sum()) for p in network.populations)
    updated = 0
    for population in network.populations:
        before = reference.initial_state(population, len(x))
        for t in range(network.timesteps):
            a = sum(reference.integer_current(s, exact.payloads[s.source][t]) for s in network.inputs_of(population))
            bias = population.bias.reshape(-1, *(1,) * (a.ndim - 2))
            updated += int(((before.v != 0) | (a != 0) | (bias != 0)).sum())
            _, _, before = reference.step_population(population, before, a + bias)
    assert cost["events"]["spike"] * len(x) == pytest.approx(spikes, abs=1e-6)
    assert cost["events"]["update"] * len(x) == pytest.approx(updated, abs=1e-6)
    assert cost["events"]["neuron"] == program.neurons * network.timesteps


def test_batches_give_what_one_batch_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_of(conv_network(5))
    x = images(program.network, samples=7, seed=1)
    whole = SIM.run(program, Path(), x, ["03_neuron"])
    monkeypatch.setattr(
        "snncompile.backends.chipsim.simulator.BATCH_STATES", 2 * program.neurons * program.network.timesteps
    )
    parts = SIM.run(program, Path(), x, ["03_neuron"])
    np.testing.assert_array_equal(whole.output, parts.output)
    np.testing.assert_array_equal(whole.payloads["03_neuron"], parts.payloads["03_neuron"])
    assert whole.cost == parts.cost


def _two_layers_of_64() -> Traffic:
    """Two layers of 64 neurons that always fire, one core each, dense, one step."""
    ones = np.ones((1, 1, 2))
    return Traffic(
        core=np.array([0, 1]),
        neurons=np.array([64, 64]),
        depth=np.array([0, 1]),
        updated=64 * ones,
        fired=64 * ones,
        packets_out=np.array([[[64.0, 0.0]]]),
        receptions=(Reception(0, 1, np.array([[[64.0]]]), np.array([[[64.0 * 64]]])),),
        hops_east_west=np.zeros((1, 1)),
        hops_north_south=np.zeros((1, 1)),
        hops_chip_border=np.zeros((1, 1)),
    )


def test_costs_equal_sana_fes_printed_figures() -> None:
    """17.1888 us and 0.1707008 uJ: what SANA-FE's simple model prints for this network with Loihi 1's silicon fit."""
    fit = EnergySet(
        name="fit", nominal=True, inherited=False, energy_synop_pj=35.5, energy_neuron_pj=51.2, energy_update_pj=21.6,
        energy_spike_pj=69.3, energy_packet_pj=111.0, energy_hop_east_west_pj=3.0, energy_hop_north_south_pj=4.2,
    )  # fmt: skip
    time = EventTime(
        inherited=False, time_neuron_ns=6.0, time_update_ns=3.7, time_spike_ns=30.0, time_packet_out_ns=5.1,
        time_packet_in_ns=16.0, time_synop_ns=3.8, time_barrier_ns_by_routers={1: 600, 2: 1000},
    )  # fmt: skip
    chip = load_chip("loihi2").model_copy(update={"energy": (fit,), "time": time})
    traffic = _two_layers_of_64()
    assert step_times_ns(traffic, chip, routers=1)[0] == pytest.approx(17188.8, rel=1e-12)
    assert energy_report(event_counts(traffic), chip)["nominal"] == pytest.approx(170_700.8, rel=1e-12)


def test_energy_is_the_sum_of_counts_and_unpublished_costs_are_named() -> None:
    chip = load_chip("loihi2")
    counts = event_counts(_two_layers_of_64())
    report = energy_report(counts, chip)
    davies = report["cost_sets"]["loihi1_davies2018"]
    assert davies["not_published"] == ["spike"]
    assert davies["by_cause"]["spike"] is None
    expected = counts["synop"] * 23.6 + counts["neuron"] * 52 + counts["update"] * 29 + counts["packet"] * 1.7
    assert davies["total"] == pytest.approx(expected)
    assert report["low"] == min(entry["total"] for entry in report["cost_sets"].values())
    assert report["high"] == max(entry["total"] for entry in report["cost_sets"].values())


def test_a_core_works_in_the_step_its_depth_puts_it_at() -> None:
    """Core 1 is one step behind: its generation falls into chip steps 1 and 2, reception into the sender's step."""
    chip = load_chip("tiny")  # every cost 1 ns, barrier 10 ns
    zeros = np.zeros((2, 1, 2))
    traffic = Traffic(
        core=np.array([0, 1]),
        neurons=np.array([0, 0]),
        depth=np.array([0, 1]),
        updated=zeros,
        fired=np.array([[[3.0, 0.0]], [[0.0, 5.0]]]),
        packets_out=zeros,
        receptions=(Reception(0, 1, np.array([[[100.0]], [[0.0]]]), np.zeros((2, 1, 1))),),
        hops_east_west=np.zeros((2, 1)),
        hops_north_south=np.zeros((2, 1)),
        hops_chip_border=np.zeros((2, 1)),
    )
    assert step_times_ns(traffic, chip, routers=1).tolist() == [110, 10, 15]
    report = time_report(traffic, chip, routers=1)
    assert report["latency_us"] == pytest.approx(((110 + 10) + (10 + 15)) / 2 / 1e3)


def test_the_estimate_is_the_cost_of_that_activity() -> None:
    """An image that is nowhere 0 has input activity 1: packets and synops from the input are exact."""
    program = program_of(conv_network(7))
    network = program.network
    activity = {name: np.ones_like(rates) for name, rates in activity_of(network, default_levels(network)).items()}
    estimate = SIM.estimate(program, activity)
    assert estimate is not None
    every = sum(_synapses_of(program, s.name) * network.timesteps for s in network.synapses)
    assert estimate["synops"] == pytest.approx(every)
    assert estimate["spikes"] == pytest.approx(program.neurons * network.timesteps)


def _synapses_of(program: Program, name: str) -> int:
    from snncompile.mapping.connectivity import connectivity

    return connectivity(program.network, program.network.synapses_by_name[name]).synapses


def test_float64_is_used_where_float32_is_not_certain() -> None:
    from dataclasses import replace

    from snncompile.backends.chipsim.function import FunctionEngine

    network = program_of(conv_network(4)).network
    wide = replace(network, input_payload_max=1 << 24)
    exact = reference.run_integer(wide, np.full((1, *wide.input_shape), 1 << 24))
    (*_, last) = FunctionEngine(wide).run(np.full((1, *wide.input_shape), 1 << 24))
    np.testing.assert_array_equal(last.state, exact.output)
