"""Thin commands: `python -m jobs.NAME RECIPE [--section.field VALUE ...]`, plain or behind `ray job submit`.

A job parses, calls its stage and exits; it may import everything, and nothing imports it.
"""
