"""Tests of the package, in folders as it has them.

This file makes the folder a package of its own: torch-fidelity installs another of the name, which would hide a folder
without one from worker processes.
"""
