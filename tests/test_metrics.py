"""NeuroBench's metrics of compiled networks, against counts by brute force and against the simulator's."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_networks import integer_inputs, integer_network
from programs import program_of
from random_networks import conv_network, images, random_network
from snncompile.backends.chipsim import ChipSim
from test_lowering import with_resets

from snncompile import reference
from snncompile.metrics import Tally, fan_out, footprint, metrics_of
from snncompile.quant_network import IntArray, QuantSynapses


def _counted(synapses: QuantSynapses, sent: IntArray, nonzero: bool) -> int:
    """Operations by NeuroBench's own recipe: inputs and weights made 0 and 1, run, and all outputs added up."""
    weight = (synapses.weight != 0).astype(np.int64) if nonzero else np.ones_like(synapses.weight)
    binary = replace(synapses, weight=weight, exponent=0)
    return sum(int(reference.integer_current(binary, (step != 0).astype(np.int64)).sum()) for step in sent)


@settings(max_examples=60)
@given(seed=st.integers(0, 100_000))
def test_operations_are_what_brute_force_counts(seed: int) -> None:
    network = integer_network(seed)
    trace = reference.run_integer(network, integer_inputs(network, 3, seed))
    tally = Tally(network)
    tally.add(trace.payloads)
    for synapses in network.synapses:
        sent = trace.payloads[synapses.source]
        for nonzero in (True, False):
            fan = fan_out(network, synapses, synapses.weight != 0 if nonzero else None)
            assert int((tally.spikes[synapses.source] * fan).sum()) == _counted(synapses, sent, nonzero)


@pytest.mark.parametrize(
    ("chip", "lowering"), [("loihi2", "auto"), ("loihi2", "r1"), ("loihi2", "burst"), ("loihi1", "auto")]
)
def test_the_simulator_counts_the_same_synaptic_operations(chip: str, lowering: str) -> None:
    network = with_resets(conv_network(3), ("soft",), 3)
    program = program_of(network, chip, lowering=lowering)
    payloads = program.encode(images(network, 60, 1) / 255 / network.input.scale)
    found = metrics_of(program, payloads)
    run = ChipSim().run(program, None, payloads)  # type: ignore[arg-type]
    assert found["synaptic_operations"] == pytest.approx(run.cost["synops"], rel=1e-12)
    assert found["effective_macs"] + found["effective_acs"] <= found["synaptic_operations"] <= found["dense_operations"]
    json.dumps(found, allow_nan=False)


def test_synaptic_operations_are_accumulates_where_spikes_are_binary_and_no_weight_is_zero() -> None:
    program = program_of(random_network(4), lowering="r1")
    synapses = tuple(replace(s, weight=np.where(s.weight == 0, 1, s.weight)) for s in program.network.synapses)
    program = replace(program, network=replace(program.network, synapses=synapses))
    network = program.network
    payloads = (np.random.default_rng(0).random((70, *network.input_shape)) < 0.3).astype(np.int64)
    found = metrics_of(program, payloads)
    run = ChipSim().run(program, None, payloads)  # type: ignore[arg-type]
    assert found["effective_macs"] == 0
    assert found["effective_acs"] == found["synaptic_operations"] == pytest.approx(run.cost["synops"], rel=1e-12)
    assert found["connection_sparsity"] == 0


def test_graded_sources_multiply_and_binary_ones_add() -> None:
    program = program_of(random_network(4))
    network = program.network
    x = np.zeros((4, *network.input_shape), np.int64)
    for largest, operation in ((1, "AC"), (200, "MAC")):
        x[:, 0] = largest
        layers = {layer["name"]: layer for layer in metrics_of(program, x)["layers"]}
        sent = reference.run_integer(network, x).payloads
        for synapses in network.synapses:
            graded = sent[synapses.source].max() > 1
            assert layers[synapses.name]["operation"] == ("MAC" if graded else "AC")
        assert layers[network.synapses[0].name]["operation"] == operation


def test_sparsities_and_footprint_by_hand() -> None:
    program = program_of(random_network(4))
    network = program.network
    x = images(network, 5, 0)
    found, trace = metrics_of(program, x), reference.run_integer(network, x)
    firing = [trace.payloads[p.name] for p in network.populations if p.spiking]
    silent = sum(int((k == 0).sum()) for k in firing)
    assert found["activation_sparsity"] == pytest.approx(silent / sum(k.size for k in firing))
    weights = np.concatenate([s.weight.ravel() for s in network.synapses])
    assert found["connection_sparsity"] == pytest.approx((weights == 0).mean())
    bits = footprint(network)
    assert bits["weights"] == sum(s.weight.size for s in network.synapses)  # of 8 bits
    assert bits["states"] == sum(p.size * p.state_bits for p in network.populations) / 8
    assert bits["total"] == bits["weights"] + bits["constants"] + bits["states"]
    assert found["samples"] == 5
    assert found["host_dense_macs"] == 0


def test_the_host_computes_the_first_layer_of_a_chip_of_binary_spikes() -> None:
    network = with_resets(conv_network(3), ("soft",), 3)
    program = program_of(network, "loihi1")
    found = metrics_of(program, program.encode(images(network, 3, 1) / 255 / network.input.scale))
    assert found["host_dense_macs"] > 0
    assert found["effective_macs"] == 0
    assert all(layer["source"] != program.network.input_name for layer in found["layers"])


def test_batches_add_up() -> None:
    program = program_of(random_network(5))
    x = images(program.network, 120, 3)
    whole = metrics_of(program, x)
    tally = Tally(program.network)
    tally.add(reference.run_integer(program.network, x).payloads)
    assert whole["effective_macs"] * 120 == sum(
        int((tally.spikes[s.source] * fan_out(program.network, s, s.weight != 0)).sum())
        for s in program.network.synapses
        if tally.largest[s.source] > 1
    )
