"""All of the report of the paper's tables."""

from dataclasses import dataclass, field

from glotok_ray.config.rules import FREE, require


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportRun:
    """All of `jobs.report_results`."""

    evaluations: tuple[str, ...] = field(default=(), metadata=FREE)
    """Finished evaluations, or what holds them, and comparisons of tokenizers; the job makes each absolute. At least
    one.
    """
    skip_missing: bool = field(default=False, metadata=FREE)
    """Leave out evaluations that are not finished yet, with a line in the log; off refuses them."""
    output_path: str = field(default="runs/report", metadata=FREE)
    """Folder that receives index.html, tables.csv, tables.md and figures/."""

    def __post_init__(self) -> None:
        require(bool(self.evaluations), "evaluations", self.evaluations, "must name at least one")
