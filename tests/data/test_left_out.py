"""Files that become no image are counted and named by kind."""

from pathlib import Path

from glotok_ray.data.folders import list_image_files
from glotok_ray.data.left_out import left_out_by_kind, left_out_text
from tests.small_data import HEIC
from tests.small_data import class_tree as tree


def test_what_is_left_out_is_counted_and_named_by_kind(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", a=1)
    for number in range(30):
        (source / "a" / f"{number:02d}.HEIC").write_bytes(HEIC)
    (source / "a" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (source / "a" / "README").write_text("text")
    (source / "cover.png").write_bytes(b"")
    found = left_out_by_kind(list_image_files(source).left_out)
    assert [(item.kind, item.files) for item in found] == [
        (".heic", 30),
        (".db", 1),
        ("outside of the class folders", 1),
        ("without suffix", 1),
    ]
    assert found[0].examples == [f"a/{number:02d}.HEIC" for number in range(20)]
    assert left_out_text(found).startswith("30 .heic (e.g. a/00.HEIC), 1 .db (e.g. a/Thumbs.db)")
