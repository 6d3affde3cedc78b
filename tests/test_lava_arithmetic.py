"""The arithmetic of the emitted program against the reference interpreter, without Lava."""

import importlib.util
import json
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from snncompile.backends.lava import emit

from snncompile.quant_network import Population, QuantSynapses
from snncompile.reference import emitted, initial_state, integer_current, step_population


@pytest.fixture(scope="module")
def arithmetic() -> ModuleType:
    """The emitted arithmetic.py as the stand-alone program imports it."""
    origin = emit.files(f"{emit.__package__}.emitted").joinpath("arithmetic.py")
    spec = importlib.util.spec_from_file_location("emitted_arithmetic", str(origin))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def as_json(node: Any) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(emit._scalars(node)))
    return values


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("bits", [8, 22, 47])
def test_synapses(arithmetic: ModuleType, seed: int, bits: int) -> None:
    """8, 22 and 47 bits take the float32, float64 and int64 product."""
    rng = np.random.default_rng(seed)
    groups, fan_in, out = int(rng.integers(1, 3)), int(rng.integers(1, 4)), int(rng.integers(1, 4))
    pool, stride, padding, dilation = (tuple(int(n) for n in rng.integers(low, 3, 2)) for low in (1, 1, 0, 1))
    kernel, shape = rng.integers(1, 4, 2), (groups * fan_in, *(int(n) for n in rng.integers(10, 14, 2)))
    linear = seed % 4 == 0
    pooled = (shape[0], shape[1] // pool[0], shape[2] // pool[1])
    weight_shape = (out, int(np.prod(pooled))) if linear else (out * groups, fan_in, *kernel)
    weight = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), weight_shape)
    kind = "linear" if linear else "conv"
    synapses = QuantSynapses(
        "s", "n", kind, weight, bits, int(rng.integers(0, 4)), pool, stride, padding, dilation, 1 if linear else groups
    )
    payloads = rng.integers(0, 256, (5, *shape)) * (rng.random((5, *shape)) < 0.3)
    ours = arithmetic.Synapses(as_json(synapses), weight, shape, 255, np.int64)
    current = ours.current(payloads.reshape(5, -1).astype(np.int32))
    np.testing.assert_array_equal(current, integer_current(synapses, payloads).reshape(5, -1))
    assert ours.product.weight.dtype == {8: np.float32, 22: np.float64, 47: np.int64}[bits]


def test_silence_costs_no_product(arithmetic: ModuleType) -> None:
    synapses = QuantSynapses("s", "n", "linear", np.ones((2, 3), int), 8, 0)
    ours = arithmetic.Synapses(as_json(synapses), synapses.weight, (3,), 1, np.int32)
    assert ours.current(np.zeros((2, 3), np.int32)) == 0


@pytest.mark.parametrize("reset", ["soft", "hard", "none"])
@pytest.mark.parametrize("fire", ["ge", "gt"])
@pytest.mark.parametrize("decay", [0, 1, 2048, 3000, 4095, 4096])
@pytest.mark.parametrize("state_bits", [16, 24, 45])
def test_neurons(arithmetic: ModuleType, reset: Any, fire: Any, decay: int, state_bits: int) -> None:
    rng = np.random.default_rng(decay + state_bits)
    reach = 1 << (state_bits - 6)
    thresholds = np.cumsum(rng.integers(1, reach, (3, 4)), axis=0)
    constants = {
        "bias": rng.integers(-9, 9, 4),
        "v0": rng.integers(-9, 9, 4),
        "subtract": rng.integers(0, reach, (3, 4)),
    }
    population = Population(
        "n", (4, 2, 3), (), thresholds=thresholds, payload=np.array([1, 5, 300]), decay=decay, reset=reset, fire=fire,
        depth=1, input_bits=state_bits - 1, state_bits=state_bits, **constants,
    )  # fmt: skip
    arrays = {name: getattr(population, name) for name in ("bias", "v0", "thresholds", "subtract", "payload")}
    ours = arithmetic.Neurons(as_json(population), arrays)
    assert ours.dtype is (np.int64 if state_bits == 45 or (state_bits == 24 and decay) else np.int32)
    v, theirs = ours.start(5), initial_state(population, 5)
    for _ in range(6):
        a = rng.integers(-reach, 3 * reach, (5, 4, 2, 3))
        a[0] = thresholds[1, :, None, None]  # exactly at a threshold, as far as the state allows
        payloads, v = ours.step(v, a.reshape(5, -1).astype(ours.dtype))
        _, k, theirs = step_population(population, theirs, a)
        np.testing.assert_array_equal(payloads, emitted(population, k).reshape(5, -1))
        np.testing.assert_array_equal(v, theirs.reshape(5, -1))


def test_neurons_without_thresholds_sum(arithmetic: ModuleType) -> None:
    none = np.zeros((0, 2), int)
    population = Population(
        "n", (2,), (), np.array([1, 2]), np.array([0, 5]), none, none[:, 0], none, 0, "none", "ge", 1, 8, 8
    )
    arrays = {name: getattr(population, name) for name in ("bias", "v0", "thresholds", "subtract", "payload")}
    ours = arithmetic.Neurons(as_json(population), arrays)
    payloads, v = ours.step(ours.start(1), np.array([[10, -10]], np.int32))
    assert payloads.tolist() == [[0, 0]]
    assert v.tolist() == [[11, -3]]
