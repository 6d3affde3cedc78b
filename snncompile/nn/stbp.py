"""The neuron of STBP-tdBN."""

from torch import Tensor

from snncompile.nn.mtlif import MultiThresholdLIF


class StbpLIF(MultiThresholdLIF):
    """The binary leaky integrate-and-fire neuron of STBP-tdBN; `TdBatchNorm2d` is the norm before it.

        u[t] = leak * u[t-1] * (1 - o[t-1]) + x[t]        u[0] = o[0] = 0
        o[t] = 1 where u[t] > threshold, else 0

    Shapes: x, o `[T, B, ...]`. It is `MultiThresholdLIF` with one level, hard reset, fire "gt" and spike value 1; the
    input is not multiplied by (1 - leak).
    Gradient: do/du = 1 where |u - threshold| < 0.5, else 0. The reset factor (1 - o) is differentiated too, as in the
    public re-implementations; `detach_reset=True` takes it for a constant, as every other layer here does.
    Raises ValueError: threshold <= 0, leak outside (0, 1].
    Source: arXiv 2011.05280; equation, surrogate and defaults as in public re-implementations of it.
    """

    def __init__(self, threshold: float = 0.2, leak: float = 0.25, detach_reset: bool = False) -> None:
        super().__init__(
            threshold,
            levels=1,
            leak=leak,
            reset="hard",
            fire="gt",
            surrogate="rectangular",
            width=1.0,
            detach_reset=detach_reset,
            spike_value=1.0,
        )

    def _after_reset(self, u: Tensor, k: Tensor) -> Tensor:
        return u * (1 - k)
