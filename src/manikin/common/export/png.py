"""PNG: 8-bit pictures of 2D images, grey or, with three channels, RGB. -1 is black and 1 is white."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from manikin.common.errors import Misconfigured
from manikin.common.export.batch import Batch, Source, file_stem
from manikin.common.export.picture import quantise


def check(source: Source) -> None:
    """PNG holds pictures of one or three channels.

    Raises:
        Misconfigured: the images are volumes or have another number of channels.
    """
    if source.spec.spatial_dims != 2 or source.spec.channels not in (1, 3):
        raise Misconfigured(
            "These images cannot be PNG files.",
            f"They have {source.spec.spatial_dims} dimensions and {source.spec.channels} channel(s).",
            "Choose --format nifti, or npz.",
        )


def values(source: Source) -> str:
    """What the numbers mean."""
    span = source.picture.window
    return "0 to 255" + (f" span the study's window [{span[0]:g}, {span[1]:g}]" if span else " span [-1, 1]")


def names(source: Source, index: int) -> list[str]:
    """One file an image."""
    del source
    return [f"{file_stem(index)}.png"]


def encode(source: Source, batch: Batch) -> dict[str, bytes]:
    """8-bit pictures by name."""
    del source
    return {f"{file_stem(index)}.png": _png(quantise(image, 255).astype(np.uint8)) for index, image, _ in batch}


def _png(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)).save(buffer, "PNG")
    return buffer.getvalue()
