"""Evaluate: a tokenizer and shards in, or samples beside them; metrics.json out, every metric with
its protocol in a sentence.

    python -m jobs.evaluate_images quickstart
    python -m jobs.evaluate_images quickstart --samples-paths SAMPLES_A SAMPLES_B
    ray job submit --address http://127.0.0.1:8265 -- \\
        python -m jobs.evaluate_images glotok_16k

Machine: 8 GPUs for the 50,000 ImageNet validation images; `quickstart` runs on 2 cores in about a
minute. Result: metrics.json, reconstructions.png and, with samples, the same distance for two
baselines that no generator made (baselines.png). With --samples-paths the samples of each path are measured alike, and
samples.csv, samples.json and samples.md compare them.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.recipes.evaluate_images import RECIPES
from jobs.command_line import run_job

if TYPE_CHECKING:
    from glotok_ray.evaluation.inputs import Present


def describe(config: EvaluateRun) -> dict[str, Any]:
    """What would run: images per kind where the inputs are there, null where they are not yet; of several sets of
    samples those of each.
    """
    from glotok_ray.evaluation.compared_samples import check_alike
    from glotok_ray.evaluation.inputs import check_inputs, check_present_inputs
    from glotok_ray.recipes.sweep_parts import samples_evaluations

    if not config.samples_paths:
        check_inputs(config)
        return _described(config, check_present_inputs(config))
    evaluations = samples_evaluations(config)
    present = check_alike(evaluations.values())
    return {
        "samples": {
            name: {"samples_path": evaluation.samples_path, **_described(evaluation, found)}
            for (name, evaluation), found in zip(evaluations.items(), present, strict=True)
        },
        "output_path": config.output_path,
    }


def _described(config: EvaluateRun, present: "Present") -> dict[str, Any]:
    """One evaluation."""
    from glotok_ray.data.recorded import crops_text
    from glotok_ray.evaluation.inputs import stored_count

    dataset, samples, training = present
    images = {"validation": config.num_images or (dataset.num_images if dataset else None)}
    if config.samples_path:
        images["samples"] = samples.num_images if samples else None
    if config.codes_path:
        images |= dict.fromkeys(("baseline_uniform", "baseline_marginal"), images["samples"])
    if config.training_path:
        images["training"] = config.training_images or (training.num_images if training else None)
    if config.reference_path:
        images["reference"] = stored_count(config.reference_path)
    return {
        "images": images,
        "crops": crops_text(dataset) if dataset else None,
        "measures_reconstructions": bool(config.tokenizer_path),
        "measures_generator_loss": bool(config.generator_path),
        "uniformity_draws": config.uniformity_repeats if config.tokenizer_path else 0,
        "actors": config.pool.num_actors,
        "output_path": config.output_path,
    }


def run(config: EvaluateRun, *, fresh: bool = False) -> dict[str, Any]:
    """The job itself, imported when it runs: Ray and torch take seconds."""
    from glotok_ray.stages import compare_samples, evaluate_images

    stage = compare_samples if config.samples_paths else evaluate_images
    return stage.run(config, fresh=fresh)


def show(manifest: dict[str, Any]) -> str:
    """The table of several sets of samples; of one evaluation its manifest as JSON."""
    from glotok_ray.report.samples_table import COMPARISON, JSON_FILE, comparison_table
    from glotok_ray.storage import artefact
    from glotok_ray.storage.places import to_path

    if manifest["kind"] != COMPARISON:
        return json.dumps(manifest, indent=2, default=str) + "\n"
    folder = to_path(manifest["config"]["output_path"])
    return comparison_table(artefact.read_json(folder / JSON_FILE)) + f"\nfolder: {folder}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(
        argv,
        name="evaluate_images",
        recipes=RECIPES,
        dry_run=describe,
        run=run,
        show=show,
    )


if __name__ == "__main__":
    raise SystemExit(main())
