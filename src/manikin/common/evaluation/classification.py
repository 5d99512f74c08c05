"""A classifier trained on one set of images and tested on another: what a data set is worth for a task.

The recipe is fixed: one small convolutional network, 2D or 3D by the data, one schedule, one augmentation. Its only
choice, the epoch, is made on a validation part of its *own training data*, never on the test set, so that
train-on-synthetic test-on-real says what someone who holds only the synthetic images would get (protocol of
DPImageBench, Gong et al. 2025).

It promises neither privacy (its weights and scores are functions of whatever it saw) nor the best score possible.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional

from manikin.common.errors import BadData
from manikin.common.images import Float32Array, Int64Array

LONGEST_SIDE = {2: 40, 3: 32}
WIDTHS = {2: (16, 32, 64), 3: (8, 16, 32)}
BATCH_SIZE = 128
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 1e-2
VALIDATION_SHARE = 0.1
EPOCHS, LEAST_STEPS, MOST_STEPS = 8, 120, 320
SHIFT = 0.07  # of the side
GAIN, OFFSET = 0.1, 0.1


@dataclass(frozen=True)
class Scores:
    """How well a classifier did; None where the test set holds one class only, and nothing can be ranked."""

    auc: float | None
    balanced_accuracy: float | None


class Classifier(nn.Module):
    """Three convolution blocks, mean pooling, a linear layer: logits (n, classes) of images (n, c, *spatial)."""

    def __init__(self, *, channels: int, spatial_dims: int, classes: int) -> None:
        super().__init__()
        convolution, norm, pool = _LAYERS[spatial_dims]
        widths = (channels, *WIDTHS[spatial_dims])
        blocks: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            blocks += [
                convolution(before, after, 3, padding=1, bias=False),
                norm(after),
                nn.ReLU(),
                pool(2, ceil_mode=True),
            ]
        self.body = nn.Sequential(*blocks[:-1])
        self.head = nn.Linear(widths[-1], classes)
        self.spatial_dims = spatial_dims

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images).flatten(2).mean(2))
        return logits


_LAYERS: dict[int, tuple[type[nn.Module], type[nn.Module], type[nn.Module]]] = {
    2: (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d),
    3: (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d),
}


def train_classifier(
    images: Float32Array,
    labels: Int64Array,
    *,
    classes: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> Classifier:
    """A classifier fitted by the fixed recipe; classes weigh the same however many images they have.

    Args:
        images: float32 (n, c, *spatial) in [-1, 1], n >= 10.
        labels: int64 (n,) in 0 … classes − 1.
        classes: number of classes.
        seed: of initial weights, order, augmentation and the validation part.
        progress: called with 1 after each epoch; there are `epochs(n)`.

    Returns:
        The model of the epoch whose loss on the validation part was least, in evaluation mode.

    Raises:
        BadData: too few images, or labels outside the classes.
    """
    _check(images, labels, classes)
    rng = np.random.default_rng([seed, len(images)])
    fitting, validation = _split(labels, rng)
    inputs, targets = _shrink(torch.from_numpy(np.ascontiguousarray(images))), torch.from_numpy(labels)
    weights = _class_weights(labels[fitting], classes)
    steps, rounds = -(-len(fitting) // BATCH_SIZE), epochs(len(images))
    model = _new_model(images.shape[1], images.ndim - 2, classes, seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=rounds * steps)
    best, best_loss = model.state_dict(), np.inf
    for _ in range(rounds):
        model.train()
        for batch in np.array_split(rng.permutation(fitting), steps):
            loss = functional.cross_entropy(model(_augment(inputs[batch], rng)), targets[batch], weights)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        held = _validation_loss(model, inputs[validation], targets[validation], weights)
        if held < best_loss:
            best, best_loss = {name: value.clone() for name, value in model.state_dict().items()}, held
        if progress:
            progress(1)
    model.load_state_dict(best)
    return model.eval()


def _new_model(channels: int, spatial_dims: int, classes: int, seed: int) -> Classifier:
    """Initial weights are a function of the seed alone; the layout in memory is the one that is fast on a CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(channels=channels, spatial_dims=spatial_dims, classes=classes)
    layout = torch.channels_last if spatial_dims == 2 else torch.channels_last_3d
    return model.to(memory_format=layout)  # type: ignore[call-overload, no-any-return]


def _validation_loss(model: Classifier, inputs: Tensor, targets: Tensor, weights: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        return float(functional.cross_entropy(_logits(model, inputs), targets, weights))


def epochs(count: int) -> int:
    """Epochs of the recipe for a training set of `count` images: about 8, more for small sets, fewer for large ones."""
    steps_an_epoch = -(-count // BATCH_SIZE)
    return max(1, min(max(EPOCHS, -(-LEAST_STEPS // steps_an_epoch)), MOST_STEPS // steps_an_epoch))


def predict(model: Classifier, images: Float32Array) -> NDArray[np.float64]:
    """Class probabilities float64 (n, classes) of images (n, c, *spatial)."""
    model.eval()
    with torch.no_grad():
        logits = _logits(model, _shrink(torch.from_numpy(np.ascontiguousarray(images))))
    probabilities: NDArray[np.float64] = logits.double().softmax(1).numpy()
    return probabilities


def score(probabilities: NDArray[np.float64], labels: Int64Array) -> Scores:
    """AUC (macro one-versus-rest) and balanced accuracy over the classes that the labels hold.

    >>> score(np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.2, 0.8]]), np.array([0, 0, 1, 1]))
    Scores(auc=0.75, balanced_accuracy=0.5)
    """
    present = np.unique(labels)
    if len(present) < 2:
        return Scores(None, None)
    areas = [_area(probabilities[:, c], labels == c) for c in present]
    guesses = probabilities.argmax(1)
    recalls = [float(np.mean(guesses[labels == c] == c)) for c in present]
    return Scores(float(np.mean(areas)), float(np.mean(recalls)))


def train_and_score(
    train: tuple[Float32Array, Int64Array], test: tuple[Float32Array, Int64Array], *, classes: int, seed: int
) -> Scores:
    """Train on one set (images, labels), score on another."""
    model = train_classifier(*train, classes=classes, seed=seed)
    return score(predict(model, test[0]), test[1])


def _area(values: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve by the rank sum, ties counted half (Hanley and McNeil 1982)."""
    positives = int(positive.sum())
    rank_sum = float(rankdata(values)[positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * (len(values) - positives))


def _logits(model: Classifier, inputs: Tensor) -> Tensor:
    return torch.cat([model(part) for part in torch.split(inputs, 512)])


def _shrink(images: Tensor) -> Tensor:
    """Halve by averaging until the longest side fits the recipe, so that any image size costs about the same."""
    dims = images.ndim - 2
    pool = functional.avg_pool2d if dims == 2 else functional.avg_pool3d
    while max(images.shape[2:]) > LONGEST_SIDE[dims]:
        images = pool(images, 2, ceil_mode=True)
    return images


def _augment(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Each image shifted by a few pixels and its grey values stretched a little; never mirrored."""
    n, dims = len(images), images.ndim - 2
    across = (n,) + (1,) * (dims + 1)
    gain = torch.from_numpy(rng.uniform(1 - GAIN, 1 + GAIN, across).astype(np.float32))
    offset = torch.from_numpy(rng.uniform(-OFFSET, OFFSET, across).astype(np.float32))
    images = images * gain + offset
    for axis in range(2, dims + 2):
        side = images.shape[axis]
        reach = max(1, round(SHIFT * side))
        shifts = torch.from_numpy(rng.integers(-reach, reach + 1, n))
        index = (torch.arange(side)[None] + shifts[:, None]).clamp(0, side - 1)
        index = index.view([n, 1] + [side if a == axis else 1 for a in range(2, dims + 2)])
        images = images.gather(axis, index.expand(images.shape))
    return images


def _split(labels: Int64Array, rng: np.random.Generator) -> tuple[Int64Array, Int64Array]:
    """Indices to fit on and to choose the epoch by: a tenth of each class, at least one where it has two."""
    fitting, validation = [], []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held = min(max(1, round(VALIDATION_SHARE * len(members))), len(members) - 1)
        validation.append(members[:held])
        fitting.append(members[held:])
    return np.concatenate(fitting), np.concatenate(validation)


def _class_weights(labels: Int64Array, classes: int) -> Tensor:
    counts = np.bincount(labels, minlength=classes)
    weights = len(labels) / (np.maximum(counts, 1) * max(1, np.count_nonzero(counts)))
    return torch.tensor(weights, dtype=torch.float32)


def _check(images: Float32Array, labels: Int64Array, classes: int) -> None:
    if images.ndim not in (4, 5) or len(images) != len(labels):
        raise BadData(
            "The classifier cannot be trained.", f"Images {images.shape} and {len(labels)} labels do not fit."
        )
    if len(images) < 10:
        raise BadData("The classifier cannot be trained.", f"There are {len(images)} images and 10 are needed.")
    if labels.min() < 0 or labels.max() >= classes:
        raise BadData("The classifier cannot be trained.", f"A label lies outside the {classes} classes.")
