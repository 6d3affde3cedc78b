"""LM-HT: the neuron, T-GIM, what is differentiated, the two initialisations, the single-threshold form."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snncompile.nn import LMHT, QCFS, single_threshold


def randomised(levels: int, steps: int, seed: int = 0, **options) -> LMHT:
    torch.manual_seed(seed)
    layer = LMHT(levels, steps, **options).double()
    torch.nn.init.normal_(layer.mixing)
    torch.nn.init.normal_(layer.raw_leak)
    return layer


def by_hand(layer: LMHT, x: torch.Tensor, gradient: bool = False) -> torch.Tensor:
    """The equations with numbers in place of tensors' tricks; `gradient`: surrogate in place of the floor."""
    T, L, theta = layer.timesteps, layer.levels, layer.threshold
    omega, leak = 2 / (1 + torch.exp(-layer.mixing)) / T, 1 / (1 + torch.exp(-layer.raw_leak)) + 0.5
    v = torch.full_like(x[0], layer.v0)
    spikes = []
    for t in range(T):
        m = leak * v + sum(omega[t, j] * x[j] for j in range(T))
        k = (m / theta).floor().clamp(0, L).detach()
        passes = ((m >= theta / 2) & (m <= (L + 0.5) * theta)).to(x.dtype)
        spikes.append(theta * k + (passes * (m - m.detach()) if gradient else 0))
        v = (m - theta * k).detach()
    return torch.stack(spikes)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
def test_the_spikes_are_those_of_the_equations(levels: int, steps: int, seed: int) -> None:
    layer = randomised(levels, steps, seed, v0=0.3)
    x = torch.randn(steps, 3, 40, dtype=torch.float64) + 0.5
    torch.testing.assert_close(layer(x), by_hand(layer, x), rtol=0, atol=1e-12)


def test_the_gradients_are_those_of_the_surrogate() -> None:
    layer = randomised(2, 3)
    x = torch.randn(3, 4, 50, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 4, 50, dtype=torch.float64)
    learned = (x, layer.mixing, layer.raw_leak)
    ours = torch.autograd.grad((layer(x) * weight).sum(), learned)
    expected = torch.autograd.grad((by_hand(layer, x, gradient=True) * weight).sum(), learned)
    for gradient, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=0, atol=1e-10)
        assert gradient.abs().max() > 1e-3


def test_time_is_differentiated_through_omega_alone() -> None:
    layer = LMHT(2, 2)
    with torch.no_grad():
        layer.mixing[:] = torch.tensor([[0.0, -200.0], [-200.0, 0.0]])  # omega ~ diag(1/2)
    x = torch.tensor([[0.9], [0.9]], requires_grad=True)
    layer(x)[1].sum().backward()
    assert x.grad.flatten().tolist() == [0, 0.5]  # not through v, although leak is 1


def test_direct_initialisation() -> None:
    layer = LMHT(4, 2)
    assert (layer.threshold, layer.v0, layer.leak.item(), layer.omega.tolist()) == (0.5, 0.0, 1.0, [[0.5] * 2] * 2)
    assert dict(layer.named_parameters()).keys() == {"mixing", "raw_leak"}
    fixed = LMHT(4, 2, learn_leak=False)
    fixed(torch.ones(2, 1)).sum().backward()
    assert fixed.raw_leak.grad is None
    assert fixed.mixing.grad is not None


@given(st.integers(1, 4), st.integers(1, 4), st.lists(st.integers(-200, 400), min_size=1, max_size=30))
def test_hybrid_initialisation_continues_the_ann(levels: int, steps: int, grid: list[int]) -> None:
    qcfs = QCFS(levels, init=1.5).double()
    layer = LMHT.from_qcfs(qcfs, levels, steps).double()
    assert (layer.threshold, layer.v0) == (1.5, 0.75)
    x = torch.tensor(grid, dtype=torch.float64) * 0.0123 + 1e-4
    fine = QCFS(levels * steps, init=1.5).double()
    mean = layer((levels * x).expand(steps, 1, -1)).mean(0)[0]
    torch.testing.assert_close(mean, levels * fine(x), rtol=0, atol=1e-9)


@given(
    st.sampled_from(["one step", "no negative current", "no current of levels thresholds"]),
    st.sampled_from([1, 2, 4]),
    st.integers(2, 5),
    st.sampled_from([0.5, 0.75, 1.0, 1.25]),
    st.sampled_from([0.0, 0.5]),
    st.integers(0, 10_000),
)
def test_one_threshold_is_exact_within_its_conditions(
    case: str, levels: int, steps: int, leak: float, v0: float, seed: int
) -> None:
    """theta = 1 and currents on a grid where floats are exact."""
    steps = 1 if case == "one step" else steps
    low = 0 if case == "no negative current" else -300
    high = 64 * levels if case == "no current of levels thresholds" else 600
    leak = min(leak, 1.0) if case == "no current of levels thresholds" else leak
    currents = torch.randint(low, high, (steps, 400), generator=torch.Generator().manual_seed(seed)).double() / 64
    micro = single_threshold(currents, levels, 1.0, leak, v0)
    assert micro.shape == (steps * levels, 400)
    assert set(micro.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(micro.reshape(steps, levels, 400).sum(1), multi_threshold(currents, levels, leak, v0))


def multi_threshold(currents: torch.Tensor, levels: int, leak: float, v0: float) -> torch.Tensor:
    """The neuron with threshold 1."""
    v = torch.full_like(currents[0], v0)
    spikes = []
    for current in currents:
        m = leak * v + current
        spikes.append(m.floor().clamp(0, levels))
        v = m - spikes[-1]
    return torch.stack(spikes)


def test_one_threshold_on_a_layers_own_currents() -> None:
    layer = randomised(4, 3)
    x = torch.rand(3, 5, 2000, dtype=torch.float64)  # I < 2 = L * theta, as omega < 2/T
    currents = layer.currents(x).detach()
    micro = single_threshold(currents, 4, layer.threshold, layer.leak.detach())
    torch.testing.assert_close(micro.reshape(3, 4, 5, 2000).sum(1), layer(x).detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("currents", "leak", "expected"),
    [
        ([4.0, -1.5], 1.0, [2, 0]),  # 2 is left; 2 - 0.75 fires in the micro-step before the other -0.75
        ([0.9, -0.5], 1.25, [0, 0]),  # 1.125 - 0.125 likewise
    ],
)
def test_one_threshold_fires_too_much_outside_its_conditions(
    currents: list[float], leak: float, expected: list[int]
) -> None:
    levels = 2 if leak == 1 else 4
    current = torch.tensor(currents, dtype=torch.float64)[:, None]
    assert multi_threshold(current, levels, leak, 0.0).flatten().tolist() == expected
    micro = single_threshold(current, levels, 1.0, leak).reshape(2, levels, 1).sum(1)
    assert micro.flatten().tolist() == [expected[0], expected[1] + 1]


def test_refuses() -> None:
    for make, message in (
        (lambda: LMHT(0, 2), "LMHT: levels must be at least 1, got 0"),
        (lambda: LMHT(2, 0), "LMHT: timesteps must be at least 1, got 0"),
        (lambda: LMHT(2, 2, threshold=-1.0), "LMHT: threshold must be positive, got -1.0"),
        (lambda: LMHT(2, 2)(torch.zeros(3, 1)), r"made for 2 time steps, got x of shape \(3, 1\)"),
        (lambda: single_threshold(torch.zeros(1, 1), 0, 1.0), "levels must be at least 1, got 0"),
        (lambda: single_threshold(torch.zeros(1, 1), 2, 0.0), "threshold must be positive, got 0.0"),
        (
            lambda: single_threshold(torch.zeros(1, 1), 2, 1.0, v0=1.0),
            r"v0 must lie in \[0, threshold = 1.0\), got 1.0",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()
