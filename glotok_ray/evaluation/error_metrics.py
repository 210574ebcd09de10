"""PSNR per band of spatial frequency, of luma and of chroma: of reconstructions and of each codebook decoded alone.

The paper argues that semantic codes hold structure and texture and visual codes colour (Fig. 4); these are the numbers.
Read next: glotok_ray/metrics/error_parts.py
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from glotok_ray.evaluation.array_names import GREY, RECONSTRUCTION, error_parts, retention_pictures
from glotok_ray.evaluation.entries import Metrics, metric_entry
from glotok_ray.evaluation.streams import MeasuredImages
from glotok_ray.metrics.error_parts import BANDS, PARTS
from glotok_ray.metrics.reconstruction import ScoreSum, psnr_of_error

MID_GREY = 127.5
"""What a decoder that knows nothing of an image would give."""
Errors = Float[ndarray, "n parts"]


OUR_WAY = " through the residual predictors"
"""How our own tokenizers decode, as the end of a phrase."""


def error_part_metrics(
    validation: MeasuredImages, names: Sequence[str], way: str = OUR_WAY
) -> Metrics:
    """Mean PSNR of each part of the error; `names` are the parts of codes that were decoded alone, and `way` is how
    codes are decoded.
    """
    rows = {RECONSTRUCTION: "all codes"}
    rows |= {retention_pictures(name): f"{name} codes alone" for name in names}
    errors = {row: _column(validation, row) for row in (*rows, GREY)}
    return part_metrics(errors, rows, way)


def part_metrics(
    errors: Mapping[str, Errors], rows: Mapping[str, str], way: str = OUR_WAY
) -> Metrics:
    """The metrics of each of `rows`, which maps what images were decoded from to words; `errors` has GREY as well."""
    metrics: Metrics = {}
    for row, what in rows.items():
        for place, part in enumerate(PARTS):
            score = ScoreSum.of(psnr_of_error(errors[row][:, place]))
            grey = ScoreSum.of(psnr_of_error(errors[GREY][:, place]))
            count = len(errors[row])
            unit = " cycles per pixel" if part in BANDS else ""
            metrics[f"{row}_psnr_{part.name}"] = metric_entry(
                f"PSNR of {what}, {part.title}{unit} (dB)",
                score.mean,
                _protocol(part in BANDS, what + way, count, score.num_infinite),
                score.standard_deviation,
                chance=grey.mean if grey.count else None,
                facts={"num_images": count, "reference": "the same validation crops"},
            )
    return metrics


def _protocol(is_band: bool, what: str, count: int, num_infinite: int) -> str:
    share = (
        "the mean squared error of 8-bit RGB that lies in this octave of spatial frequency (orthonormal cosine "
        "transform of each channel, float64, radial frequency; the errors of all bands add up to the whole)"
        if is_band
        else "the mean squared error of these channels of BT.601 (full range, from 8-bit RGB; chroma is the mean of Cb "
        "and Cr)"
    )
    return (
        f"Mean over {count} validation crops of 10 log10(255^2 / error), per image, where the error is {share}. "
        f"Decoded from {what}. {num_infinite} crops without such an error left out; ± "
        "is the deviation over images. An image of mid-grey alone would score the level beside it."
    )


def _column(validation: MeasuredImages, row: str) -> Errors:
    return np.concatenate(list(validation.blocks(error_parts(row))))
