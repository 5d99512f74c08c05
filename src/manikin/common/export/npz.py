"""npz: one archive a shard, as `manikin hospital import` reads it.

Arrays: `images` float32 in native units (see `picture`), `axes` NHW, NHWC, NDHW or NCDHW, `labels` int64,
`class_names`, `patients`, and `spacing_mm` where it is known.
"""

from __future__ import annotations

import io

import numpy as np

from manikin.common.export.batch import Batch, Source

AXES = {(2, False): "NHW", (2, True): "NHWC", (3, False): "NDHW", (3, True): "NCDHW"}


def check(source: Source) -> None:
    """Any image can be an array."""
    del source


def values(source: Source) -> str:
    """What the numbers mean."""
    return source.picture.units


def names(source: Source, index: int) -> list[str]:
    """No file is one image's own: labels and patients are inside the archives."""
    del source, index
    return []


def encode(source: Source, batch: Batch) -> dict[str, bytes]:
    """One uncompressed archive."""
    axes = AXES[source.spec.spatial_dims, source.spec.channels > 1]
    images = source.picture.native(batch.images)
    images = images[:, 0] if "C" not in axes else np.moveaxis(images, 1, axes.index("C"))
    arrays = {
        "images": np.ascontiguousarray(images),
        "axes": np.array(axes),
        "labels": batch.classes,
        "class_names": np.array(source.spec.labels),
        "patients": np.array([source.request.patient(index) for index, _, _ in batch]),
    }
    if source.picture.spacing_mm is not None:
        arrays["spacing_mm"] = np.array(source.picture.spacing_mm)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return {"images.npz": buffer.getvalue()}
