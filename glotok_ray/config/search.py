"""The search space of a sweep: which fields of a tokenizer's run are varied, and over what.

Read next: glotok_ray/training/search_space.py
"""

from dataclasses import dataclass

from glotok_ray.config.rules import require, require_finite

WEIGHT = "loss.relation_weight"
"""lambda_hist; where it is 0, neither bins nor alpha change anything, so they are not drawn."""
ALPHA_FACTOR = "alpha_factor"
"""Alpha as a multiple of 1 / (2 * bin width^2): the same width in bins at every bin count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchField:
    """One field that a sweep varies: over numbers, over words, over a range, or over a range and some numbers beside
    it.
    """

    field: str = WEIGHT
    """Dotted name in the tokenizer's run, as on the command line ("loss.relation.num_bins", "optimizer.learning_rate",
    "model.codebooks.0.size"), or "alpha_factor".
    """
    values: tuple[float, ...] = ()
    """Numbers that are tried; beside a range they are what it does not hold, such as 0 of a logarithmic one. Whole
    numbers are made of them for a field of whole numbers.
    """
    words: tuple[str, ...] = ()
    """Texts that are tried, for a field that holds one; "true" and "false" for a switch."""
    low: float = 0.0
    """Lower end of the range. A range is there where `high` is above `low`; it needs search = "optuna" or "random"."""
    high: float = 0.0
    """Upper end of the range."""
    log: bool = False
    """Draw the logarithm of the number evenly; `low` must be above 0 then."""

    def __post_init__(self) -> None:
        where = f"space ({self.field})"
        require_finite(self, f"{where}.")
        require(
            self.low <= self.high, f"{where}.low", self.low, f"must not be above high = {self.high}"
        )
        require(
            self.has_range or bool(self.values) or bool(self.words),
            f"{where}.values",
            self.values,
            "is empty, and so are words and the range from low to high; give one of them",
        )
        require(
            not self.words or not (self.values or self.has_range),
            f"{where}.words",
            self.words,
            "a field holds words or numbers; give one of them",
        )
        require(
            not self.log or self.low > 0,
            f"{where}.low",
            self.low,
            "must be above 0 with log = True",
        )
        given = (self.low, *self.values) if self.has_range else self.values
        if self.field == WEIGHT:
            require(min(given, default=0) >= 0, where, given, "must not be negative")
        if self.field == ALPHA_FACTOR:
            require(min(given, default=1) > 0, where, given, "must be positive")

    @property
    def has_range(self) -> bool:
        """Whether there are numbers between two ends."""
        return self.high > self.low
