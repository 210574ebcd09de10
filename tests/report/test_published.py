"""published.csv: every number of the paper's tables, none missing, none made up."""

from collections import Counter
from importlib import resources

import pytest

from glotok_ray.report.published import COLUMNS, FILE, ROWS, parse, published_numbers

NUMBERS = published_numbers()
TEXT = resources.files("glotok_ray.report").joinpath(FILE).read_text(encoding="utf-8")


def printed(table: int, row: int) -> dict[str, str]:
    return {item.column: item.printed for item in NUMBERS if (item.table, item.row) == (table, row)}


def test_tables_have_as_many_rows_and_numbers_as_in_the_paper() -> None:
    rows = Counter(table for table, _ in {(item.table, item.row) for item in NUMBERS})
    assert rows == ROWS == {1: 15, 2: 20, 3: 3, 4: 3, 5: 3, 6: 3}
    # The paper prints a dash for three PSNRs, one Inception Score and one weight.
    cells = {table: len(COLUMNS[table]) * count for table, count in ROWS.items()}
    missing = {1: 3, 2: 1, 4: 1}
    expected = {table: cells[table] - missing.get(table, 0) for table in cells}
    assert Counter(item.table for item in NUMBERS) == expected


@pytest.mark.parametrize(
    ("table", "row", "method", "numbers"),
    [
        (1, 1, "VQGAN", ("16384", "5.96", "23.3")),
        (1, 9, "Open-MAGVIT2", ("262144", "1.17", "22.6")),
        (1, 13, "FQGAN-Dual", ("32768", "0.94", "22.0")),
        (1, 15, "GloTok(2x)", ("32768", "0.83", "22.7")),
        (2, 1, "VQGAN", ("227000000", "256", "18.65", "80.4")),
        (2, 11, "VAR-d30", ("2000000000", "256", "1.92", "323.1")),
        (2, 15, "GloTok(2x)", ("415000000", "512", "2.95", "261.38")),
        (2, 17, "VQ-VAE", ("172000000", "256", "2.47", "277.63")),
        (2, 20, "GloTok", ("1100000000", "256", "1.75", "327.50")),
        (3, 3, "GloTok", ("0.217", "0.9972", "0.1168")),
        (4, 3, "with relation learning", ("0.01", "1.21", "22.23")),
        (5, 3, "relation and residual learning", ("0.92", "22.44")),
        (6, 1, "FQGAN", ("0.98", "22.03")),
    ],
)
def test_numbers_are_those_of_the_paper(table, row, method, numbers) -> None:
    assert tuple(printed(table, row).values()) == numbers
    assert {item.method for item in NUMBERS if (item.table, item.row) == (table, row)} == {method}


def test_a_dash_of_the_paper_is_no_number() -> None:
    assert "PSNR" not in printed(1, 2)
    assert "IS" not in printed(2, 2)
    assert "weight" not in printed(4, 1)


def test_contradictions_of_sources_have_a_remark() -> None:
    remarks = {(item.table, item.row, item.column): item.remark for item in NUMBERS}
    assert "Y channel" in remarks[1, 3, "PSNR"]
    assert "21.90" in remarks[1, 9, "PSNR"]
    assert "0.97" in remarks[4, 3, "rFID"]
    assert "1.21" in remarks[5, 2, "rFID"]
    assert "0.83" in remarks[6, 3, "rFID"]
    assert "680" in remarks[2, 9, "tokens"]
    assert "3.55" in remarks[2, 9, "gFID"]


def test_peers_of_another_protocol_are_marked_as_such() -> None:
    protocols = {(item.table, item.row, item.column): item.protocol for item in NUMBERS}
    assert protocols[1, 3, "PSNR"].measure == "PSNR of the Y channel"
    assert protocols[1, 14, "PSNR"].measure == "PSNR"
    assert "clean-fid" in protocols[2, 2, "gFID"].network
    assert protocols[1, 6, "PSNR"].known == "unknown"
    assert protocols[3, 1, "Gini"].num_images == 10000
    assert all(
        item.protocol.sentence and item.source.startswith("paper, Table") for item in NUMBERS
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",rFID,5.96,", ",rFID,nan,", "value = nan must be finite"),
        (",rFID,5.96,", ",gFID,5.96,", "column 'gFID' is none of Table 1"),
        ("size,,,,,read", "size,,,,,guessed", "known = 'guessed' must be one of"),
        ('"paper, Table 5",FID', ",FID", "source must not be empty"),
        ("1,2,Single,RQ-VAE,rFID", "1,1,Single,VQGAN,rFID", "none twice"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(old: str, new: str, said: str) -> None:
    assert old in TEXT
    with pytest.raises(ValueError, match=said):
        parse(TEXT.replace(old, new))


def test_a_missing_row_is_refused() -> None:
    lines = [line for line in TEXT.splitlines() if not line.startswith("6,3,")]
    with pytest.raises(ValueError, match=r"Table 6 has rows \[1, 2\] and must have 1 to 3"):
        parse("\n".join(lines))


def test_how_samples_were_drawn_is_data_where_sources_say_it() -> None:
    found = {(item.row, item.column): item.protocol for item in NUMBERS if item.table == 2}
    llamagen, ibq = found[3, "gFID"], found[6, "IS"]
    assert (llamagen.guidance, llamagen.class_sampling) == ("2", "drawn at random")
    assert (ibq.guidance, ibq.sampler, ibq.order) == ("2.25", "temperature 1.1", "as in the file")
    for row in range(17, 21):
        own = found[row, "IS"]
        assert (own.class_sampling, own.order) == ("equally often", "shuffled")
        assert own.guidance == ""
    for protocol in found.values():
        assert ("at random" in protocol.sentence) <= (protocol.class_sampling == "drawn at random")
