"""What makes a row of the paper's tables of a GloTok run, of the full size and of the small one alike.

The full-size recipes are made by it (glotok_ray/recipes/train_tokenizer.py), and so are the ablations.
Read next: glotok_ray/recipes/tokenizer_ablations.py
"""

from glotok_ray.config.overrides import override
from glotok_ray.config.runs import TokenizerRun
from glotok_ray.config.tokenizer import CodebookConfig

EMBEDDED_NETWORK = "efficientnet_lite0"
_NO_RESIDUAL = {"model.residual.enabled": False, "loss.residual_weight": 0.0}
_NO_RELATION = {"loss.relation_weight": 0.0}


def without_both(run: TokenizerRun) -> TokenizerRun:
    """Neither relation nor residual learning; the teacher stays, to measure how far the codebook is from it."""
    return override(run, {**_NO_RESIDUAL, **_NO_RELATION})


def without_residual(run: TokenizerRun) -> TokenizerRun:
    """Relation learning alone."""
    return override(run, _NO_RESIDUAL)


def with_weight_01(run: TokenizerRun) -> TokenizerRun:
    """Relation learning alone, ten times stronger."""
    return override(run, {**_NO_RESIDUAL, "loss.relation_weight": 0.1})


def single_codebook(run: TokenizerRun) -> TokenizerRun:
    """LlamaGen's VQ-VAE: one codebook of as many codes, no adapters, neither relation nor residual learning."""
    size = sum(codebook.size for codebook in run.model.codebooks)
    changes = {
        "teacher_path": "",
        "model.adapter.depth": 0,
        "model.codebooks": (CodebookConfig(name="visual", size=size),),
    }
    return override(without_both(run), changes)


def local_contrast(run: TokenizerRun) -> TokenizerRun:
    """FQGAN-Dual: a contrast head, entropy and disentanglement terms in place of what GloTok adds.

    Its network is CLIP ViT-L/14, or the embedded one, which needs no download, where the perceptual network is it too.
    """
    embedded = run.loss.perceptual_network == EMBEDDED_NETWORK
    contrast = (
        {"network": EMBEDDED_NETWORK, "width": 320, "depth": 1}
        if embedded
        else {"network": "clip_vitl14", "width": 1024}
    )
    changes = {
        "teacher_path": "",
        "loss.contrastive_weight": 0.5,
        "loss.entropy_weight": 0.03,
        "loss.entropy_epsilon": 1e-5,
        "loss.entropy_epsilon_placing": "added",
        "loss.disentanglement_weight": 0.1,
        **{f"model.codebooks.1.contrast.{name}": value for name, value in contrast.items()},
    }
    return override(without_both(run), changes)


def unchanged(run: TokenizerRun) -> TokenizerRun:
    """GloTok itself."""
    return run


ROWS = {
    "single_codebook": single_codebook,
    "local_contrast": local_contrast,
    "vanilla_dual": without_both,
    "relation_weight_01": with_weight_01,
    "relation_only": without_residual,
    "glotok": unchanged,
}
"""What makes a row of the paper's tables of a GloTok run of any size."""
