"""Passes over the float network, one a file; `compile.py` knows their order."""
