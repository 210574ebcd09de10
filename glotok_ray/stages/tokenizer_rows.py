"""The rows of a tokenizer's ablations: equal short trainings, measured by their reconstructions.

Read next: glotok_ray/stages/tokenizer_trials.py
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glotok_ray.config import overrides
from glotok_ray.config.runs import TokenizerRun
from glotok_ray.config.sweeps import TokenizerAblationRun
from glotok_ray.evaluation.extractors import file_digests
from glotok_ray.on_ray.tune import driver_resources
from glotok_ray.recipes import sweep_parts
from glotok_ray.recipes.tokenizer_rows import ROWS
from glotok_ray.report.tokenizer_ablations import ablation_tables
from glotok_ray.stages import tokenizer_trials, train_tokenizer


class TokenizerRows:
    """`glotok_ray.stages.ablations.Rows` of a tokenizer."""

    known = tuple(ROWS)
    columns = ("relation_kl", "images_per_s", *tokenizer_trials.METRICS)

    def __init__(self, config: TokenizerAblationRun, folder: Path) -> None:
        """The rows of `config`, whose paths are absolute; their parts lie in `folder`."""
        self._config, self._folder = config, folder

    @property
    def resources(self) -> dict[str, float]:
        """Those of where rows train: what trains in a row's own process is measured there too."""
        return driver_resources(self._config.tokenizer)

    def recipe(self, row: str) -> TokenizerRun:
        """The training of a row."""
        return sweep_parts.tokenizer_row(self._config, self._folder, row)

    def check_settings(self, rows: Sequence[str]) -> None:
        """Raise ValueError for a field that a row cannot have."""
        tokenizer_trials.require_teacher(self._config.tokenizer)
        for row in rows:
            self.recipe(row)

    def make_inputs(self) -> None:
        """The quickstart's shards and teacher."""
        tokenizer_trials.make_inputs(self._config)

    def check_inputs(self, rows: Sequence[str]) -> list[Path]:
        """What all rows read; raises ArtefactError for what would stop one of them."""
        return tokenizer_trials.check_inputs(self._config, map(self.recipe, rows))

    def bound_settings(self) -> dict[str, Any]:
        """The settings that decide the metrics of a row."""
        settings = overrides.bound_settings(self._config)
        tokenizer = train_tokenizer.bound_settings(self._config.tokenizer)
        return settings | {"tokenizer": tokenizer} | file_digests(self._config.evaluation)

    def measure(self, row: str) -> dict[str, Any]:
        """Train and measure one row."""
        return tokenizer_trials.train_and_measure(self.recipe(row), self._config.evaluation)

    def shown(self, metrics: Mapping[str, Any]) -> str:
        """A row's metrics in words."""
        return tokenizer_trials.shown_metrics(metrics)

    def tables(self, measured: Mapping[str, Mapping[str, Any]]) -> str:
        """The paper's tables with the rows' metrics."""
        base = self._config.tokenizer
        scale = (
            f"{self._config.max_steps} steps of {base.schedule.global_batch_size} images at "
            f"{base.model.autoencoder.image_size} pixels, {base.model.autoencoder.base_channels} base channels"
        )
        return ablation_tables(measured, scale=scale)
