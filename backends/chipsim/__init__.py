"""The chip simulator: exact integer function, then time and energy from its counts."""

from snncompile.backends.chipsim.simulator import ChipSim

__all__ = ["ChipSim"]
