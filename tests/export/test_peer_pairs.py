"""A generator and a tokenizer of another system together: from the peer's file to images, and pairs that do not fit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from glotok_ray.config import (
    ExportGeneratorRun,
    FARConfig,
    FARSampleRun,
    TokenSamplerConfig,
    VocabularyConfig,
    XARConfig,
)
from glotok_ray.config.causal import CausalVariantConfig
from glotok_ray.config.tokenizer import AutoencoderConfig
from glotok_ray.export import generator as export
from glotok_ray.interop.generators import export_generator
from glotok_ray.nn.far import FAR
from glotok_ray.peers.ibq import IBQConfig
from glotok_ray.peers.systems import SYSTEMS
from glotok_ray.pretrained.generator import check_fit
from glotok_ray.pretrained.peer_tokenizers import write_peer
from glotok_ray.pretrained.tokenizer import what_is_decoded
from glotok_ray.sampling.images import ImageGenerator
from glotok_ray.stages import sample_images
from glotok_ray.storage import artefact
from glotok_ray.storage.artefact import ArtefactError

TOKENIZER = IBQConfig(
    autoencoder=AutoencoderConfig(
        image_size=32, base_channels=8, norm_groups=4, latent_channels=8, num_res_blocks=4
    ),
    num_codes=32,
)
MODEL = FARConfig(
    grid_size=2,
    codebooks=(VocabularyConfig(name="visual", size=32),),
    width=32,
    depth=2,
    head_depth=0,
    num_heads=2,
    mlp_multiple=8,
    num_classes=3,
    variant=CausalVariantConfig(block="ibq"),
)


def write_tokenizer(folder: Path) -> None:
    torch.manual_seed(0)
    write_peer(folder, SYSTEMS["ibq"].tokenizer(TOKENIZER), "ibq", {})
    artefact.write_manifest(folder, "tokenizer")


def export_run(folder: Path, model: FARConfig) -> ExportGeneratorRun:
    torch.manual_seed(1)
    network = FAR(model)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    state = export_generator(network.state_dict(), model)
    named = {f"transformer.{name}": value for name, value in state.items()}
    torch.save({"state_dict": named}, folder / "peer.ckpt")
    return ExportGeneratorRun(
        source_path=str(folder / "peer.ckpt"),
        output_path=str(folder / "generator"),
        tokenizer_path=str(folder / "tokenizer"),
        weights="model",
        architecture="far",
        far=model,
    )


def test_a_peers_generator_draws_images_through_its_own_tokenizer(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer")
    export.run(export_run(tmp_path, MODEL))
    generator = ImageGenerator.from_pretrained(tmp_path / "generator")
    sampler = TokenSamplerConfig(guidance_scale=2.25, temperature=1.1)
    images = generator.generate([0, 2, 1], seed=3, sampler=sampler)
    assert images.shape == (3, 32, 32, 3)
    assert len({image.tobytes() for image in images}) == 3
    alone = generator.generate([2], seed=3, image_ids=[1], sampler=sampler)
    assert np.abs(images[1:2].astype(int) - alone).max() <= 1
    facts = sample_images.check_inputs(
        FARSampleRun(generator_path=str(tmp_path / "generator"), sampler=sampler)
    )
    assert facts["architecture"] == "far"


def test_a_tokenizer_of_another_grid_or_size_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer")
    decoder = what_is_decoded(tmp_path / "tokenizer")
    check_fit(MODEL, decoder)
    other = FARConfig(grid_size=2, codebooks=(VocabularyConfig(size=31),), head_depth=0)
    with pytest.raises(ArtefactError, match=r"draws 2 x 2 of 31 codes: .*decodes 2 x 2 of 32"):
        check_fit(other, decoder)
    with pytest.raises(ArtefactError, match="draws latents: the tokenizer decodes 2 x 2 of 32"):
        check_fit(XARConfig(grid_size=2, cell_size=1), decoder)
