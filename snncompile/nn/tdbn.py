"""Threshold-dependent batch normalisation (tdBN)."""

from torch import Tensor, nn


class TdBatchNorm2d(nn.BatchNorm2d):
    """Threshold-dependent batch norm after a convolution.

    y = gamma * (x - E[x]) / sqrt(Var[x] + eps) + beta, per channel, E and Var taken over steps, batch and space
    together; gamma starts at alpha * v_threshold, so the current has the scale of the threshold.
    `[T, B, C, H, W] -> [T, B, C, H, W]`. alpha = 1 in a chain, 1/sqrt(n) where n branches are added before a neuron.
    Source: arXiv 2011.05280 (there lambda * alpha * V_th, lambda learned from 1; gamma is their product).
    """

    def __init__(self, num_features: int, v_threshold: float = 1.0, alpha: float = 1.0, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps=eps)
        nn.init.constant_(self.weight, alpha * v_threshold)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).reshape(x.shape)


class TdBatchNorm1d(nn.BatchNorm1d):
    """`TdBatchNorm2d` for a linear layer: `[T, B, features] -> [T, B, features]`."""

    def __init__(self, num_features: int, v_threshold: float = 1.0, alpha: float = 1.0, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps=eps)
        nn.init.constant_(self.weight, alpha * v_threshold)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).reshape(x.shape)
