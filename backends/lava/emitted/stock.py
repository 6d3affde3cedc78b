"""Stock style: a population as Lava's own Processes Dense, Conv or Sparse and LIFReset, in fixed point.

The Processes are those of lava.proc; their ProcessModels are Lava's, which here also keep a journal (watch.py) and
write what is asked for into shared memory. "fused_because" in network.json is empty for the populations that they
compute exactly. LIFReset is a LIF whose states are cleared at the first step of each sample; it is given one threshold
a neuron, where Lava's description has one for all.

Stock neurons shift what arrives up by 6 bits and take thresholds in units of 64: exponents here are 6 less.
"""

from collections.abc import Callable
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from lava.magma.core.model.py.type import LavaPyType
from layer import Keeper
from watch import Journal

SHIFT = 6
"""Bits by which a stock neuron shifts its input and its threshold up."""

NEVER = 1 << 17
"""A threshold that no state of 24 bits exceeds, of neurons that only sum."""


class Watched:
    """Lava's ProcessModel, with a journal that the main process reads."""

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)  # type: ignore[call-arg]
        self.journal = proc_params["journal"]
        self.journal.begin()

    def run_spk(self) -> None:
        with self.journal:
            super().run_spk()  # type: ignore[misc]
        self.journal.made(self.time_step)  # type: ignore[attr-defined]


@lru_cache
def lava_proc() -> Any:
    """The Processes Dense, Sparse, Conv and LIFReset of lava.proc, and `models`: the ProcessModel of each.

    Imported here and not above: Lava imports every file of this folder, and Conv takes seconds (scipy.signal).
    """
    from lava.proc.conv.models import PyConvModelFixed  # noqa: PLC0415
    from lava.proc.conv.process import Conv  # noqa: PLC0415
    from lava.proc.dense.models import PyDenseModelBitAcc  # noqa: PLC0415
    from lava.proc.dense.process import Dense  # noqa: PLC0415
    from lava.proc.lif.models import PyLifResetModelBitAcc  # noqa: PLC0415
    from lava.proc.lif.process import LIFReset  # noqa: PLC0415
    from lava.proc.sparse.models import PySparseModelBitAcc  # noqa: PLC0415
    from lava.proc.sparse.process import Sparse  # noqa: PLC0415

    class DenseModel(Watched, PyDenseModelBitAcc):  # type: ignore[misc]
        """Dense as Lava has it."""

    class SparseModel(Watched, PySparseModelBitAcc):  # type: ignore[misc]
        """Sparse as Lava has it."""

    class ConvModel(Watched, PyConvModelFixed):  # type: ignore[misc]
        """Conv as Lava has it, its geometry in int64: in Lava's int8, sizes of 128 and more overflow under numpy 2."""

        kernel_size = stride = padding = dilation = groups = LavaPyType(np.ndarray, np.int64)

    class LIFModel(Watched, PyLifResetModelBitAcc):  # type: ignore[misc]
        """LIFReset as Lava has it; what `Keeper` is asked for is written down in each step."""

        def __init__(self, proc_params: Any) -> None:
            super().__init__(proc_params)
            self.keeper = proc_params["keeper"]

        def reset_voltage(self, spike_vector: np.ndarray) -> None:
            u = self.v.copy()
            super().reset_voltage(spike_vector)
            self.keeper.keep(self.time_step - 1, spike_vector, u, self.v)

    models = {Dense: DenseModel, Sparse: SparseModel, Conv: ConvModel, LIFReset: LIFModel}
    return SimpleNamespace(models=models, **{process.__name__: process for process in models})


class StockPopulation:
    """The Processes of one population and its synapses. s_out: spikes (n,).

    params: as for `layer.Layer`, one lane; journal_of gives the journal of a Process by name. inlets: (name of a
    source, what its port is to be connected to).
    """

    def __init__(self, params: dict[str, Any], journal_of: Callable[[str], Journal]) -> None:
        spec, stream = params["spec"], params["stream"]
        name, spiking = spec["name"], bool(len(params["arrays"]["thresholds"]))
        connections = [Connection(one, journal_of(one["spec"]["name"])) for one in params["inputs"]]
        neurons = lava_proc().LIFReset(
            **lif_parameters(spec, params["arrays"]),
            reset_interval=stream.timesteps,
            reset_offset=(spec["depth"] + 1) % stream.timesteps,
            name=name,
        )
        kept = {memory: params[memory] for memory in ("output", "record", "membranes")}
        neurons.proc_params["keeper"] = Keeper(spec["depth"], spiking, stream, **kept)
        neurons.proc_params["journal"] = journal_of(name)
        for connection in connections:
            connection.join(neurons.a_in)
        self.s_out = neurons.s_out
        self.inlets = [(one["spec"]["source"], made) for one, made in zip(params["inputs"], connections, strict=True)]


def lif_parameters(spec: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Arguments of LIFReset: v > vth << 6 is what u >= threshold (fire "gt": >) says of the states there are.

    Without current_decay the current has no memory (du 4095); bias and drive are the same then.
    """
    size, channels = int(np.prod(spec["shape"])), spec["shape"][0]
    bias = arrays.get("drive", 0) + arrays["bias"].astype(np.int64)
    exponent = bias_exponent(bias)
    thresholds = arrays["thresholds"].astype(np.int64)
    vth = np.full(channels, NEVER)
    if len(thresholds):
        vth = (thresholds[0] - (spec["fire"] == "ge")) >> SHIFT
    du = arrays["current_decay"].astype(np.int64) - 1 if "current_decay" in arrays else np.full(channels, 4095)

    def each(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, size // channels)

    return {
        "shape": (size,),
        "du": each(du),
        "dv": each(arrays["decay"].astype(np.int64)),
        "vth": each(vth),
        "bias_mant": each(bias >> exponent),
        "bias_exp": exponent,
    }


def bias_exponent(bias: np.ndarray) -> int:
    """The largest exponent up to 7 that loses no bit of a bias."""
    return next(exponent for exponent in range(7, -1, -1) if not (bias & ((1 << exponent) - 1)).any())


class Connection:
    """Stock synapses between flat ports: Lava's Conv has (width, height, channel) at both ends."""

    def __init__(self, connection: dict[str, Any], journal: Journal) -> None:
        self.process = self._process(connection)
        self.process.proc_params["journal"] = journal

    def _process(self, connection: dict[str, Any]) -> Any:
        spec, largest = connection["spec"], int(connection["payload_max"])
        self.image = (*connection["source_shape"], 1, 1)[:3]
        common = {"num_message_bits": 0 if largest == 1 else largest.bit_length() + 1, "name": spec["name"]}
        self.is_conv, weight = spec["kind"] == "conv", connection["weight"]
        if self.is_conv:
            return lava_proc().Conv(**conv_parameters(spec, weight, self.image), **common)
        from lava.utils.weightutils import SignMode  # noqa: PLC0415 - as in lava_proc
        from scipy.sparse import csr_matrix  # noqa: PLC0415

        # Lava halves the resolution of weights of both signs: twice the weight, one bit less of exponent.
        common |= {"sign_mode": SignMode.MIXED, "weight_exp": spec["exponent"] - SHIFT - 1}
        if spec["kind"] == "sparse":
            listed = (2 * weight.astype(np.int32), (connection["row"], connection["column"]))
            matrix = csr_matrix(listed, shape=(spec["features"], int(np.prod(self.image))))
            return lava_proc().Sparse(weights=matrix, **common)
        return lava_proc().Dense(weights=2 * unpooled_matrix(spec, weight, self.image), **common)

    def connect(self, outlet: Any) -> None:
        """Connects a source's port, (n,) or (1, n) in the order of (channel, row, column)."""
        shape = self.image if self.is_conv else self.process.s_in.shape
        port = outlet if outlet.shape == shape else outlet.reshape(shape)
        (port.transpose((2, 1, 0)) if self.is_conv else port).connect(self.process.s_in)

    def join(self, inlet: Any) -> None:
        """Connects the sums to a neuron's port (n,)."""
        port = self.process.a_out
        (port.transpose((2, 1, 0)).reshape(inlet.shape) if self.is_conv else port).connect(inlet)


def unpooled_matrix(spec: dict[str, Any], weight: np.ndarray, image: tuple[int, int, int]) -> np.ndarray:
    """(out, sources) from the weight of a linear layer, whose inputs are sums of members and of pool windows."""
    (py, px), members = spec["pool"], spec["members"]
    channels, height, width = image[0] // members, image[1] // py, image[2] // px
    by_place = weight.astype(np.int32).reshape(len(weight), channels, height, width)
    spread = by_place.repeat(members, axis=1).repeat(py, axis=2).repeat(px, axis=3)
    whole = np.zeros((len(weight), *image), np.int32)
    whole[:, :, : height * py, : width * px] = spread
    return whole.reshape(len(weight), -1)


def unpooled_kernel(spec: dict[str, Any], weight: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Kernel (out, in, kh, kw) and dilation of a convolution whose inputs are sums of members and of pool windows."""
    (py, px), (dy, dx) = spec["pool"], spec["dilation"]
    weight = weight.astype(np.int32).repeat(spec["members"], axis=1)
    if (py, px) == (1, 1):
        return weight, (dy, dx)
    out, fan_in, ky, kx = weight.shape
    kernel = np.zeros((out, fan_in, (dy * (ky - 1) + 1) * py, (dx * (kx - 1) + 1) * px), np.int32)
    for i, j in np.ndindex(ky, kx):
        rows, columns = slice(i * dy * py, (i * dy + 1) * py), slice(j * dx * px, (j * dx + 1) * px)
        kernel[:, :, rows, columns] = weight[:, :, i, j, None, None]
    return kernel, (1, 1)


def conv_parameters(spec: dict[str, Any], weight: np.ndarray, image: tuple[int, ...]) -> dict[str, Any]:
    """Lava's Conv is a true convolution in (width, height, channel); it takes no exponent and clips no weight."""
    channels, height, width = image
    kernel, (dy, dx) = unpooled_kernel(spec, weight)
    (py, px), (sy, sx), (oy, ox) = spec["pool"], spec["stride"], spec["padding"]
    return {
        "weight": (kernel << (spec["exponent"] - SHIFT))[:, :, ::-1, ::-1].transpose(0, 3, 2, 1),
        "input_shape": (width, height, channels),
        "stride": (sx * px, sy * py),
        "padding": (ox * px, oy * py),
        "dilation": (dx, dy),
        "groups": spec["groups"],
    }
