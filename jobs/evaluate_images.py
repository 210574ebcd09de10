"""Evaluate: a tokenizer and shards in, or samples beside them; metrics.json out, every metric with
its protocol in a sentence.

    python -m jobs.evaluate_images quickstart
    ray job submit --address http://127.0.0.1:8265 -- \\
        python -m jobs.evaluate_images glotok_16k

Machine: 8 GPUs for the 50,000 ImageNet validation images; `quickstart` runs on 2 cores in about a
minute. Result: metrics.json, reconstructions.png and, with samples, the same distance for two
baselines that no generator made (baselines.png).
"""

from collections.abc import Sequence
from typing import Any

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.recipes.evaluate_images import RECIPES
from jobs.command_line import run_job


def describe(config: EvaluateRun) -> dict[str, Any]:
    """What would run: images per kind where the inputs are there, null where they are not yet."""
    from glotok_ray.data.recorded import crops_text
    from glotok_ray.evaluation.inputs import check_inputs, check_present_inputs, stored_count

    check_inputs(config)
    dataset, samples, training = check_present_inputs(config)
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
    from glotok_ray.stages import evaluate_images

    return evaluate_images.run(config, fresh=fresh)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(
        argv,
        name="evaluate_images",
        recipes=RECIPES,
        dry_run=describe,
        run=run,
    )


if __name__ == "__main__":
    raise SystemExit(main())
