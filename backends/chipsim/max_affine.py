"""The counts that the max-affine step model asks for (arXiv:2601.10035, Eq. 1), and its time where it is known.

    t_step = max(dendrite ops * t_dend, synaptic ops * t_syn, synapse-memory reads * t_mem, packets of a link * t_link,
                 barrier),    each the largest of all cores, or links, in the step

What we take for them (the paper is not at hand): dendrite ops are the compartments that a core visits, all of those
mapped to it in every step of their population; synaptic ops are the synapses reached. Which words of memory a packet
reads depends on the formats of lists: what is counted is at least one word a packet, and at least the weights of the
synapses it reaches. The heaviest link is bounded from above (`flows.most_on_a_link`); to time steps, the ways of all
packets are followed.
"""

from dataclasses import dataclass

import numpy as np

from snncompile.chip import MaxAffine
from snncompile.mapping.connectivity import chip_synapses
from snncompile.program import Program

from .cost import Counts, Traffic
from .flows import most_on_a_link


@dataclass(frozen=True, eq=False)
class Busiest:
    """Of every chip step (steps,): the most that any core does, or any link carries."""

    dendrite_ops: Counts
    synops: Counts
    synapse_reads_at_least: Counts
    link_packets_at_most: Counts

    def summary(self) -> dict[str, dict[str, float]]:
        """Mean over steps and largest of each."""
        return {name: {"mean": float(v.mean()), "max": float(v.max())} for name, v in vars(self).items()}


def busiest(program: Program, traffic: Traffic) -> Busiest:
    """The counts of all chip steps of a run."""
    logical = traffic.samples * traffic.timesteps
    most = np.zeros((3, logical + int(traffic.depth.max())))
    word_bits = program.chip.synapse_memory.word_bits
    layers = list(zip(chip_synapses(program.network), traffic.receptions, strict=True))
    for core in range(program.core_graph.core_count):  # one after the other: (steps, cores) may be large
        dendrite, synops, reads = on_core = np.zeros_like(most)
        for tile in np.flatnonzero(traffic.core == core).tolist():
            depth = int(traffic.depth[tile])
            dendrite[depth : depth + logical] += traffic.neurons[tile]
            for synapses, r in layers:
                column = tile - r.first_tile
                if not 0 <= column < r.packets.shape[2]:
                    continue
                reached, packets = (counts[:, :, column].ravel() for counts in (r.synops, r.packets))
                synops[r.depth : r.depth + logical] += reached
                reads[r.depth : r.depth + logical] += np.maximum(packets, reached * synapses.weight_bits / word_bits)
        np.maximum(most, on_core, out=most)
    return Busiest(most[0], most[1], most[2], most_on_a_link(program, traffic))


def known(model: MaxAffine | None) -> bool:
    """Whether steps can be timed by the model."""
    return model is not None and None not in model.model_dump().values()


def max_affine_ns(counts: Busiest, link_packets: Counts, model: MaxAffine) -> Counts:
    """Duration of every chip step (steps,) in ns. link_packets (steps,): on the heaviest link."""
    each = model.model_dump()
    terms = (
        counts.dendrite_ops * each["time_dendrite_op_ns"],
        counts.synops * each["time_synop_ns"],
        counts.synapse_reads_at_least * each["time_synapse_read_ns"],
        link_packets * each["time_link_packet_ns"],
        np.full(len(link_packets), each["time_barrier_ns"]),
    )
    return np.max(terms, axis=0)
