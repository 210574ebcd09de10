"""The ablations of a tokenizer or of xAR in one command: one training per row of published tables, all measured alike.

Rows are trials of Ray Tune, one after another unless several are asked for. Every part recognises finished work, so an
interrupted command goes on, and another command adds rows to the tables.
Read next: glotok_ray/stages/tokenizer_rows.py, glotok_ray/stages/generator_rows.py
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas

from glotok_ray.config.overrides import with_absolute_paths
from glotok_ray.config.sweeps import AblationRun, GeneratorAblationRun, TokenizerAblationRun
from glotok_ray.on_ray.tune import TUNE_FOLDER, TrialProcess
from glotok_ray.recipes.sweep_parts import chosen_rows
from glotok_ray.report.markdown import failed_rows
from glotok_ray.stages.failed_rows import FAILED, failed_of
from glotok_ray.stages.generator_rows import GeneratorRows
from glotok_ray.stages.rows import run_rows
from glotok_ray.stages.tokenizer_rows import TokenizerRows
from glotok_ray.storage import ownership
from glotok_ray.storage.output import Output, look
from glotok_ray.storage.places import to_path

logger = logging.getLogger(__name__)

ROWS_FOLDER = "rows"
_KIND = "ablations"


class Rows(Protocol):
    """The rows of one model: how each is trained and measured, and what tables they fill."""

    @property
    def known(self) -> tuple[str, ...]:
        """The names of all rows, in the order of the results."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """What is measured, the columns of results.csv."""
        ...

    @property
    def resources(self) -> dict[str, float]:
        """What the process of a row asks for."""
        ...

    def check_settings(self, rows: Sequence[str]) -> None:
        """Raise ValueError for a field that one of the rows cannot have."""
        ...

    def make_inputs(self) -> None:
        """Make the quickstart's folders that the rows read, where they are missing."""
        ...

    def check_inputs(self, rows: Sequence[str]) -> list[Path]:
        """The folders that all rows read; raises ArtefactError for what would stop one of the rows."""
        ...

    def bound_settings(self) -> dict[str, Any]:
        """The settings that decide the metrics of a row."""
        ...

    def measure(self, row: str) -> dict[str, Any]:
        """Train and measure a row; in a trial's process."""
        ...

    def shown(self, metrics: Mapping[str, Any]) -> str:
        """The metrics of a row in a few words."""
        ...

    def tables(self, measured: Mapping[str, Mapping[str, Any]]) -> str:
        """The published tables, with the metrics of these rows."""
        ...


def rows_of(config: AblationRun) -> Rows:
    """What the rows of this run are."""
    folder = to_path(config.output_path) / ROWS_FOLDER
    if isinstance(config, TokenizerAblationRun):
        return TokenizerRows(config, folder)
    assert isinstance(config, GeneratorAblationRun)
    return GeneratorRows(config, folder)


@ownership.holding()
def run(config: AblationRun, *, fresh: bool = False) -> dict[str, Any]:
    """Run all rows and write results.csv and table.md; returns the manifest."""
    # Ray Tune gives every trial a working folder of its own.
    config = with_absolute_paths(config)
    rows, names = rows_of(config), chosen_rows(config)
    # What a row cannot have ends the command here, not after hours of other rows.
    rows.check_settings(names)
    if config.inputs == "quickstart":
        rows.make_inputs()
    inputs = rows.check_inputs(names)
    output = look(to_path(config.output_path), _KIND, rows.bound_settings(), inputs, fresh=fresh)
    if output.finished is not None:
        missing = _missing_rows(output.finished, names, retry_failed=config.retry_failed)
        if not missing:
            logger.info("ablations: already finished: %s", output.folder)
            return output.finished
        logger.info("joining the finished rows %s", ", ".join(output.finished["rows"]))
        names = tuple(row for row in rows.known if row in {*output.finished["rows"], *names})
    folder = output.go_on(adopt=ROWS_FOLDER)
    measured = run_rows(
        names,
        rows.measure,
        folder=folder / ROWS_FOLDER,
        retry_failed=config.retry_failed,
        max_concurrent=config.max_concurrent_rows,
        shown=rows.shown,
        shown_as=(_KIND, "rows"),
        process=TrialProcess(rows.resources, config.row_restarts),
    )
    return _write_results(output, rows, measured)


def _missing_rows(
    manifest: Mapping[str, Any], names: Sequence[str], *, retry_failed: bool
) -> set[str]:
    """Rows that the finished tables lack, those that failed too where they are tried again."""
    tried_again = manifest["failed"] if retry_failed else ()
    return set(names) - (set(manifest["rows"]) - set(tried_again))


def _write_results(
    output: Output, rows: Rows, measured: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    failed = failed_of(measured, ROWS_FOLDER)
    # Only now: a command that is killed before must find which rows were finished.
    output.reopen()
    frame = pandas.DataFrame([{"row": name, **row} for name, row in measured.items()])
    frame = frame.reindex(columns=["row", *rows.columns, FAILED])
    with (output.folder / "results.csv").open("w", newline="", encoding="utf-8") as stream:
        frame.to_csv(stream, index=False)
    # As they are in the frame: what was not measured is NaN there.
    shown = {str(row["row"]): row for row in frame.to_dict("records")}
    path = output.folder / "table.md"
    path.write_text(rows.tables(shown) + failed_rows(failed) + "\n")
    return output.finish(
        exclude=(ROWS_FOLDER, TUNE_FOLDER),
        rows=list(measured),
        failed=failed,
        table=str(path),
    )
