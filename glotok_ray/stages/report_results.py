"""The report of the paper's tables: finished evaluations in; index.html, tables.csv, tables.md and figures/ out.

Read next: glotok_ray/report/paper_tables.py
"""

import hashlib
import logging
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from glotok_ray.config.report import ReportRun
from glotok_ray.report import paper_page
from glotok_ray.report.comparisons import (
    Comparison,
    comparison_markdown,
    is_comparison,
    read_comparison,
)
from glotok_ray.report.finished_runs import FinishedRun, evaluation_folders, read_run
from glotok_ray.report.paper_bars import BARS, bar_chart, draw_bars
from glotok_ray.report.paper_figures import write_figures
from glotok_ray.report.paper_files import markdown, write_csv
from glotok_ray.report.paper_tables import PaperTable, paper_tables
from glotok_ray.report.published import FILE, published_numbers
from glotok_ray.report.run_images import read_run_images
from glotok_ray.storage import output, ownership
from glotok_ray.storage.output import Unfinished
from glotok_ray.storage.places import to_path

logger = logging.getLogger(__name__)

PAGE_FILE, CSV_FILE, MARKDOWN_FILE = "index.html", "tables.csv", "tables.md"
FIGURES_FOLDER, BARS_FILE = "figures", "figure_1.png"


@ownership.holding()
def run(config: ReportRun, *, fresh: bool = False) -> dict[str, Any]:
    """Write the report and return its manifest, with the number of our rows per table under "rows"."""
    runs, comparisons = finished_runs(config), finished_comparisons(config)
    inputs = [*linked_folders(runs), *(one.folder for one in comparisons)]
    report = output.look(to_path(config.output_path), "report", _settings(), inputs, fresh=fresh)
    if report.finished is not None:
        logger.info("already finished: %s", report.folder)
        return report.finished
    report.begin(Unfinished.REPLACE)
    tables = paper_tables(runs, published_numbers())
    found = read_run_images(runs)
    write_figures(report.folder / FIGURES_FOLDER, found)
    charts = [bar_chart(table) for table in tables if table.number in BARS]
    draw_bars(charts, report.folder / FIGURES_FOLDER / BARS_FILE)
    write_csv(report.folder / CSV_FILE, tables)
    texts = [markdown(tables), *(comparison_markdown(one) for one in comparisons)]
    (report.folder / MARKDOWN_FILE).write_text("\n".join(texts), encoding="utf-8")
    page = paper_page.render(tables, found, comparisons)
    (report.folder / PAGE_FILE).write_text(page, encoding="utf-8")
    logger.info("report: %s", report.folder / PAGE_FILE)
    return report.finish(
        evaluations=[str(finished.folder) for finished in runs],
        comparisons=[str(one.folder) for one in comparisons],
        rows=rows_of(tables),
    )


def finished_runs(config: ReportRun) -> list[FinishedRun]:
    """The evaluations of the config, read; raises ArtefactError for what is none or is damaged."""
    given = [to_path(name) for name in config.evaluations]
    folders = [folder for folder in given if not is_comparison(folder)]
    if not folders:
        return []
    found = evaluation_folders(folders, skip_missing=config.skip_missing)
    return [read_run(folder) for folder in found]


def finished_comparisons(config: ReportRun) -> list[Comparison]:
    """The comparisons of tokenizers among the config's folders, in their order."""
    folders = dict.fromkeys(to_path(name) for name in config.evaluations)
    return [read_comparison(folder) for folder in folders if is_comparison(folder)]


def rows_of(tables: Sequence[PaperTable]) -> dict[str, int]:
    """Our rows per table of the paper."""
    return {f"Table {table.number}": table.num_ours for table in tables}


def linked_folders(runs: Sequence[FinishedRun]) -> list[Path]:
    """The evaluations and what they link to, none twice: what a finished report is bound to."""
    folders = [finished.folder for finished in runs]
    for finished in runs:
        links = (finished.tokenizer, finished.samples, finished.generator)
        folders += [link.folder for link in links if link is not None]
    return list(dict.fromkeys(folders))


def _settings() -> dict[str, Any]:
    """The published numbers by their digest: new ones make a new report."""
    numbers = resources.files("glotok_ray.report").joinpath(FILE).read_bytes()
    return {"published": hashlib.sha256(numbers).hexdigest()}
