"""ImageFolder (Li et al. 2024): two DINOv2 transformers, and two rows of multi-scale codes that share one sequence.

Branch 0 holds details, branch 1 semantics. There is no convolution on the way to pixels. The released files may be used
for non-commercial research alone. Read next: glotok_ray/peers/multi_scale.py
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glotok_ray.config.rules import require_positive
from glotok_ray.nn.blocks import positions_on_grid, to_tokens
from glotok_ray.nn.tokenizer_protocol import Codes, Rate, grids_of
from glotok_ray.peers.base import PeerTokenizer, scale_names
from glotok_ray.peers.multi_scale import (
    SMOOTHING_OF_SCALE,
    MultiScaleQuantizer,
    Scales,
    scale_grids,
)
from glotok_ray.peers.released import Released, System, Table
from glotok_ray.peers.vision_transformer import (
    DINOV2,
    TIMM_NAMES,
    PatchEmbedding,
    blocks,
    require_heads,
    require_patches,
)

SIDES = (1, 1, 2, 3, 3, 4, 5, 6, 8, 11)
"""Of the maps of codes, small to large."""
NUM_BRANCHES = 2
_PATCH_SIZE = 16
_SIDE = SIDES[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFolderConfig:
    """A tokenizer of `lxa9867/ImageFolder` with two branches of ten scales (MSVR10P2)."""

    image_size: int = 256
    """Side of the square input image, pixels: positions are learned for this size alone."""
    num_codes: int = 4096
    """Rows of each branch's codebook."""
    code_width: int = 32
    """Numbers per code."""
    width: int = 768
    """Channels of a token."""
    depth: int = 12
    """Blocks of each of the two transformers."""
    num_heads: int = 12
    """Attention heads; must divide the width."""

    def __post_init__(self) -> None:
        require_patches(self.image_size, _PATCH_SIZE)
        require_heads(self.width, self.num_heads)
        require_positive("model", self, ("num_codes", "code_width", "width", "depth"))

    @property
    def grid_size(self) -> int:
        """Positions of the image along one side."""
        return self.image_size // _PATCH_SIZE


class DINOv2Trunk(nn.Module):
    """What encoder and decoder share: the class token, positions of the image's grid, blocks and the last norm."""

    def __init__(self, config: ImageFolderConfig, num_kinds: int) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.randn(1, 1, config.width))
        self.positions = nn.Parameter(torch.randn(1, 1 + config.grid_size**2, config.width))
        self.kinds = nn.Parameter(torch.randn(num_kinds, config.width))
        """Added to the tokens of the image and to those of the latents."""
        self.blocks = blocks(config.depth, config.width, config.num_heads, DINOV2)
        self.norm_out = nn.LayerNorm(config.width, eps=DINOV2.norm_epsilon)

    def on_image(self, tokens: Float[Tensor, "b t c"]) -> Float[Tensor, "b t2 c"]:
        """The class token before tokens of the image's grid, with positions."""
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        return tokens + self.positions + self.kinds[0]

    def latent_positions(self) -> Float[Tensor, "t c"]:
        """Positions of the grid, resampled for the latents' smaller one."""
        return positions_on_grid(self.positions[0, 1:], _SIDE, _SIDE)

    def forward(self, tokens: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        """Blocks and the last norm."""
        return self.norm_out(self.blocks(tokens))


class ImageFolderEncoder(nn.Module):
    """Image and learned latents through one transformer; the latents of both branches out."""

    def __init__(self, config: ImageFolderConfig) -> None:
        super().__init__()
        self.patches = PatchEmbedding(config.width, _PATCH_SIZE)
        self.latent_tokens = nn.Parameter(torch.randn(1, NUM_BRANCHES * _SIDE**2, config.width))
        self.trunk = DINOv2Trunk(config, 1 + NUM_BRANCHES)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b t c"]:
        """The tokens of branch 0, then those of branch 1."""
        trunk = self.trunk
        positions = trunk.latent_positions()
        added = torch.cat([positions + trunk.kinds[1 + branch] for branch in range(NUM_BRANCHES)])
        latents = (self.latent_tokens + added).expand(len(images), -1, -1)
        tokens = trunk(torch.cat([trunk.on_image(self.patches(images)), latents], dim=1))
        return tokens[:, -latents.shape[1] :]


class ImageFolderDecoder(nn.Module):
    """Latents and mask tokens through one transformer, and a linear map from tokens to their squares of pixels."""

    def __init__(self, config: ImageFolderConfig) -> None:
        super().__init__()
        self.grid_size = config.grid_size
        self.mask_token = nn.Parameter(torch.randn(1, 1, config.width))
        self.trunk = DINOv2Trunk(config, 2)
        self.to_pixels = nn.Linear(config.width, 3 * _PATCH_SIZE**2)

    def forward(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Images of about [-1, 1], not clamped."""
        trunk, batch = self.trunk, len(latents)
        masks = self.mask_token.expand(batch, self.grid_size**2, -1)
        # The latents have a class token of their own, with the position of the first one.
        again = (trunk.class_token + trunk.positions[:, :1]).expand(batch, -1, -1)
        given = torch.cat([again, to_tokens(latents) + trunk.latent_positions()], dim=1)
        tokens = trunk(torch.cat([trunk.on_image(masks), given + trunk.kinds[1]], dim=1))
        asked = tokens[:, 1 : 1 + self.grid_size**2]
        return _unfolded(self.to_pixels(asked), self.grid_size)


class ImageFolder(PeerTokenizer):
    """Both transformers, a codebook per branch, and the projections between."""

    def __init__(self, config: ImageFolderConfig) -> None:
        super().__init__()
        self.config = config
        width, code_width = config.width, config.code_width
        self.encoder = ImageFolderEncoder(config)
        self.encoder_projection = nn.Conv2d(width, code_width, 1)
        self.quantizers = nn.ModuleList(
            MultiScaleQuantizer((config.num_codes, code_width), "cosine", SIDES, SMOOTHING_OF_SCALE)
            for _ in range(NUM_BRANCHES)
        )
        self.decoder_projection = nn.Conv2d(NUM_BRANCHES * code_width, width, 1)
        self.decoder = ImageFolderDecoder(config)

    @property
    def side_multiple(self) -> None:
        """Images of `image_size` alone."""
        return None

    @property
    def code_width(self) -> int:
        """Channels of the map that the scales of both branches add up to."""
        return NUM_BRANCHES * self.config.code_width

    @property
    def rate(self) -> Rate:
        """The scales of branch 0, then those of branch 1."""
        return Rate(NUM_BRANCHES * scale_grids(SIDES, self.config.num_codes))

    @property
    def grid_names(self) -> tuple[str, ...]:
        """Those of the scales, after their branch: "branch_0_scale_11x11" and its like."""
        names = scale_names(scale_grids(SIDES, self.config.num_codes))
        return tuple(f"branch_{branch}_{name}" for branch in range(NUM_BRANCHES) for name in names)

    @property
    def part_names(self) -> tuple[str, ...]:
        """Both branches, each with all its scales."""
        return tuple(f"branch_{branch}" for branch in range(NUM_BRANCHES))

    def parts_alone(self, codes: Codes) -> dict[str, Float[Tensor, "b 3 H W"]]:
        """Images of either branch alone."""
        latents = self.latents(grids_of(codes, self.rate))
        found = {}
        for branch, name in enumerate(self.part_names):
            parts = list(latents.chunk(NUM_BRANCHES, dim=1))
            zeros = [torch.zeros_like(part) for part in parts]
            zeros[branch] = parts[branch]
            found[name] = self.decode_latents(torch.cat(zeros, dim=1))
        return found

    def look_up(self, images: Float[Tensor, "b 3 H W"]) -> Codes:
        """Twice ten maps of codes (b, p, p)."""
        return self.find(self.unquantized(images))

    def images_of(self, codes: Codes) -> Float[Tensor, "b 3 H W"]:
        """Images of about [-1, 1]."""
        return self.decode_latents(self.latents(grids_of(codes, self.rate)))

    def unquantized(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d t 1"]:
        """Both branches' latents, one after the other."""
        return self.encoder_projection(self.encoder(images).transpose(1, 2).unsqueeze(3))

    def find(self, z: Float[Tensor, "b d t 1"]) -> Scales:
        """The codes of branch 0, then those of branch 1, scales small to large."""
        maps = z.squeeze(3).unflatten(2, (NUM_BRANCHES, _SIDE, _SIDE)).unbind(2)
        found = [self._quantizer(index).encode(branch) for index, branch in enumerate(maps)]
        return tuple(scale for branch in found for scale in branch)

    def latents(self, scales: Scales) -> Float[Tensor, "b d2 h w"]:
        """What the codes stand for, branch 0 in the first channels."""
        branches = (scales[: len(SIDES)], scales[len(SIDES) :])
        maps = [self._quantizer(index).decode(branch) for index, branch in enumerate(branches)]
        return torch.cat(maps, dim=1)

    def contribution(
        self, indices: Int[Tensor, "b k p p"], scale: int
    ) -> Float[Tensor, "b d2 h w"]:
        """What both branches' codes of a scale, given by its number, add to `latents`."""
        found = [
            self._quantizer(branch).contribution(codes, scale)
            for branch, codes in enumerate(indices.unbind(1))
        ]
        return torch.cat(found, dim=1)

    def decode_latents(self, latents: Float[Tensor, "b d2 h w"]) -> Float[Tensor, "b 3 H W"]:
        """Images of what codes stand for."""
        return self.decoder(self.decoder_projection(latents))

    def _quantizer(self, branch: int) -> MultiScaleQuantizer:
        quantizer = self.quantizers[branch]
        assert isinstance(quantizer, MultiScaleQuantizer)
        return quantizer


def _unfolded(squares: Float[Tensor, "b t c"], grid_size: int) -> Float[Tensor, "b 3 H W"]:
    """Squares in row-major order, each row by row with the colours last, as an image."""
    grid = squares.unflatten(2, (_PATCH_SIZE, _PATCH_SIZE, 3)).unflatten(1, (grid_size, grid_size))
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def _names(config: ImageFolderConfig) -> Table:
    # The frozen teacher of the semantic branch, statistics of used codes, and the kinds of tokens as a list.
    left_out = (
        r"^(semantic_model|detail_model|sem_linear)\.",
        r"\.ema_vocab_hit_SV$",
        r"\.lvl1LC$",
    )
    return (
        *((pattern, None) for pattern in left_out),
        (r"^(encoder|decoder)\.model\.blocks\.", r"\1.trunk.blocks."),
        *TIMM_NAMES,
        (r"^(encoder|decoder)\.model\.cls_token$", r"\1.trunk.class_token"),
        (r"^(encoder|decoder)\.model\.pos_embed$", r"\1.trunk.positions"),
        (r"^(encoder|decoder)\.model\.norm\.", r"\1.trunk.norm_out."),
        (r"^(encoder|decoder)\.lvl_embed\.weight$", r"\1.trunk.kinds"),
        (r"^encoder\.model\.patch_embed\.proj\.", r"encoder.patches.conv."),
        (r"^decoder\.to_pixel\.model\.", r"decoder.to_pixels."),
        (r"^quant_conv\.", r"encoder_projection."),
        (r"^post_quant_conv\.", r"decoder_projection."),
        (r"^quantizes\.(\d+)\.quant_resi\.qresi_ls\.", r"quantizers.\1.smoothings."),
        (r"^quantizes\.(\d+)\.embedding\.weight$", r"quantizers.\1.codebook"),
    )


def _released(num_codes: int, rfid: float) -> Released:
    return Released(
        ImageFolderConfig(num_codes=num_codes),
        f"Hugging Face qiuk6/XQ-GAN, MSVR10P2-{num_codes}/best_ckpt.pt",
        rfid,
        source="README of lxa9867/ImageFolder: ADM's crops and evaluator, truncated 8-bit images, with the weights of "
        "training, not their moving average; no PSNR is published",
    )


SYSTEM = System(
    ImageFolder,
    ImageFolderConfig,
    {
        "imagefolder_4096": _released(4096, 0.80),
        "imagefolder_8192": _released(8192, 0.70),
        "imagefolder_16384": _released(16_384, 0.67),
    },
    _names,
    "Adobe Research License: non-commercial research only",
    feature_pixels="truncated",
)
