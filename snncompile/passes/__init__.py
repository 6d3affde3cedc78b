"""Passes over the float network, one a file; `pipeline.py` knows their order."""
