"""The peers' transformer blocks: LayerScale, CLIP's activation, and patches in row-major order."""

import torch

from glotok_ray.nn.blocks import TransformerBlock
from glotok_ray.peers.vision_transformer import (
    CLIP,
    DINOV2,
    TITOK,
    PatchEmbedding,
    QuickGELU,
    VisionBlock,
    blocks,
)


def test_a_block_with_layer_scale_of_zero_changes_nothing() -> None:
    block, tokens = VisionBlock(8, 2, DINOV2), torch.randn(1, 3, 8)
    assert not torch.equal(block(tokens), tokens)
    for name, parameter in block.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.zeros_(parameter)
    assert torch.equal(block(tokens), tokens)


def test_a_block_of_titok_is_ours() -> None:
    block, ours, tokens = VisionBlock(8, 2, TITOK), TransformerBlock(8, 2, 4), torch.randn(1, 3, 8)
    ours.load_state_dict(block.state_dict())
    assert torch.equal(block(tokens), ours(tokens))


def test_the_kinds_have_their_activation_and_epsilon() -> None:
    (clip,), (dino,) = blocks(1, 8, 2, CLIP), blocks(1, 8, 2, DINOV2)
    assert isinstance(clip.mlp[1], QuickGELU)
    assert isinstance(dino.mlp[1], torch.nn.GELU)
    assert (clip.attention_norm.eps, dino.mlp_norm.eps) == (1e-5, 1e-6)
    assert QuickGELU()(torch.tensor(1.0)).item() == torch.sigmoid(torch.tensor(1.702)).item()


def test_patches_are_in_row_major_order() -> None:
    patches = PatchEmbedding(1, 2, bias=False)
    torch.nn.init.ones_(patches.conv.weight)
    images = torch.zeros(1, 3, 4, 6)
    images[0, 0, 0, 2] = 1
    images[0, 0, 3, 0] = 2
    assert patches(images).flatten().tolist() == [0, 1, 0, 2, 0, 0]
