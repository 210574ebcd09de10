"""Data sets: the embedded photographs, class-folder trees, Parquet shards, crops, and the order of training rows.

May import config and storage; what reads rows imports no torch.
"""
