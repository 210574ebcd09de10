"""What dataset.json says of a folder of shards, and of each shard.

Read next: glotok_ray/data/records.py
"""

from dataclasses import dataclass, field

from glotok_ray.data.code_layout import CodeColumn
from glotok_ray.data.forms import PARQUET


@dataclass(frozen=True)
class ShardInfo:
    """A shard's file name inside its folder, its number of rows and the sha256 of its bytes."""

    file: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class DatasetInfo:
    """What dataset.json says; the last fields, from `views` on, describe codes alone."""

    kind: str
    """ "shards" (images) or "codes"."""
    classes: tuple[str, ...]
    """Class names; a label is an index into them."""
    num_images: int
    """Images, views apart."""
    image_size: int
    """Pixels: the side of crops; the side that reduced images were stored for; 0 for originals; of codes, the side of
    the tokenizer's images.
    """
    shards: tuple[ShardInfo, ...]
    form: str = ""
    """Of images: "original" (whole images at their own size), "crop" (squares of side image_size, which are the data
    set itself) or "reduced" (whole images, short side brought into [image_size, 1.25 * image_size], or, with a
    jpeg_quality, down to image_size where it was larger). Codes have none.
    """
    num_unreadable: int = 0
    """Of images: files of both splits that could not be read, which dataset.json names."""
    num_turned: int = 0
    """Of images: those of this folder that were turned by their EXIF orientation."""
    num_changed: int = 0
    """Of images: those of this folder that are not stored as they were: laid on white, brought from 16 bits to 8, cut
    or halved; dataset.json names them.
    """
    jpeg_quality: int = 0
    """Of reduced images: that of the JPEGs which `ShardRun.resize_short_side` made, to whose side image_size then is;
    0 where another rule reduced them.
    """
    shard_format: str = PARQUET
    """Of images: what their shards are, "parquet" or "webdataset"."""
    num_views: int = 1
    """Adjacent rows per image."""
    views: str = ""
    """Of codes: what was encoded of an image, a value of `EncodeRun.views`; empty where that is not recorded."""
    grid_size: int = 0
    """Code positions along one side, where all grids are squares of one side; 0 for others."""
    tokenizer_sha256: str = ""
    """Digest of the tokenizer that made the codes."""
    code_counts: dict[str, int] = field(default_factory=dict)
    """Number of codes in each codebook, by the name of its column, in the order of the latent's channels; of another
    system's tokenizer, in the order of its grids.
    """
    system: str = ""
    """The system of the tokenizer that made the codes; empty for ours."""
    grids: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Form of each column's grid, such as (16, 16), or (8, 8, 4) with depth last."""

    @property
    def num_indices(self) -> int:
        """Of codes: how many an image has, of all columns."""
        return sum(column.num_positions for column in self.code_columns)

    @property
    def code_columns(self) -> tuple[CodeColumn, ...]:
        """Of codes: their columns."""
        return tuple(
            CodeColumn(name, size, self.grids[name]) for name, size in self.code_counts.items()
        )
