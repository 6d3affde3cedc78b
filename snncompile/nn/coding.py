"""Borders of a multi-step network: input coding, stateless layers per step, readout."""

from torch import Tensor, nn


class DirectCoding(nn.Module):
    """Direct coding: the analog image is the input current's source at every time step.

    y[t] = scale * x for t = 1..T; `[B, ...] -> [T, B, ...]`. `scale` turns the stored pixel into the value the
    network is trained on: 1/255 for 8-bit pixels given as 0..255, 1 for pixels already in 0..1.
    `input_shape` (C, H, W) or (features,) is what the compiler sizes the network by; without it, say `--input-shape`.
    The compiler sends the 8-bit pixel as a graded input spike in each of the T steps, so it needs 0 <= x*scale <= 1.
    Raises ValueError unless timesteps >= 1. Source: arXiv 2011.05280 (STBP-tdBN), input layer.
    """

    def __init__(self, timesteps: int, input_shape: tuple[int, ...] | None = None, scale: float = 1.0) -> None:
        super().__init__()
        if timesteps < 1:
            raise ValueError(f"DirectCoding: timesteps must be at least 1, got {timesteps}")
        self.timesteps = timesteps
        self.input_shape = None if input_shape is None else tuple(input_shape)
        self.scale = float(scale)

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.scale).expand(self.timesteps, *x.shape)


class EventCoding(nn.Module):
    """Input of event frames: `[B, T, *input_shape]` -> `[T, B, *input_shape]`, the values unchanged, as float.

    x[b, t] counts the events of bin t: integers >= 0, and 0 or 1 for a chip with binary spikes. `timesteps` is T,
    `input_shape` (C, H, W) or (features,) of one frame.
    Raises ValueError unless timesteps >= 1, and in forward when x has another number of steps or another frame shape.
    """

    def __init__(self, timesteps: int, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        if timesteps < 1:
            raise ValueError(f"EventCoding: timesteps must be at least 1, got {timesteps}")
        self.timesteps = timesteps
        self.input_shape = tuple(input_shape)

    def forward(self, x: Tensor) -> Tensor:
        needed = (self.timesteps, *self.input_shape)
        if x.shape[1:] != needed:
            raise ValueError(f"EventCoding: needed x of shape (B, {', '.join(map(str, needed))}), got {tuple(x.shape)}")
        return x.transpose(0, 1) if x.is_floating_point() else x.transpose(0, 1).float()


class PerStep(nn.Sequential):
    """Applies stateless layers to every step: `[T, B, ...] -> [T*B, ...] -> layers -> [T, B, ...]`."""

    def forward(self, x: Tensor) -> Tensor:
        steps, batch = x.shape[:2]
        y: Tensor = super().forward(x.flatten(0, 1))  # type: ignore[no-untyped-call]
        return y.reshape(steps, batch, *y.shape[1:])


class MeanReadout(nn.Module):
    """Neuron-less readout: output = (1/T) * sum_t x[t]; `[T, B, classes] -> [B, classes]`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(0)
