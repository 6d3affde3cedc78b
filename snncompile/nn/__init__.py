"""PyTorch layers to train networks that snncompile deploys exactly; multi-step layout [T, B, ...]."""

from snncompile.nn.coding import DirectCoding, EventCoding, MeanReadout, PerStep
from snncompile.nn.group_neuron import QCFS, GroupNeuron, convert_to_group_neurons
from snncompile.nn.lm_ht import LMHT, single_threshold
from snncompile.nn.mtlif import MultiThresholdLIF
from snncompile.nn.networks import cifarnet, resnet19, resnet20, resnet34, resnet50, vgg
from snncompile.nn.networks_systems import LmHt, MultiThreshold, QcfsAnn, StbpTdbn, Stcb, System
from snncompile.nn.quantized import QuantizedNetwork, prepare_quantized
from snncompile.nn.residual import Residual, basic_block, residual_block
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
    "EventCoding",
    "GroupNeuron",
    "LeakyReadout",
    "LmHt",
    "MeanReadout",
    "MultiThreshold",
    "MultiThresholdLIF",
    "PerStep",
    "PerTrain",
    "QcfsAnn",
    "QuantizedNetwork",
    "Residual",
    "SpikeTrain",
    "SpikeTrainCoding",
    "StbpLIF",
    "StbpTdbn",
    "Stcb",
    "StcbLIF",
    "System",
    "TdBatchNorm1d",
    "TdBatchNorm2d",
    "TrainReadout",
    "basic_block",
    "cifarnet",
    "convert_to_group_neurons",
    "prepare_quantized",
    "residual_block",
    "resnet19",
    "resnet20",
    "resnet34",
    "resnet50",
    "single_threshold",
    "to_sequential",
    "vgg",
]
