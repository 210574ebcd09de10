"""Data sets: the embedded photographs, class-folder trees, Parquet shards, crops, and the order of training rows.

May import config and storage; readers of rows import no torch, so that a Ray task starts quickly.
"""
