"""Backends: what a compiled program runs on. Found through the entry points `snncompile.backends`."""
