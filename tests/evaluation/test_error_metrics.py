"""PSNR per part of the error: means per image, what was decoded, and the level of mid-grey."""

import numpy as np
import pytest

from glotok_ray.evaluation.error_metrics import part_metrics
from glotok_ray.metrics.error_parts import PARTS


def test_every_row_has_every_part_with_its_level() -> None:
    errors = {
        "reconstruction": np.full((3, len(PARTS)), 65.025),
        "retention_visual": np.full((3, len(PARTS)), 650.25),
        "grey": np.full((3, len(PARTS)), 6502.5),
    }
    errors["reconstruction"][:, 4] = [650.25, 6.5025, 0.0]
    rows = {"reconstruction": "all codes", "retention_visual": "visual codes alone"}
    found = part_metrics(errors, rows)
    assert len(found) == 2 * len(PARTS)
    assert found["reconstruction_psnr_band_1"]["value"] == pytest.approx(30)
    assert found["retention_visual_psnr_chroma"]["value"] == pytest.approx(20)
    assert found["retention_visual_psnr_chroma"]["chance"] == pytest.approx(10)
    high = found["reconstruction_psnr_band_5"]
    assert (high["value"], high["std"]) == (pytest.approx(30), pytest.approx(10))
    for part in ("3 validation crops", "all codes", "add up", "1 crops without"):
        assert part in high["protocol"]
    assert high["label"] == "PSNR of all codes, 1/4 and above cycles per pixel (dB)"
    assert "BT.601" in found["reconstruction_psnr_luma"]["protocol"]
    assert high["facts"]["num_images"] == 3
