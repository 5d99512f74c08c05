"""The one image type, and the patient it belongs to.

An image is `float32 (channels, *spatial)` in [-1, 1]. 2D and 3D take the same path: the number of spatial
dimensions is data, not a fork.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class Patient:
    """All images of one patient, brought to a study's shape: the unit of every guarantee and statistic.

    Args:
        key: keyed hash of the patient id, hex; never the id itself.
        images: float32 (n, channels, *spatial) in [-1, 1], n >= 1.
        labels: int64 (n,), indices into the study's `labels`.
        site: where the images come from, if known.
    """

    key: str
    images: Float32Array
    labels: Int64Array
    site: str = ""

    def __len__(self) -> int:
        return len(self.images)


def flatten(patients: list[Patient]) -> tuple[Float32Array, Int64Array, NDArray[np.int64]]:
    """Images (n, c, *spatial), labels (n,) and the index of each image's patient (n,)."""
    images = np.concatenate([p.images for p in patients])
    labels = np.concatenate([p.labels for p in patients])
    owner = np.repeat(np.arange(len(patients)), [len(p) for p in patients])
    return images, labels, owner
