"""Windowing by an image's own percentiles, the same for scans at a hospital and for the simulated prior."""

from __future__ import annotations

import numpy as np

from manikin.common.images import Float32Array


def by_percentiles(images: Float32Array, percentiles: tuple[float, float]) -> Float32Array:
    """Intensities (n, c, *spatial) of which each image's and channel's own percentiles become 0 and 1; not clipped.

    Where both percentiles are one value (a mostly black image), the image's full range takes their place.

    >>> by_percentiles(np.arange(5, dtype=np.float32).reshape(1, 1, 5), (25, 75)).tolist()
    [[[-0.5, 0.0, 0.5, 1.0, 1.5]]]
    """
    flat = images.reshape(*images.shape[:2], -1)
    low, high = np.percentile(flat, percentiles, axis=-1)
    narrow = high <= low
    low, high = np.where(narrow, flat.min(axis=-1), low), np.where(narrow, flat.max(axis=-1), high)
    width = np.where(high > low, high - low, 1.0)
    relative = (flat - low[..., None]) / width[..., None]
    return np.asarray(relative.reshape(images.shape), dtype=np.float32)
