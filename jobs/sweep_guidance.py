"""Sample a generator at several guidance scales and measure each: the FID/IS curve and the best value.

    python -m jobs.sweep_guidance quickstart
    ray job submit --address http://127.0.0.1:8265 -- python -m jobs.sweep_guidance xar_b \\
        --guidance-scales 1.0 1.5 2.0 3.0 --evaluation.inception-path download

Machine: 8 GPUs for 10,000 images per value; `quickstart` runs on 2 cores. Result: guidance.csv, guidance.json,
guidance.png, and samples and evaluation of each value under values/. Without a file of Inception the curve is that of
FD-EffNet and own class. Read next: glotok_ray/stages/sweep_guidance.py
"""

from collections.abc import Sequence
from typing import Any

from glotok_ray.config.sweeps import AnyGuidanceRun
from glotok_ray.recipes.sweep_guidance import RECIPES
from glotok_ray.storage.places import to_path
from jobs.command_line import run_job


def describe(config: AnyGuidanceRun) -> dict[str, Any]:
    """What would run: per value the images and, when the generator is there, network evaluations per image."""
    from glotok_ray.evaluation.inputs import check_inputs, check_present_inputs
    from glotok_ray.pretrained.generator import GENERATOR_FILE, model_config
    from glotok_ray.recipes.sweep_parts import chosen_metric, guidance_inputs, guidance_value
    from glotok_ray.sampling.images import network_evaluations
    from glotok_ray.stages import sample_images
    from glotok_ray.storage import artefact

    generator = to_path(config.samples.generator_path)
    model = model_config(generator) if (generator / GENERATOR_FILE).is_file() else None
    if (generator / artefact.MANIFEST).is_file():
        sample_images.check_inputs(config.samples)
    metric, values = chosen_metric(config), {}
    for scale in sorted(config.guidance_scales):
        value = guidance_value(config, scale)
        check_inputs(value.evaluation)
        check_present_inputs(value.evaluation)
        sampler = value.samples.sampler
        values[f"{scale:g}"] = {
            "images": value.samples.num_images,
            "network_evaluations_per_image": network_evaluations(model, sampler) if model else None,
            "samples_path": value.samples.output_path,
            "evaluation_path": value.evaluation.output_path,
        }
    if all(artefact.is_finished(to_path(path)) for path in guidance_inputs(config)):
        # It brings Ray and pandas, for which a dry run without inputs does not wait.
        from glotok_ray.stages import sweep_guidance

        sweep_guidance.check_inputs(config)
    return {
        "generator_found": model is not None,
        "values": values,
        "best_by": metric,
        "output_path": config.output_path,
    }


def show(manifest: dict[str, Any]) -> str:
    """The table of values, and the best one."""
    from glotok_ray.report.guidance import JSON_FILE, guidance_table
    from glotok_ray.storage import artefact

    folder = to_path(manifest["config"]["output_path"])
    return (
        guidance_table(artefact.read_json(folder / JSON_FILE))
        + f"\nchart: {folder / 'guidance.png'}\n"
    )


def run(config: AnyGuidanceRun, *, fresh: bool = False) -> dict[str, Any]:
    """The job itself, imported when it runs: Ray and torch take seconds."""
    from glotok_ray.stages import sweep_guidance

    return sweep_guidance.run(config, fresh=fresh)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(
        argv,
        name="sweep_guidance",
        recipes=RECIPES,
        dry_run=describe,
        run=run,
        show=show,
    )


if __name__ == "__main__":
    raise SystemExit(main())
