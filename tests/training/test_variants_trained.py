"""IBQ's and VQGAN-LC's variants from codes to images: trained by flags of a recipe, without Ray, loaded, sampled."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glotok_ray.config import CodebookConfig, TokenSamplerConfig, VocabularyConfig, override
from glotok_ray.data.code_layout import CodeLayout
from glotok_ray.data.codes import write_code_dataset, write_code_shard
from glotok_ray.nn.tokenizer import GloTokTokenizer
from glotok_ray.recipes.train_generator import quickstart_far
from glotok_ray.sampling.images import ImageGenerator
from glotok_ray.stages import train_generator
from glotok_ray.storage import artefact
from glotok_ray.training.metrics_file import last_metrics
from tests.small_models import tiny_tokenizer

BOOKS = ("visual", "semantic")


def write_parts(folder: Path, count: int) -> tuple[VocabularyConfig, ...]:
    """A tokenizer of `count` codebooks and codes of 16 images, whose class decides them."""
    books = [CodebookConfig(name=name, size=16, width=4) for name in BOOKS[:count]]
    config = tiny_tokenizer(*books, adapter_depth=0)
    torch.manual_seed(0)
    (folder / "codes").mkdir()
    GloTokTokenizer(config).save_pretrained(folder / "tokenizer")
    artefact.write_manifest(folder / "tokenizer", "tokenizer")
    labels = np.arange(16) % 2
    codes = {
        name: np.repeat(5 * labels[:, None] + 1, 16, axis=1).astype(np.uint16)
        for name in BOOKS[:count]
    }
    keys = [str(key) for key in range(16)]
    shard = write_code_shard(
        folder / "codes/part-00000.parquet", keys, labels, codes, CodeLayout.glotok(config)
    )
    write_code_dataset(
        folder / "codes",
        [shard],
        CodeLayout.glotok(config),
        num_views=1,
        classes=["a", "b"],
        tokenizer_sha256=artefact.sha256_of(folder / "tokenizer/tokenizer.safetensors"),
        details={"views": "center"},
    )
    artefact.write_manifest(folder / "codes", "codes")
    return tuple(VocabularyConfig(name=name, size=16) for name in BOOKS[:count])


@pytest.mark.parametrize(
    ("count", "flags"),
    [
        (2, {"model.variant.block": "ibq", "model.variant.gate_scale": 0.1}),
        (
            1,
            {
                "model.head_depth": 0,
                "model.variant.block": "gpt",
                "model.variant.class_input": "after_codes",
                "label_dropout": 0.0,
                "code_noise": 0.2,
                "optimizer.schedule": "warmup_hold_linear",
                "optimizer.hold_fraction": 0.5,
            },
        ),
    ],
    ids=["ibq_with_head", "vqgan_lc"],
)
def test_a_variant_learns_its_classes_and_draws_images(
    count: int, flags: dict[str, Any], tmp_path: Path
) -> None:
    books = write_parts(tmp_path, count)
    changes = {
        "output_path": str(tmp_path),
        "tokenizer_path": str(tmp_path / "tokenizer"),
        "launcher": "local",
        "model.codebooks": books,
        "model.grid_size": 4,
        "model.num_classes": 2,
        "model.width": 32,
        "model.depth": 1,
        "data.train_path": str(tmp_path / "codes"),
        "data.num_train_images": 16,
        "data.views": "center",
        "schedule.epochs": 20,
        "schedule.log_every_steps": 20,
        "scaling.num_workers": 1,
        "scaling.engine": "torch",
        "ema_decay": 0.0,
    }
    config = override(quickstart_far(), changes | flags)
    manifest = train_generator.run(config)
    assert manifest["step"] == 20
    folder = tmp_path / "far"
    assert last_metrics(folder, 20)["train/cross_entropy"] < 0.5 * np.log(16)
    generator = ImageGenerator.from_pretrained(folder)
    guidance = 2.0 if count == 2 else 1.0
    sampler = TokenSamplerConfig(guidance_scale=guidance, top_k=4)
    images = generator.generate([0, 1], seed=0, sampler=sampler)
    assert images.shape == (2, 16, 16, 3)
    again = generator.generate([1], seed=0, image_ids=[1], sampler=sampler)
    assert np.abs(images[1:].astype(int) - again).max() <= 1
