"""Words of synapse memory, exactly as the chip's formats fill them. Pure functions of the schema and of counts.

The rules and their sources stand in `chip.SynapseMemory` and `hw_models/`. A list holds the synapses of one input axon
to one core; those of a dense layer hold no zero weights where the format numbers every synapse, and fill gaps with
zeros or skips where it does not. Compartments of a tile are numbered row by row, channels fastest; a list of a
convolution starts a new entry for every run of consecutive compartments (dense), so skipping never pays there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snncompile.chip import SynapseMemory
from snncompile.errors import CompileError
from snncompile.quant_network import IntArray, QuantSynapses


@dataclass(frozen=True)
class ListFormat:
    """One format with all its widths but the index: bits of one synapse's weight and delay, and of its skip."""

    name: str
    indexed_each: bool
    weight_bits: int
    delay_bits: int
    skip_bits: int

    @property
    def runs(self) -> bool:
        """Whether its entries hold consecutive targets."""
        return not self.indexed_each


def field_bits(needed: int, widths: Sequence[int] | None) -> int | None:
    """The narrowest width that is at least `needed`; needed itself where all widths are possible; None: none is."""
    return needed if widths is None else min((width for width in widths if width >= needed), default=None)


def weight_field(synapses: QuantSynapses, memory: SynapseMemory) -> int | None:
    """Bits that store one weight of a layer: `weight_bits` with the sign, one less if all weights have one sign."""
    bits = synapses.weight_bits
    if memory.sign_bit_saved:
        low, high = int(synapses.weight.min(initial=0)), int(synapses.weight.max(initial=0))
        if low >= 0 or high <= 0:
            # -2^(b-1) alone has a magnitude of b bits
            bits = max(max(high, -low).bit_length(), bits - 1, 1)
    return field_bits(bits, memory.weight_field_bits)


def delay_field(synapses: QuantSynapses, memory: SynapseMemory) -> int | None:
    """Bits that store how many steps beyond one a spike takes."""
    return field_bits(synapses.extra_steps.bit_length(), memory.delay_bits)


def list_formats(synapses: QuantSynapses, memory: SynapseMemory) -> tuple[ListFormat, ...]:
    """Every format that a layer's lists may be written in.

    Raises CompileError where no field of the chip is as wide as the weights or delays need.
    """
    weight, delay = weight_field(synapses, memory), delay_field(synapses, memory)
    if weight is None:
        raise CompileError(
            synapses.name,
            f"{synapses.weight_bits} bits a weight, the chip stores at most {_most(memory.weight_field_bits)}",
        )
    if delay is None:
        raise CompileError(
            synapses.name, f"delays of {1 + synapses.extra_steps} steps need more than {_most(memory.delay_bits)} bits"
        )
    found = []
    for form in memory.formats:
        for skip in form.skip_bits or (0,):
            name = f"{form.name}_{skip}" if skip else form.name
            found.append(ListFormat(name, form.index == "each", weight, delay, skip))
    return tuple(found)


def _most(widths: Sequence[int] | None) -> int:
    return max(widths or (0,))


def index_bits(compartments: IntArray, memory: SynapseMemory) -> IntArray:
    """The narrowest index that numbers so many compartments of a core, else the widest there is."""
    widths = np.array(sorted(memory.index_bits), np.int64)
    holds = np.searchsorted(1 << widths, compartments)
    return widths[np.minimum(holds, len(widths) - 1)]


def list_words(synapses: IntArray, form: ListFormat, index: IntArray | int, memory: SynapseMemory) -> IntArray:
    """Words of a list of n synapses without gaps; 0 for n = 0.

    each = weight + delay + (index | skip),  head = prefix + (index, if once an entry),  m = entry_synapses_max:
    "entry": (n // m) * ceil((head + m * each) / word) + [n % m > 0] * ceil((head + (n % m) * each) / word)
    "list":  ceil((n * each + ceil(n / m) * head) / word)
    """
    n, index = np.asarray(synapses, np.int64), np.asarray(index, np.int64)
    each = form.weight_bits + form.delay_bits + (index if form.indexed_each else form.skip_bits)
    head = memory.entry_prefix_bits + (0 if form.indexed_each else index)
    most, word = memory.entry_synapses_max, memory.word_bits
    if memory.rounding == "list":
        return -(-(n * each + -(-n // most) * head) // word)
    full, rest = n // most, n % most
    return full * -(-(head + most * each) // word) + (rest > 0) * -(-(head + rest * each) // word)


def least_words(synapses: IntArray, form: ListFormat, index: IntArray, memory: SynapseMemory) -> IntArray:
    """Words below which no way of spreading so many synapses over lists comes: their bits, in whole words."""
    each = form.weight_bits + form.delay_bits + (index if form.indexed_each else form.skip_bits)
    head = memory.entry_prefix_bits + (0 if form.indexed_each else index)
    entries = -(-synapses // memory.entry_synapses_max)
    return -(-(synapses * each + entries * head) // memory.word_bits)


def most_words(
    synapses: IntArray, lists: IntArray, form: ListFormat, index: IntArray, memory: SynapseMemory
) -> IntArray:
    """Words that no way of spreading so many synapses over so many lists exceeds, if all lists are without gaps.

    At most n // m + lists entries, each with less than a word to spare.
    """
    each = form.weight_bits + form.delay_bits + (index if form.indexed_each else form.skip_bits)
    head = memory.entry_prefix_bits + (0 if form.indexed_each else index)
    entries = synapses // memory.entry_synapses_max + lists
    return (synapses * each + entries * head) // memory.word_bits + entries


def kernel_words(weights: IntArray, form: ListFormat, memory: SynapseMemory) -> IntArray:
    """Words of a kernel stored once a core: ceil(weights * (weight + delay) / word)."""
    return -(-weights * (form.weight_bits + form.delay_bits) // memory.word_bits)


@dataclass(frozen=True, eq=False)
class Listed:
    """The synapses that are there, by axon: start (axons + 1,) of each; target (synapses,), increasing in each."""

    start: IntArray
    target: NDArray[np.int32]
    targets: int

    @classmethod
    def of(cls, axon: IntArray, target: IntArray, axons: int, targets: int) -> "Listed":
        """From synapses (synapses,) sorted by axon, then target."""
        start = np.concatenate([[0], np.cumsum(np.bincount(axon, minlength=axons))]).astype(np.int64)
        return cls(start, target.astype(np.int32), targets)

    @classmethod
    def of_matrix(cls, weight: IntArray) -> "Listed":
        """Of a linear layer's weights (targets, axons): those that are not 0."""
        # numba takes half a second to load
        from snncompile.mapping.list_kernel import listed  # noqa: PLC0415

        start, target = listed(weight)
        return cls(start, target, weight.shape[0])


def words_of_lists(
    listed: Listed, edges: IntArray, form: ListFormat, index: IntArray, memory: SynapseMemory
) -> tuple[IntArray, IntArray]:
    """(tiles,) words of all lists to each tile of targets, and of the longest one. index: (tiles,) bits."""
    from snncompile.mapping.list_kernel import EACH, FILLED, SKIPPED, packed_words  # noqa: PLC0415

    widths, width_of = np.unique(index, return_inverse=True)
    size = np.arange(int(np.diff(edges).max()) + 1)
    words = np.stack([list_words(size, form, width, memory) for width in widths])
    tile_of = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    held = EACH if form.indexed_each else SKIPPED if form.skip_bits else FILLED
    total, longest = packed_words(
        listed.start, listed.target, tile_of, words, width_of.astype(np.int64), held, 1 << form.skip_bits
    )
    return total, longest


def cheapest(words: IntArray, longest: IntArray, limit: int | None) -> IntArray:
    """(...,) which format (first axis) takes fewest words, of those whose longest list is within the limit.

    Where none is, the one with the shortest longest list.
    """
    if limit is None:
        return words.argmin(0)
    within = longest <= limit
    return np.where(within.any(0), np.where(within, words, np.iinfo(np.int64).max).argmin(0), longest.argmin(0))
