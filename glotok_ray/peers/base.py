"""What all tokenizers of other systems share: the methods of `Tokenizer`, with the checks of what they are given.

Read next: glotok_ray/peers/systems.py
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glotok_ray.nn.tokenizer_inputs import check_found, check_images, check_range
from glotok_ray.nn.tokenizer_protocol import Codes, Grid, Rate, grids_of


class PeerTokenizer(nn.Module):
    """A system gives `rate`, `look_up` and `images_of`, and what it was made for in its config; all is inference."""

    config: Any

    @property
    def image_size(self) -> int:
        """Side of the square images that it was made for, pixels."""
        return self.config.image_size

    @property
    def side_multiple(self) -> int | None:
        """Both sides of an image must be multiples of it; None takes `image_size` alone."""
        raise NotImplementedError

    @property
    def rate(self) -> Rate:
        """What an image of `image_size` costs."""
        raise NotImplementedError

    @property
    def grid_names(self) -> tuple[str, ...]:
        """One name per grid: "codes" of a single one, or "scale_16x16" and its like."""
        grids = self.rate.grids
        return ("codes",) if len(grids) == 1 else scale_names(grids)

    @property
    def part_names(self) -> tuple[str, ...]:
        """What `parts_alone` decodes; none of a single grid, which alone is the whole."""
        return ()

    def parts_alone(self, codes: Codes) -> dict[str, Float[Tensor, "b 3 H W"]]:
        """By part: images of its codes alone, about [-1, 1], while 0 stands for what the others add to the decoder's
        input. For codes that are known to exist.
        """
        return {}

    def module_parameters(self) -> dict[str, int]:
        """Parameters per part; they add up to the whole."""
        own = {name: value.numel() for name, value in self.named_parameters(recurse=False)}
        parts = {
            name: sum(value.numel() for value in part.parameters())
            for name, part in self.named_children()
        }
        return own | parts

    def look_up(self, images: Float[Tensor, "b 3 H W"]) -> Codes:
        """The codes of checked images in [-1, 1]; NO_CODE stands where the network's output is not finite, and the
        caller must look for it.
        """
        raise NotImplementedError

    def decode_latents(self, latents: Float[Tensor, "b d h w"]) -> Float[Tensor, "b 3 H W"]:
        """Images of the map that a decoder takes, about [-1, 1] and not clamped, of a system that has one."""
        raise NotImplementedError

    def images_of(self, codes: Codes) -> Float[Tensor, "b 3 H W"]:
        """Images of checked codes, about [-1, 1] and not clamped."""
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "b 3 H W"]) -> Codes:
        """The codes of images in [-1, 1]; raises ValueError for images of another shape, kind or range, and where the
        network's output is not finite.
        """
        check_images(images)
        self._check_sides(images)
        check_range(images)
        codes = self.look_up(images.to(next(self.parameters()).dtype))
        check_found(torch.stack([grid.min() for grid in grids_of(codes, self.rate) if len(grid)]))
        return codes

    @torch.no_grad()
    def decode(self, codes: Codes) -> Float[Tensor, "b 3 H W"]:
        """Images of codes, about [-1, 1] and not clamped; raises ValueError for codes that do not exist."""
        check_peer_codes(codes, self.rate)
        return self.images_of(codes)

    def reconstruct(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
        """Images after one pass through their codes, clamped to [-1, 1]; raises what `encode` raises."""
        return self.decode(self.encode(images)).clamp(-1, 1)

    def _check_sides(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images of shape {tuple(images.shape)}: must be (batch, 3, H, W), in [-1, 1]"
            )
        height, width = images.shape[2:]
        if self.side_multiple is None:
            sound, rule = (height, width) == (self.image_size,) * 2, f"{self.image_size}"
        else:
            sound = not (height % self.side_multiple or width % self.side_multiple)
            rule = f"multiples of {self.side_multiple}"
        if not sound:
            raise ValueError(
                f"images of {height} x {width} pixels: both sides must be {rule}; crop or resize them"
            )


def scale_names(grids: Sequence[Grid]) -> tuple[str, ...]:
    """Names of grids by their sides; a grid of the sides of one before it has its number among them at the end, such as
    "scale_3x3_2".
    """
    names: list[str] = []
    shapes = [grid.shape for grid in grids]
    for place, shape in enumerate(shapes):
        before = shapes[:place].count(shape)
        names.append(f"scale_{'x'.join(map(str, shape))}" + (f"_{before + 1}" if before else ""))
    return tuple(names)


def check_peer_codes(codes: Codes, rate: Rate) -> None:
    """Raise ValueError for codes that are not whole numbers, are in no codebook or are in other grids."""
    for place, (part, grid) in enumerate(zip(grids_of(codes, rate), rate.grids, strict=True)):
        if part.is_floating_point() or part.is_complex() or part.dtype == torch.bool:
            raise ValueError(
                f"codes of dtype {part.dtype}: must be whole numbers, as encode gives them"
            )
        if not part.numel():
            continue
        least, greatest = torch.stack(torch.aminmax(part)).tolist()
        if least < 0 or greatest >= grid.num_codes:
            raise ValueError(
                f"codes of the grid {place} reach from {least} to {greatest}: must be in [0, {grid.num_codes}); bring "
                "codes of this tokenizer"
            )
