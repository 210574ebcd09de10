"""Data sets: the embedded photographs, class-folder trees, Parquet shards, crops, and the order of training rows."""
