"""The names that taming-transformers and LlamaGen give to the trunk of `glotok_ray.nn.autoencoder`, and ours.

Many systems took taming's code, and its names with it. Read next: glotok_ray/peers/trunk.py
"""

from glotok_ray.peers.released import Table

# taming's names under LlamaGen's; its decoder's levels count the other way round (`turned`).
TAMING: tuple[tuple[str, str], ...] = (
    (r"^encoder\.down\.", r"encoder.conv_blocks."),
    (r"\.conv_blocks\.(\d+)\.block\.", r".conv_blocks.\1.res."),
    (r"\.mid\.block_1\.", r".mid.0."),
    (r"\.mid\.attn_1\.", r".mid.1."),
    (r"\.mid\.block_2\.", r".mid.2."),
)

# LlamaGen's names under ours.
TRUNK: tuple[tuple[str, str], ...] = (
    (r"\.conv_blocks\.(\d+)\.res\.", r".levels.\1.blocks."),
    (r"\.conv_blocks\.(\d+)\.attn\.", r".levels.\1.attentions."),
    (r"\.conv_blocks\.(\d+)\.(?:down|up)sample\.", r".levels.\1.resample."),
    (r"^(encoder|decoder)\.mid\.", r"\1.middle."),
    (r"\.nin_shortcut\.", r".shortcut."),
    (r"\.q\.", r".query."),
    (r"\.k\.", r".key."),
    (r"\.v\.", r".value."),
    (r"\.proj_out\.", r".projection."),
)

# For models with no branches: the encoder's own tail and the projections around the look-up.
ONE_LATENT: tuple[tuple[str, str], ...] = (
    (r"^encoder\.(norm|conv)_out\.", r"encoder.head.\1."),
    (r"^quant_conv\.", r"projection."),
    (r"^post_quant_conv\.", r"decoder_projection."),
)


def turned(levels: int, name: str = "conv_blocks") -> tuple[tuple[str, str], ...]:
    """taming counts its decoder's levels from the highest resolution, we and LlamaGen from the lowest."""
    return tuple(
        (rf"^decoder\.up\.{level}\.", rf"decoder.{name}.{levels - 1 - level}.")
        for level in range(levels)
    )


def taming_names(levels: int) -> Table:
    """All rows for a tokenizer of `glotok_ray.peers.trunk` under taming's names but those of its codebook."""
    return (*turned(levels), *TAMING, *TRUNK, *ONE_LATENT)
