r"""Encode a data set: image shards and a tokenizer in, Parquet token codes out.

    python -m jobs.encode_images quickstart
    ray job submit --address http://127.0.0.1:8265 -- \
        python -m jobs.encode_images glotok_16k

--views says what is stored of an image, one row of codes per view: "center" the centre crop; "center_flip" the centre
crop and its mirror image (xAR); "ten_crop" the corners and the middle of the image at --crop-scale times the size,
plain and mirrored (FAR, LlamaGen's GPT). A generator draws one of them per image and epoch.

Machine: 8 GPUs for ImageNet (1,281,167 images; 2.6 GB of codes for two views of two codebooks, 13.1 GB for ten);
`quickstart` runs on 2 cores.
Result: one Parquet file of codes per shard, dataset.json with the views and the tokenizer's sha256, and
counts.npz (uses of each code, over all views).
"""

from collections.abc import Sequence
from typing import Any

from glotok_ray.config.jobs import EncodeRun
from glotok_ray.recipes.encode_images import RECIPES
from glotok_ray.storage.places import to_path
from jobs.command_line import run_job


def describe(config: EncodeRun) -> dict[str, Any]:
    """What would run: images, views and, when the inputs are there, the size of the codes."""
    from glotok_ray.data.recorded import crops_text
    from glotok_ray.data.records import DATASET
    from glotok_ray.pretrained.tokenizer import CONFIG_FILE, code_layout
    from glotok_ray.stages import encode_images

    tokenizer = to_path(config.tokenizer_path)
    is_there = (to_path(config.data_path) / DATASET).is_file()
    dataset = encode_images.check_inputs(config) if is_there else None
    images = dataset.num_images if dataset else None
    layout = code_layout(tokenizer) if (tokenizer / CONFIG_FILE).is_file() else None
    return {
        "data_found": images is not None,
        "tokenizer_found": layout is not None,
        "system": layout.system or "glotok" if layout else None,
        "images": images,
        "crops": crops_text(dataset) if dataset else None,
        "views": config.views,
        "views_per_image": config.num_views,
        "indices_per_image": layout.num_indices if layout else None,
        "bits_per_image": layout.bits if layout else None,
        "codes_gib": (
            images * config.num_views * layout.bytes_per_view / 2**30 if images and layout else None
        ),
        "actors": config.pool.num_actors,
        "output_path": config.output_path,
    }


def run(config: EncodeRun, *, fresh: bool = False) -> dict[str, Any]:
    """The job itself, imported when it runs: Ray and torch take seconds."""
    from glotok_ray.stages import encode_images

    return encode_images.run(config, fresh=fresh)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(
        argv,
        name="encode_images",
        recipes=RECIPES,
        dry_run=describe,
        run=run,
    )


if __name__ == "__main__":
    raise SystemExit(main())
