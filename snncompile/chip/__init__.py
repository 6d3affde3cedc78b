"""Chips as data: `hw_models/*.yaml` and users' own files under one schema, and the targets they make.

See hw_models/README.md.
"""

from snncompile.chip.boards import ARRANGEMENT_BASIS, chips_needed, on_board
from snncompile.chip.schema import (
    AnyChip,
    CheckedNumerics,
    Chip,
    ChipLimits,
    CoreLimits,
    CoreMemory,
    EnergySet,
    EventTime,
    KnownCoreLimits,
    LayerChip,
    LayerCore,
    Mesh,
    Numerics,
    Source,
    StaticPower,
    SynapseFormat,
    SynapseMemory,
)
from snncompile.chip.targets import (
    SIM_SUFFIX,
    chip_names,
    load_any,
    load_any_target,
    load_chip,
    load_limits,
    load_target,
    parse_chip,
    target_names,
)

__all__ = [
    "ARRANGEMENT_BASIS",
    "SIM_SUFFIX",
    "AnyChip",
    "CheckedNumerics",
    "Chip",
    "ChipLimits",
    "CoreLimits",
    "CoreMemory",
    "EnergySet",
    "EventTime",
    "KnownCoreLimits",
    "LayerChip",
    "LayerCore",
    "Mesh",
    "Numerics",
    "Source",
    "StaticPower",
    "SynapseFormat",
    "SynapseMemory",
    "chip_names",
    "chips_needed",
    "load_any",
    "load_any_target",
    "load_chip",
    "load_limits",
    "load_target",
    "on_board",
    "parse_chip",
    "target_names",
]
