"""The file of the perceptual network's weights, looked at before a run: no network is built, and torch is not imported.

Read next: glotok_ray/pretrained/perceptual.py
"""

from glotok_ray.config.losses import TokenizerLossConfig
from glotok_ray.storage.artefact import ArtefactError, sha256_of
from glotok_ray.storage.places import to_path

BRING_VGG16 = (
    "bring torchvision's vgg16-397923af.pth (https://download.pytorch.org/models/vgg16-397923af.pth) and name it in "
    "loss.perceptual_weights_path, or choose loss.perceptual_network efficientnet_lite0, which needs no file"
)
"""How to get the weights where they are missing."""


def check_perceptual(loss: TokenizerLossConfig) -> None:
    """Raise ArtefactError for a weights file that is missing or has another sha256; no network is built, and none is
    reached over the wire.
    """
    if loss.perceptual_weight == 0 or loss.perceptual_network != "lpips_vgg":
        return
    path, digest = loss.perceptual_weights_path, loss.perceptual_weights_sha256
    if path and not to_path(path).is_file():
        raise ArtefactError(f"loss.perceptual_weights_path = {path!r}: is no file; {BRING_VGG16}")
    if digest and not path:
        raise ArtefactError(
            f"loss.perceptual_weights_sha256 = {digest!r}: needs loss.perceptual_weights_path, which is empty; name "
            "the file there, or leave the digest empty (torchvision checks its own download)"
        )
    if digest and (found := sha256_of(to_path(path))) != digest.lower():
        raise ArtefactError(
            f"loss.perceptual_weights_sha256 = {digest!r}: must be the sha256 of loss.perceptual_weights_path = "
            f"{path!r}, which is {found!r}; bring the file you mean, or correct the digest"
        )
