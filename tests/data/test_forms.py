"""What a crop of each stored form is called, and the refusal of reduced pictures where ADM's protocol is asked for."""

from pathlib import Path

import pytest

from glotok_ray.artefact import ArtefactError
from glotok_ray.data.forms import check_adm_protocol, crops_text, largest_short_side


def test_the_largest_short_side_is_a_quarter_more_rounded_up() -> None:
    assert [largest_short_side(size) for size in (4, 5, 64, 256)] == [5, 7, 80, 320]


def test_only_reduced_pictures_are_not_adms() -> None:
    assert crops_text("original", 0) == "ADM's crop of the original pictures"
    assert "as stored at 64 x 64 pixels" in crops_text("crop", 64)
    reduced = crops_text("reduced", 256)
    assert "short side of 256 to 320 pixels" in reduced
    assert "not ADM's protocol" in reduced


def test_reduced_pictures_are_refused_by_name() -> None:
    for form, side in (("original", 0), ("crop", 64)):
        check_adm_protocol(form, side, folder=Path("data"), field="adm_protocol")
    with pytest.raises(
        ArtefactError,
        match=r"data\.adm_protocol = True: shards/x holds .* 256 to 320 .*form = 'reduced'.*"
        r"--image-size 0.*--data\.no-adm-protocol",
    ):
        check_adm_protocol("reduced", 256, folder=Path("shards/x"), field="data.adm_protocol")
