"""The forms in which images are stored.

ADM's protocol resamples the original image once; a crop of a reduced image was resampled twice.
Read next: glotok_ray/data/image_files.py
"""

ORIGINAL = "original"
"""Whole images at their own size."""
CROP = "crop"
"""Squares that are the data set itself."""
REDUCED = "reduced"
"""Whole images whose short side was brought near a training side."""
FORMS = (ORIGINAL, CROP, REDUCED)

PARQUET = "parquet"
WEBDATASET = "webdataset"
SHARD_FORMATS = (PARQUET, WEBDATASET)
"""Files that shards are stored as."""


def largest_short_side(image_size: int) -> int:
    """1.25 * image_size, rounded up: the most that ADM's random crop can use, and that a reduced image keeps."""
    return -(-5 * image_size // 4)
