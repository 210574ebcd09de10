"""The forms in which images are stored: how large reduced ones may be."""

from glotok_ray.data.forms import largest_short_side


def test_the_largest_short_side_is_a_quarter_more_rounded_up() -> None:
    assert [largest_short_side(size) for size in (4, 5, 64, 256)] == [5, 7, 80, 320]
