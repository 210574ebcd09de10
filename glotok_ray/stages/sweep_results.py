"""What a sweep leaves: results.csv, table.md, sweep.png and the best recipe as a file.

Read next: glotok_ray/stages/sweep_tokenizer.py
"""

from pathlib import Path

import pandas

from glotok_ray.config.overrides import override, to_dict
from glotok_ray.config.runs import TokenizerRun
from glotok_ray.config.sweeps import SweepRun
from glotok_ray.report.markdown import failed_rows
from glotok_ray.report.plots import plot_sweep
from glotok_ray.report.sweep_table import sweep_table
from glotok_ray.stages.failed_rows import FAILED
from glotok_ray.storage import artefact

RANKED_BY = {"psnr": "higher", "fd_effnet": "lower"}
SWEPT = ("loss.relation_weight", "loss.relation.num_bins", "loss.relation.alpha")


def write_results(
    config: SweepRun, frame: pandas.DataFrame, failed: dict[str, str], folder: Path
) -> str:
    """Write everything from one row per trial, those in `failed` without metrics; returns the best trial's name."""
    ranked = rank_trials(frame)
    ranked.to_csv(folder / "results.csv", index=False)
    table = sweep_table(ranked.drop(columns=FAILED)) + failed_rows(failed)
    (folder / "table.md").write_text(table + "\n")
    plot_sweep(ranked.loc[ranked[FAILED] == ""].copy(), folder / "sweep.png")
    artefact.write_json(folder / "best_recipe.json", to_dict(_best_recipe(config, ranked)))
    return str(ranked.iloc[0]["trial"])


def rank_trials(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Best first by the mean of the ranks in PSNR and in FD-EffNet; FD-EffNet decides ties. Those that failed are last,
    after those without one of the two.
    """
    ranks = [
        frame[name].rank(ascending=direction == "lower") for name, direction in RANKED_BY.items()
    ]
    ranked = frame.assign(mean_rank=sum(ranks) / len(ranks), is_last=frame[FAILED] != "")
    ranked = ranked.sort_values(["is_last", "mean_rank", "fd_effnet"]).reset_index(drop=True)
    return ranked.drop(columns="is_last")


def _best_recipe(config: SweepRun, ranked: pandas.DataFrame) -> TokenizerRun:
    changes = {
        name: value
        for name, value in ranked.iloc[0].items()
        if name in SWEPT and not pandas.isna(value)
    }
    if "loss.relation.num_bins" in changes:
        changes["loss.relation.num_bins"] = int(changes["loss.relation.num_bins"])
    return override(config.tokenizer, {**changes, "name": f"{config.tokenizer.name}_best"})
