"""The teacher's image is written, whatever the teacher."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from glotok_ray.report.plots import draw_teacher
from glotok_ray.teacher.histogram import build_histogram


@pytest.mark.parametrize("width", [2, 8, 64])
def test_the_teachers_picture_is_a_readable_png(width: int, tmp_path: Path) -> None:
    codes = torch.randn(50, width, generator=torch.Generator().manual_seed(0)) + 0.1
    teacher = build_histogram(codes, fine_bins=1024, provenance={})
    draw_teacher(teacher, tmp_path / "teacher.png", student_width=8, student_size=4096)
    with Image.open(tmp_path / "teacher.png") as image:
        assert image.size == (1080, 660)
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 20
