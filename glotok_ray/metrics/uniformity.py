"""How evenly latent vectors fill their space (paper Table 3, section 4.3; procedure of VA-VAE's
script).

`tsne_uniformity` is the paper's measure; it is noisy, so it is averaged over draws.
`code_uniformity` is a deterministic companion from code counts alone, far more sensitive. Read
next: glotok_ray/metrics/codebook.py
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer, Shaped
from numpy import ndarray

from glotok_ray.metrics.blocks import rows_of
from glotok_ray.metrics.codebook import count_codes, gini

_PERPLEXITY = 30.0
_MIN_DISTINCT_VECTORS = 4
_REFERENCE_COUNT = 10000
_SINGULAR = 1e-10
# Code vectors come in fp32: a spread below its rounding, in parts of their size, is none.
_ROUNDING = float(np.finfo(np.float32).eps)
# In whitened space, where the spread is 1: points nearer than this are one.
_SAME_POINT_DECIMALS = 6
_ROWS_PER_BLOCK = 1024


class UndefinedDensityError(ValueError):
    """There is no density to measure, since the vectors are too few or too much alike; the text says why."""


class Uniformity(NamedTuple):
    """Spread of a density over the points at which it was estimated."""

    density_cv: float
    """Standard deviation of the density over its mean; lower is more uniform."""
    normalized_entropy: float
    """Entropy of the densities as a distribution, over its ceiling; higher is more uniform."""
    gini: float
    """Gini coefficient of the densities; lower is more uniform."""


def density_uniformity(densities: Shaped[ndarray, " n"]) -> Uniformity:
    """The three metrics of Table 3 from densities at n points; raises ValueError for densities that are not finite, and
    UndefinedDensityError where they vanish everywhere.
    """
    densities = np.asarray(densities, dtype=np.float64)
    if not np.isfinite(densities).all() or (densities < 0).any():
        raise ValueError("densities: must be finite and not negative")
    if len(densities) < 2 or not densities.any():
        raise UndefinedDensityError(
            f"{len(densities)} densities, the largest {densities.max(initial=0):g}: needs two, and one above 0"
        )
    return _weighted_uniformity(densities, np.ones(len(densities)))


def _weighted_uniformity(
    densities: Float[ndarray, " n"], weights: Shaped[ndarray, " n"]
) -> Uniformity:
    count = weights.sum()
    mean = (weights * densities).sum() / count
    deviation = np.sqrt((weights * (densities - mean) ** 2).sum() / count)
    shares = densities / (count * mean)
    positive = shares > 0
    entropy = -(weights[positive] * shares[positive] * np.log(shares[positive])).sum()
    return Uniformity(
        float(deviation / mean), float(entropy / np.log(count)), gini(densities, weights)
    )


def kernel_density_uniformity(points: Float[ndarray, "n 2"]) -> Uniformity:
    """Metrics of a Gaussian kernel density (Scott's bandwidth) at the points themselves.

    Unchanged by affine maps of the points. Raises UndefinedDensityError when the points lie on a line.
    """
    points = np.asarray(points, dtype=np.float64)
    values = np.linalg.eigvalsh(np.cov(points.T))
    if values[0] <= _SINGULAR * values[-1]:
        raise UndefinedDensityError("the points lie on a line: their kernel density is undefined")
    # Imported where it is used, as all of scipy and scikit-learn: a command's --help should be quick.
    from scipy.stats import gaussian_kde

    return density_uniformity(gaussian_kde(points.T)(points.T))


def tsne_perplexity(num_vectors: int) -> float:
    """30, or a third of n - 1 if that is less."""
    return min(_PERPLEXITY, (num_vectors - 1) / 3)


def tsne_uniformity(vectors: Shaped[ndarray, "n d"]) -> Uniformity:
    """Table 3's metrics of n vectors: t-SNE to the plane, then `kernel_density_uniformity`.

    The initialisation (PCA) and the learning rate ("auto") are fixed, so the only noise is the
    draw of vectors. Raises UndefinedDensityError for fewer than 4 distinct vectors, which have no density in
    the plane (a collapsed codebook), and ValueError for vectors that are not finite.
    """
    vectors = np.asarray(vectors, dtype=np.float32)
    _check_finite(vectors)
    distinct = len(np.unique(vectors, axis=0))
    if distinct < _MIN_DISTINCT_VECTORS:
        raise UndefinedDensityError(
            f"only {distinct} distinct vectors of {len(vectors)}: needs at least 4"
        )
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    projection = TSNE(
        n_components=2,
        perplexity=tsne_perplexity(len(vectors)),
        max_iter=1000,
        init="pca",
        learning_rate="auto",
        random_state=42,
    )
    # Sums over several threads differ in the last digits from run to run; draws run side by side
    # instead.
    with threadpool_limits(1):
        return kernel_density_uniformity(projection.fit_transform(vectors))


class DrawnPlaces(NamedTuple):
    """Tokens of a draw: one position in each of some images, none of which comes twice."""

    images: Int[ndarray, " n"]
    positions: Int[ndarray, " n"]


def drawn_places(
    num_images: int, num_positions: int, *, num_vectors: int, seed: int, repeat: int
) -> DrawnPlaces:
    """The images and positions of one draw, by (seed, repeat)."""
    generator = np.random.default_rng([seed, repeat])
    images = generator.permutation(num_images)[: min(num_vectors, num_images)]
    return DrawnPlaces(images, generator.integers(num_positions, size=len(images)))


def draw_latent_vectors(
    codes: Iterable[Integer[ndarray, "images positions"]],
    code_vectors: Shaped[ndarray, "n d"],
    *,
    num_vectors: int,
    seed: int,
    repeat: int,
) -> Float[ndarray, "num_vectors d"]:
    """One code vector per drawn image at a random position, standardised per channel over all
    tokens.

    `code_vectors` are what stands for the codes, as `VectorQuantizer.matched_codes` gives them. `codes` come in blocks
    and must be in a fixed image order: the draw then depends on (seed, repeat) alone. Raises ValueError for codes
    outside of the codebook and for vectors that are not finite.
    """
    counts, num_images, num_positions = np.zeros(len(code_vectors), np.int64), 0, 0
    for block in codes:
        counts += count_codes(block, len(code_vectors))
        num_images, num_positions = num_images + len(block), block.shape[1]
    _check_finite(code_vectors)
    images, positions = drawn_places(
        num_images, num_positions, num_vectors=num_vectors, seed=seed, repeat=repeat
    )
    vectors = np.asarray(code_vectors, dtype=np.float64)
    mean = counts @ vectors / counts.sum()
    deviation = np.sqrt(counts @ (vectors - mean) ** 2 / counts.sum())
    # A channel without spread carries nothing; dividing it by one leaves it at zero.
    standardised = (vectors - mean) / np.where(deviation > 0, deviation, 1.0)
    return standardised[rows_of(codes, images)[np.arange(len(images)), positions]]


def code_uniformity(
    counts: Integer[ndarray, " n"], code_vectors: Shaped[ndarray, "n d"]
) -> Uniformity:
    """Leave-one-out kernel density of all tokens in whitened code space: no projection, no draw.

    Bandwidth 10000^(-1 / (d + 4)) whatever the number of tokens, so that sets of different size
    compare. Without leaving the own token out its kernel would dominate in eight dimensions. `code_vectors` are as
    `VectorQuantizer.matched_codes` gives them. Raises UndefinedDensityError below 2 tokens, where every token is alone,
    and for a collapsed codebook: used vectors that are all alike, or so few that whitening makes a simplex of them,
    ValueError for vectors that are not finite.
    """
    _check_finite(code_vectors)
    used = np.flatnonzero(counts)
    repeats = np.asarray(counts)[used].astype(np.float64)
    total = repeats.sum()
    if total < 2:
        raise UndefinedDensityError(f"{total:.0f} tokens: a leave-one-out density needs at least 2")
    points = _whiten(np.asarray(code_vectors, dtype=np.float64)[used], repeats)
    _check_places(points)
    inverse_width = 0.5 * _REFERENCE_COUNT ** (2 / (code_vectors.shape[1] + 4))
    squared_norms = (points**2).sum(axis=1)
    densities = np.empty(len(points))
    for start in range(0, len(points), _ROWS_PER_BLOCK):
        rows = slice(start, start + _ROWS_PER_BLOCK)
        distances = squared_norms[rows, None] + squared_norms - 2 * points[rows] @ points.T
        kernels = np.exp(-inverse_width * np.clip(distances, 0, None))
        densities[rows] = (kernels @ repeats - 1) / (total - 1)
    densities = np.clip(densities, 0, None)
    if not densities.any():
        raise UndefinedDensityError(
            "every token is alone in whitened space: the density is zero everywhere"
        )
    return _weighted_uniformity(densities, repeats)


def _check_finite(vectors: Shaped[ndarray, "n d"]) -> None:
    broken = int((~np.isfinite(vectors)).any(axis=1).sum())
    if broken:
        raise ValueError(
            f"{broken} of {len(vectors)} code vectors hold NaN or infinite values; look for a diverged tokenizer"
        )


def _check_places(points: Float[ndarray, "n k"]) -> None:
    """Raise UndefinedDensityError for whitened points whose distances say nothing of where the codes lie.

    k + 1 points that span k directions become a simplex, whose distances depend on the counts alone: two equally used
    codes of a whole codebook would be perfectly uniform.
    """
    count, directions = points.shape
    if directions == 0:
        raise UndefinedDensityError(f"the vectors of all used codes ({count}) are alike")
    distinct = len(np.unique(points.round(_SAME_POINT_DECIMALS), axis=0))
    if distinct <= directions + 1:
        raise UndefinedDensityError(
            f"the used codes have {distinct} distinct vectors, which span {directions} directions: whitening makes "
            f"them evenly spaced wherever they lie; needs at least {directions + 2}"
        )


def _whiten(points: Float[ndarray, "n d"], repeats: Float[ndarray, " n"]) -> Float[ndarray, "n k"]:
    """Zero mean and unit covariance under the counts; directions without spread are dropped, all where points are
    alike.
    """
    centred = points - repeats @ points / repeats.sum()
    covariance = (centred * repeats[:, None]).T @ centred / repeats.sum()
    values, vectors = np.linalg.eigh(covariance)
    rounding = (_ROUNDING * np.abs(points).max(initial=0.0)) ** 2
    kept = values > max(_SINGULAR * values[-1], rounding)
    return centred @ (vectors[:, kept] / np.sqrt(values[kept]))
