"""Sources and batches of every kind of image, without a generator."""

from datetime import datetime

import numpy as np
import pytest

from manikin.common.export.batch import Batch, Source
from manikin.common.export.picture import Picture
from manikin.common.export.request import Request
from manikin.common.generators import GeneratorSpec

LABELS = ("normal", "pneumonia")
RELEASED = datetime.fromisoformat("2026-01-02T03:04:05+00:00")


def make_source(file_format, shape=(8, 6), channels=1, *, modality="CR", spacing=None, window=None, labels=LABELS):
    request = Request("ab" * 32, 4, labels, (1 / len(labels),) * len(labels), 7, file_format)
    spec = GeneratorSpec("moments", channels, shape, labels, {})
    return Source(request, spec, Picture(modality, len(shape), spacing, window), RELEASED, "0.1.0")


def make_batch(source, count=4):
    """Images in which no two axes look alike, reaching from -1 to 1."""
    shape = (count, source.spec.channels, *source.spec.shape)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    images.reshape(count, -1)[:, :2] = -1, 1
    return Batch(0, images, source.request.classes()[:count])


@pytest.fixture(name="make_source")
def make_source_fixture():
    return make_source


@pytest.fixture(name="make_batch")
def make_batch_fixture():
    return make_batch
