"""Every pass: a golden text, the same outputs before and after, and what it refuses."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_networks import conv_network, images, neuron, random_network, shared_network, shortcut_network

from snncompile import network as float_network
from snncompile.chip import load_chip
from snncompile.errors import CompileError
from snncompile.lowering import resolve
from snncompile.network import (
    FOLDED,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MultiThresholdLIF,
    Network,
    Node,
    Readout,
    format_network,
)
from snncompile.passes.align_delays import AlignDelays
from snncompile.passes.fold_avg_pool import FoldAvgPool
from snncompile.passes.fold_batch_norm import FoldBatchNorm
from snncompile.passes.fold_flatten import FoldFlatten
from snncompile.passes.fold_payload import FoldPayload
from snncompile.pipeline import FOLDS, lower, lowering_passes
from snncompile.reference import run_float

NUMERICS = load_chip("loihi2").numerics
PASSES = (*FOLDS, *lowering_passes(NUMERICS, resolve("auto", NUMERICS)))


@pytest.mark.parametrize("index", range(len(PASSES)), ids=[p.name for p in PASSES])
def test_golden_text(index: int, golden: Callable[[str, str], None]) -> None:
    network = conv_network(seed=1)
    for apply in PASSES[: index + 1]:
        network = apply(network)
    golden(f"pass_{index}_{PASSES[index].name}", format_network(network))


@given(st.integers(0, 10_000))
def test_every_pass_keeps_the_outputs(seed: int) -> None:
    network = random_network(seed)
    x = images(network, samples=2, seed=seed) * (1 if network.input.scale < 1 else 1 / 255)
    before = run_float(network, x)
    for apply in PASSES:
        network = apply(network)
        float_network.verify(network)
        after = run_float(network, x)
        np.testing.assert_allclose(after.output, before.output, rtol=1e-9, atol=1e-9)
        for name, u in before.membranes.items():
            np.testing.assert_allclose(after.membranes[name], u, rtol=1e-9, atol=1e-9)
    float_network.verify(network, allowed=FOLDED)


@given(st.integers(0, 10_000))
def test_a_folded_pool_equals_the_repeated_kernel_with_its_stride(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kh, kw = (int(n) for n in rng.integers(1, 4, 2))
    pad = int(rng.integers(0, 2))
    pool = (2, 2)
    weight = rng.normal(size=(3, 2, kh, kw))
    node = Conv2d("c", ("x",), weight, np.zeros(3), padding=(pad, pad), pool=pool)
    wide = np.repeat(np.repeat(weight, pool[0], axis=2), pool[1], axis=3)
    repeated = Conv2d("c", ("x",), wide, np.zeros(3), padding=(2 * pad, 2 * pad), stride=pool)
    x = rng.normal(size=(1, 2, 8, 10))

    def output(conv: Conv2d) -> np.ndarray:
        return run_float(Network((Input("x", (), (2, 8, 10)), conv, Readout("r", ("c",))), 1), x).output

    np.testing.assert_allclose(output(node), output(repeated), atol=1e-12)


def test_a_shortcut_is_delayed_by_the_depth_it_skips() -> None:
    network = lower(shortcut_network(seed=0), NUMERICS)
    delays = {node.name: node.delay_steps for node in network.nodes if isinstance(node, Linear)}
    depths = {node.name: node.depth for node in network.nodes if isinstance(node, MultiThresholdLIF | Readout)}
    assert delays == {"l1": 1, "l2": 1, "l3": 1, "skip": 2, "l4": 1}
    assert depths == {"n1": 1, "n2": 2, "n3": 3, "out": 4}


def test_a_shared_convolution_is_copied_for_each_reader() -> None:
    network = lower(shared_network(seed=0), NUMERICS)
    copies = {node.name: network.users(node.name)[0].name for node in network.nodes if isinstance(node, Conv2d)}
    assert copies == {"c1_into_n1": "n1", "c1_into_n2": "n2", "c2": "n2"}


def _chain(*nodes: Node) -> Network:
    return Network((Input("x", (), (2, 4, 4)), *nodes), 1)


_RNG = np.random.default_rng(0)
_CONV = Conv2d("conv", ("x",), _RNG.normal(size=(2, 2, 3, 3)), np.zeros(2))
_NORM = BatchNorm("norm", ("x",), *(np.ones(2) for _ in range(4)), eps=1e-5)


@pytest.mark.parametrize(
    ("apply", "network", "message"),
    [
        (FoldBatchNorm(), _chain(_NORM, Readout("r", ("norm",))), "norm: follows x (Input)"),
        (
            FoldBatchNorm(),
            _chain(_CONV, BatchNorm("norm", ("conv",), *(np.ones(2),) * 4, eps=1e-5), Readout("r", ("norm", "conv"))),
            "norm: follows conv (Conv2d), which others read too",
        ),
        (
            FoldAvgPool(),
            _chain(_CONV, AvgPool2d("pool", ("conv",), (2, 2)), Readout("r", ("pool",))),
            "pool: pools conv (Conv2d)",
        ),
        (
            FoldAvgPool(),
            _chain(AvgPool2d("pool", ("x",), (2, 2)), neuron(_RNG, "n", "pool"), Readout("r", ("n",))),
            "pool: is read by n",
        ),
        (FoldFlatten(), _chain(Flatten("flat", ("x",)), Readout("r", ("flat",))), "flat: is read by r (Readout)"),
        (
            FoldPayload(),
            _chain(
                MultiThresholdLIF("n", ("x",), *(np.array([1.0, 2.5]),) * 3, 1.0, "soft", "ge"), Readout("r", ("n",))
            ),
            "n: payloads [1.0, 2.5] are not positive integer multiples of the first",
        ),
        (AlignDelays(), _chain(neuron(_RNG, "n", "x"), Readout("r", ("n",))), "n: is fed by x (Input)"),
        (
            AlignDelays(),
            _chain(_CONV, neuron(_RNG, "n", "conv"), neuron(_RNG, "m", "conv"), Readout("r", ("n",))),
            "conv: feeds n and m",
        ),
    ],
)
def test_refuses(apply: Callable[[Network], Network], network: Network, message: str) -> None:
    with pytest.raises(
        CompileError,
        match="^" + message.replace("(", r"\(").replace(")", r"\)").replace("[", r"\[").replace("]", r"\]"),
    ):
        apply(network)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Network((Input("x", (), (2,)), Readout("r", ("y",))), 1), "r: reads 'y', which is not before it"),
        (Network((Input("x", (), (2,)), Readout("r", ("x",))), 0), "network: 0 time steps"),
        (
            _chain(Linear("l", ("x",), np.full((3, 32), np.nan), np.zeros(3)), Readout("r", ("l",))),
            "l: weight holds NaN",
        ),
        (
            _chain(Linear("l", ("x",), np.ones((3, 31)), np.zeros(3)), Readout("r", ("l",))),
            "l: takes 31 features, its input .* gives 32",
        ),
        (
            _chain(Linear("x", ("x",), np.ones((3, 32)), np.zeros(3)), Readout("r", ("x",))),
            "x: two layers have this name",
        ),
        (
            _chain(AvgPool2d("p", ("x",), (5, 5)), Readout("r", ("p",))),
            "p: a pool window of .* is larger than its input",
        ),
        (
            _chain(
                MultiThresholdLIF("n", ("x",), *(np.array([1.0, 0.5]),) * 3, 1.0, "soft", "ge"), Readout("r", ("n",))
            ),
            "n: thresholds are .*; they must be positive and increasing",
        ),
        (
            _chain(MultiThresholdLIF("n", ("x",), *(np.array([1.0]),) * 3, 2.5, "soft", "ge"), Readout("r", ("n",))),
            r"n: leak is 2.5; a leak must lie in \(0, 2\)",
        ),
    ],
)
def test_verify_names_the_layer(network: Network, message: str) -> None:
    with pytest.raises(CompileError, match=f"^{message}"):
        float_network.verify(network)
