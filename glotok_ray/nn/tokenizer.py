"""GloTok's tokenizer: encoder, a branch of adapter, codebook and residual predictor per codebook, decoder
(paper section 3.2).

GloTok has two branches, "visual" and "semantic"; VQGAN and LlamaGen one, FQGAN two or three: all are configs.
The branches are shaped like FQGAN's (Bai et al. 2024). Read next: glotok_ray/losses/objective.py
"""

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glotok_ray.config.tokenizer import CodebookConfig, TokenizerConfig
from glotok_ray.nn.adapter import Adapter
from glotok_ray.nn.autoencoder import PixelDecoder, PixelEncoder
from glotok_ray.nn.blocks import FeatureHead
from glotok_ray.nn.contrast import ContrastHead
from glotok_ray.nn.quantizer import VectorQuantizer
from glotok_ray.nn.residual import ResidualPredictor, refine
from glotok_ray.nn.tokenizer_inputs import check_answer, check_codes, check_images
from glotok_ray.nn.tokenizer_protocol import Grid, Rate


class BranchOutput(NamedTuple):
    """What one branch made of a batch; all but the prediction are fp32, of unit length with cosine look-up."""

    latent: Float[Tensor, "b d h w"]
    """Z, normalised for cosine look-up."""
    code_vectors: Float[Tensor, "b d h w"]
    """Z-hat; gradients reach the codebook."""
    quantized: Float[Tensor, "b d h w"]
    """Z-hat; gradients pass straight through to Z."""
    indices: Int[Tensor, "b h w"]
    """Rows of the codebook, int64."""
    codebook: Float[Tensor, "n d"]
    """The codebook as it was matched, gathered in this pass; gradients reach it."""
    residual: Float[Tensor, "b d h w"]
    """Z_res; zeros where residual learning is off."""
    refined: Float[Tensor, "b d h w"]
    """`quantized` + `residual`: what the decoder sees."""
    prediction: Float[Tensor, "b c"] | None
    """The contrast head's image vectors; None without a head, and outside training."""


class TokenizerOutput(NamedTuple):
    """One forward pass."""

    reconstruction: Float[Tensor, "b 3 H W"]
    """About [-1, 1]; not clamped."""
    branches: dict[str, BranchOutput]
    """By the codebooks' names, in the order of the decoder's channels."""
    last_layer_input: Float[Tensor, "b c H W"]
    """What entered `decoder_last_layer`; for the adaptive adversarial weight."""


class Branch(nn.Module):
    """All that belongs to one codebook; `own_head` is off for the first, which uses the encoder's own tail."""

    def __init__(
        self, config: TokenizerConfig, codebook: CodebookConfig, *, own_head: bool
    ) -> None:
        super().__init__()
        trunk, grid_size = config.autoencoder, config.autoencoder.grid_size
        channels = trunk.top_channels
        self.adapter = (
            Adapter(config.adapter, channels, grid_size) if config.adapter.depth else None
        )
        self.head = (
            FeatureHead(channels, trunk.latent_channels, trunk.norm_groups) if own_head else None
        )
        self.projection = nn.Conv2d(trunk.latent_channels, codebook.width, 1)
        self.quantizer = VectorQuantizer(codebook)
        self.residual = (
            ResidualPredictor(config.residual, codebook.width, grid_size)
            if config.residual.enabled
            else None
        )
        self.contrast = (
            ContrastHead(codebook.contrast, codebook.width, grid_size)
            if codebook.contrast.network
            else None
        )

    def unquantized(self, features: Tensor, encoder_head: FeatureHead) -> Tensor:
        """The shared map as this branch sees it, in the codebook's width."""
        if self.adapter is not None:
            features = self.adapter(features)
        return self.projection((self.head or encoder_head)(features))

    def predicted_residual(self, quantized: Tensor) -> Tensor:
        """Z_res of this branch's codes (Eqs. 8 and 9)."""
        return torch.zeros_like(quantized) if self.residual is None else self.residual(quantized)

    def forward(self, z: Float[Tensor, "b d h w"]) -> BranchOutput:
        """Quantize and refine."""
        found = self.quantizer(z)
        residual = self.predicted_residual(found.quantized)
        head = self.contrast if self.training else None
        return BranchOutput(
            **found._asdict(),
            residual=residual,
            refined=refine(found.quantized, residual),
            prediction=None if head is None else head(found.quantized),
        )


class GloTokTokenizer(nn.Module):
    """Image to one grid of tokens per codebook and back; latents hold the codebooks' vectors in their order
    along the channels.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        trunk = config.autoencoder
        self.encoder = PixelEncoder(trunk)
        self.branches = nn.ModuleDict(
            {
                codebook.name: Branch(config, codebook, own_head=place > 0)
                for place, codebook in enumerate(config.codebooks)
            }
        )
        self.decoder_projection = nn.Conv2d(config.latent_width, trunk.latent_channels, 1)
        self.decoder = PixelDecoder(trunk)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "GloTokTokenizer":
        """The frozen tokenizer of a run or of an export, on the CPU, in evaluation mode.

        Reads tokenizer.safetensors and config.json; raises ArtefactError when they are missing or do not fit.
        """
        # A door of the class for its users; files are read one floor up, and nothing here needs them.
        from glotok_ray.pretrained.tokenizer import read_tokenizer

        return read_tokenizer(folder)

    def save_pretrained(self, folder: str | Path, **facts: object) -> None:
        """Write what `from_pretrained` reads; `facts` go into config.json beside the model's config."""
        from glotok_ray.pretrained.tokenizer import write_tokenizer

        write_tokenizer(folder, self, facts)

    @property
    def image_size(self) -> int:
        """Side of the square images that it was trained on, pixels."""
        return self.config.autoencoder.image_size

    @property
    def side_multiple(self) -> int:
        """Both sides of an image must be multiples of it."""
        return self.config.autoencoder.downsample_factor

    @property
    def rate(self) -> Rate:
        """What an image of `image_size` costs: one grid per codebook."""
        side = self.config.autoencoder.grid_size
        return Rate(tuple(Grid((side, side), item.size) for item in self.config.codebooks))

    @property
    def grid_names(self) -> tuple[str, ...]:
        """The codebooks' own."""
        return self.config.names

    @property
    def decoder_last_layer(self) -> nn.Conv2d:
        """The convolution that writes the pixels."""
        return self.decoder.conv_out

    def quantizer(self, name: str) -> VectorQuantizer:
        """The quantizer of one codebook."""
        return self.branches[name].quantizer  # type: ignore[return-value]

    def module_parameters(self) -> dict[str, int]:
        """Parameters per part; they add up to the whole."""
        parts: dict[str, nn.Module] = dict(self.named_children())
        del parts["branches"]
        for name, branch in self.branches.items():
            parts |= {f"{name}_{part}": module for part, module in branch.named_children()}
        return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> TokenizerOutput:
        """Reconstruct images in [-1, 1]."""
        outputs = {name: self.branches[name](z) for name, z in self._unquantized(images).items()}
        refined = torch.cat([output.refined for output in outputs.values()], dim=1)
        activations = self._activations(refined)
        return TokenizerOutput(self.decoder_last_layer(activations), outputs, activations)

    def encode(self, images: Float[Tensor, "*b 3 H W"]) -> Int[Tensor, "*b k h w"]:
        """The tokens of one image or of a batch, in [-1, 1]: one grid per codebook, int64.

        Sides must be multiples of `autoencoder.downsample_factor`; on another grid than the trained one the learned
        positions are resampled. What `decode` gives is taken as it is, not clamped: values may overshoot to 1.5 on
        either side. Raises ValueError for images that are not floating-point numbers or reach further, and where the
        network's output is not finite; the host waits once, for both.
        """
        check_images(images)
        codes = self.look_up(images)
        check_answer(images, codes)
        return codes

    def look_up(self, images: Float[Tensor, "*b 3 H W"]) -> Int[Tensor, "*b k h w"]:
        """`encode` without looking at any value, so that the host does not wait: NO_CODE stands where the encoder's
        output is not finite, and the caller must look for it.
        """
        batch = images if images.ndim == 4 else images.unsqueeze(0)
        grids = [self.quantizer(name).find(z) for name, z in self._unquantized(batch).items()]
        codes = torch.stack(grids, dim=1)
        return codes if images.ndim == 4 else codes[0]

    def decode(self, codes: Int[Tensor, "*b k h w"]) -> Float[Tensor, "*b 3 H W"]:
        """Images of tokens, about [-1, 1] and not clamped, through the residual predictors; equal to the reconstruction
        of the images that the tokens come from.

        Raises ValueError for codes that are not whole numbers, are in no codebook or have another shape.
        """
        check_codes(codes, self.config)
        return self.images_of(codes)

    def images_of(self, codes: Int[Tensor, "*b k h w"]) -> Float[Tensor, "*b 3 H W"]:
        """`decode` without looking at any value, so that the host does not wait: of codes that do not exist the images
        are NaN, which `to_uint8` refuses.
        """
        batch = codes if codes.ndim == 4 else codes.unsqueeze(0)
        images = self.decode_latents(self.latents(batch, refine=True), refine=False)
        return images if codes.ndim == 4 else images[0]

    def reconstruct(self, images: Float[Tensor, "*b 3 H W"]) -> Float[Tensor, "*b 3 H W"]:
        """Images after one pass through their tokens; one image or a batch, in [-1, 1] and out. Raises what `encode`
        raises.
        """
        return self.images_of(self.encode(images)).clamp(-1, 1)

    def latents(self, codes: Int[Tensor, "b k h w"], *, refine: bool) -> Float[Tensor, "b c h w"]:
        """The code vectors of tokens; `refine` adds the predicted residuals (Eqs. 11 and 12)."""
        vectors = [
            self.quantizer(name).code_vectors(codes[:, place].long())
            for place, name in enumerate(self.config.names)
        ]
        latents = torch.cat(vectors, dim=1)
        return self._refined(latents) if refine else latents

    def decode_latents(
        self, latents: Float[Tensor, "b c h w"], *, refine: bool
    ) -> Float[Tensor, "b 3 H W"]:
        """Images of latents, about [-1, 1]; `refine` says that the latents are bare codes, still
        without residuals.
        """
        return self.decoder_last_layer(
            self._activations(self._refined(latents) if refine else latents)
        )

    def snap(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Replace each codebook's part by its nearest code vector, for latents that a generator made; NaN where a
        latent is not finite.
        """
        parts = self._parts(latents).items()
        grids = [self.quantizer(name).find(part) for name, part in parts]
        return self.latents(torch.stack(grids, dim=1), refine=False)

    def _unquantized(self, images: Tensor) -> dict[str, Tensor]:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images of shape {tuple(images.shape)}: must be (3, H, W) or (batch, 3, H, W), in [-1, 1]"
            )
        factor = self.config.autoencoder.downsample_factor
        if images.shape[2] % factor or images.shape[3] % factor:
            raise ValueError(
                f"images of {images.shape[2]} x {images.shape[3]} pixels: both sides must be multiples of "
                f"{factor}; crop or resize them"
            )
        features = self.encoder.features(images.to(self.encoder.conv_in.weight.dtype))
        return {
            name: branch.unquantized(features, self.encoder.head)  # type: ignore[operator]
            for name, branch in self.branches.items()
        }

    def _parts(self, latents: Tensor) -> dict[str, Tensor]:
        widths = [codebook.width for codebook in self.config.codebooks]
        return dict(zip(self.config.names, latents.split(widths, dim=1), strict=True))

    def _refined(self, latents: Tensor) -> Tensor:
        return torch.cat(
            [
                refine(part, self.branches[name].predicted_residual(part))  # type: ignore[operator]
                for name, part in self._parts(latents).items()
            ],
            dim=1,
        )

    def _activations(self, latents: Tensor) -> Tensor:
        return self.decoder.activations(
            self.decoder_projection(latents.to(self.decoder_projection.weight.dtype))
        )
