"""Comparisons of tokenizers under one protocol.

Read next: jobs/evaluate_tokenizers.py
"""

from collections.abc import Callable

from glotok_ray.config.evaluation import DOWNLOAD
from glotok_ray.config.tokenizer_comparison import EvaluateTokenizersRun

# As `jobs.train_tokenizer` and `jobs.export_tokenizer` name their folders; in the order of Table 1.
_TABLE_1 = (
    "taming_f16_16384_imported",
    "rq_vae_imported",
    "vqgan_lc_16384_imported",
    "vqgan_lc_100k_imported",
    "llamagen_vq16_imported",
    "maskbit_14bit_imported",
    "titok_s128_imported",
    "open_magvit2_pretrain_16384_imported",
    "open_magvit2_256_imported",
    "ibq_16384_imported",
    "ibq_262144_imported",
    "tokenflow_imported",
    "fqgan_dual_imported",
    "glotok_16k",
    "glotok_2x",
    # Tokenizers of generators in Table 2.
    "var_256_imported",
    "imagefolder_4096_imported",
)


def table_1() -> EvaluateTokenizersRun:
    """The tokenizers of the paper's Table 1 that are there. In place of a recipe: FOLDER ... --data-path SHARDS."""
    return EvaluateTokenizersRun(
        tokenizer_paths=tuple(f"runs/{name}" for name in _TABLE_1),
        skip_missing=True,
        data_path="data/imagenet/validation",
        output_path="runs/table_1",
        inception_path=DOWNLOAD,
    )


RECIPES: dict[str, Callable[[], EvaluateTokenizersRun]] = {"table_1": table_1}
