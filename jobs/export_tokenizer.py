"""Export a tokenizer: a run, a checkpoint of it, or a peer's file in; safetensors, config and model card out.

    python -m jobs.export_tokenizer run --source-path runs/glotok_16k --output-path runs/glotok_16k_export
    python -m jobs.export_tokenizer run --source-path runs/glotok_16k --checkpoint best
    python -m jobs.export_tokenizer llamagen_vq16 --source-path vq_ds16_c2i.pt
    python -m jobs.export_tokenizer ibq_16384 --source-path imagenet256_16384.ckpt

Machine: any; it starts no Ray. Result: a folder for `GloTokTokenizer.from_pretrained`, and for every job that takes a
tokenizer_path, so that a peer's tokenizer is encoded with, evaluated and trained further like an own one. Tokenizers of
glotok_ray/peers are of other classes: `glotok_ray.pretrained.tokenizer.load_tokenizer` reads them.
Read next: glotok_ray/export/tokenizer.py
"""

from collections.abc import Sequence
from typing import Any

from glotok_ray.config.jobs import ExportRun
from glotok_ray.recipes.export_tokenizer import RECIPES
from glotok_ray.storage.places import to_path
from jobs.command_line import run_job


def describe(config: ExportRun) -> dict[str, Any]:
    """What the config says that a peer's file holds; a run brings its own config."""
    modules = _modules(config)
    return {
        "source_found": bool(config.source_path) and to_path(config.source_path).exists(),
        "parameters": sum(modules.values()),
        "modules": modules,
    }


def _modules(config: ExportRun) -> dict[str, int]:
    """Parameters per part of the tokenizer in a peer's file."""
    if config.peer:
        from glotok_ray.peers.systems import released
        from glotok_ray.pretrained.peer_tokenizers import built

        system, file = released(config.peer)
        return built(system, file.config).module_parameters()
    from glotok_ray.nn.tokenizer import GloTokTokenizer
    from glotok_ray.training.without_numbers import on_meta_device

    with on_meta_device():
        return GloTokTokenizer(config.model).module_parameters()


def run(config: ExportRun, *, fresh: bool = False) -> dict[str, Any]:
    """The job itself, imported when it runs: Ray and torch take seconds."""
    from glotok_ray.export import tokenizer

    return tokenizer.run(config, fresh=fresh)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(argv, name="export_tokenizer", recipes=RECIPES, dry_run=describe, run=run)


if __name__ == "__main__":
    raise SystemExit(main())
