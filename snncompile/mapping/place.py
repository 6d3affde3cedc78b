"""Where on the chips of a board logical cores sit, and the plain ways to fill it: in rows, along a curve, at random.

Slots of a board are numbered chip after chip, router after router in rows, and by the cores of a router.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from snncompile.chip import Mesh
from snncompile.quant_network import IntArray


@dataclass(frozen=True, eq=False)
class Placement:
    """Of every logical core (cores,) its chip, its router's column `x` and row `y` on that chip, and which of the
    router's cores it is (`slot`).

    Chips are numbered in the order they are filled: along the first row of the board, back along the next, and so on.
    """

    chip: IntArray
    x: IntArray
    y: IntArray
    slot: IntArray

    @classmethod
    def at(cls, slots: IntArray, mesh: Mesh) -> "Placement":
        """From the number of every core's slot."""
        chip, core = np.divmod(slots, mesh.cores_per_chip)
        router, slot = np.divmod(core, mesh.cores_per_router)
        return cls(chip, router % mesh.width, router // mesh.width, slot)

    def slots(self, mesh: Mesh) -> IntArray:
        """Number of every core's slot; `at` is its inverse."""
        router = (self.chip * mesh.height + self.y) * mesh.width + self.x
        return router * mesh.cores_per_router + self.slot

    @property
    def chips_used(self) -> int:
        return len(np.unique(self.chip))

    @property
    def routers_used(self) -> int:
        return int(self._routers_by_chip().sum())

    @property
    def routers_of_a_chip(self) -> int:
        """Routers in use on the chip that uses most."""
        return int(self._routers_by_chip().max())

    def _routers_by_chip(self) -> IntArray:
        routers = np.unique(np.stack([self.chip, self.x, self.y]), axis=1)
        return np.unique(routers[0], return_counts=True)[1]


def place_hilbert(cores: int, mesh: Mesh) -> Placement:
    """Cores in pipeline order, chip after chip, along a Hilbert curve over the routers of each: neighbours stay near.

    Source: Jin et al., ASPLOS 2023, for the Hilbert start.
    """
    return Placement.at(lay(hilbert_order(first_chips(cores, mesh), mesh), cores), mesh)


def place_row_major(cores: int, mesh: Mesh) -> Placement:
    """Cores in pipeline order, chip after chip, row by row. A baseline of the report."""
    return Placement.at(lay(row_order(first_chips(cores, mesh), mesh), cores), mesh)


def place_random(cores: int, mesh: Mesh, seed: int) -> Placement:
    """Cores at random slots of as few chips as hold them. A baseline of the report."""
    chips = -(-cores // mesh.cores_per_chip)
    return Placement.at(np.random.default_rng(seed).permutation(chips * mesh.cores_per_chip)[:cores], mesh)


def lay(order: IntArray, cores: int, pins: Mapping[int, int] | None = None) -> IntArray:
    """Slot (cores,) of every core: where it is pinned, else the next of `order` that no core is pinned to."""
    pins = pins or {}
    slots = np.full(cores, -1)
    slots[list(pins)] = list(pins.values())
    free = order[~np.isin(order, list(pins.values()))]
    slots[slots < 0] = free[: cores - len(pins)]
    return slots


def first_chips(cores: int, mesh: Mesh, pins: Mapping[int, int] | None = None) -> list[int]:
    """As few chips as hold the cores, in the order they are filled, and those that cores are pinned to."""
    pinned = {slot // mesh.cores_per_chip for slot in (pins or {}).values()}
    return sorted(pinned | set(range(-(-cores // mesh.cores_per_chip))))


def row_order(chips: Sequence[int], mesh: Mesh) -> IntArray:
    """Slots chip after chip, row by row."""
    return (np.array(chips)[:, None] * mesh.cores_per_chip + np.arange(mesh.cores_per_chip)).ravel()


def hilbert_order(chips: Sequence[int], mesh: Mesh) -> IntArray:
    """Slots chip after chip, along a Hilbert curve over the routers of each.

    Every other chip has the curve upside down, and those of a row of the board that runs back have it mirrored.
    """
    curve_x, curve_y = _hilbert_curve(mesh.width, mesh.height)
    column, row = (position[chips][:, None] for position in chip_positions(mesh))
    back, odd = row % 2 == 1, column % 2 == 1
    x = np.where(back, mesh.width - 1 - curve_x, curve_x)
    y = np.where(odd != back, mesh.height - 1 - curve_y, curve_y)
    return _slots_of_routers((np.array(chips)[:, None] * mesh.height + y) * mesh.width + x, mesh)


def block_order(chips: Sequence[int], cores: int, mesh: Mesh) -> IntArray:
    """Slots along one Hilbert curve over the joined grid of the chips; on one chip, over the smallest block of nearly
    as many rows as columns that holds the cores, and then in rows over what is left of it.
    """
    column, row = (position[chips] for position in chip_positions(mesh))
    left, top = int(column.min()), int(row.min())
    across, down = int(column.max()) + 1 - left, int(row.max()) + 1 - top
    width, height = across * mesh.width, down * mesh.height
    if len(chips) == 1:
        needed = -(-cores // mesh.cores_per_router)
        width = min(max(math.isqrt(max(needed - 1, 0)) + 1, -(-needed // mesh.height)), mesh.width)
        height = -(-needed // width)
    chip_at = np.full((down, across), -1)
    chip_at[row - top, column - left] = chips
    x, y = _hilbert_curve(width, height)
    chip = chip_at[y // mesh.height, x // mesh.width]
    routers = ((chip * mesh.height + y % mesh.height) * mesh.width + x % mesh.width)[chip >= 0]
    order = _slots_of_routers(routers, mesh)
    every = row_order(chips, mesh)
    return np.concatenate([order, every[~np.isin(every, order)]])


def _slots_of_routers(routers: IntArray, mesh: Mesh) -> IntArray:
    return (routers.reshape(-1, 1) * mesh.cores_per_router + np.arange(mesh.cores_per_router)).ravel()


def chip_positions(mesh: Mesh) -> tuple[IntArray, IntArray]:
    """Column and row on the board of every chip (chips,): row by row, every second row backwards."""
    row, along = np.divmod(np.arange(mesh.chips), mesh.chips_across)
    return np.where(row % 2 == 1, mesh.chips_across - 1 - along, along), row


def _hilbert_curve(width: int, height: int) -> tuple[IntArray, IntArray]:
    """Points (x, y) of the grid in the order of the smallest Hilbert square around it, long side first.

    The curve's first half fills the half of the square with the small short coordinates.
    """
    order = (max(width, height) - 1).bit_length()
    index = np.arange(4**order)
    short, long = np.zeros_like(index), np.zeros_like(index)
    for level in range(order):
        side = 1 << level
        right = (index // 2) % 2
        up = (index ^ right) % 2
        turned = (up == 0) & (right == 1)
        short, long = np.where(turned, side - 1 - short, short), np.where(turned, side - 1 - long, long)
        short, long = np.where(up == 0, long, short), np.where(up == 0, short, long)
        short, long = short + side * right, long + side * up
        index = index // 4
    x, y = (short, long) if height >= width else (long, short)
    inside = (x < width) & (y < height)
    return x[inside], y[inside]
