"""The chip simulator: exact integer function, then time and energy from its counts."""

from .simulator import ChipSim

__all__ = ["ChipSim"]
