"""Folders of other systems' tokenizers: what a config.json cannot say is refused in one line."""

from pathlib import Path
from typing import Any

import pytest

from glotok_ray.pretrained.peer_tokenizers import empty_peer
from glotok_ray.storage.artefact import ArtefactError


@pytest.mark.parametrize(
    ("system", "model", "message"),
    [
        ("ibq", {"num_codes": -3}, r"model\.num_codes = -3: must be at least 1"),
        ("ibq", {"num_codes": 0}, r"model\.num_codes = 0: must be at least 1"),
        ("vqgan_lc", {"code_width": 0}, r"model\.code_width = 0: must be at least 1"),
        ("rq_vae", {"depth": 0}, r"model\.depth = 0: must be at least 1"),
        ("titok", {"num_latents": -1}, r"model\.num_latents = -1: must be at least 1"),
        ("imagefolder", {"num_codes": 0}, r"model\.num_codes = 0: must be at least 1"),
        ("tokenflow", {"pixel_width": 0}, r"model\.pixel_width = 0: must be at least 1"),
        ("open_magvit2", {"num_bits": 0}, r"model\.num_bits = 0: must be at least 1"),
        ("open_magvit2", {"channel_multipliers": []}, r"model\.channel_multipliers = \(\): must"),
        ("var", {"sides": []}, r"model\.sides = \(\): must rise"),
        ("var", {"sides": [1, 2]}, r"model\.sides = \(1, 2\): must rise from at least 1 to 16"),
        ("var", {"smoothing": [0, 0, 1]}, r"model\.smoothing = \(0, 0, 1\): must hold the number"),
        ("var", {"smoothing": [0, 0, 1, 1, 1, 2, 2, 3, 3, -1]}, r"model\.smoothing = .* from 0"),
    ],
)
def test_a_value_that_no_tokenizer_has_is_named(
    system: str, model: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArtefactError, match=rf"^folder/config\.json: .*\({message}") as caught:
        empty_peer(Path("folder"), {"system": system, "model": model})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("system", [["ibq"], {"ibq": 1}, None, 7])
def test_a_system_is_text(system: object) -> None:
    with pytest.raises(ArtefactError, match=r"^folder/config\.json: system = .*this version knows"):
        empty_peer(Path("folder"), {"system": system, "model": {}})
