"""Codes that no generator chose: a distance of samples means something only when it is below that of these.

"uniform" draws every code alike; "marginal" draws each position and branch from its own
distribution over the training codes, independently of all others and of the class. Read next:
glotok_ray/stages/evaluate_images.py
"""

from typing import Self

import numpy as np
from jaxtyping import Int, Integer, UInt
from numpy import ndarray

from glotok_ray.metrics.codebook import check_whole

_UNIFORM, _MARGINAL = 0, 1


class PositionCounts:
    """Occurrences of each code at each position of one branch, added up block by block."""

    def __init__(self, num_positions: int, num_codes: int) -> None:
        self.counts: Int[ndarray, "positions n"] = np.zeros((num_positions, num_codes), np.int64)
        self._cumulative: Int[ndarray, "positions n"] | None = None

    @classmethod
    def of(cls, counts: Int[ndarray, "positions n"]) -> Self:
        """Counts that were added up before."""
        found = cls(*counts.shape)
        found.counts = counts
        return found

    def add(self, codes: Integer[ndarray, "images positions"]) -> None:
        """Count one block of images."""
        num_positions, num_codes = self.counts.shape
        if codes.shape[1:] != (num_positions,):
            raise ValueError(f"codes have shape {codes.shape}: need (images, {num_positions})")
        check_whole(codes)
        if codes.size and not 0 <= codes.min() <= codes.max() < num_codes:
            raise ValueError(
                f"codes reach from {codes.min()} to {codes.max()}, outside the codebook of {num_codes}"
            )
        flat = codes.astype(np.int64) + num_codes * np.arange(num_positions)
        self.counts += np.bincount(flat.reshape(-1), minlength=self.counts.size).reshape(
            self.counts.shape
        )
        self._cumulative = None

    def draw(
        self, first_image: int, num_images: int, *, seed: int, branch: int
    ) -> UInt[ndarray, "images positions"]:
        """Codes of images first_image .. from each position's marginal, keyed by (seed, image); uint16 for up to 65,536
        codes, uint32 above.
        """
        if self._cumulative is None:
            self._cumulative = self.counts.cumsum(axis=1)
        cumulative = self._cumulative
        if (cumulative[:, -1] == 0).any():
            raise ValueError("a position has no counted code; add training codes first")
        codes = np.empty((num_images, len(cumulative)), _dtype(cumulative.shape[1]))
        chances = np.stack(
            [
                np.random.default_rng([seed, _MARGINAL, branch, first_image + index]).random(
                    len(cumulative)
                )
                for index in range(num_images)
            ]
        )
        for position, totals in enumerate(cumulative):
            ranks = chances[:, position] * totals[-1]
            codes[:, position] = np.searchsorted(totals, ranks, side="right")
        return codes


def draw_uniform(
    first_image: int, num_images: int, *, num_positions: int, num_codes: int, seed: int, branch: int
) -> UInt[ndarray, "images positions"]:
    """Codes of images first_image .. with every code equally likely, keyed by (seed, image); dtypes as `draw`'s."""
    return np.stack(
        [
            np.random.default_rng([seed, _UNIFORM, branch, first_image + index]).integers(
                num_codes, size=num_positions, dtype=_dtype(num_codes), endpoint=False
            )
            for index in range(num_images)
        ]
    )


def _dtype(num_codes: int) -> type[np.uint16] | type[np.uint32]:
    return np.uint16 if num_codes <= 1 << 16 else np.uint32
