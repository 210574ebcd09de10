"""Ablations of the tokenizer: Tables 4 and 5 of the paper, and the two systems of Table 1 that it compares with.

Rows are one GloTok run with something changed (`ROWS`), at full size and at a small one alike.
Read next: glotok_ray/stages/ablations.py
"""

from glotok_ray.config.overrides import override
from glotok_ray.config.sweeps import TokenizerAblationRun
from glotok_ray.recipes import evaluate_images, train_tokenizer
from glotok_ray.recipes.sweep_tokenizer import quickstart_reconstructions


def ablations() -> TokenizerAblationRun:
    """All six rows of glotok_16k, 20,000 steps each, one after another; 8 x 80 GB GPUs per row."""
    return TokenizerAblationRun(
        output_path="runs/glotok_16k_ablations",
        max_steps=20000,
        tokenizer=train_tokenizer.glotok_16k(),
        evaluation=evaluate_images.glotok_16k(),
    )


def ablations_tiny() -> TokenizerAblationRun:
    """All six rows at the quickstart's size, whose shards and teacher are made first: 256 steps each, 2 cores."""
    changes = {"loss.adversarial_start_step": 128}
    return TokenizerAblationRun(
        output_path="runs/ablations_tiny",
        inputs="quickstart",
        max_steps=256,
        tokenizer=override(train_tokenizer.quickstart(), changes),
        evaluation=quickstart_reconstructions(),
    )


RECIPES = {
    "ablations": ablations,
    "ablations_tiny": ablations_tiny,
}
