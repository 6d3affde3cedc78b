"""PyTorch layers to train networks that snncompile deploys exactly; multi-step layout [T, B, ...]."""

from snncompile.nn.coding import DirectCoding, MeanReadout, PerStep
from snncompile.nn.mtlif import MultiThresholdLIF
from snncompile.nn.tdbn import TdBatchNorm1d, TdBatchNorm2d

__all__ = ["DirectCoding", "MeanReadout", "MultiThresholdLIF", "PerStep", "TdBatchNorm1d", "TdBatchNorm2d"]
