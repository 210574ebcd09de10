"""The tables of the ablations stand beside the paper's own numbers, read from published.csv."""

from glotok_ray.report.tokenizer_ablations import TABLES, ablation_tables


def test_each_row_has_its_published_numbers() -> None:
    measured = {"glotok": {"psnr": 20.5}, "relation_only": {}, "single_codebook": {}}
    lines = ablation_tables(measured, scale="tiny").splitlines()
    assert [line for line in lines if line.startswith("| ") and "paper" not in line] == [
        "| yes | 0.01 | 1.21 | 22.23 | - | - | - |",
        "| yes | no | 0.97 | 22.30 | - | - | - |",
        "| yes | yes | 0.92 | 22.44 | - | 20.5 | - |",
        "| VQ-VAE of LlamaGen, one codebook | 2.19 | 20.7 | - | - | - |",
        "| GloTok | 0.92 | 22.4 | - | 20.5 | - |",
    ]
    names = {row.row for _, rows in TABLES.values() for row in rows}
    whole = ablation_tables({name: {} for name in names}, scale="tiny")
    for numbers in ("1.43 | 22.06", "1.27 | 21.97", "0.94 | 22.0"):
        assert numbers in whole
