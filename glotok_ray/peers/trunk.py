"""The tokenizers around VQGAN's trunk, which is ours too: encoder, projection, look-up, projection, decoder.

Read next: glotok_ray/peers/ibq.py
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from glotok_ray.nn.autoencoder import PixelDecoder, PixelEncoder
from glotok_ray.nn.tokenizer_protocol import Codes
from glotok_ray.peers.base import PeerTokenizer


class TrunkTokenizer(PeerTokenizer):
    """A system adds its codebook, `find` and `latents`; its config has an `autoencoder`."""

    def __init__(self, config: Any, *, code_width: int, kernel_size: int = 1) -> None:
        super().__init__()
        self.config = config
        trunk, padding = config.autoencoder, kernel_size // 2
        channels = trunk.latent_channels
        self.encoder = PixelEncoder(trunk)
        self.projection = nn.Conv2d(channels, code_width, kernel_size, padding=padding)
        self.decoder_projection = nn.Conv2d(code_width, channels, kernel_size, padding=padding)
        self.decoder = PixelDecoder(trunk)

    @property
    def side_multiple(self) -> int | None:
        """Pixels per position along one side."""
        return self.config.autoencoder.downsample_factor

    def unquantized(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d h w"]:
        """What is looked up."""
        return self.projection(self.encoder(images))

    def find(self, z: Float[Tensor, "b d h w"]) -> Codes:
        """The codes of an unquantized map."""
        raise NotImplementedError

    def latents(self, codes: Codes) -> Float[Tensor, "b d h w"]:
        """What stands for codes."""
        raise NotImplementedError

    def decode_latents(self, latents: Float[Tensor, "b d h w"]) -> Float[Tensor, "b 3 H W"]:
        """Images of latents, about [-1, 1]; not clamped."""
        return self.decoder(self.decoder_projection(latents))

    def look_up(self, images: Float[Tensor, "b 3 H W"]) -> Codes:
        """The codes of checked images in [-1, 1]."""
        return self.find(self.unquantized(images))

    def images_of(self, codes: Codes) -> Float[Tensor, "b 3 H W"]:
        """Images of checked codes, about [-1, 1] and not clamped."""
        return self.decode_latents(self.latents(codes))
