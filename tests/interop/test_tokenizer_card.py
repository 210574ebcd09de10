"""The model card says what the tokenizer is, and its example runs."""

import re

import torch

from glotok_ray.config import (
    CodebookConfig,
    TokenizerConfig,
)
from glotok_ray.interop.tokenizer_card import model_card
from glotok_ray.nn.tokenizer import GloTokTokenizer
from tests.small_models import NO_RESIDUAL, tiny_tokenizer


def test_the_example_of_the_card_runs(tmp_path, monkeypatch):
    config = tiny_tokenizer(
        CodebookConfig(name="visual", size=12),
        CodebookConfig(name="semantic", size=8),
        channel_multipliers=(1, 1),
        residual=NO_RESIDUAL,
    )
    (tmp_path / "small").mkdir()
    GloTokTokenizer(config).save_pretrained(tmp_path / "small")
    metrics = {"eval/psnr": 21.5, "train/total": 3.0}
    card = model_card(config, metrics, source="made by a test", folder="small")
    assert "| visual | 12 | 8 | cosine |" in card
    assert "| psnr | 21.5 |" in card
    assert "total" not in card
    assert "multiples of 2" in card
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    found: dict = {}
    exec(code.group(1), found)
    assert found["codes"].shape == (1, 2, 8, 8)
    assert torch.isfinite(found["again"]).all()


def test_a_figure_that_was_not_finite_is_told_as_such() -> None:
    card = model_card(TokenizerConfig(), {"eval/psnr": None}, source="a run", folder="x")
    assert "| psnr | not finite |" in card
