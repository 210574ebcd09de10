"""Class-folder trees: what is listed, and what is left out."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from glotok_ray.config import ShardRun
from glotok_ray.data import folders
from glotok_ray.data.folders import list_image_files, read_image_file
from glotok_ray.data.image_files import UnreadableImageError
from glotok_ray.data.records import decode_image
from glotok_ray.data.sources import ImageSource
from glotok_ray.storage.retries import StorageError
from tests.small_data import HEIC
from tests.small_data import class_tree as tree


def test_the_class_is_the_first_level_folder(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", b=1, a=1)
    (source / "b" / "deep" / "er").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(source / "b" / "deep" / "er" / "x.JPEG", "JPEG")
    found = list_image_files(source)
    assert found.classes == ("a", "b")
    assert [(item.key, item.label) for item in found.images] == [
        ("a/00.png", 0),
        ("b/00.png", 1),
        ("b/deep/er/x.JPEG", 1),
    ]
    assert found.left_out == ()


def test_hidden_entries_links_and_other_files_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tree(tmp_path / "s", a=2)
    other = tree(tmp_path / "other", c=2)
    for path in (source / ".hidden", source / "a" / ".git"):
        path.mkdir()
        Image.new("RGB", (4, 4)).save(path / "x.png")
    Image.new("RGB", (4, 4)).save(source / "a" / ".x.png")
    (source / "a" / "notes.txt").write_text("")
    (source / "cover.png").write_bytes(b"")
    (source / "link").symlink_to(other / "c")
    (source / "a" / "loop").symlink_to(source)
    (source / "a" / "linked.png").symlink_to(other / "c" / "00.png")
    os.mkfifo(source / "a" / "pipe.png")
    found = list_image_files(source)
    assert found.classes == ("a",)
    assert [item.key for item in found.images] == ["a/00.png", "a/01.png", "a/linked.png"]
    assert found.left_out == (("cover.png", "", ""), ("a/notes.txt", "a", ""))
    assert "s/link: links to folders are not followed" in caplog.text
    assert "a/loop: links to folders are not followed" in caplog.text


def test_files_that_cannot_be_opened_are_unreadable(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", a=1)
    (source / "a" / "broken.png").symlink_to(source / "nothing")
    (broken,) = (item for item in list_image_files(source).images if "broken" in item.key)
    with pytest.raises(UnreadableImageError, match="No such file"):
        broken.encode(ShardRun())


def test_names_that_are_no_utf8_stay_printable(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", a=1)
    name = os.fsdecode(b"\xff.png")
    Image.new("RGB", (4, 4)).save(source / "a" / name, "PNG")
    odd = list_image_files(source).images[1]
    assert odd.key == "a/\\udcff.png"
    assert odd.encode(ShardRun(image_size=4)).encoded[:4] == b"\x89PNG"


def test_the_digest_notices_changed_pictures(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", a=2)
    digest = list_image_files(source).digest
    assert list_image_files(source).digest == digest
    (source / "a" / "notes.txt").write_text("not an image")
    assert list_image_files(source).digest == digest
    os.utime(source / "a" / "00.png", ns=(1, 1))
    touched = list_image_files(source).digest
    (source / "a" / "00.png").rename(source / "a" / "09.png")
    assert len({digest, touched, list_image_files(source).digest}) == 3


def test_a_moved_tree_keeps_its_digest(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", a=2)
    digest = list_image_files(source).digest
    assert list_image_files(source.rename(tmp_path / "t")).digest == digest


def test_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"source = .*missing.*no such folder"):
        list_image_files(tmp_path / "missing")
    with pytest.raises(ValueError, match="no class folders"):
        list_image_files(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match=r"no images of a format .*WEBP.* in its 1 class folders$"):
        list_image_files(tmp_path)
    (tmp_path / "a" / "x.heic").write_bytes(HEIC)
    with pytest.raises(
        ValueError, match=r"1 class folders \(left out: 1 \.heic \(e\.g\. a/x\.heic\)\)"
    ):
        list_image_files(tmp_path)
    with pytest.raises(ValueError, match=r"look like splits.*s/train'"):
        list_image_files(tree(tmp_path / "s", train=1, val=1))


@pytest.mark.parametrize("as_found", [True, False])
@pytest.mark.parametrize("other", ["annotations", "__MACOSX", "more"])
def test_splits_are_no_classes_whatever_lies_beside_them(
    tmp_path: Path, other: str, as_found: bool
) -> None:
    source = tree(tmp_path / "s", train=2, val=2, **({"more": 1} if other == "more" else {}))
    (source / other).mkdir(exist_ok=True)
    (source / other / "._00.png").write_bytes(b"macOS")
    (source / "test").mkdir()
    with pytest.raises(
        ValueError,
        match=r"its folders \(train, val\) look like splits, not classes; give one of them, such as '.*s/train', as "
        r"source and another, such as '.*s/val', as validation_source$",
    ):
        list_image_files(source, as_found=as_found)
    shutil.rmtree(source / "val")
    if other == "more":
        assert list_image_files(source, as_found=True).classes == ("more", "train")
    else:
        with pytest.raises(ValueError, match=r"\(train\) look like splits"):
            list_image_files(source, as_found=as_found)


@pytest.mark.parametrize("name", ["train", "test", "val"])
def test_a_class_may_be_called_as_a_split(tmp_path: Path, name: str) -> None:
    source = tree(tmp_path / "s", **{"bus": 2, name: 2})
    assert set(list_image_files(source, as_found=True).classes) == {"bus", name}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.jfif", "JPEG"),
        ("x.JPE", "JPEG"),
        ("x", "JPEG"),
        ("x.pic", "PNG"),
        ("x.heic", "WEBP"),
        ("x.1", "BMP"),
        ("x.txt", "TIFF"),
        ("x.data", "GIF"),
    ],
)
def test_content_decides_where_the_suffix_is_unknown(tmp_path: Path, name: str, kind: str) -> None:
    source = tree(tmp_path / "s", a=1)
    Image.new("RGB", (8, 8), "red").save(source / "a" / name, kind)
    found = list_image_files(source)
    assert (found.left_out, len(found.images)) == ((), 2)
    odd = next(item for item in found.images if item.key == f"a/{name}")
    assert decode_image(odd.encode(ShardRun(image_size=0)).encoded, "k").shape == (8, 8, 3)


def test_files_with_known_suffixes_are_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, opened = tree(tmp_path / "s", a=3), []
    (source / "a" / "odd").write_bytes(b"")
    monkeypatch.setattr(folders, "begins_as_image", lambda path, **_: opened.append(path))
    list_image_files(source)
    assert [Path(path).name for path in opened] == ["odd"]


def failing_opens(monkeypatch: pytest.MonkeyPatch, number: int, code: int) -> None:
    """The first `number` openings fail, as those of a storage that is away."""
    errors, really = iter([OSError(code, os.strerror(code))] * number), open

    def flaky(path: str, mode: str) -> Any:
        for error in errors:
            raise error
        return really(path, mode)

    monkeypatch.setattr(folders, "open", flaky, raising=False)


def test_a_storage_error_while_listing_loses_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tree(tmp_path / "s", a=1)
    (source / "a" / "00.png").rename(source / "a" / "zero")
    failing_opens(monkeypatch, 1, errno.EIO)
    found = list_image_files(source, minutes=1)
    assert ([item.key for item in found.images], found.left_out) == (["a/zero"], ())
    # What stays away is measured, and named, by who reads it.
    failing_opens(monkeypatch, 1, errno.ESTALE)
    assert list_image_files(source, minutes=0) == found
    failing_opens(monkeypatch, 1, errno.EACCES)
    assert list_image_files(source, minutes=60) == found
    # A run waits as long as its config says.
    waited = []
    monkeypatch.setattr(
        folders, "begins_as_image", lambda _, *, minutes: waited.append(minutes) or True
    )
    ImageSource.of(ShardRun(source=str(source), storage_retry_minutes=2.5))
    assert waited == [2.5]


def test_a_broken_link_without_a_suffix_is_no_picture(tmp_path: Path) -> None:
    source = tree(tmp_path / "s", a=1)
    (source / "a" / "broken").symlink_to(source / "nothing")
    (source / "a" / "circle").symlink_to(source / "a" / "circle")
    found = list_image_files(source, minutes=60)
    assert [item.key for item in found.left_out] == ["a/broken", "a/circle"]
    with pytest.raises(StorageError, match=r"away/x: reading it failed for 0 minutes"):
        folders.begins_as_image(str(source / "away" / "x"), minutes=0)


def test_a_file_at_fault_costs_itself_and_storage_at_fault_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a" / "x.png"
    # The folder is away too: storage, not the image.
    with pytest.raises(StorageError, match=r"x\.png: reading it failed for 0 minutes"):
        read_image_file(path, 0)
    path.parent.mkdir()
    with pytest.raises(UnreadableImageError, match="No such file"):
        read_image_file(path, 60)
    path.write_bytes(b"whole")
    answers = iter([OSError(errno.EIO, "Input/output error")])

    def flaky(_: Path) -> bytes:
        for error in answers:
            raise error
        return b"whole"

    monkeypatch.setattr(Path, "read_bytes", flaky)
    assert read_image_file(path, 1) == b"whole"
    answers = iter([OSError(errno.EIO, "Input/output error")] * 9)
    with pytest.raises(UnreadableImageError, match="Input/output error"):
        read_image_file(path, 0)


def source(path: Path, output: Path, **settings: int) -> ImageSource:
    return ImageSource.of(ShardRun(source=str(path), output_path=str(output), **settings))


def test_the_fingerprint_holds_what_matters(tmp_path: Path) -> None:
    folder = tree(tmp_path / "s", a=3)
    base = source(folder, tmp_path / "o").bound_settings()
    assert source(folder, tmp_path / "elsewhere").bound_settings() == base
    assert source(folder, tmp_path / "o", crops_per_class=7).bound_settings() == base
    assert source(folder, tmp_path / "o", seed=1).bound_settings() != base
    patient = ShardRun(source=str(folder), storage_retry_minutes=9.0)
    assert ImageSource.of(patient).bound_settings() == base
    lying = ShardRun(source=str(folder), upright=False)
    assert ImageSource.of(lying).bound_settings() != base
    photographs = [
        ImageSource.of(ShardRun(crops_per_class=number)).bound_settings() for number in (500, 7)
    ]
    assert len({json.dumps(each) for each in (base, *photographs)}) == 3


def test_shards_are_cut_by_rows_and_by_the_bytes_of_files(tmp_path: Path) -> None:
    folder = tree(tmp_path / "s", a=10)
    for number in range(10):
        with (folder / "a" / f"{number:02d}.png").open("ab") as stream:
            stream.truncate(300 << 10)
    for settings, expected in (
        ({"rows_per_shard": 4}, [4, 4, 1]),
        ({"shard_mib": 1}, [3, 3, 3]),
        ({"shard_mib": 1, "rows_per_shard": 2}, [2, 2, 2, 2, 1]),
    ):
        shards = source(folder, tmp_path / "o", **settings).shards()
        assert [len(rows) for rows in shards["train"]] == expected
        assert [len(rows) for rows in shards["validation"]] == [1]
        rows = source(folder, tmp_path / "o", **settings).rows()
        assert [row for part in shards["train"] for row in part] == rows["train"]
    # A file alone may exceed it.
    with (folder / "a" / "00.png").open("ab") as stream:
        stream.truncate(2 << 20)
    shards = source(folder, tmp_path / "o", shard_mib=1).shards()
    assert sum(len(part) for parts in shards.values() for part in parts) == 10


def test_rows_are_shuffled_and_complete(tmp_path: Path) -> None:
    rows = source(tree(tmp_path / "s", a=30, b=30), tmp_path / "o").rows()
    keys = [row.key for row in rows["train"]]
    assert (len(keys), len(rows["validation"])) == (54, 6)
    assert keys != sorted(keys)
    labels = [row.label for row in rows["train"]]
    assert 5 < sum(labels[:27]) < 22


@pytest.mark.parametrize("name", ["rows_per_shard", "crops_per_class"])
def test_counts_below_one_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} = 0"):
        source(tmp_path, tmp_path / "o", **{name: 0})


def test_a_side_of_0_keeps_a_folder_s_originals(tmp_path: Path) -> None:
    folder = tree(tmp_path / "s", a=3)
    assert source(folder, tmp_path / "o", image_size=0).form == "original"
    assert source(folder, tmp_path / "o", image_size=16).form == "reduced"
    assert ImageSource.of(ShardRun(image_size=16)).form == "crop"
    with pytest.raises(ValueError, match=r"image_size = -1: must be a side in pixels, or 0"):
        source(folder, tmp_path / "o", image_size=-1)
    with pytest.raises(
        ValueError, match=r"image_size = 0: keeps the originals of a folder; .*give one, such as 64"
    ):
        ImageSource.of(ShardRun(image_size=0))
    with pytest.raises(
        ValueError, match=r"upright = False: the embedded photographs have no orientation"
    ):
        ImageSource.of(ShardRun(upright=False))


def test_the_output_may_not_lie_inside_the_source(tmp_path: Path) -> None:
    folder = tree(tmp_path / "s", a=3)
    with pytest.raises(ValueError, match="lies inside source"):
        source(folder, folder / "shards")
    with pytest.raises(ValueError, match="source = ''"):
        ImageSource.of(ShardRun(source=""))
    # An empty validation_source is no folder, whatever the source is.
    with pytest.raises(ValueError, match=r"lies inside source = '/'"):
        source(Path("/"), tmp_path)
