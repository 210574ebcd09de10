"""The forms in which pictures are stored.

ADM's protocol resamples the original picture once; a crop of a reduced picture was resampled twice.
Read next: glotok_ray/data/image_files.py
"""

ORIGINAL = "original"
"""Whole pictures at their own size."""
CROP = "crop"
"""Squares that are the data set itself."""
REDUCED = "reduced"
"""Whole pictures whose short side was brought near a training side."""
FORMS = (ORIGINAL, CROP, REDUCED)


def largest_short_side(image_size: int) -> int:
    """1.25 * image_size, rounded up: the most that ADM's random crop can use, and that a reduced picture keeps."""
    return -(-5 * image_size // 4)
