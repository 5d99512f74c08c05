"""How close a synthetic set is to a real one, as distances and as fidelity and diversity apart.

All functions take feature vectors (n, d), for instance of `features.extract`. What they promise: the formula of
the paper, in float64, without complex square roots. What they do not: a verdict. Every number here depends on n, so
compare like with like: the same n on both sides, beside a real-against-real line of that n.

    >>> import numpy as np
    >>> points = np.eye(4)
    >>> round(frechet_distance(points, points + 0.5), 6)          # means differ by 0.5 in 4 directions
    1.0
    >>> manifold_scores(points, points, neighbours=1)
    ManifoldScores(precision=1.0, recall=1.0, density=4.0, coverage=1.0)

Numbers computed from patients are not private: they stay in the hospital that holds the patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from manikin.common.errors import BadData

Features = NDArray[np.floating[Any]]
DEFAULT_NEIGHBOURS = 5


@dataclass(frozen=True)
class ManifoldScores:
    """Fidelity (precision, density) and diversity (recall, coverage); all but density lie in [0, 1].

    Density may pass 1 where synthetic samples crowd around dense real regions.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def frechet_distance(first: Features, second: Features) -> float:
    """Squared 2-Wasserstein distance of the Gaussians fitted to two sets (Heusel et al. 2017).

        |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁^½ Σ₂ Σ₁^½)^½)

    Biased upwards by about d/n for unit variances (Chong and Forsyth 2020): the smallest useful n is a few times d, and
    only values of equal n can be compared.

    Args:
        first: features (n, d), n >= 2.
        second: features (m, d), m >= 2.

    Raises:
        BadData: the shapes do not fit, a set is too small or has a number that is not finite.
    """
    x, y = _checked(first, second, least=2)
    root = _square_root(np.atleast_2d(np.cov(x, rowvar=False)))
    covariance = np.atleast_2d(np.cov(y, rowvar=False))
    cross = np.linalg.eigvalsh(root @ covariance @ root)
    shift = x.mean(axis=0) - y.mean(axis=0)
    traces = float(np.sum(root * root) + np.trace(covariance) - 2 * np.sum(np.sqrt(np.clip(cross, 0, None))))
    return max(0.0, float(shift @ shift) + traces)


def kernel_distance(first: Features, second: Features) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x·y/d + 1)³ (Bińkowski et al. 2018).

    Its mean does not depend on n, so it suits small cohorts, where it scatters around 0 and may be negative.

    Args:
        first: features (n, d), n >= 2.
        second: features (m, d), m >= 2.

    Raises:
        BadData: the shapes do not fit, a set is too small or has a number that is not finite.
    """
    x, y = _checked(first, second, least=2)
    n, m, d = len(x), len(y), x.shape[1]
    within_x, within_y, across = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    off_diagonal_x = (within_x.sum() - np.trace(within_x)) / (n * (n - 1))
    off_diagonal_y = (within_y.sum() - np.trace(within_y)) / (m * (m - 1))
    return float(off_diagonal_x + off_diagonal_y - 2 * across.mean())


def manifold_scores(real: Features, synthetic: Features, *, neighbours: int = DEFAULT_NEIGHBOURS) -> ManifoldScores:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    Balls reach from each point to its k-th nearest neighbour in its own set. Precision: share of synthetic points in
    a real ball; recall: share of real points in a synthetic ball; density: how many real balls hold a synthetic point,
    over k; coverage: share of real balls that hold a synthetic point. Two samples of one distribution give coverage
    1 − (1/2)^k in expectation at equal n, 0.97 for k = 5; two digits need a few hundred points a side.

    Args:
        real: features (n, d), n > neighbours.
        synthetic: features (m, d), m > neighbours.
        neighbours: k.

    Raises:
        BadData: the shapes do not fit, a set is too small or has a number that is not finite.
    """
    x, y = _checked(real, synthetic, least=neighbours + 1)
    radius_x, radius_y = _reach(x, neighbours), _reach(y, neighbours)
    distance = cdist(x, y)
    in_real = distance <= radius_x[:, None]
    in_synthetic = distance <= radius_y[None, :]
    return ManifoldScores(
        precision=float(in_real.any(axis=0).mean()),
        recall=float(in_synthetic.any(axis=1).mean()),
        density=float(in_real.sum(axis=0).mean() / neighbours),
        coverage=float(in_real.any(axis=1).mean()),
    )


def _reach(points: NDArray[np.float64], neighbours: int) -> NDArray[np.float64]:
    """Distance of each point to its k-th nearest neighbour, itself left out."""
    distance = cdist(points, points)
    np.fill_diagonal(distance, -1.0)
    reach: NDArray[np.float64] = np.partition(distance, neighbours, axis=1)[:, neighbours]
    return reach


def _square_root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Symmetric root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    root: NDArray[np.float64] = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root


def _checked(first: Features, second: Features, *, least: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise BadData("Two feature sets cannot be compared.", f"Their shapes are {x.shape} and {y.shape}.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise BadData("Two feature sets cannot be compared.", "One has a number that is not finite.")
    if min(len(x), len(y)) < least:
        raise BadData(
            "There are too few images to compare.",
            f"The sets have {len(x)} and {len(y)}, and {least} are needed.",
            "Use a larger cohort or draw more synthetic images.",
        )
    return x, y
