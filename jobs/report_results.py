"""Report results: finished evaluations in; the paper's Tables 1-6 and figures with our numbers beside the published
ones out, as one page, CSV and Markdown.

    python -m jobs.report_results runs/quickstart --output-path runs/report
    python -m jobs.report_results paper

Machine: any; it starts no Ray and takes seconds. A FOLDER is an evaluation, holds evaluations, or is what
jobs.evaluate_tokenizers wrote; a recipe names several. Result: index.html, tables.csv, tables.md and figures/ in the
output folder. Numbers of different protocols are never subtracted; the page says which two were met.
Read next: glotok_ray/stages/report_results.py
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glotok_ray.config.overrides import absolute_path, to_dict
from glotok_ray.config.report import ReportRun
from glotok_ray.recipes.report_results import RECIPES
from glotok_ray.storage.places import to_path
from jobs import storage_root
from jobs.command_line import start_logging
from jobs.failures import DONE, guarded


def describe(config: ReportRun) -> dict[str, Any]:
    """What would be reported: the evaluations, our rows per table, and linked folders that are gone."""
    from glotok_ray.report.paper_tables import paper_tables
    from glotok_ray.report.published import published_numbers
    from glotok_ray.stages.report_results import finished_comparisons, finished_runs, rows_of

    runs = finished_runs(config)
    return {
        "evaluations": [str(found.folder) for found in runs],
        "comparisons": [str(found.folder) for found in finished_comparisons(config)],
        "rows": rows_of(paper_tables(runs, published_numbers())),
        "missing": [line for found in runs for line in found.missing],
        "output_path": config.output_path,
    }


def run(config: ReportRun, *, fresh: bool = False) -> dict[str, Any]:
    """The job itself, imported when it runs."""
    from glotok_ray.stages import report_results

    return report_results.run(config, fresh=fresh)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    start_logging()
    flags = _parser().parse_args(argv)
    output: list[Path] = []

    def job() -> int:
        config = _configured(flags)
        if flags.dry_run:
            answer = {"job": "report_results", **describe(config), "config": to_dict(config)}
        else:
            output.append(to_path(config.output_path))
            answer = run(config, fresh=flags.fresh)
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
        return DONE

    return guarded("report_results", job, output)


def _configured(flags: argparse.Namespace) -> ReportRun:
    """The one recipe that was named, or the folders; all paths absolute."""
    root = storage_root.chosen(flags.storage_root)
    if len(flags.folders) > 1 and set(flags.folders) & set(RECIPES):
        raise ValueError(
            f"FOLDER = {' '.join(flags.folders)}: must be one recipe ({', '.join(RECIPES)}) or folders; write "
            "./NAME for a folder of a recipe's name"
        )
    if flags.folders[0] in RECIPES:
        config = RECIPES[flags.folders[0]]()
        found = tuple(absolute_path("FOLDER", name, root) for name in config.evaluations)
    else:
        config = ReportRun(evaluations=tuple(flags.folders))
        found = tuple(str(storage_root.given(name, root, "FOLDER")) for name in flags.folders)
    changes = {"evaluations": found, "output_path": flags.output_path or config.output_path}
    return storage_root.located(dataclasses.replace(config, **changes), root)


def _parser() -> argparse.ArgumentParser:
    lines = [f"  {name}: {(make.__doc__ or '').strip()}" for name, make in RECIPES.items()]
    parser = argparse.ArgumentParser(
        prog="python -m jobs.report_results",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="The paper's tables and figures with our numbers beside the published ones.",
        epilog="recipes:\n" + "\n".join(lines),
        allow_abbrev=False,
    )
    parser.add_argument(
        "folders",
        nargs="+",
        metavar="FOLDER",
        help="an evaluation, or a folder that holds evaluations; or one recipe",
    )
    parser.add_argument(
        "--output-path", metavar="DIR", default="", help="folder of the report (runs/report)"
    )
    storage_root.add_flag(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be reported as JSON and write nothing",
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="write a finished report again (the old folder is kept as NAME.previous)",
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
