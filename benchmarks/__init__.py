"""Measurements, one command per file: `python -m benchmarks.NAME`; a table, or JSON with --json."""
