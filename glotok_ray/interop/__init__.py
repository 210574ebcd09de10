"""Checkpoints of other projects, in and out: tables of names, the layouts they make, and cards for published folders.

May import pretrained, nn, storage and config.
"""
