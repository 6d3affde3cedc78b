"""What a framework itself computes on 100 random inputs, for tests/test_framework_*.py. Run in its own environment.

    python benchmarks/frameworks/make_golden.py snntorch OUT      (or spikingjelly14, spikingjelly2, sinabs, norse)

Writes OUT/<name>.pt, the module whole or its state_dict, and OUT/<name>.npz: x (100, ...) uint8, the input times 256 or
the frames; spikes_<n> of every layer of neurons in the order they run, packed bits or uint8 counts (T, 100, ...); and
the output. Everything is computed in float64: layers of weights get their input in it where a framework gives float32.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SAMPLES = 100


def prepared(build: Any, seed: int) -> nn.Module:
    """The module in evaluation mode, in double precision, its norms with statistics as training leaves them."""
    torch.manual_seed(seed)
    module: nn.Module = build()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.running_var, 0.05, 0.5)
            nn.init.uniform_(layer.weight, 0.4, 1.2)
            nn.init.normal_(layer.bias, 0.1, 0.2)
        if isinstance(layer, nn.Linear | nn.Conv2d):
            with torch.no_grad():
                layer.weight *= 2
    return module.double().eval()


def recorded(module: nn.Module, kinds: tuple[str, ...], x: Tensor, calls: int) -> tuple[list[list[Tensor]], Any]:
    """What every layer of neurons gave, call by call, in the order of their first calls; and the output."""
    sent: dict[nn.Module, list[Tensor]] = {}

    def keep(layer: nn.Module, _given: Any, given_back: Any) -> None:
        spikes = given_back[0] if isinstance(given_back, tuple) else given_back
        sent.setdefault(layer, []).append(spikes.detach().clone())

    def widen(_layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(t.double() for t in given)

    hooks = []
    for layer in module.modules():
        if type(layer).__name__ in kinds:
            hooks.append(layer.register_forward_hook(keep))
        if isinstance(layer, nn.Linear | nn.Conv2d):
            hooks.append(layer.register_forward_pre_hook(widen))
    with torch.no_grad():
        for _ in range(calls):
            output = module(x)
    for hook in hooks:
        hook.remove()
    return list(sent.values()), output


def by_step(calls: list[Tensor], axes: str, steps: int) -> Tensor:
    """(T, N, ...) of one layer's calls."""
    if len(calls) > 1:
        return torch.stack(calls)
    (spikes,) = calls
    if axes in ("BT", "(BT)"):
        apart = spikes if axes == "BT" else spikes.unflatten(0, (-1, steps))
        return apart.transpose(0, 1)
    return spikes


def make(framework: str, name: str, said: dict[str, Any], kinds: tuple[str, ...], out: Path) -> None:
    rng = np.random.default_rng(len(name))
    steps, shape, frames = said["steps"], said["shape"], said.get("frames", False)
    if frames:
        x = (rng.random((SAMPLES, steps, *shape)) < 0.4).astype(np.uint8)
        given = torch.from_numpy(x).double()
        axes = said.get("axes", "TB")
        given = given.transpose(0, 1) if axes == "TB" else given.flatten(0, 1) if axes == "(BT)" else given
    else:
        x = rng.integers(0, 257, (SAMPLES, *shape)).clip(0, 255).astype(np.uint8)
        given = torch.from_numpy(x).double() / 256
    module = prepared(said["build"], 7 + len(name))
    whole = said.get("whole", False)
    torch.save(module if whole else module.state_dict(), out / f"{framework}_{name}.pt")
    calls, output = recorded(module, kinds, given, steps if said.get("repeat") else 1)
    stored: dict[str, Any] = {"x": x, "steps": steps, "frames": frames}
    rates = []
    for number, layer in enumerate(calls):
        spikes = by_step(layer, said.get("axes", ""), steps).numpy()
        unit = float(np.min(spikes[spikes > 0])) if spikes.any() else 1.0
        counts = np.rint(spikes / unit).astype(np.uint8)
        assert np.array_equal(counts * unit, spikes), f"{name}: spikes of {unit} and others"
        rates.append(f"{counts.mean():.3f}")
        stored |= {f"unit_{number}": unit, f"shape_{number}": counts.shape}
        stored[f"spikes_{number}"] = np.packbits(counts) if counts.max(initial=0) <= 1 else counts.ravel()
    last = output[0] if isinstance(output, tuple) else output
    stored["output"] = last.numpy()
    np.savez_compressed(out / f"{framework}_{name}.npz", **stored)
    print(f"{framework} {name}: {len(calls)} layers of neurons, rates {' '.join(rates)}")


def main() -> None:
    framework, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(Path(__file__).parent))
    models = import_module(f"{framework.rstrip('0123456789')}_models")
    for name, said in models.MODELS.items():
        make(framework, name, said, models.NEURONS, folder)


if __name__ == "__main__":
    main()
