"""How each neuron system spells its layers, so that one builder a topology (`networks`) serves them all."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from snncompile.nn.coding import DirectCoding, EventCoding, MeanReadout, PerStep
from snncompile.nn.group_neuron import QCFS
from snncompile.nn.lm_ht import LMHT
from snncompile.nn.mtlif import MultiThresholdLIF, Reset
from snncompile.nn.stbp import StbpLIF
from snncompile.nn.stcb import PerTrain, SpikeTrainCoding, StcbLIF, TrainReadout
from snncompile.nn.surrogate import Surrogate
from snncompile.nn.tdbn import TdBatchNorm1d, TdBatchNorm2d

Layers = list[nn.Module]
Shape = tuple[int, ...]
Weights = nn.Conv2d | nn.Linear


class System(ABC):
    """A neuron system: input coding, stateless layers, weights with their norm, neuron, readout; all layers are new.

    A residual is `Residual(nn.Sequential(*layers), nn.Sequential(*layers) or None)` in every one of them. The norm's
    gains start at alpha times the scale of the neuron's current; alpha = 1/sqrt(n) where n branches are added.
    Raises ValueError, when it is made, for parameters that its neuron refuses.
    """

    def __post_init__(self) -> None:
        self.coding((1,), 1)
        self.neuron(1)

    @abstractmethod
    def coding(self, input_shape: Shape, timesteps: int) -> Layers:
        """What turns `[B, *input_shape]` into what the layers take."""

    @abstractmethod
    def stateless(self, layers: Sequence[nn.Module]) -> Layers:
        """Pools, flattening and weights without a norm."""

    @abstractmethod
    def normed(self, layers: Sequence[nn.Module], weights: Weights, alpha: float = 1.0) -> Layers:
        """`layers`, then `weights`, then the norm of what they give."""

    @abstractmethod
    def neuron(self, timesteps: int) -> nn.Module:
        """A new neuron layer for networks of T = timesteps."""

    @abstractmethod
    def readout(self) -> Layers:
        """What turns the last currents into logits `[B, classes]`."""


class _MultiStep(System):
    """Systems of the layout `[T, B, ...]`: an input coding, PerStep, tdBN, a neuron, MeanReadout.

    events=False: images by DirectCoding(scale=input_scale); True: event frames `[B, T, *input_shape]` by EventCoding,
    which are not scaled (ValueError for an input_scale other than 1).
    """

    input_scale: float
    events: bool

    @property
    @abstractmethod
    def current_scale(self) -> float:
        """Where the norm's gains start: tdBN's V_th."""

    def coding(self, input_shape: Shape, timesteps: int) -> Layers:
        if not self.events:
            return [DirectCoding(timesteps, input_shape, self.input_scale)]
        if self.input_scale != 1:
            raise ValueError(
                f"{type(self).__name__}: events are not scaled, input_scale is {self.input_scale}; needed: 1"
            )
        return [EventCoding(timesteps, input_shape)]

    def stateless(self, layers: Sequence[nn.Module]) -> Layers:
        return [PerStep(*layers)]

    def normed(self, layers: Sequence[nn.Module], weights: Weights, alpha: float = 1.0) -> Layers:
        norm = TdBatchNorm2d if isinstance(weights, nn.Conv2d) else TdBatchNorm1d
        return [PerStep(*layers, weights), norm(len(weights.weight), self.current_scale, alpha)]

    def readout(self) -> Layers:
        return [MeanReadout()]


@dataclass(frozen=True)
class StbpTdbn(_MultiStep):
    """STBP-tdBN: `StbpLIF(threshold, leak, detach_reset)`, tdBN of V_th = threshold (arXiv 2011.05280)."""

    threshold: float = 0.2
    leak: float = 0.25
    detach_reset: bool = False
    input_scale: float = 1.0
    events: bool = False

    @property
    def current_scale(self) -> float:
        return self.threshold

    def neuron(self, timesteps: int) -> nn.Module:
        return StbpLIF(self.threshold, self.leak, self.detach_reset)


@dataclass(frozen=True)
class MultiThreshold(_MultiStep):
    """Multi-threshold LIF: `MultiThresholdLIF`, tdBN of V_th = threshold (arXiv 2112.07426; the norm is ours)."""

    threshold: float = 0.5
    levels: int = 4
    leak: float = 0.5
    reset: Reset = "soft"
    surrogate: Surrogate = "rectangular"
    width: float | None = None
    input_scale: float = 1.0
    events: bool = False

    @property
    def current_scale(self) -> float:
        return self.threshold

    def neuron(self, timesteps: int) -> nn.Module:
        return MultiThresholdLIF(
            self.threshold, self.levels, self.leak, self.reset, surrogate=self.surrogate, width=self.width
        )


@dataclass(frozen=True)
class LmHt(_MultiStep):
    """LM-HT: `LMHT(levels, timesteps, threshold)`, each with its own T-GIM, tdBN of V_th = 1 (arXiv 2402.00411).

    threshold: 2/levels unless given.
    """

    levels: int = 4
    threshold: float | None = None
    learn_leak: bool = True
    input_scale: float = 1.0
    events: bool = False

    @property
    def current_scale(self) -> float:
        return 1.0

    def neuron(self, timesteps: int) -> nn.Module:
        return LMHT(self.levels, timesteps, self.threshold, learn_leak=self.learn_leak)


@dataclass(frozen=True)
class Stcb(System):
    """STCB-R: `SpikeTrainCoding`, `PerTrain`, `StcbLIF(threshold, levels)`; `to_sequential` gives what to deploy.

    Batch norm stands within PerTrain, its gains starting at alpha. Source: arXiv 2307.07136 and `snncompile.nn.stcb`.
    """

    threshold: float = 0.5
    levels: int = 4
    leak: float = 0.5
    input_scale: float = 1.0

    def coding(self, input_shape: Shape, timesteps: int) -> Layers:
        return [SpikeTrainCoding(timesteps, self.leak, input_shape, self.input_scale)]

    def stateless(self, layers: Sequence[nn.Module]) -> Layers:
        return [PerTrain(*layers)]

    def normed(self, layers: Sequence[nn.Module], weights: Weights, alpha: float = 1.0) -> Layers:
        return [PerTrain(*layers, weights, _batch_norm(weights, alpha))]

    def neuron(self, timesteps: int) -> nn.Module:
        return StcbLIF(self.threshold, self.levels)

    def readout(self) -> Layers:
        return [TrainReadout()]


@dataclass(frozen=True)
class QcfsAnn(System):
    """The ANN to convert: batch norm and `QCFS(levels, init)`, `[B, ...] -> [B, classes]` (arXiv 2402.19061).

    It has no time steps and no input coding: `timesteps` changes nothing; `convert_to_group_neurons(ann, members,
    timesteps, input_shape, input_scale)` takes them. The norms are ordinary ones, alpha is not used.
    """

    levels: int = 4
    init: float = 2.0

    def coding(self, input_shape: Shape, timesteps: int) -> Layers:
        return []

    def stateless(self, layers: Sequence[nn.Module]) -> Layers:
        return list(layers)

    def normed(self, layers: Sequence[nn.Module], weights: Weights, alpha: float = 1.0) -> Layers:
        return [*layers, weights, _batch_norm(weights, 1.0)]

    def neuron(self, timesteps: int) -> nn.Module:
        return QCFS(self.levels, self.init)

    def readout(self) -> Layers:
        return []


def _batch_norm(weights: Weights, gain: float) -> nn.Module:
    kind = nn.BatchNorm2d if isinstance(weights, nn.Conv2d) else nn.BatchNorm1d
    norm = kind(len(weights.weight))
    nn.init.constant_(norm.weight, gain)
    return norm
