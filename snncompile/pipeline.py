"""The order of the passes, and the stages after them: the only file that knows either."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from snncompile import network as float_network
from snncompile.backend import Activity
from snncompile.chip import Chip, Numerics
from snncompile.levels import activity_of, default_levels
from snncompile.lowering import Mode, plan, resolve
from snncompile.mapping import partition
from snncompile.mapping.activity import packet_flow
from snncompile.mapping.fit import Fitted, fit
from snncompile.mapping.optimise import DEFAULT_EFFORT, place
from snncompile.mapping.pins import Pins, pinned_slots
from snncompile.mapping.place import place_hilbert
from snncompile.network import FOLDED, Network
from snncompile.passes.align_delays import AlignDelays
from snncompile.passes.bias_neurons import SUFFIX, TOLD, BiasNeurons
from snncompile.passes.connect_identity import ConnectIdentity
from snncompile.passes.fold_avg_pool import FoldAvgPool
from snncompile.passes.fold_batch_norm import FoldBatchNorm
from snncompile.passes.fold_drive import FoldDrive
from snncompile.passes.fold_flatten import FoldFlatten
from snncompile.passes.fold_payload import FoldPayload
from snncompile.passes.lower_neurons import LowerNeurons
from snncompile.passes.order_neurons import OrderNeurons, Orders
from snncompile.passes.rate_input import RateInput
from snncompile.passes.simplify_steps import SimplifySteps
from snncompile.passes.split_shared import SplitShared
from snncompile.program import InputCoding, Program, Provenance
from snncompile.quant_network import QuantNetwork
from snncompile.quantization.quantize import HostScales, quantize
from snncompile.quantization.rounding import Rounding
from snncompile.quantization.verify_integers import verify_integers

Pass = Callable[[Network], Network]

FOLDS: tuple[Pass, ...] = (
    FoldFlatten(),  # so that pools stand right before linear layers
    FoldBatchNorm(),  # before pools: a norm must still stand next to its convolution
    ConnectIdentity(),  # before pools and payloads: they fold into synapses
    SplitShared(),  # after norms: a norm may stand between a convolution and its readers
    FoldAvgPool(),
    FoldPayload(),  # after pools: payloads go straight into weights
    SimplifySteps(),  # after sharing is split: a gain goes into synapses of one population
    FoldDrive(),  # after mixings that are none are gone: they lie between bias and membrane
)
"""What does not depend on the chip."""


def lowering_passes(
    numerics: Numerics, mode: Mode, input_coding: InputCoding = "direct", orders: Orders | None = None
) -> tuple[Pass, ...]:
    """What follows `FOLDS` for one chip; `mode` is resolved. orders: of `mapping.orders.choose_orders`."""
    ordering: tuple[Pass, ...] = (OrderNeurons(orders),) if orders else ()
    coding: tuple[Pass, ...] = (RateInput(),) if input_coding == "rate" else ()
    return (
        *ordering,  # before lowering: the members of a neuron then stay together
        *coding,
        *(() if numerics.current_bias else (BiasNeurons(numerics),)),  # before lowering: biases of trained neurons
        LowerNeurons(numerics, mode),
        AlignDelays(),  # last: depths count what is left
    )


@dataclass(eq=False)
class StepLog:
    """Names and durations of the steps; `tell(number, total, name, seconds)` as each begins (None) and as it ends."""

    tell: Callable[[int, int, str, float | None], None] = lambda number, total, name, seconds: None
    steps: list[dict[str, Any]] = field(default_factory=list)
    total: int = 10

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        number = len(self.steps) + 1
        self.tell(number, self.total, name, None)
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self.tell(number, self.total, name, seconds)
        self.steps.append({"name": name, "seconds": round(seconds, 4)})


def assumed_activity(program: Program) -> Activity:
    """The stated assumption for every neuron (`levels.default_levels`)."""
    return activity_of(program.network, default_levels(program.network))


@dataclass(frozen=True)
class Placing:
    """How cores are placed: how long to search (0 to 3), what the user has put where, and how often neurons fire.

    share_cores: small layers that follow each other share a core (`partition.partition`).
    activity: of a program whose cores are not yet where they will be.
    """

    effort: int = DEFAULT_EFFORT
    pins: Pins = field(default_factory=dict)
    activity: Callable[[Program], Activity] = assumed_activity
    share_cores: bool = False


def place_program(
    target: str,
    chip: Chip,
    lowered: Network,
    made: Provenance,
    log: StepLog | None = None,
    how: Rounding | None = None,
    placing: Placing | None = None,
) -> Program:
    """A lowered network quantised, cut and placed."""
    log, placing = log or StepLog(), placing or Placing()
    with log.step("quantize"):
        quantized, host = quantize(lowered, chip.numerics, made.weight_bits, how)
        verify_integers(quantized)
    with log.step("partition"):
        fitted = fit(quantized, chip, placing.share_cores)
        core_graph = fitted.graph
        if fitted.remedies:
            quantized, host, made = _mended(fitted, host, made)
            verify_integers(quantized)
        partition.verify(core_graph, quantized, chip)
    with log.step("place"):
        pins = pinned_slots(placing.pins, core_graph, chip.mesh)
        start = place_hilbert(core_graph.core_count, chip.mesh)
        program = Program(target, chip, quantized, host, core_graph, start, made)
        flow = packet_flow(quantized, core_graph, placing.activity(program))
        placement = place(flow, chip.mesh, placing.effort, pins)
    return replace(program, placement=placement)


def _mended(fitted: Fitted, host: HostScales, made: Provenance) -> tuple[QuantNetwork, HostScales, Provenance]:
    """The network with its remedies; what the new populations' states are worth, and how they came to be."""
    new = {p.name: p for p in fitted.network.populations if p.name not in host.state}
    state = {name: np.ones(p.shape[0]) for name, p in new.items() if not p.sums}
    lowering = {name: {"lowering": "added so that layers fit", "exactness": "exact"} for name in new}
    remedies = tuple(asdict(remedy) for remedy in fitted.remedies)
    known = replace(made, lowering={**made.lowering, **lowering}, remedies=remedies)
    return fitted.network, replace(host, state={**host.state, **state}), known


def run_passes(network: Network, passes: tuple[Pass, ...] = FOLDS) -> Network:
    """Every pass in order, with `verify` before the first and after each; at the end only foldable nodes are left."""
    float_network.verify(network)
    for apply in passes:
        network = apply(network)
        float_network.verify(network)
    float_network.verify(network, allowed=FOLDED)
    return network


def lower(
    network: Network,
    numerics: Numerics,
    mode: str = "auto",
    input_coding: InputCoding = "direct",
    orders: Orders | None = None,
) -> Network:
    """The lowered network of a trained one: all passes for a chip, its neurons in these orders."""
    return run_passes(network, (*FOLDS, *lowering_passes(numerics, resolve(mode, numerics), input_coding, orders)))


def lowering_of(folded: Network, numerics: Numerics, mode: Mode) -> Mapping[str, Mapping[str, str]]:
    """Per population: how it is put on the chip, and what is claimed of that (rounding to integers apart)."""
    planned = plan(folded, numerics, mode).items()
    added = {node.name + SUFFIX: TOLD for node in BiasNeurons(numerics).of(folded)}
    return {name: {"lowering": lowered.lowering, "exactness": lowered.exactness} for name, lowered in planned} | added


def pass_names(
    numerics: Numerics, mode: Mode, input_coding: InputCoding, orders: Orders | None = None
) -> tuple[str, ...]:
    passes = (*FOLDS, *lowering_passes(numerics, mode, input_coding, orders))
    return tuple(getattr(apply, "name", type(apply).__name__) for apply in passes)
