"""PyTorch layers to train networks that snncompile deploys exactly; multi-step layout [T, B, ...]."""

from snncompile.nn.coding import DirectCoding, MeanReadout, PerStep
from snncompile.nn.group_neuron import QCFS, GroupNeuron, convert_to_group_neurons
from snncompile.nn.lm_ht import LMHT, single_threshold
from snncompile.nn.mtlif import MultiThresholdLIF
from snncompile.nn.residual import Residual, basic_block
from snncompile.nn.stbp import StbpLIF
from snncompile.nn.stcb import (
    LeakyReadout,
    PerTrain,
    SpikeTrain,
    SpikeTrainCoding,
    StcbLIF,
    TrainReadout,
    to_sequential,
)
from snncompile.nn.tdbn import TdBatchNorm1d, TdBatchNorm2d

__all__ = [
    "LMHT",
    "QCFS",
    "DirectCoding",
    "GroupNeuron",
    "LeakyReadout",
    "MeanReadout",
    "MultiThresholdLIF",
    "PerStep",
    "PerTrain",
    "Residual",
    "SpikeTrain",
    "SpikeTrainCoding",
    "StbpLIF",
    "StcbLIF",
    "TdBatchNorm1d",
    "TdBatchNorm2d",
    "TrainReadout",
    "basic_block",
    "convert_to_group_neurons",
    "single_threshold",
    "to_sequential",
]
