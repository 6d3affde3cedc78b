"""The whole line on one small network, in under a second; run this first."""

import numpy as np
from random_networks import conv_network, images, quantized

from snncompile import reference
from snncompile.chip import load_chip
from snncompile.mapping.partition import partition, verify


def test_float_network_becomes_integers_on_cores() -> None:
    network = conv_network(seed=4)
    integers, host = quantized(network)
    x = images(network, samples=3, seed=0)
    floats = reference.run_float(network, x).output
    states = reference.run_integer(integers, x).output
    assert np.abs(states * host.output_scale - floats).max() < 0.5 * np.abs(floats).max() + 0.5
    chip = load_chip("loihi2")
    verify(partition(integers, chip), integers, chip)
