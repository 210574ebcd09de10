"""Checkpoints of other projects, read under this package's names."""
