"""The fixed classifier: it learns what can be learned, at chance where nothing can, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from manikin.common.errors import BadData
from manikin.common.evaluation.classification import (
    Classifier,
    epochs,
    predict,
    score,
    train_and_score,
    train_classifier,
)


def blobs(count, *, shape=(16, 16), channels=1, classes=2, seed=0, signal=1.0):
    """Noise images with a bright blob whose quadrant is the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    images = 0.3 * rng.standard_normal((count, channels, *shape))
    half = tuple(side // 2 for side in shape)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[:, row * half[0] : row * half[0] + 4, column * half[1] : column * half[1] + 4] += signal
    return np.clip(images, -1, 1).astype(np.float32), labels.astype(np.int64)


def test_a_visible_finding_is_learned_in_2d():
    scores = train_and_score(blobs(400), blobs(200, seed=1), classes=2, seed=0)
    assert scores.auc is not None
    assert scores.auc > 0.95
    assert scores.balanced_accuracy is not None
    assert scores.balanced_accuracy > 0.9


def test_a_visible_finding_is_learned_in_3d_with_channels_and_more_classes():
    train = blobs(200, shape=(10, 12, 8), channels=2, classes=3)
    scores = train_and_score(train, blobs(90, shape=(10, 12, 8), channels=2, classes=3, seed=1), classes=3, seed=0)
    assert scores.auc is not None
    assert scores.auc > 0.9


def test_labels_without_a_finding_stay_at_chance():
    images, _ = blobs(300, signal=0)
    labels = np.random.default_rng(2).integers(0, 2, 300)
    test_images, _ = blobs(400, signal=0, seed=3)
    test_labels = np.random.default_rng(4).integers(0, 2, 400)
    scores = train_and_score((images, labels), (test_images, test_labels), classes=2, seed=0)
    assert scores.auc == pytest.approx(0.5, abs=0.12)  # 4 standard errors of an AUC at 200 against 200


def test_the_same_seed_gives_the_same_classifier_whatever_ran_before():
    train, test = blobs(60), blobs(10, seed=1)
    first = predict(train_classifier(*train, classes=2, seed=5), test[0])
    torch.rand(7)
    second = predict(train_classifier(*train, classes=2, seed=5), test[0])
    other = predict(train_classifier(*train, classes=2, seed=6), test[0])
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    train_classifier(*blobs(30), classes=2, seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_a_rare_class_is_not_given_up():
    images, labels = blobs(600, seed=7)
    rare = np.flatnonzero(labels == 1)[40:]
    keep = np.setdiff1d(np.arange(600), rare)
    scores = train_and_score((images[keep], labels[keep]), blobs(200, seed=8), classes=2, seed=0)
    assert scores.balanced_accuracy is not None
    assert scores.balanced_accuracy > 0.85


def test_large_images_are_shrunk_and_odd_sizes_pass():
    images, labels = blobs(24, shape=(131, 67))
    model = train_classifier(images, labels, classes=2, seed=0)
    probabilities = predict(model, images)
    assert probabilities.shape == (24, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1)


def test_a_class_with_one_image_does_not_stop_the_training():
    images, labels = blobs(30, classes=2)
    labels[:] = 0
    labels[3] = 2
    assert predict(train_classifier(images, labels, classes=3, seed=0), images).shape == (30, 3)


def test_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(9)
    probabilities = rng.dirichlet(np.ones(4), 200).round(2)
    probabilities /= probabilities.sum(1, keepdims=True)
    labels = rng.integers(0, 4, 200)
    scores = score(probabilities, labels)
    assert scores.auc == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert scores.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, probabilities.argmax(1)))


def test_a_class_missing_from_the_test_set_is_left_out_of_the_mean():
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1]])
    scores = score(probabilities, np.array([0, 1, 1]))
    assert (scores.auc, scores.balanced_accuracy) == (1.0, 1.0)


def test_one_class_alone_cannot_be_scored():
    assert score(np.array([[0.4, 0.6]]), np.array([1])) == score(np.ones((3, 1)), np.zeros(3, dtype=np.int64))
    assert score(np.ones((3, 1)), np.zeros(3, dtype=np.int64)).auc is None


def test_epochs_are_bounded_by_steps():
    for count in (10, 128, 1000, 5000, 60_000):
        steps = epochs(count) * -(-count // 128)
        assert 120 <= steps <= 480 or epochs(count) == 1
    seen = []
    train_classifier(*blobs(40), classes=2, seed=0, progress=seen.append)
    assert sum(seen) == epochs(40)


def test_no_layer_depends_on_the_size_of_the_image():
    for shape in ((1, 1, 28, 28), (1, 1, 5, 9)):
        assert Classifier(channels=1, spatial_dims=2, classes=4).eval()(torch.zeros(shape)).shape == (1, 4)


@pytest.mark.parametrize(
    ("images", "labels", "classes"),
    [
        (np.zeros((9, 1, 8, 8), np.float32), np.zeros(9, np.int64), 2),
        (np.zeros((20, 8, 8), np.float32), np.zeros(20, np.int64), 2),
        (np.zeros((20, 1, 8, 8), np.float32), np.zeros(19, np.int64), 2),
        (np.zeros((20, 1, 8, 8), np.float32), np.full(20, 2), 2),
        (np.zeros((20, 1, 8, 8), np.float32), np.full(20, -1), 2),
    ],
)
def test_unusable_training_sets_are_refused(images, labels, classes):
    with pytest.raises(BadData):
        train_classifier(images, labels, classes=classes, seed=0)
