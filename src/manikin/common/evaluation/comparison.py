"""A release against a hospital's own patients: how real its images look, and what they are worth for a classifier.

Two questions, each beside the answer that real images would get. *Usefulness*: a classifier trained on synthetic
images, tested on patients that no generator has seen, against one trained on real images. *Likeness*: distances,
fidelity and diversity between synthetic and held-out images, against real training images and the same held-out ones,
with the same n and class mix.

Everything returned is computed from patients and is not private: it stays in the hospital.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manikin.common.errors import BadData
from manikin.common.evaluation.classification import Scores, train_and_score
from manikin.common.evaluation.features import extract
from manikin.common.evaluation.fidelity import frechet_distance, kernel_distance, manifold_scores
from manikin.common.generators.sampling import balanced, draw
from manikin.common.images import Float32Array, Int64Array, Patient, flatten

if TYPE_CHECKING:
    from manikin.common.release import Release

FEWEST_IMAGES, MOST_IMAGES = 500, 5000
MOST_COMPARED = 2000
LEAST_MATCHED = 0.25
SAMPLE_SEED = 0

LabelledImages = tuple[Float32Array, Int64Array]


def evaluate_release(
    release: Release,
    *,
    train: list[Patient],
    holdout: list[Patient],
    count: int | None = None,
    seeds: int = 3,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Draw from a release, every class equally often, and compare with patients; see `compare`.

    Args:
        release: what to evaluate.
        train: patients that the generator may have learned from.
        holdout: patients that it has not.
        count: synthetic images to draw; as many as there are real training images (500 to 5000) if None.
        seeds: classifiers to train on each side.
        progress: called with 1 after each of 2 · seeds + 1 parts of the comparison.
    """
    synthetic = draw_balanced(release, count or default_count(train))
    return compare(
        synthetic, train=train, holdout=holdout, classes=len(release.spec.labels), seeds=seeds, progress=progress
    )


def default_count(train: list[Patient]) -> int:
    """As many synthetic images as there are real ones to train on, within reason."""
    return min(max(sum(len(patient) for patient in train), FEWEST_IMAGES), MOST_IMAGES)


def draw_balanced(
    release: Release, count: int, *, seed: int = SAMPLE_SEED, progress: Callable[[int], None] | None = None
) -> LabelledImages:
    """Images and labels from a release, every class equally often; the same seed gives the same bytes."""
    labels = balanced(count, len(release.spec.labels))
    return draw(release.generator, labels, seed=seed, progress=progress).numpy(), labels.numpy()


def compare(
    synthetic: LabelledImages,
    *,
    train: list[Patient],
    holdout: list[Patient],
    classes: int,
    seeds: int = 3,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Synthetic images against patients.

    Args:
        synthetic: images float32 (n, c, *spatial) in [-1, 1] and labels int64 (n,).
        train: real patients to train the reference on.
        holdout: real patients to test on; none of them in `train`.
        classes: number of classes.
        seeds: classifiers to train on each side, and random subsets to measure distances on.
        progress: called with 1 after each of 2 · seeds + 1 parts.

    Returns:
        "trained_on_synthetic" and "trained_on_real": mean "auc" and "balanced_accuracy" on the holdout, their standard
        deviation over seeds as "auc_spread" and "balanced_accuracy_spread"; None where the holdout has one class only.
        "likeness": "n", and "synthetic" and "real" with "frechet", "kernel", "precision", "recall", "density",
        "coverage" and their spreads. "counts": images and patients used.

    Raises:
        BadData: a side is empty or too small, a number is not finite, or a patient is on both sides.
    """
    if not train or not holdout:
        raise BadData("There is nothing to compare with.", "The train or holdout part has no patients.", "Import more.")
    if {p.key for p in train} & {p.key for p in holdout}:
        raise BadData("Real images cannot be a test.", "A patient is in the train and in the holdout part.")
    report = progress or (lambda _: None)
    real, held = flatten(train)[:2], flatten(holdout)[:2]
    result: dict[str, Any] = {"likeness": likeness(synthetic, real, held, seeds=seeds)}
    report(1)
    for name, images in (("trained_on_synthetic", synthetic), ("trained_on_real", real)):
        scores = []
        for seed in range(seeds):
            scores.append(_usefulness(images, held, classes, seed))
            report(1)
        result[name] = _summary([asdict(score) for score in scores])
    result["counts"] = {
        "synthetic_images": len(synthetic[0]),
        "train_images": len(real[0]),
        "train_patients": len(train),
        "holdout_images": len(held[0]),
        "holdout_patients": len(holdout),
    }
    return result


def _usefulness(images: LabelledImages, held: LabelledImages, classes: int, seed: int) -> Scores:
    if len(np.unique(held[1])) < 2:
        return Scores(None, None)
    return train_and_score(images, held, classes=classes, seed=seed)


def likeness(synthetic: LabelledImages, real: LabelledImages, held: LabelledImages, *, seeds: int) -> dict[str, Any]:
    """Distances of synthetic and of real images to held-out ones, on subsets of one n and one class mix."""
    sides = {"synthetic": synthetic, "real": real}
    rng = np.random.default_rng(SAMPLE_SEED)
    target = np.sort(rng.permutation(len(held[1]))[:MOST_COMPARED])
    for _, labels in sides.values():
        target = target[_matched(labels, held[1][target], rng)[1]]
    features = {name: extract(images) for name, (images, _) in sides.items()}
    wanted = extract(held[0][target])
    result: dict[str, Any] = {"n": len(target)}
    for name, (_, labels) in sides.items():
        chosen = [_matched(labels, held[1][target], rng)[0] for _ in range(seeds)]
        result[name] = _summary([_distances(wanted, features[name][rows]) for rows in chosen])
    return result


def _distances(real: Float32Array, other: Float32Array) -> dict[str, float | None]:
    return {
        "frechet": frechet_distance(real, other),
        "kernel": kernel_distance(real, other),
        **asdict(manifold_scores(real, other)),
    }


def _matched(
    labels: Int64Array, wanted: Int64Array, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Random rows of `labels` and rows of `wanted`, equally many of each class, as many as both sides allow.

    Where a class is missing or so rare that matching it would leave few images, only the number is matched.
    """
    classes, most = np.unique(wanted), min(len(labels), len(wanted))
    share = min(1.0, *(float(np.sum(labels == c) / np.sum(wanted == c)) for c in classes))
    if share * len(wanted) < most * LEAST_MATCHED:
        return rng.permutation(len(labels))[:most], np.sort(rng.permutation(len(wanted))[:most])
    here, there = [], []
    for c in classes:
        count = int(np.sum(wanted == c) * share)
        here.append(rng.permutation(np.flatnonzero(labels == c))[:count])
        there.append(rng.permutation(np.flatnonzero(wanted == c))[:count])
    return np.concatenate(here), np.sort(np.concatenate(there))


def _summary(rows: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Mean of each number, and its standard deviation as `…_spread`."""
    summary: dict[str, float | None] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        known = [value for value in values if value is not None]
        summary[name] = float(np.mean(known)) if known else None
        summary[f"{name}_spread"] = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return summary
