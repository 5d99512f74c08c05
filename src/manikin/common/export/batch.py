"""What a format is given: a few images with their labels, and what is common to the whole data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from manikin.common.export.picture import Picture
from manikin.common.export.request import Request
from manikin.common.generators.base import GeneratorSpec
from manikin.common.images import Float32Array, Int64Array


@dataclass(frozen=True)
class Source:
    """Common to the whole data set.

    Args:
        request: what was asked for.
        spec: layout of the images.
        picture: meaning of the images.
        released: time of the release; the only date that files carry, so that the same request gives the same bytes.
        code_version: version of Manikin that draws.
    """

    request: Request
    spec: GeneratorSpec
    picture: Picture
    released: datetime
    code_version: str


@dataclass(frozen=True)
class Batch:
    """The images of one shard.

    Args:
        start: index of the first image in the data set.
        images: float32 (n, channels, *spatial) in [-1, 1].
        classes: int64 (n,).
    """

    start: int
    images: Float32Array
    classes: Int64Array

    def __iter__(self) -> Iterator[tuple[int, Float32Array, int]]:
        """Index in the data set, image (channels, *spatial), class index."""
        for offset, (image, label) in enumerate(zip(self.images, self.classes, strict=True)):
            yield self.start + offset, image, int(label)


def file_stem(index: int) -> str:
    """Name of an image's file, without suffix."""
    return f"synth-{index:06d}"
