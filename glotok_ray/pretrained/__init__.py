"""From a folder to a model that is ready to use: tokenizers, generators and frozen feature networks.

May import nn, storage and config; inference gets its models here, and never from training.
"""
