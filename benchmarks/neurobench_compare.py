"""NeuroBench's counts of a compiled network beside ours: the same integers and samples, in a program of its own.

    uv run python benchmarks/neurobench_compare.py examples/models/fashion_mtlif.pt --target loihi1-sim \\
        --data examples/data/fashion_mnist_test_1k.npz --limit 50

The compiled integers become a plain PyTorch network (torch convolutions and linear layers with hooks, neurons written
here anew, float64), which NeuroBench 2.3.0 (arXiv 2304.04640) runs and counts. It runs in a virtual environment that
uv makes in --environment; that one borrows PyTorch from this one. Compared, all exactly:

    readout states                the torch network is the compiled one
    effective ACs, MACs           `metrics.metrics_of`; NeuroBench tells the two apart anew in every step, by its batch,
                                  so their sum is compared too where neurons are graded
    dense operations, sparsities  likewise (NeuroBench rounds connection sparsity to 4 decimals)
    synaptic operations           the chip simulator's count against NeuroBench's with every stored weight, zeros too

Exit 1 where anything differs. Networks with lateral synapses or micro-steps are refused: their last spikes of a sample
reach nothing, which a chip counts and a network in PyTorch does not compute.
"""

import argparse
import json
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from snncompile.program import Program

PACKAGES = ("neurobench==2.3.0", "snntorch==1.0.0", "tqdm")
TOGETHER = "effective_macs + effective_acs"


class Summed(nn.Module):
    """x (N, ...) with windows and members added up before the weights, as on the chip."""

    pool: tuple[int, int]
    members: int

    def summed(self, x: Tensor) -> Tensor:
        if self.members > 1:
            x = x.reshape(len(x), -1, self.members, *x.shape[2:]).sum(2)
        if tuple(self.pool) != (1, 1):
            x = functional.avg_pool2d(x, self.pool) * (self.pool[0] * self.pool[1])
        return x


class SummedConv(nn.Conv2d, Summed):
    def forward(self, x: Tensor) -> Tensor:
        flat = x.ndim == 2
        y = super().forward(self.summed(x[..., None, None] if flat else x))
        return y[..., 0, 0] if flat else y


class SummedLinear(nn.Linear, Summed):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.summed(x).flatten(1))


class Fires(nn.Module):
    """Payloads of level k (N, ...); NeuroBench takes its output for the activation."""

    def __init__(self, payload: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", torch.cat([torch.zeros(1, dtype=payload.dtype), payload]))

    def forward(self, k: Tensor) -> Tensor:
        return self.table[k]


class Integers(nn.Module):
    """The compiled network: input payloads (N, [T,] ...) -> readout state (N, classes), all integers in float64."""

    def __init__(self, description: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.about = description
        self.numbers = {name: torch.from_numpy(values.astype(np.float64)) for name, values in arrays.items()}
        self.synapses = nn.ModuleDict()
        self.fires = nn.ModuleDict()
        for entry in description["synapses"]:
            if not entry["by_host"]:
                self.synapses[_key(entry["name"])] = _layer(entry, self.numbers[f"{entry['name']}.weight"])
        for entry in description["populations"]:
            if entry["spiking"]:
                self.fires[_key(entry["name"])] = Fires(self.numbers[f"{entry['name']}.payload"])

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        steps = self.about["timesteps"]
        frames = x.transpose(0, 1) if x.ndim > 1 + len(self.about["input_shape"]) else x[None].expand(steps, *x.shape)
        sent = {self.about["input_name"]: list(frames)}
        for entry in self.about["populations"]:
            sent[entry["name"]], state = self._population(entry, sent)
        return torch.stack(sent[entry["name"]]).sum(0) if entry["spiking"] else state

    def _population(self, entry: dict[str, Any], sent: dict[str, list[Tensor]]) -> tuple[list[Tensor], Tensor]:
        bias, v, thresholds, subtract = (self._per_channel(entry, n) for n in ("bias", "v0", "thresholds", "subtract"))
        currents = torch.stack([self._arriving(entry, sent, t) + bias for t in range(self.about["timesteps"])])
        if f"{entry['name']}.mixing" in self.numbers:
            currents = torch.floor(torch.tensordot(self.numbers[f"{entry['name']}.mixing"], currents, 1) / 4096)
        outputs = []
        for current in currents:
            u = torch.trunc(v * ((4096 - entry["decay"]) / 4096)) + current
            v = u
            if entry["spiking"]:
                reached = [u >= theta if entry["fire"] == "ge" else u > theta for theta in thresholds]
                k = torch.stack(reached).sum(0)
                outputs.append(self.fires[_key(entry["name"])](k))
                for level, amount in enumerate(subtract, 1):
                    v = torch.where(k == level, {"soft": u - amount, "hard": 0 * u, "none": u}[entry["reset"]], v)
        return outputs, v

    def _per_channel(self, entry: dict[str, Any], name: str) -> Tensor:
        values = self.numbers[f"{entry['name']}.{name}"]
        return values.reshape(*values.shape, *(1,) * (len(entry["shape"]) - 1))

    def _arriving(self, entry: dict[str, Any], sent: dict[str, list[Tensor]], t: int) -> Tensor:
        total = torch.zeros(())
        for synapses in self.about["synapses"]:
            if synapses["name"] not in entry["synapses"]:
                continue
            x = sent[synapses["source"]][t]
            # host currents: one weight of 1 a neuron, no synapses on the chip
            y = x if synapses["by_host"] else self.synapses[_key(synapses["name"])](x)
            total = total + y * 2.0 ** synapses["exponent"]
        return total


def _key(name: str) -> str:
    """A module's name must have no dot."""
    return name.replace(".", "_")


def _layer(entry: dict[str, Any], weight: Tensor) -> nn.Module:
    layer: nn.Module
    if entry["kind"] == "linear":
        layer = SummedLinear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
    else:
        geometry = {key: entry[key] for key in ("stride", "padding", "dilation", "groups")}
        fan_in, kernel = weight.shape[1] * entry["groups"], weight.shape[2:]
        layer = SummedConv(fan_in, weight.shape[0], tuple(kernel), bias=False, dtype=torch.float64, **geometry)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.pool, layer.members = entry["pool"], entry["members"]
    return layer


def describe(program: "Program") -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `Integers` needs. Raises SystemExit where the network has lateral synapses or micro-steps."""
    from snncompile import reference  # noqa: PLC0415

    network = program.network
    lateral = any(reference.laterals(network, population) for population in network.populations)
    if network.microsteps > 1 or lateral:
        raise SystemExit(f"{program.target}: lateral synapses or micro-steps; choose another model, target or lowering")
    arrays, described = {}, {"synapses": [], "populations": []}
    for kind, items in (("synapses", network.synapses), ("populations", network.populations)):
        for item in items:
            fields = asdict(item)
            arrays |= {f"{item.name}.{key}": v for key, v in fields.items() if isinstance(v, np.ndarray)}
            entry = {key: value for key, value in fields.items() if not isinstance(value, np.ndarray)}
            if kind == "synapses":
                entry["by_host"] = network.input_kind == "currents" and item.source == network.input_name
            else:
                entry["spiking"] = item.spiking
            described[kind].append(entry)
    described |= {key: getattr(network, key) for key in ("input_name", "input_shape", "timesteps")}
    return described, arrays


def neurobench(folder: Path) -> dict[str, Any]:
    """In NeuroBench's environment: its metrics of the network in `folder`, per inference."""
    from neurobench.benchmarks import Benchmark  # noqa: PLC0415
    from neurobench.metrics.abstract.workload_metric import AccumulatedMetric  # noqa: PLC0415
    from neurobench.metrics.static import ConnectionSparsity  # noqa: PLC0415
    from neurobench.metrics.utils.layers import single_layer_MACs  # noqa: PLC0415
    from neurobench.metrics.workload import ActivationSparsity, SynapticOperations  # noqa: PLC0415
    from neurobench.models import TorchModel  # noqa: PLC0415

    class StoredSynapses(AccumulatedMetric):
        """NeuroBench's count with every weight taken as non-zero, inputs as they are."""

        def __init__(self) -> None:
            super().__init__(requires_hooks=True)
            self.reset()

        def reset(self) -> None:
            self.total, self.samples = 0, 0

        def __call__(self, model: Any, preds: Tensor, data: tuple[Tensor, Tensor]) -> float:
            for hook in model.connection_hooks:
                hook.hook.remove()
                kept, filled = hook.layer.weight, torch.ones_like(hook.layer.weight)
                hook.layer.weight = nn.Parameter(filled, requires_grad=False)
                self.total += sum(single_layer_MACs(given[0], hook.layer)[0] for given in hook.inputs)
                hook.layer.weight = kept
                hook.register_hook()
            self.samples += len(data[0])
            return self.compute()

        def compute(self) -> float:
            return self.total / max(self.samples, 1)

    with np.load(folder / "network.npz") as file:
        arrays = {name: file[name] for name in file.files}
    x = torch.from_numpy(arrays.pop("payloads").astype(np.float64))
    network = Integers(json.loads((folder / "network.json").read_text()), arrays)
    states = network(x)
    model = TorchModel(network)
    model.add_activation_module(Fires)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, torch.zeros(len(x))), batch_size=len(x))
    metrics = [[ConnectionSparsity], [ActivationSparsity, SynapticOperations, StoredSynapses]]
    found = Benchmark(model, loader, [], [], metrics).run(quiet=True)
    operations = found["SynapticOperations"]
    return {
        "states": states.tolist(),
        "connection_sparsity": found["ConnectionSparsity"],
        "activation_sparsity": found["ActivationSparsity"],
        "effective_macs": operations["Effective_MACs"],
        "effective_acs": operations["Effective_ACs"],
        "dense_operations": operations["Dense"],
        "synaptic_operations": found["StoredSynapses"],
    }


def make_environment(folder: Path) -> Path:
    """NeuroBench's own virtual environment; gives its Python. PyTorch and NumPy are borrowed from this one."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run(["uv", "venv", "--clear", "--python", sys.executable, folder], check=True)
        subprocess.run(["uv", "pip", "install", "--python", python, "--no-deps", *PACKAGES], check=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        borrowed = folder / "lib" / version / "site-packages" / "borrowed.pth"
        borrowed.write_text(sysconfig.get_path("purelib") + "\n")
        (folder / "ready").touch()
    return python


def ours(program: "Program", payloads: np.ndarray) -> dict[str, Any]:
    """The same keys, from `metrics_of`; synaptic operations from the chip simulator."""
    from snncompile.backend import load_backend  # noqa: PLC0415
    from snncompile.metrics import metrics_of  # noqa: PLC0415

    found = metrics_of(program, payloads)
    run = load_backend("sim").run(program, Path(), payloads)
    kept = ("activation_sparsity", "effective_macs", "effective_acs", "dense_operations")
    return {
        "states": run.output.tolist(),
        "connection_sparsity": round(found["connection_sparsity"], 4),
        **{key: found[key] for key in kept},
        "synaptic_operations": run.cost["synops"],
    }


def compare(a: dict[str, Any], b: dict[str, Any]) -> dict[str, bool]:
    """Per metric whether both are equal: counts to the last one, fractions as NeuroBench rounds them."""
    for side in (a, b):
        side[TOGETHER] = side["effective_macs"] + side["effective_acs"]
    close = {"connection_sparsity": 1e-4, "activation_sparsity": 1e-12}
    equal = {"states": bool(np.array_equal(a["states"], b["states"]))}
    for key in (key for key in a if key != "states"):
        equal[key] = abs(a[key] - b[key]) <= close.get(key, 1e-12 * max(abs(a[key]), 1))
    return equal


def show(counted: dict[str, Any], found: dict[str, Any], equal: dict[str, bool], as_json: bool) -> None:
    samples, keys = len(counted["states"]), [key for key in equal if key != "states"]
    if as_json:
        sides = {key: {"ours": counted[key], "neurobench": found[key], "equal": equal[key]} for key in keys}
        print(json.dumps({"samples": samples, "states_equal": equal["states"], **sides}, indent=2))
        return
    print(f"{samples} samples; readout states {'equal' if equal['states'] else 'DIFFER'}")
    for key in keys:
        verdict = "equal" if equal[key] else "DIFFERS"
        print(f"{key:<32} ours {counted[key]:>18,.6f}   NeuroBench {found[key]:>18,.6f}   {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--target", default="loihi2-sim")
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--environment", type=Path, default=Path("build/neurobench-venv"))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(neurobench(options.model)))
        return
    from snncompile.compiler import compile_file  # noqa: PLC0415
    from snncompile.data import load_samples  # noqa: PLC0415

    python = make_environment(options.environment.absolute())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        program = compile_file(options.model, options.target, folder / "program").program
        payloads = program.encode(load_samples(options.data).first(options.limit).x)
        description, arrays = describe(program)
        (folder / "network.json").write_text(json.dumps(description))
        np.savez(folder / "network.npz", payloads=payloads, **arrays)
        command = [python, Path(__file__).absolute(), folder, "--worker"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    counted, found = ours(program, payloads), json.loads(done.stdout.splitlines()[-1])
    equal = compare(counted, found)
    show(counted, found, equal, options.json)
    if any(p.payload_max > 1 for p in program.network.populations):  # told apart by the batch
        equal = {key: value for key, value in equal.items() if key not in ("effective_macs", "effective_acs")}
    sys.exit(0 if all(equal.values()) else 1)


if __name__ == "__main__":
    main()
