"""Chip models as YAML files; read by `snncompile.chip`."""
