"""What a sweep leaves: results.csv, table.md, and of a search sweep.png and the best recipe as a file.

Read next: glotok_ray/stages/sweep_tokenizer.py
"""

from pathlib import Path

import pandas

from glotok_ray.config.overrides import override, to_dict
from glotok_ray.config.sweeps import SweepRun
from glotok_ray.report.plots import plot_sweep
from glotok_ray.report.sweep_table import sweep_table
from glotok_ray.report.tokenizer_ablations import ablation_tables, failed_rows
from glotok_ray.stages.failed_rows import FAILED
from glotok_ray.storage import artefact

RANKED_BY = {"psnr": "higher", "fd_effnet": "lower"}
SWEPT = ("loss.relation_weight", "loss.relation.num_bins", "loss.relation.alpha")


def write_results(
    sweep: SweepRun, frame: pandas.DataFrame, failed: dict[str, str], folder: Path
) -> str:
    """Write everything from one row per trial, those in `failed` without metrics; returns the best trial's name."""
    ranked = rank_trials(frame)
    if sweep.rows:
        _write_ablations(sweep, frame, failed, folder)
    else:
        _write_search(sweep, ranked, failed, folder)
    return str(ranked.iloc[0]["trial"])


def _write_ablations(
    sweep: SweepRun, frame: pandas.DataFrame, failed: dict[str, str], folder: Path
) -> None:
    frame.to_csv(folder / "results.csv", index=False)
    base = sweep.tokenizer
    scale = (
        f"{sweep.max_steps} steps of {base.schedule.global_batch_size} images at "
        f"{base.model.autoencoder.image_size} pixels, {base.model.autoencoder.base_channels} base channels"
    )
    measured = {str(row["trial"]): row for row in frame.to_dict("records")}
    table = ablation_tables(measured, scale=scale) + failed_rows(failed)
    (folder / "table.md").write_text(table + "\n")


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


def _write_search(
    sweep: SweepRun, ranked: pandas.DataFrame, failed: dict[str, str], folder: Path
) -> None:
    ranked.to_csv(folder / "results.csv", index=False)
    table = sweep_table(ranked.drop(columns=FAILED)) + failed_rows(failed)
    (folder / "table.md").write_text(table + "\n")
    plot_sweep(ranked.loc[ranked[FAILED] == ""].copy(), folder / "sweep.png")
    changes = {
        name: value
        for name, value in ranked.iloc[0].items()
        if name in SWEPT and not pandas.isna(value)
    }
    if "loss.relation.num_bins" in changes:
        changes["loss.relation.num_bins"] = int(changes["loss.relation.num_bins"])
    best = override(sweep.tokenizer, {**changes, "name": f"{sweep.tokenizer.name}_best"})
    artefact.write_json(folder / "best_recipe.json", to_dict(best))
