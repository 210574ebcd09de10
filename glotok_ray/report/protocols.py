"""How a number was obtained, as data, and whether two numbers may be compared.

Read next: glotok_ray/report/published.py
"""

from typing import Literal, NamedTuple

Known = Literal["read", "inferred", "unknown", "measured"]
"""How a protocol is known: read in the source's paper or code, inferred from what the source builds on, not known, or
our own measurement.
"""

IMAGENET = "1,000 classes at 256 x 256 pixels"
"""The data of every published number."""
TSNE = "t-SNE and kernel density"
"""Method of Table 3, which measures vectors and no images."""


class Protocol(NamedTuple):
    """How one number was obtained. Empty texts are parts that the measure does not have."""

    measure: str
    """"FID", "FD-EffNet", "PSNR" (of RGB), "PSNR of the Y channel", "IS", "density CV" and so on."""
    network: str
    """Network or method behind the measure, with what resizes its input."""
    num_images: int | None
    """Images measured; None where it is no measurement (a size, a weight)."""
    reference: str
    """What the images are compared with."""
    crop: str
    """Whose rule cuts the crops: "ADM", "torchvision, bilinear" and so on."""
    known: Known
    sentence: str
    data: str = IMAGENET
    """Classes and side of the images."""
    guidance: str = ""
    """Scale of classifier-free guidance of the samples, and its schedule; empty where it is not stated."""
    sampler: str = ""
    """Solver and steps, or temperature, of the samples; empty where they are not stated."""
    class_sampling: str = ""
    """How samples come by their classes; empty where it is not stated."""
    order: str = ""
    """Order in which the Inception Score splits the images; empty where it is not stated."""

    @property
    def is_measurement(self) -> bool:
        """Whether it is a result, and not a size or a setting."""
        return self.num_images is not None

    def name(self) -> str:
        """Measure and number of images, as in "FID of 50,000 images"."""
        unit = "vectors" if self.network == TSNE else "images"
        return (
            f"{self.measure} of {self.num_images:,} {unit}" if self.is_measurement else self.measure
        )


def comparable(first: Protocol, second: Protocol) -> str:
    """Why two numbers must not be compared, in a few words that name both protocols; empty where they may be.

    Networks, references and crops count where both protocols have them. A protocol that is not known is comparable with
    none; one that was inferred is taken as it was inferred. How samples were drawn counts where both say it:
    `not_stated` names what one of them does not say.
    """
    names = f"{first.name()} against {second.name()}"
    if (first.measure, first.num_images) != (second.measure, second.num_images):
        return names
    if not first.is_measurement:
        return ""
    if "unknown" in (first.known, second.known):
        return f"{names}: the protocol of one is not known"
    parts = (
        ("data", first.data, second.data),
        ("network", first.network, second.network),
        ("reference", first.reference, second.reference),
        ("crops", first.crop, second.crop),
    )
    for part, one, other in parts:
        if one != other:
            return f"{first.measure}, {part}: {one or 'not stated'} against {other or 'not stated'}"
    for part, one, other in _sampling_parts(first, second):
        if one and other and one != other:
            return f"{first.measure}, {part}: {one} against {other}"
    return ""


def not_stated(first: Protocol, second: Protocol) -> list[str]:
    """Those parts of how samples were drawn that one of two comparable protocols states and the other does not."""
    return [part for part, one, other in _sampling_parts(first, second) if bool(one) != bool(other)]


def _sampling_parts(first: Protocol, second: Protocol) -> tuple[tuple[str, str, str], ...]:
    return (
        ("guidance", first.guidance, second.guidance),
        ("sampler", first.sampler, second.sampler),
        ("classes of samples", first.class_sampling, second.class_sampling),
        ("order of images", first.order, second.order),
    )
