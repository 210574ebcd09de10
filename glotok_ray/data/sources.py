"""The images of a shard run, whatever their source is: its kind, the order of the rows, and the shards they fill.

Read next: glotok_ray/data/listing.py, glotok_ray/data/source_kinds.py
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glotok_ray.config.jobs import EMBEDDED_SOURCE, ShardRun
from glotok_ray.config.overrides import bound_settings
from glotok_ray.data.embedded_source import EmbeddedImages, check_embedded_images
from glotok_ray.data.left_out import LeftOut
from glotok_ray.data.listed_source import CROP_FIELDS, ListedImages
from glotok_ray.data.listing import RowSource, SourceImages
from glotok_ray.data.row_columns import drawn, sizes_of
from glotok_ray.data.shard_plan import seeded_generator
from glotok_ray.data.source_kinds import list_source
from glotok_ray.storage.places import is_remote, to_path


@dataclass(frozen=True)
class ImageSource:
    """Where a run's images come from."""

    run: ShardRun
    images: SourceImages

    @classmethod
    def of(cls, run: ShardRun) -> "ImageSource":
        """Check the run and list its source; raises ValueError."""
        _check(run)
        if run.source == EMBEDDED_SOURCE:
            return cls(run, EmbeddedImages(run))
        return cls(run, ListedImages(run, *list_source(run)))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, sorted; a label is an index into them."""
        return self.images.classes

    @property
    def form(self) -> str:
        """One of `glotok_ray.data.forms.FORMS`."""
        return self.images.form

    def bound_settings(self) -> dict[str, Any]:
        """What decides the shards: the settings that this source reads, and its images, wherever they lie."""
        unread = self.images.unread_fields
        settings = bound_settings(self.run).items()
        return {name: value for name, value in settings if name not in unread} | (
            self.images.digests()
        )

    @property
    def num_images(self) -> int:
        """Images found, readable or not."""
        return self.images.num_images

    @property
    def left_out(self) -> list[LeftOut]:
        """The files beside the images."""
        return self.images.left_out

    def rows(self) -> dict[str, Sequence[RowSource]]:
        """All rows per split, shuffled by the seed, so that shards mix classes. Raises ValueError."""
        shuffled: dict[str, Sequence[RowSource]] = {}
        for split, rows in self.images.rows().items():
            order = seeded_generator("shuffle", self.run.seed, split).permutation(len(rows))
            shuffled[split] = drawn(rows, order)
        return shuffled

    def shards(self) -> dict[str, list[Sequence[RowSource]]]:
        """The rows of each shard: `rows_per_shard`, or fewer where their files would exceed `shard_mib`."""
        return {split: self._cut(rows) for split, rows in self.rows().items()}

    def _cut(self, rows: Sequence[RowSource]) -> list[Sequence[RowSource]]:
        starts = [0]
        held, most = 0, self.run.shard_mib << 20
        for place, size in enumerate(sizes_of(rows).tolist()):
            full = place - starts[-1] == self.run.rows_per_shard or held + size > most
            if place > starts[-1] and full:
                starts.append(place)
                held = 0
            held += size
        stops = [*starts[1:], len(rows)]
        return [rows[start:stop] for start, stop in zip(starts, stops, strict=True)]


def _check(run: ShardRun) -> None:
    for name in ("rows_per_shard", "shard_mib", *CROP_FIELDS):
        if getattr(run, name) < 1:
            raise ValueError(f"{name} = {getattr(run, name)}: must be at least 1")
    if run.image_size < 0:
        raise ValueError(f"image_size = {run.image_size}: must be a side in pixels, or 0")
    if run.source == EMBEDDED_SOURCE:
        check_embedded_images(run)
        return
    if not run.source:
        raise ValueError("source = '': give a folder with one sub-folder per class")
    _check_places(run)


def _check_places(run: ShardRun) -> None:
    validation = run.validation_source
    if validation and to_path(run.source).resolve() == to_path(validation).resolve():
        raise ValueError(
            f"validation_source = {validation!r}: is the source, so nothing would be held out; give another "
            "folder, or leave it empty, which takes a share of source"
        )
    output = to_path(run.output_path).resolve()
    for name in ("source", "validation_source"):
        folder = getattr(run, name)
        is_alike = folder and is_remote(to_path(folder)) == is_remote(output)
        if is_alike and output.is_relative_to(to_path(folder).resolve()):
            raise ValueError(
                f"output_path = {run.output_path!r}: lies inside {name} = {folder!r} and would be "
                "taken for a class; choose another folder"
            )
