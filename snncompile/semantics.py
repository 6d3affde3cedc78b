"""The words of a neuron's semantics that both networks and chip files use; imports nothing heavy."""

from typing import Literal

Reset = Literal["soft", "hard", "none"]
Fire = Literal["ge", "gt"]
