"""The codes of baselines, drawn where they are decoded: each image's are keyed by (seed, image), so units hold none.

The driver counts the training codes once and leaves the counts on disk, from which actors draw.
Read next: glotok_ray/metrics/baselines.py
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet
from jaxtyping import UInt

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.data.code_layout import CodeLayout
from glotok_ray.evaluation.inputs import baseline_codes
from glotok_ray.evaluation.plan import Block
from glotok_ray.metrics.baselines import PositionCounts, draw_uniform
from glotok_ray.storage import artefact
from glotok_ray.storage.node_cache import at_hand
from glotok_ray.storage.places import to_path

COUNTS_FILE = "position_counts.npz"
"""Occurrences of each code at each position in the training codes, an array per codebook or grid."""


class BaselineCodes(NamedTuple):
    """What the codes of both baselines are drawn from."""

    counts: list[PositionCounts]
    """Of each codebook, or grid of another system's tokenizer, in the tokenizer's order."""
    seed: int

    def draw(self, block: Block) -> list[UInt[np.ndarray, "b positions"]]:
        """The codes of a baseline's block, one array per codebook or grid."""
        first, number = block.first_image, block.stop - block.start
        codes = []
        for branch, counted in enumerate(self.counts):
            num_positions, num_codes = counted.counts.shape
            if block.kind == "baseline_uniform":
                drawn = draw_uniform(
                    first,
                    number,
                    num_positions=num_positions,
                    num_codes=num_codes,
                    seed=self.seed,
                    branch=branch,
                )
            else:
                drawn = counted.draw(first, number, seed=self.seed, branch=branch)
            codes.append(drawn)
        return codes


def count_training_codes(config: EvaluateRun, layout: CodeLayout) -> BaselineCodes:
    """Codes per position of each column of the tokenizer's `layout` over the whole training set, all views."""
    folder, dataset = to_path(config.codes_path), baseline_codes(config)
    counts = [PositionCounts(column.num_positions, column.num_codes) for column in layout.columns]
    for shard in dataset.shards:
        table = pyarrow.parquet.read_table(at_hand(folder / shard.file), columns=list(layout.names))
        for branch, count in zip(layout.names, counts, strict=True):
            flat = table[branch].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            count.add(flat.reshape(table.num_rows, -1))
    return BaselineCodes(counts, config.seed)


def write_counts(folder: Path, codes: BaselineCodes, layout: CodeLayout) -> None:
    """Leave the counts in `folder`; readers see none or all of them."""
    arrays = {name: count.counts for name, count in zip(layout.names, codes.counts, strict=True)}
    with artefact.hashed_writer(folder / COUNTS_FILE) as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def read_counts(folder: Path, config: EvaluateRun, layout: CodeLayout) -> BaselineCodes:
    """The counts that `write_counts` left."""
    with np.load(at_hand(folder / COUNTS_FILE)) as arrays:
        counts = [PositionCounts.of(arrays[name]) for name in layout.names]
    return BaselineCodes(counts, config.seed)
