"""From floats to integers: scales, rounding, bits, and the proof that no state overflows."""
