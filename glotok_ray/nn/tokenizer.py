"""GloTok's tokenizer: encoder, two branches of adapter, codebook and residual predictor, decoder (paper section 3.2).

The branches are shaped like FQGAN's (Bai et al. 2024): each adapter ends in a tail of its own before the codebook.
Read next: glotok_ray/losses/objective.py
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glotok_ray.config import CodebookConfig, TokenizerConfig
from glotok_ray.nn.adapter import Adapter
from glotok_ray.nn.autoencoder import PixelDecoder, PixelEncoder
from glotok_ray.nn.blocks import FeatureHead
from glotok_ray.nn.quantizer import VectorQuantizer
from glotok_ray.nn.residual import ResidualPredictor, refine


class BranchOutput(NamedTuple):
    """What one branch made of a batch; latents and codes have unit length and are fp32."""

    latent: Float[Tensor, "b d h w"]
    """Z, normalised."""
    code_vectors: Float[Tensor, "b d h w"]
    """Z-hat; gradients reach the codebook."""
    quantized: Float[Tensor, "b d h w"]
    """Z-hat; gradients pass straight through to Z."""
    indices: Int[Tensor, "b h w"]
    """Rows of the codebook, int64."""
    residual: Float[Tensor, "b d h w"]
    """Z_res; zeros where residual learning is off."""
    refined: Float[Tensor, "b d h w"]
    """`quantized` + `residual`: what the decoder sees."""
    unit_codebook: Float[Tensor, "n d"]
    """The normalised codebook, gathered in this pass; gradients reach the codebook."""


class TokenizerOutput(NamedTuple):
    """One forward pass."""

    reconstruction: Float[Tensor, "b 3 H W"]
    """About [-1, 1]; not clamped."""
    semantic: BranchOutput
    visual: BranchOutput
    last_layer_input: Float[Tensor, "b c H W"]
    """What entered `decoder_last_layer`; for the adaptive adversarial weight."""


class TokenCodes(NamedTuple):
    """The two token grids of a batch, int64."""

    semantic: Int[Tensor, "b h w"]
    visual: Int[Tensor, "b h w"]


class GloTokTokenizer(nn.Module):
    """Image to two grids of tokens and back; latents are ordered [visual, semantic] along the
    channels.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        trunk = config.autoencoder
        self.encoder = PixelEncoder(trunk)
        self.semantic_adapter = Adapter(config.adapter, trunk.top_channels, trunk.grid_size)
        self.visual_adapter = Adapter(config.adapter, trunk.top_channels, trunk.grid_size)
        # The visual branch uses the encoder's own tail; this is its twin.
        self.semantic_head = FeatureHead(
            trunk.top_channels, trunk.latent_channels, trunk.norm_groups
        )
        self.semantic_projection = nn.Conv2d(trunk.latent_channels, config.semantic.width, 1)
        self.visual_projection = nn.Conv2d(trunk.latent_channels, config.visual.width, 1)
        self.semantic_quantizer = VectorQuantizer(config.semantic)
        self.visual_quantizer = VectorQuantizer(config.visual)
        self.semantic_residual = self._residual_predictor(config.semantic)
        self.visual_residual = self._residual_predictor(config.visual)
        self.decoder_projection = nn.Conv2d(config.latent_width, trunk.latent_channels, 1)
        self.decoder = PixelDecoder(trunk)

    def _residual_predictor(self, codebook: CodebookConfig) -> ResidualPredictor | None:
        if not self.config.residual.enabled:
            return None
        return ResidualPredictor(
            self.config.residual, codebook.width, self.config.autoencoder.grid_size
        )

    @property
    def decoder_last_layer(self) -> nn.Conv2d:
        """The convolution that writes the pixels."""
        return self.decoder.conv_out

    def module_parameters(self) -> dict[str, int]:
        """Parameters per part; they add up to the whole."""
        return {
            name: sum(p.numel() for p in part.parameters()) for name, part in self.named_children()
        }

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> TokenizerOutput:
        """Reconstruct images in [-1, 1] of side `autoencoder.image_size`."""
        semantic_z, visual_z = self._unquantized(images)
        semantic = _branch(semantic_z, self.semantic_quantizer, self.semantic_residual)
        visual = _branch(visual_z, self.visual_quantizer, self.visual_residual)
        activations = self._activations(torch.cat([visual.refined, semantic.refined], dim=1))
        return TokenizerOutput(self.decoder_last_layer(activations), semantic, visual, activations)

    def encode(self, images: Float[Tensor, "b 3 H W"]) -> TokenCodes:
        """The tokens of images in [-1, 1]."""
        semantic_z, visual_z = self._unquantized(images)
        return TokenCodes(
            self.semantic_quantizer(semantic_z).indices, self.visual_quantizer(visual_z).indices
        )

    def latents(self, codes: TokenCodes, *, refine: bool) -> Float[Tensor, "b c h w"]:
        """The code vectors of tokens, [visual, semantic]; `refine` adds the predicted residuals
        (Eqs. 11 and 12).
        """
        visual = self.visual_quantizer.code_vectors(codes.visual)
        semantic = self.semantic_quantizer.code_vectors(codes.semantic)
        latents = torch.cat([visual, semantic], dim=1)
        return self._refined(latents) if refine else latents

    def decode(
        self, latents: Float[Tensor, "b c h w"], *, refine: bool
    ) -> Float[Tensor, "b 3 H W"]:
        """Images of latents, about [-1, 1]; `refine` says that the latents are bare codes, still
        without residuals.
        """
        return self.decoder_last_layer(
            self._activations(self._refined(latents) if refine else latents)
        )

    def decode_codes(self, codes: TokenCodes) -> Float[Tensor, "b 3 H W"]:
        """Images of tokens, about [-1, 1]; equal to the reconstruction of the images they come
        from.
        """
        return self.decode(self.latents(codes, refine=False), refine=True)

    def snap(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Replace each half by its nearest code vector, for latents that a generator made."""
        visual, semantic = self._halves(latents)
        codes = TokenCodes(
            self.semantic_quantizer(semantic).indices, self.visual_quantizer(visual).indices
        )
        return self.latents(codes, refine=False)

    def _unquantized(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder.features(images)
        semantic = self.semantic_projection(self.semantic_head(self.semantic_adapter(features)))
        visual = self.visual_projection(self.encoder.head(self.visual_adapter(features)))
        return semantic, visual

    def _halves(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        visual, semantic = latents.split(
            [self.config.visual.width, self.config.semantic.width], dim=1
        )
        return visual, semantic

    def _refined(self, latents: Tensor) -> Tensor:
        visual, semantic = self._halves(latents)
        return torch.cat(
            [
                refine(visual, _residual(self.visual_residual, visual)),
                refine(semantic, _residual(self.semantic_residual, semantic)),
            ],
            dim=1,
        )

    def _activations(self, latents: Tensor) -> Tensor:
        return self.decoder.activations(
            self.decoder_projection(latents.to(self.decoder_projection.weight.dtype))
        )


def _residual(predictor: ResidualPredictor | None, quantized: Tensor) -> Tensor:
    return torch.zeros_like(quantized) if predictor is None else predictor(quantized)


def _branch(
    z: Tensor, quantizer: VectorQuantizer, predictor: ResidualPredictor | None
) -> BranchOutput:
    found = quantizer(z)
    residual = _residual(predictor, found.quantized)
    return BranchOutput(
        latent=found.latent,
        code_vectors=found.code_vectors,
        quantized=found.quantized,
        indices=found.indices,
        residual=residual,
        refined=refine(found.quantized, residual),
        unit_codebook=found.unit_codebook,
    )
