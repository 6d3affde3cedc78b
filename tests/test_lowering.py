"""Lowered networks are the networks they were made of: same levels of every neuron at every step, same output."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import images, random_network

from snncompile import reference
from snncompile.chip import load_chip
from snncompile.errors import CompileError
from snncompile.levels import as_trained, levels_of
from snncompile.lowering import Mode, plan
from snncompile.network import Linear, MultiThresholdLIF, Network, Readout, Synapses
from snncompile.pipeline import lower, run_passes

LOIHI2, LOIHI1 = load_chip("loihi2").numerics, load_chip("loihi1").numerics


def with_resets(network: Network, resets: tuple[str, ...], seed: int) -> Network:
    """Multi-threshold neurons with another reset where theirs is not among `resets`."""
    rng = np.random.default_rng(seed)
    changed = {
        neuron.name: replace(neuron, reset=str(rng.choice(resets)))
        for neuron in network.neurons
        if len(neuron.thresholds) > 1 and neuron.reset not in resets
    }
    return network.replacing(changed)


def with_uneven_thresholds(network: Network, seed: int) -> Network:
    """Thresholds, payloads and what is subtracted no longer equidistant; payloads still multiples of the first."""
    rng = np.random.default_rng(seed)
    changed = {}
    for neuron in network.neurons:
        n = len(neuron.thresholds)
        thresholds = np.cumsum(rng.uniform(0.2, 0.8, n))
        payload = neuron.payload[0] * np.cumsum(np.concatenate([[1], rng.integers(1, 3, n - 1)]))
        changed[neuron.name] = replace(
            neuron, thresholds=thresholds, payload=payload, subtract=rng.uniform(0.1, 1.0, n)
        )
    return network.replacing(changed)


def differing(folded: Network, lowered: Network, x: np.ndarray) -> int:
    """Levels of trained neurons that differ, and outputs."""
    one, two = reference.run_float(folded, x), reference.run_float(lowered, x)
    count = int((np.abs(one.output - two.output) > 1e-9).sum())
    for neuron in folded.neurons:
        after = lowered.by_name[neuron.name]
        assert isinstance(after, MultiThresholdLIF)
        a = levels_of(one.outputs[neuron.name], neuron.payload)
        b = levels_of(two.outputs[neuron.name], after.payload)
        count += int((a != as_trained(b, after.members, lowered.microsteps)).sum())
    return count


def both(network: Network, mode: Mode) -> tuple[Network, Network]:
    return run_passes(network), lower(network, LOIHI2, mode)


@settings(max_examples=700, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_r1_is_exact_for_soft_and_no_reset(seed: int) -> None:
    network = with_resets(random_network(seed), ("soft", "none"), seed)
    if seed % 3:
        network = with_uneven_thresholds(network, seed)
    if isinstance(network.by_name[network.readout.inputs[0]], MultiThresholdLIF):
        network = single_level_readout(network)
    folded, lowered = both(network, "r1")
    assert all(neuron.payload.tolist() == [1.0] for neuron in lowered.neurons)
    assert differing(folded, lowered, images(network, 3, seed) / 255 / network.input.scale) == 0


def single_level_readout(network: Network) -> Network:
    """The last neuron with one level: what the host counts must be of one weight."""
    last = network.by_name[network.readout.inputs[0]]
    assert isinstance(last, MultiThresholdLIF)
    one = {key: getattr(last, key)[:1] for key in ("thresholds", "payload", "subtract")}
    return network.replacing({last.name: replace(last, **one)})


@settings(max_examples=500, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_members_are_exact_for_every_reset_in_one_step(seed: int) -> None:
    network = replace(random_network(seed), timesteps=1)
    network = network.replacing({n.name: replace(n, mixing=None) for n in network.neurons})
    if isinstance(network.by_name[network.readout.inputs[0]], MultiThresholdLIF):
        network = single_level_readout(network)
    x = images(network, 3, seed) / 255 / network.input.scale
    folded, lowered = both(network, "r1")
    assert differing(folded, lowered, x) == 0
    on_loihi1 = lower(network, LOIHI1, "r1")
    assert {neuron.reset for neuron in on_loihi1.neurons} == {"hard"}
    assert differing(folded, on_loihi1, x) == 0


@settings(max_examples=500, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_bursts_are_exact(seed: int) -> None:
    network = with_resets(random_network(seed), ("soft",), seed)
    folded, lowered = both(network, "burst")
    assert differing(folded, lowered, images(network, 3, seed) / 255 / network.input.scale) == 0


@settings(max_examples=500, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_uniform_is_exact_where_it_says_so(seed: int) -> None:
    network = with_resets(random_network(seed), ("soft",), seed)
    rng = np.random.default_rng(seed)
    if seed % 2:  # no negative current
        network = network.replacing(
            {
                s.name: replace(s, weight=np.abs(s.weight), bias=np.abs(s.bias))
                for s in network.of_type(Synapses)  # type: ignore[type-abstract]
            }
        )
    if rng.random() < 0.3:
        network = replace(network, timesteps=1)
        network = network.replacing({n.name: replace(n, mixing=None) for n in network.neurons})
    folded, lowered = both(network, "uniform")
    classes = {name: entry.exactness for name, entry in plan(folded, LOIHI2, "uniform").items()}
    x = images(network, 3, seed) / 255 / network.input.scale
    if all(exactness.startswith("exact") for exactness in classes.values()):
        assert differing(folded, lowered, x) == 0


def chain(reset: str, timesteps: int, leak: float = 0.5) -> Network:
    """Two linear layers, a neuron of three levels between."""
    rng = np.random.default_rng(0)
    nodes = (
        random_network(0).input,
        Linear("l1", ("x",), rng.normal(0, 1, (4, 6)), np.zeros(4)),
        MultiThresholdLIF("n", ("l1",), np.arange(1, 4.0), np.arange(1, 4.0), np.arange(1, 4.0), leak, reset, "ge"),  # type: ignore[arg-type]
        Linear("l2", ("n",), rng.normal(0, 1, (2, 4)), np.zeros(2)),
        Readout("out", ("l2",)),
    )
    return Network(nodes, timesteps)


def test_hard_reset_with_several_thresholds_is_refused_naming_the_alternatives() -> None:
    with pytest.raises(CompileError, match=r"n: has 3 thresholds and a hard reset, T = 2.*soft.*T = 1.*graded"):
        lower(chain("hard", 2), LOIHI1)
    lower(chain("hard", 1), LOIHI1)
    lower(chain("hard", 2), LOIHI2)


def test_the_naive_port_that_is_refused_would_be_wrong() -> None:
    network = chain("hard", 3, leak=1.0)
    folded = run_passes(network)
    soft = lower(chain("soft", 3, leak=1.0), LOIHI1)
    naive = soft.replacing({"n": replace(soft.by_name["n"], reset="hard", inputs=("l1",))})  # type: ignore[type-var]
    naive = replace(naive, nodes=tuple(node for node in naive.nodes if node.name != "n_lateral"))
    x = np.random.default_rng(1).uniform(0, 1, (200, 6))
    assert differing(folded, naive, x) > 0


@pytest.mark.parametrize("mode", ["burst", "uniform"])
def test_a_chip_that_cannot_store_a_step_refuses_bursts(mode: str) -> None:
    with pytest.raises(CompileError, match=f"--lowering {mode}: the chip's neurons cannot store"):
        lower(chain("soft", 2), LOIHI1, mode)


def test_graded_spikes_are_refused_on_a_binary_chip_and_unknown_lowerings_everywhere() -> None:
    with pytest.raises(CompileError, match="--lowering graded: the chip's spikes are binary"):
        lower(chain("soft", 2), LOIHI1, "graded")
    with pytest.raises(CompileError, match=r"no lowering 'brust'.*burst"):
        lower(chain("soft", 2), LOIHI2, "brust")


def test_bursts_need_equidistant_thresholds() -> None:
    network = chain("soft", 2)
    neuron = network.by_name["n"]
    uneven = network.replacing({"n": replace(neuron, thresholds=np.array([1.0, 2.5, 3.0]))})  # type: ignore[type-var]
    with pytest.raises(CompileError, match="n: --lowering burst needs equidistant"):
        lower(uneven, LOIHI2, "burst")


def test_counted_members_are_refused() -> None:
    network = chain("soft", 2)
    counted = Network((*network.nodes[:3], Readout("out", ("n",))), 2)
    with pytest.raises(CompileError, match="n: its graded spikes are counted by the host"):
        lower(counted, LOIHI1)
