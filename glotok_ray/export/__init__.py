"""Folders to publish: a tokenizer or a generator with its weights, its config and a model card.

May import training and all below it; no Ray.
"""
