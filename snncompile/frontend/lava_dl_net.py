"""lava-dl's `.net` (HDF5, "netx"): networks of integer weights for Loihi, whose integers are kept.

    layer/<i>/{type, shape, weight, bias, delay, stride, padding, dilation, groups}, and layer/<i>/neuron/
    {type, iDecay, vDecay, vThMant}

A neuron of type CUBA or LOIHI, on integers (lava-nc 0.10.0, proc/lif; a = W s of the step):

    u = dec(u, iDecay) + (a << 6);  v = dec(v, vDecay) + u + (bias << 6);  spike where v > (vThMant << 6), then v = 0

dec(x, d) = sign(x) * ((|x| * (4096 - d)) >> 12). In units of a weight that is a `MultiThresholdLIF` of leak
(4096 - vDecay) / 4096, current leak (4096 - iDecay) / 4096, threshold vThMant and unit 1, the bias past the current.
The values of an `input` layer are the bias of its neurons; its weight and bias, which scale raw data, are the user's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nir
import numpy as np

from snncompile.contract import NodeContract, to_json
from snncompile.errors import CompileError
from snncompile.frontend.nir.hdf5 import RE_EXPORT, Tree, read_tree
from snncompile.frontend.nir.nodes import MultiThresholdLIFGraph
from snncompile.frontend.nir.to_network import CONTRACT, convert, output_shape
from snncompile.frontend.reading import DT_S, MOST_STEPS, Reading
from snncompile.frontend.untrusted import Fields, check_size, shown
from snncompile.network import INPUT_PAYLOAD_MAX, NO_MEMORY, Array, Shape

DECAY_ONE = 4096
NEVER = 131071
"""The largest vThMant: a neuron of it does not fire, its state is the output."""
NEURONS = ("CUBA", "LOIHI")
SUPPORTED = "input, dense, dense_rec, conv, pool, flatten, average"
PRODUCER = "lava-dl"


def read_net(path: Path, reading: Reading | None = None) -> nir.NIRGraph:
    """The network in a `.net` file as a graph with its contract; nodes are numbered as the file's layers.

    reading: timesteps (else the file's tSample), fire ("ge" as lava-dl trains some networks; Loihi has "gt"), coding
    (an `input` layer's values hold for the whole sample; else a frame a step), readout.
    Refuses (CompileError naming file and layer): damaged files, layers other than `SUPPORTED`, neurons other than CUBA
    and LOIHI (sigma-delta, resonators, ALIF), weights that are no integers, refractory times, graded spikes.
    """
    path, reading = Path(path), reading or Reading()
    tree = read_tree(path)
    layers = tree.get("layer")
    if not isinstance(layers, dict) or not layers or not all(name.isdigit() for name in layers):
        raise CompileError(str(path), "holds no lava-dl network", "needed: a group 'layer' of numbered layers")
    reader = _Reader(str(path), reading, _timesteps(str(path), tree, reading))
    listed = [layers[name] for name in sorted(layers, key=int)]
    if not all(isinstance(layer, dict) for layer in listed):
        raise CompileError(str(path), "a layer is not a group", RE_EXPORT)
    reader.begin(listed[0])
    for number, layer in enumerate(listed):
        reader.layer(number, layer, is_last=number == len(listed) - 1)
    return reader.graph(f"{len(listed) + 1:02d}_output")


def _timesteps(path: str, tree: Tree, reading: Reading) -> int:
    simulation = tree.get("simulation")
    said = simulation.get("tSample") if isinstance(simulation, dict) else None
    if reading.timesteps is not None:
        return reading.timesteps
    if said is None:
        raise CompileError(path, "does not say how many steps a sample has", "say it: --timesteps N")
    return Fields(path, {"tSample": np.ravel(said)[0]}).integer("tSample", 1, MOST_STEPS)


class _Reader:
    """The nodes so far, in a chain, and the shape of what the last one puts out."""

    def __init__(self, path: str, reading: Reading, timesteps: int) -> None:
        self.path, self.reading, self.timesteps = path, reading, timesteps
        self.nodes: dict[str, nir.NIRNode] = {}
        self.edges: list[tuple[str, str]] = []
        self.told: list[NodeContract] = []
        self.shape: Shape = ()
        self.last = ""
        self.readout: dict[str, Any] = {}

    def begin(self, layer: Tree) -> None:
        """The Input: an image for an `input` layer, else spikes for the first layer of weights."""
        fields = self._fields(0, layer)
        kind = _kind(fields)
        if kind == "input":
            shape, coding = _image(fields.shape("shape")), self.reading.coding or "direct"
        elif kind in ("dense", "dense_rec"):
            shape, coding = (_matrix(fields, "weight", _features(fields)).shape[1],), self.reading.coding or "events"
        else:
            raise CompileError(fields.where, f"a {kind} is the first layer", "needed: input or dense")
        scale = 1 / INPUT_PAYLOAD_MAX if coding == "direct" else 1.0
        metadata: dict[str, Any] = {"coding": coding, "scale": scale, "timesteps": self.timesteps}
        if kind != "input":
            metadata["largest"] = 1  # spikes
        self.shape, self.last = check_size(fields.where, shape), "00_input"
        self.nodes["00_input"] = nir.Input(np.array(shape), metadata=metadata)
        self.unit = 1 / scale if coding == "direct" else 1.0

    def layer(self, number: int, layer: Tree, is_last: bool) -> None:
        fields = self._fields(number, layer)
        kind = _kind(fields)
        name = f"{number + 1:02d}_{kind}"
        if number > 0 and kind == "input":
            raise CompileError(fields.where, "an input layer that is not the first", "a network has one input")
        made = {
            "input": self._input,
            "dense": self._dense,
            "dense_rec": self._dense,
            "conv": self._conv,
            "pool": self._pool,
            "flatten": self._flatten,
            "average": self._average,
        }
        if kind not in made:
            raise CompileError(fields.where, f"is of type {shown(kind)!r}", f"supported: {SUPPORTED}")
        made[kind](name, fields)
        if kind not in ("flatten", "average"):
            self._neurons(name, fields, layer, is_last)
            self._delay(name, fields)

    def graph(self, output: str) -> nir.NIRGraph:
        metadata = self.readout or {"readout": "mean", "scale": float(self.timesteps)}
        asked = self.reading.readout
        if asked == "mean":
            metadata = {**metadata, "scale": metadata["scale"] / self.timesteps}
        elif asked == "last" or (asked == "membrane" and not self.readout):
            raise CompileError(self.path, f"--readout {asked}", "a .net gives counts, or the state of its last layer")
        self._add(output, nir.Output(np.array(self.shape), metadata=metadata))
        contract = {CONTRACT: to_json(self.told)}
        return nir.NIRGraph(self.nodes, self.edges, metadata=contract, type_check=False)

    def _fields(self, number: int, layer: Tree) -> Fields:
        return Fields(f"{self.path}: layer {number}", layer)

    def _add(self, name: str, node: nir.NIRNode) -> None:
        self.edges.append((self.last, name))
        self.shape = output_shape(convert(name, ("",), node), [self.shape])
        self.nodes[name] = node
        self.last = name

    def _input(self, name: str, fields: Fields) -> None:
        self._add(f"{name}_weight", nir.Scale(np.broadcast_to(np.float64(self.unit), self.shape)))

    def _dense(self, name: str, fields: Fields) -> None:
        if len(self.shape) > 1:
            self._add(f"{name}_flatten", nir.Flatten(np.array(self.shape), 0, -1))
        weight = _matrix(fields, "weight", _features(fields))
        if len(self.nodes) == 1:
            weight = weight * self.unit
        self._add(f"{name}_weight", nir.Linear(weight))

    def _conv(self, name: str, fields: Fields) -> None:
        weight = _integers(fields, "weight")
        if weight.ndim == 5 and weight.shape[4] == 1:
            weight = weight[..., 0]
        if weight.ndim != 4:
            raise CompileError(fields.where, f"weight has shape {weight.shape}", "needed: (out, in, rows, columns)")
        self._convolution(name, fields, weight, fields.integer("groups", 1, default=1))

    def _convolution(self, name: str, fields: Fields, weight: Array, groups: int) -> None:
        node = nir.Conv2d(
            input_shape=np.array(self.shape[1:]),
            weight=weight,
            stride=np.array(fields.pair("stride", 1, default=1)),
            padding=np.array(fields.pair("padding", 0, default=0)),
            dilation=np.array(fields.pair("dilation", 1, default=1)),
            groups=groups,
            bias=np.zeros(len(weight)),
        )
        self._add(f"{name}_weight", node)

    def _pool(self, name: str, fields: Fields) -> None:
        """One kernel for every channel, with neurons of its own after it."""
        kernel = _integers(fields, "weight").reshape(-1)
        rows, columns = fields.pair("kernelSize", 1)
        if kernel.size != rows * columns:
            problem = f"weight has {kernel.size} values for a kernel of {rows}x{columns}"
            raise CompileError(fields.where, problem, RE_EXPORT)
        channels = self.shape[0]
        weight = np.broadcast_to(kernel.reshape(1, 1, rows, columns), (channels, 1, rows, columns))
        self._convolution(name, fields, weight, channels)

    def _flatten(self, name: str, fields: Fields) -> None:
        if len(self.shape) > 1:
            self._add(name, nir.Flatten(np.array(self.shape), 0, -1))

    def _average(self, name: str, fields: Fields) -> None:
        """Mean of consecutive groups of features."""
        self._flatten(f"{name}_flatten", fields)
        groups, features = fields.shape("shape")[0], self.shape[0]
        if features % groups:
            raise CompileError(fields.where, f"averages {features} features to {groups}", "needed: groups of one size")
        each = features // groups
        self._add(name, nir.Linear(np.repeat(np.eye(groups), each, axis=1) / each))

    def _neurons(self, name: str, fields: Fields, layer: Tree, is_last: bool) -> None:
        neuron = Fields(f"{fields.where}, neuron", _group(fields, layer, "neuron"))
        kind = _text(neuron, "type")
        if kind not in NEURONS:
            raise CompileError(neuron.where, f"is of type {shown(kind)!r}", f"supported: {' and '.join(NEURONS)}")
        _check_plain(neuron)
        leak, current = (1 - self._per_channel(neuron, key) / DECAY_ONE for key in ("vDecay", "iDecay"))
        threshold = neuron.integer("vThMant", 1, NEVER)
        drive = self._bias(name, fields)
        if threshold == NEVER and is_last and np.ndim(leak) == 0 and not np.any(current):
            self._integrator(name, float(leak), drive)
            return
        node = MultiThresholdLIFGraph(
            self.shape,
            thresholds=[threshold],
            payload=[1.0],
            subtract=[threshold],
            leak=np.maximum(leak, NO_MEMORY),
            reset=self.reading.reset or "hard",
            fire=self.reading.fire or "gt",
            current_leak=current if np.any(current) else None,
            drive=drive if drive.any() else None,
            unit=1.0,
        )
        if "dense_rec" in name:
            self._recurrent(name, fields)
        self._add(name, node)
        self._tell(name, kind)

    def _tell(self, name: str, kind: str) -> None:
        compares = "v > vThMant << 6" if (self.reading.fire or "gt") == "gt" else "v >= vThMant << 6"
        asked = [f"--{key}" for key in ("fire", "reset") if getattr(self.reading, key) is not None]
        note = f"integers kept, {compares}, {self.reading.reset or 'hard'} reset"
        self.told.append(
            NodeContract(name, kind, PRODUCER, "faithful", note + (f" ({', '.join(asked)})" if asked else ""))
        )

    def _recurrent(self, name: str, fields: Fields) -> None:
        weight = _matrix(fields, "weight_rec", self.shape[0])
        self.nodes[f"{name}_recurrent"] = nir.Linear(weight)
        self.edges += [(name, f"{name}_recurrent"), (f"{name}_recurrent", name)]

    def _integrator(self, name: str, leak: float, drive: Array) -> None:
        """The state of a last layer that never fires: sum over t of leak^(T-t) (W s + bias)."""
        before = self.nodes[self.last]
        if not isinstance(before, nir.Linear | nir.Conv2d) or leak == 0:
            raise CompileError(f"{self.path}: {name}", "never fires, and is no layer of weights", RE_EXPORT)
        if isinstance(before, nir.Linear):
            self.nodes[self.last] = nir.Affine(before.weight, drive)
        else:
            before.bias = drive
        total = float(np.sum(leak ** np.arange(self.timesteps)))
        self.readout = {"readout": "leaky", "leak": leak, "scale": total}
        self.told.append(NodeContract(name, "LOIHI", PRODUCER, "faithful", "never fires: its last state is the output"))

    def _bias(self, name: str, fields: Fields) -> Array:
        """(channels,) biases; those of an input layer scale raw data."""
        if "bias" not in fields.values or name.endswith("_input"):
            return np.zeros(self.shape[0])
        bias = _integers(fields, "bias").reshape(-1)
        if bias.size not in (1, self.shape[0]):
            raise CompileError(fields.where, f"bias has {bias.size} values", f"needed: {self.shape[0]}, one a channel")
        return np.broadcast_to(bias, self.shape[:1]).copy()

    def _per_channel(self, fields: Fields, key: str) -> Any:
        values = _integers(fields, key).reshape(-1)
        if values.size not in (1, self.shape[0]) or values.min() < 0 or values.max() > DECAY_ONE:
            raise fields.refuse(key, values.tolist(), f"0 to {DECAY_ONE}, one or {self.shape[0]}")
        return float(values[0]) if (values == values[0]).all() else values

    def _delay(self, name: str, fields: Fields) -> None:
        """Axonal delays in steps, one or one a channel."""
        if "delay" not in fields.values:
            return
        steps = _integers(fields, "delay").reshape(-1)
        if steps.size not in (1, self.shape[0]) or steps.min() < 0:
            raise fields.refuse("delay", steps.tolist(), f"steps, one or {self.shape[0]}")
        if steps.any():
            whole = np.broadcast_to(steps.reshape(-1, *(1,) * (len(self.shape) - 1)), self.shape)
            self.edges.append((self.last, f"{name}_delay"))
            self.nodes[f"{name}_delay"] = nir.Delay(whole * DT_S)
            self.last = f"{name}_delay"


def _kind(fields: Fields) -> str:
    return _text(fields, "type")


def _text(fields: Fields, key: str) -> str:
    """A text, or a list of one, as HDF5 files hold it."""
    value = fields.get(key)
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(value, str):
        raise fields.refuse(key, value, "a text")
    return value


def _group(fields: Fields, layer: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = layer.get(key)
    if not isinstance(value, dict):
        raise CompileError(fields.where, f"has no group {key!r}", RE_EXPORT)
    return value


def _check_plain(neuron: Fields) -> None:
    """Refuses what our neuron has not."""
    if neuron.integer("refDelay", 0, default=1) > 1:
        raise neuron.refuse("refDelay", neuron.get("refDelay"), "1: refractory times are not supported")
    if bool(np.any(neuron.values.get("gradedSpike", False))):
        raise CompileError(neuron.where, "sends graded spikes", "train with graded_spike=False")
    for key in ("wgtExp", "weight_exp"):
        if key in neuron.values and np.any(neuron.values[key]):
            raise neuron.refuse(key, neuron.get(key), "0: weights with an exponent are not supported")


def _integers(fields: Fields, key: str) -> Array:
    if isinstance(fields.values.get(key), dict):
        raise CompileError(fields.where, f"has complex numbers for {key}", "supported: real ones")
    values = np.atleast_1d(fields.array(key))
    if not values.size or (values != np.rint(values)).any():
        raise CompileError(fields.where, f"{key} holds numbers that are no integers", "export with quantize=True")
    return values


def _features(fields: Fields) -> int:
    return int(np.prod(fields.shape("shape")))


def _matrix(fields: Fields, key: str, rows: int) -> Array:
    weight = _integers(fields, key)
    if weight.ndim == 1 and weight.size % rows == 0:
        weight = weight.reshape(rows, -1)
    if weight.ndim != 2 or len(weight) != rows:
        raise CompileError(fields.where, f"{key} has shape {weight.shape}", f"needed: ({rows}, features)")
    return weight


def _image(shape: Shape) -> Shape:
    """(C, H, W), or (n,) of (n, 1, 1)."""
    return shape[:1] if len(shape) == 3 and shape[1:] == (1, 1) else shape
