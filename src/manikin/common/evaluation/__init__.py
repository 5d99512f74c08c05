"""What a synthetic data set is worth: distances to real images, fidelity and diversity, usefulness for a task."""

from manikin.common.evaluation.classification import Scores, predict, score, train_and_score, train_classifier
from manikin.common.evaluation.comparison import compare, default_count, draw_balanced, evaluate_release
from manikin.common.evaluation.features import extract
from manikin.common.evaluation.fidelity import ManifoldScores, frechet_distance, kernel_distance, manifold_scores

__all__ = [
    "ManifoldScores",
    "Scores",
    "compare",
    "default_count",
    "draw_balanced",
    "evaluate_release",
    "extract",
    "frechet_distance",
    "kernel_distance",
    "manifold_scores",
    "predict",
    "score",
    "train_and_score",
    "train_classifier",
]
