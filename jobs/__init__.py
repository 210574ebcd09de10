"""Thin commands: `python -m jobs.NAME RECIPE [--section.field VALUE ...]`, plain or behind `ray job submit`."""
