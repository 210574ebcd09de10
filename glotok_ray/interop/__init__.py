"""Checkpoints of other projects, read under this package's names and written under theirs; model cards.

May import pretrained, nn, storage, config and all below them; no Ray.
"""
