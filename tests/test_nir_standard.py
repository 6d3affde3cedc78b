# ruff: noqa: E501 - golden error texts are one line each
"""All nodes of NIR in our network: equal to a plain simulation of what NIR's nodes say, spike for spike."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nir_simulator import simulate

from snncompile.errors import CompileError
from snncompile.frontend import load_model
from snncompile.frontend.nir.graph_order import ordered
from snncompile.frontend.nir.to_network import read_network, to_network, with_reading
from snncompile.frontend.nir.write import write_nir
from snncompile.frontend.reading import Reading
from snncompile.network import MultiThresholdLIF, Network, Sparse
from snncompile.pipeline import run_passes
from snncompile.reference import run_float

DT = 1e-4
STEPS = 20
TWO, ONE, NONE = (np.full(2, n, np.int64) for n in (2, 1, 0))


def chain(*nodes: nir.NIRNode, shape: Sequence[int], edges: Sequence[tuple[int, int]] = ()) -> nir.NIRGraph:
    """Input -> nodes -> Output, and `edges` between positions; nodes are named by theirs."""
    last = nodes[-1]
    features = len(last.weight) if isinstance(last, nir.Affine | nir.Linear) else None
    ends = last.output_type["output"] if features is None else np.array([features])
    listed = [nir.Input(np.array(shape)), *nodes, nir.Output(ends)]
    names = [f"{i:02d}" for i in range(len(listed))]
    extra = [(names[a], names[b]) for a, b in edges]
    return nir.NIRGraph(dict(zip(names, listed, strict=True)), [*pairwise(names), *extra], type_check=False)


def affine(rng: np.random.Generator, out: int, fan_in: int, bias: float = 0.3) -> nir.Affine:
    return nir.Affine(rng.normal(0.2, 1, (out, fan_in)), rng.normal(0, bias, out))


def conv(rng: np.random.Generator, out: int, fan_in: int, kernel: int = 3, **values: Any) -> nir.Conv2d:
    default = {"stride": ONE, "padding": ONE, "dilation": ONE, "groups": 1, "bias": rng.normal(0, 0.2, out)}
    weight = rng.normal(0.1, 0.6, (out, fan_in, kernel, kernel))
    return nir.Conv2d(**{"input_shape": None, "weight": weight, **default, **values})


def lif(shape: Sequence[int], **values: Any) -> nir.LIF:
    default = {"tau": 5 * DT, "r": 4.0, "v_leak": 0.0, "v_threshold": 0.8, "v_reset": 0.0}
    return nir.LIF(**{key: np.broadcast_to(value, shape).astype(float) for key, value in {**default, **values}.items()})


def if_(shape: Sequence[int], r: float = 1 / DT) -> nir.IF:
    return nir.IF(np.full(shape, r), np.full(shape, 0.9))


def cuba(shape: Sequence[int], **values: Any) -> nir.CubaLIF:
    default = {"tau_syn": 2 * DT, "tau_mem": 4 * DT, "r": 3.0, "v_leak": 0.0, "v_threshold": 0.8, "w_in": 1.5, "v_reset": 0.0}  # fmt: skip
    return nir.CubaLIF(
        **{key: np.broadcast_to(value, shape).astype(float) for key, value in {**default, **values}.items()}
    )


def compare(graph: nir.NIRGraph, seed: int = 0, reading: Reading | None = None, quiet: Sequence[str] = ()) -> Network:
    """Every neuron of the graph sends what the plain simulation says, and so does the folded network."""
    rng = np.random.default_rng(seed)
    network = to_network(graph, reading or Reading(timesteps=STEPS, dt=DT))
    shape = tuple(graph.nodes["00"].input_type["input"].tolist())
    frames = (rng.random((2, STEPS, *shape)) < 0.4).astype(float)
    traced = run_float(network, frames.reshape(2, STEPS, *network.input.shape))
    folded = run_float(run_passes(network), frames.reshape(2, STEPS, *network.input.shape))
    for sample in range(2):
        wanted = simulate(graph, ordered(graph), frames[sample], DT)
        for neuron in network.neurons:
            spikes = wanted[neuron.name].reshape(STEPS, *network.shapes[neuron.name])
            assert spikes.any() or neuron.name in quiet, f"{neuron.name} never fires: nothing is compared"
            assert not spikes.all(), f"{neuron.name} always fires: nothing is compared"
            assert np.array_equal(traced.outputs[neuron.name][:, sample], spikes), neuron.name
            assert np.array_equal(folded.outputs[neuron.name][:, sample], spikes), neuron.name
    return network


def per_channel(rng: np.random.Generator, low: float, high: float, shape: Sequence[int]) -> Any:
    return np.broadcast_to(rng.uniform(low, high, (shape[0], *(1,) * (len(shape) - 1))), shape)


@given(st.integers(0, 2**32))
def test_neurons_with_all_their_parameters(seed: int) -> None:
    rng = np.random.default_rng(seed)
    draw = lambda low, high: per_channel(rng, low, high, (6,))  # noqa: E731
    first = lif((6,), tau=draw(2 * DT, 9 * DT), r=draw(3, 6), v_leak=draw(-0.2, 0.3), v_reset=draw(-0.3, 0.2), v_threshold=draw(0.5, 1))  # fmt: skip
    second = cuba((6,), tau_syn=draw(DT, 4 * DT), tau_mem=draw(2 * DT, 9 * DT), r=draw(2, 6), w_in=draw(0.5, 2), v_leak=draw(-0.1, 0.2), v_reset=draw(-0.2, 0.1))  # fmt: skip
    third = if_((3,), r=0.7 / DT)
    nodes = (affine(rng, 6, 4), first, affine(rng, 6, 6), second, affine(rng, 3, 6), third)
    rare = ("02", "04", "06")  # random networks are now and then silent
    try:
        compare(chain(*nodes, shape=(4,)), seed, quiet=rare)
    except AssertionError as error:
        if "always fires" not in str(error):
            raise


def test_an_image_network_of_everything_that_folds() -> None:
    rng = np.random.default_rng(1)
    image = lif((6, 8, 8), v_threshold=per_channel(rng, 0.7, 1.2, (6, 8, 8)), tau=per_channel(rng, 3 * DT, 8 * DT, (6, 8, 8)))  # fmt: skip
    nodes = (
        conv(rng, 6, 2),
        nir.Scale(per_channel(rng, 0.5, 1.5, (6, 8, 8))),
        image,
        nir.SumPool2d(TWO, TWO, NONE),
        conv(rng, 4, 3, groups=2),
        if_((4, 4, 4), 0.5 / DT),
        nir.AvgPool2d(TWO, TWO, NONE),
        nir.Flatten(None, 0, -1),
        nir.Scale(rng.uniform(0.5, 2, 16)),
        affine(rng, 5, 16),
        cuba((5,)),
        nir.Delay(np.full(5, 3 * DT)),
        nir.Linear(rng.normal(0.4, 1, (3, 5))),
        if_((3,), 0.5 / DT),
    )
    network = compare(chain(*nodes, shape=(2, 8, 8)))
    assert [type(node).__name__ for node in network.nodes] == [
        *("Input", "Conv2d", "MultiThresholdLIF", "Conv2d", "MultiThresholdLIF", "AvgPool2d", "Flatten", "Linear"),
        *("MultiThresholdLIF", "Linear", "MultiThresholdLIF", "Readout"),
    ]


POOLS: list[tuple[str, list[Callable[[np.random.Generator], nir.NIRNode]]]] = [
    ("overlapping, into a convolution", [lambda r: nir.SumPool2d(3 * ONE, TWO, NONE), lambda r: conv(r, 3, 2, padding=NONE, kernel=2), lambda r: if_((3, 2, 2), 0.3 / DT)]),
    ("padded, into a neuron", [lambda r: nir.AvgPool2d(3 * ONE, TWO, ONE), lambda r: if_((2, 4, 4))]),
    ("of currents", [lambda r: conv(r, 3, 2), lambda r: nir.AvgPool2d(TWO, TWO, NONE), lambda r: if_((3, 4, 4))]),
    ("of pools", [lambda r: nir.AvgPool2d(TWO, TWO, NONE), lambda r: nir.SumPool2d(TWO, TWO, NONE), lambda r: nir.AvgPool2d(TWO, ONE, NONE), lambda r: if_((2, 1, 1), 0.37 / DT)]),
    ("padded, flattened, into a linear layer", [lambda r: nir.SumPool2d(3 * ONE, 3 * ONE, ONE), lambda r: nir.Flatten(None, 0, -1), lambda r: affine(r, 4, 18), lambda r: if_((4,), 0.2 / DT)]),
    ("two convolutions in a row", [lambda r: conv(r, 4, 2, stride=TWO), lambda r: conv(r, 3, 2, padding=NONE, groups=2, weight=r.normal(0.1, 0.5, (4, 2, 2, 2)), bias=r.normal(size=4)), lambda r: if_((4, 3, 3), 0.4 / DT)]),
    ("a dilated convolution, flattened", [lambda r: conv(r, 3, 2, dilation=TWO, stride=TWO), lambda r: nir.Flatten(None, 0, -1), lambda r: affine(r, 4, 27), lambda r: if_((4,), 0.2 / DT)]),
    ("two linear layers in a row", [lambda r: nir.Flatten(None, 0, -1), lambda r: affine(r, 9, 128), lambda r: nir.Linear(r.normal(0, 0.3, (4, 9))), lambda r: if_((4,), 0.1 / DT)]),
]  # fmt: skip


@pytest.mark.parametrize("made", [made for _, made in POOLS], ids=[name for name, _ in POOLS])
def test_linear_maps_in_a_row_are_one_layer(made: list[Callable[[np.random.Generator], nir.NIRNode]]) -> None:
    rng = np.random.default_rng(2)
    nodes = [make(rng) for make in made]
    network = compare(chain(lif((2, 8, 8), r=5.0), *nodes, shape=(2, 8, 8)))
    assert run_passes(network).nodes[-3].inputs == ("01",)


def test_a_convolution_in_one_dimension_is_one_of_height_one() -> None:
    rng = np.random.default_rng(3)
    one = nir.Conv1d(12, rng.normal(0.3, 1, (4, 2, 3)), 2, 1, 1, 1, rng.normal(0, 0.2, 4))
    same = nir.Conv1d(6, rng.normal(0.3, 1, (4, 2, 3)), 1, "same", 2, 2, rng.normal(0, 0.2, 4))
    nodes = (one, lif((4, 6)), same, if_((4, 6), 0.4 / DT), nir.Flatten(None, 0, -1), affine(rng, 3, 24), if_((3,), 0.2 / DT))  # fmt: skip
    network = compare(chain(*nodes, shape=(2, 12)))
    assert network.input.shape == (2, 1, 12)


def test_delays_that_differ_split_the_synapses_after_them() -> None:
    rng = np.random.default_rng(4)
    delay = nir.Delay(DT * np.array([0, 3, 1, 3.0]))
    network = compare(chain(affine(rng, 4, 3), if_((4,)), delay, affine(rng, 3, 4), if_((3,), 0.4 / DT), shape=(3,)))
    lags = {node.lag: set(node.column.tolist()) for node in network.of_type(Sparse)}
    assert lags == {0: {0}, 1: {2}, 3: {1, 3}}
    image = per_channel(rng, 0, 1, (2, 8, 8)) * 0 + DT * np.array([0, 2.0]).reshape(2, 1, 1)
    compare(chain(lif((2, 8, 8), r=6.0), nir.Delay(image), conv(rng, 3, 2), if_((3, 8, 8)), shape=(2, 8, 8)))


def test_thresholds_keep_nothing() -> None:
    rng = np.random.default_rng(5)
    nodes = (lif((2, 8, 8), r=5.0), nir.SumPool2d(TWO, TWO, NONE), nir.Threshold(np.zeros((2, 4, 4))), nir.Flatten(None, 0, -1))  # fmt: skip
    network = compare(chain(*nodes, affine(rng, 5, 32), nir.Threshold(np.linspace(-1, 2, 5)), shape=(2, 8, 8)))
    pooled, compared = network.neurons[1:]
    assert pooled.thresholds.tolist() == [0.5]
    assert pooled.drive is None
    assert compared.drive is not None


def test_a_population_may_read_itself() -> None:
    rng = np.random.default_rng(6)
    recurrent = affine(rng, 5, 5)
    graph = chain(affine(rng, 5, 3), cuba((5,)), affine(rng, 2, 5), if_((2,), 0.4 / DT), shape=(3,))
    graph.nodes["02_rec"] = recurrent
    graph.edges += [("02", "02_rec"), ("02_rec", "02")]
    network = compare(graph)
    assert network.laterals(network.by_name["02"]) == ("02_rec",)
    assert network.neurons[0].current_leak == 0.5


def test_a_recurrent_delay_counts_the_step_that_recurrence_takes(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    graph = chain(affine(rng, 4, 3), if_((4,)), affine(rng, 2, 4), if_((2,), 0.4 / DT), shape=(3,))
    graph.nodes |= {"02_delay": nir.Delay(np.full(4, 3 * DT)), "02_rec": nir.Linear(rng.normal(0, 1, (4, 4)))}
    graph.edges += [("02", "02_delay"), ("02_delay", "02_rec"), ("02_rec", "02")]
    (tmp_path / "a.nir").write_bytes(write_nir(graph))
    network = to_network(load_model(tmp_path / "a.nir"), Reading(timesteps=STEPS))
    (lateral,) = network.laterals(network.by_name["02"])
    assert network.by_name[lateral].lag == 2
    direct = chain(affine(rng, 4, 3), if_((4,)), shape=(3,), edges=[(2, 2)])
    network = to_network(direct, Reading(timesteps=STEPS))
    assert network.laterals(network.neurons[0]) == ("02_from_itself",)


def test_nested_graphs_are_opened(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    inner = nir.NIRGraph(
        {"input": nir.Input(np.array([5])), "lif": cuba((5,)), "w_rec": affine(rng, 5, 5), "output": nir.Output(np.array([5]))},
        [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")],
        type_check=False,
    )  # fmt: skip
    graph = chain(affine(rng, 5, 3), inner, affine(rng, 2, 5), if_((2,)), shape=(3,))
    (tmp_path / "a.nir").write_bytes(write_nir(graph))
    opened = load_model(tmp_path / "a.nir")
    assert sorted(opened.nodes) == ["00", "01", "02.lif", "02.w_rec", "03", "04", "05"]
    compare(opened)
    reading = Reading(timesteps=3)
    assert [n.name for n in to_network(graph, reading).nodes] == [n.name for n in to_network(opened, reading).nodes]


@pytest.mark.parametrize("kind", ["LI", "I", "CubaLI"])
def test_an_integrator_before_the_output_is_its_last_state(kind: str) -> None:
    rng = np.random.default_rng(9)
    made = {
        "LI": nir.LI(np.full(3, 4 * DT), rng.uniform(1, 2, 3), rng.normal(size=3)),
        "I": nir.I(rng.uniform(1, 2, 3) / DT),
        "CubaLI": nir.CubaLI(np.full(3, 3 * DT), np.full(3, 6 * DT), np.full(3, 2.0), np.zeros(3), np.full(3, 0.5)),
    }
    node = made[kind]
    graph = chain(affine(rng, 6, 4), lif((6,)), affine(rng, 3, 6), node, shape=(4,))
    network, contract = read_network(graph, Reading(timesteps=STEPS, dt=DT))
    frames = (rng.random((1, STEPS, 4)) < 0.4).astype(float)
    wanted = simulate(graph, ordered(graph), frames[0], DT)["05"][-1]
    np.testing.assert_allclose(run_float(network, frames).output[0], wanted, rtol=1e-12)
    assert contract[-1].note == "the integrator's last state"


READOUTS = {"count": lambda x: x.sum(0), "sum": lambda x: x.sum(0), "mean": lambda x: x.mean(0), "last": lambda x: x[-1]}  # fmt: skip


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("neuron", [True, False])
def test_what_the_output_is(readout: Any, neuron: bool) -> None:
    rng = np.random.default_rng(10)
    nodes = [affine(rng, 6, 4), lif((6,)), affine(rng, 3, 6)] + neuron * [if_((3,), 0.4 / DT)]
    graph = chain(*nodes, shape=(4,))
    frames = (rng.random((1, STEPS, 4)) < 0.4).astype(float)
    wanted = simulate(graph, ordered(graph), frames[0], DT)[f"{len(nodes):02d}"]
    found = run_float(to_network(graph, Reading(timesteps=STEPS, readout=readout)), frames).output[0]
    np.testing.assert_allclose(found, READOUTS[readout](wanted), rtol=1e-12)
    usual = run_float(to_network(graph, Reading(timesteps=STEPS)), frames).output[0]
    np.testing.assert_allclose(usual, READOUTS["count" if neuron else "mean"](wanted), rtol=1e-12)


def test_the_options_say_how_neurons_reset_and_fire() -> None:
    graph = chain(nir.Linear(np.ones((1, 1))), nir.IF(np.full(1, 0.5), np.ones(1)), shape=(1,))
    x = np.ones((1, 6, 1))
    spikes = {}
    for reset in ("hard", "soft", "none"):
        for fire in ("gt", "ge"):
            network = to_network(graph, Reading(timesteps=6, dt=1, reset=reset, fire=fire))
            spikes[reset, fire] = run_float(network, x).outputs["02"].ravel().astype(int).tolist()
    assert spikes == {  # u grows by 0.5, the threshold is 1
        ("hard", "gt"): [0, 0, 1, 0, 0, 1],
        ("hard", "ge"): [0, 1, 0, 1, 0, 1],
        ("soft", "gt"): [0, 0, 1, 0, 1, 0],
        ("soft", "ge"): [0, 1, 0, 1, 0, 1],
        ("none", "gt"): [0, 0, 1, 1, 1, 1],
        ("none", "ge"): [0, 1, 1, 1, 1, 1],
    }


def test_a_graph_carries_its_reading(tmp_path: Path) -> None:
    graph = chain(nir.Linear(np.ones((1, 1))), lif((1,)), shape=(1,))
    reading = Reading(dt=5e-5, reset="soft", fire="ge", timesteps=7, coding="direct", readout="last")
    (tmp_path / "a.nir").write_bytes(write_nir(with_reading(graph, reading)))
    whole = load_model(tmp_path / "a.nir")
    network, contract = read_network(whole)
    assert (network.timesteps, network.input.coding, network.neurons[0].leak) == (7, "direct", 0.9)
    assert (
        contract[2].note == "Euler steps of dt = 5e-05, v >= v_threshold, reset by subtraction (--dt, --fire, --reset)"
    )
    whole.metadata["reading"] = '{"dt": "fast"}'
    with pytest.raises(CompileError, match=r"^network: dt of its reading is 'fast'; export the model again$"):
        read_network(whole)


def refused(graph: nir.NIRGraph, reading: Reading | None = None) -> str:
    with pytest.raises(CompileError) as caught:
        to_network(graph, reading or Reading(timesteps=STEPS, dt=DT))
    return str(caught.value)


def varied(value: float = 1.5) -> Any:
    values = np.ones((2, 4, 4))
    values[1, 2, 3] = value
    return values


UNFIT: list[tuple[nir.NIRGraph, Reading | None, str]] = [
    (chain(lif((1,), tau=0.5 * DT), shape=(1,)), None, "01: tau is 5e-05 s, 0.5 of the time step of 0.0001 s; say the time step: --dt SECONDS, --dt 1 where tau counts steps"),
    (chain(lif((1,), tau=5.0), lif((1,), tau=0.0), shape=(1,)), None, "02: tau is 0 s, 0 of the time step of 0.0001 s; say the time step: --dt SECONDS, --dt 1 where tau counts steps"),
    (chain(if_((1,), 1.0), shape=(1,)), Reading(timesteps=2), "01: has r = 1 and no time constant, so that its time step is unknown; say it: --dt 1 where time counts steps (sinabs), --dt 0.0001 for seconds"),
    (chain(lif((1,), v_threshold=-1.0), shape=(1,)), None, "01: v_threshold is -1, v_reset 0; a neuron must fire above its reset"),
    (chain(lif((2, 4, 4), tau=varied() * 5 * DT), shape=(2, 4, 4)), None, "01: tau differs within channel 1; needed: one value a channel"),
    (chain(nir.Delay(np.full(1, 1.5 * DT)), lif((1,)), shape=(1,)), None, "01: delays of 0.00015 to 0.00015 s are no whole steps of 0.0001 s; say the time step: --dt SECONDS"),
    (chain(nir.Affine(np.ones((1, 1)), np.ones(1)), nir.Delay(np.full(1, DT)), lif((1,)), shape=(1,)), None, "02: delays 01, which has a bias; delay the spikes before it"),
    (chain(nir.LI(np.full(1, 5 * DT), np.ones(1), np.zeros(1)), lif((1,)), shape=(1,)), None, "01: integrates without firing, and is read by 02 (neuron); supported right before the Output"),
    (chain(nir.LI(np.array([5 * DT, 6 * DT]), np.ones(2), np.zeros(2)), shape=(2,)), None, "01: its time constants differ between neurons; a readout has one of each"),
    (chain(nir.LI(np.full(1, 5 * DT), np.ones(1), np.zeros(1)), shape=(1,)), Reading(timesteps=2, readout="mean"), "02: is the mean of the state of 01; supported of one integrator: its last state, --readout membrane"),
    (chain(lif((1,)), shape=(1,)), Reading(timesteps=2, readout="membrane"), "02: reads no integrator (LI, I, CubaLI); use --readout count, mean or last"),
    (chain(nir.CubaLI(*(np.full(1, 5 * DT),) * 2, np.ones(1), np.ones(1)), shape=(1,)), None, "01: has a v_leak beside a synaptic current; supported: v_leak = 0"),
    (chain(nir.Scale(varied()), lif((2, 4, 4)), shape=(2, 4, 4)), None, "01: scales the neurons of one channel differently; needed: one value a channel"),
    (chain(lif((2, 4, 4)), nir.SumPool2d(3 * ONE, TWO, NONE), conv(np.random.default_rng(0), 1, 2), shape=(2, 4, 4)), None, "03: 02 (Conv2d) and 03 (Conv2d) follow each other without a neuron, and are no one layer; add a neuron"),
    (chain(lif((1,)), shape=(1,)), Reading(), "00: does not say how many steps a sample has; say it: --timesteps N"),
    (chain(lif((1,)), lif((1,)), shape=(1,), edges=[(2, 1)]), None, "01: is in a cycle: 01 -> 02 -> 01; a population may read itself, through synapses; feedback over several populations is not supported"),
]  # fmt: skip


@pytest.mark.parametrize(("graph", "reading", "message"), UNFIT, ids=[text[:40] for _, _, text in UNFIT])
def test_what_cannot_be_is_named(graph: nir.NIRGraph, reading: Reading | None, message: str) -> None:
    assert refused(graph, reading) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dt": 0.0}, "--dt: is 0.0; needed: seconds of a time step, more than 0"),
        ({"timesteps": 0}, "--timesteps: is 0; needed: 1 to 1000000"),
        ({"reset": "late"}, "--reset: is late; needed: soft, hard, none"),
        ({"readout": "max"}, "--readout: is max; needed: count, sum, mean, last, membrane"),
    ],
)
def test_a_reading_is_checked(values: Any, message: str) -> None:
    with pytest.raises(CompileError) as caught:
        Reading(**values)
    assert str(caught.value) == message


def test_parameters_of_one_number_hold_for_all(tmp_path: Path) -> None:
    graph = chain(nir.Linear(np.ones((3, 1))), lif((3,)), shape=(1,))
    whole = to_network(graph, Reading(timesteps=2))
    neuron = graph.nodes["02"]
    neuron.tau, neuron.r, neuron.v_leak = (np.array(value) for value in (5 * DT, 4.0, 0.0))
    (tmp_path / "a.nir").write_bytes(write_nir(graph))
    found = to_network(load_model(tmp_path / "a.nir"), Reading(timesteps=2)).neurons[0]
    assert isinstance(found, MultiThresholdLIF)
    assert (found.leak, found.thresholds.tolist()) == (whole.neurons[0].leak, whole.neurons[0].thresholds.tolist())
