"""A `.npz` file of images, the simplest source: `images` and `labels`, and optionally what they are.

`images` with `axes` NHW, NHWC, NDHW or NCDHW; `labels` whole numbers or text; optional `class_names` (label i is
`class_names[i]`, or "i"), `patients`, `sites`, `mask` (one an image, without channels), `spacing_mm` (one number a
spatial axis). Without `patients` each image stands for a patient. No pickled object is ever loaded.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from manikin.client.cohort.native import UNLABELLED, NativeArray, NativeImage, Scan
from manikin.client.cohort.report import ImportReport
from manikin.common.errors import BadData

CHANNEL_AXIS = {"NHW": None, "NHWC": 3, "NDHW": None, "NCDHW": 1}
MAX_COLOUR_CHANNELS = 4
KNOWN_KEYS = ("images", "axes", "labels", "class_names", "patients", "sites", "mask", "spacing_mm")


class ArrayFile:
    """Reads a `.npz`; the whole file is checked before the first image is handed out.

    Raises:
        BadData: it is no `.npz`, holds objects, or its arrays do not fit each other.
    """

    kind = "npz"

    def __init__(self, path: Path) -> None:
        arrays = _load(path)
        if "images" not in arrays:
            raise BadData(f"{path.name} has no array `images`.", f"It has: {', '.join(sorted(arrays))}.", "Rename it.")
        self.axes, self._inferred = _axes(arrays)
        self._images = _channels_first(arrays["images"], self.axes)
        self.total = len(self._images)
        self._labels = _labels(arrays, self.total)
        self._patients = _texts(arrays, "patients", self.total)
        self._sites = _texts(arrays, "sites", self.total) or [""] * self.total
        self._masks = _masks(arrays, self._images)
        self._spacing_mm = _spacing(arrays, self._images.ndim - 2)
        self._ignored = sorted(set(arrays) - set(KNOWN_KEYS))
        self._name = path.name

    def read(self, report: ImportReport, advance: Callable[[int], None]) -> Iterator[Scan]:
        """One scan for each image."""
        if self._inferred:
            report.note(f"the file does not say its axes; they were taken for {self.axes}")
        if self._ignored:
            report.note(f"arrays that an import does not use: {', '.join(self._ignored)}")
        flat = self._images.ndim == 4
        for index, pixels in enumerate(self._images):
            mask = None if self._masks is None else self._masks[index]
            image = NativeImage(pixels, "HW" if flat else "DHW", self._spacing_mm, mask=mask)
            patient = self._patients[index] if self._patients else None
            if patient == "":
                report.refuse(f"images[{index}]", "no patient")
            else:
                yield Scan(image, f"images[{index}]", self._labels[index], patient, self._sites[index])
            advance(1)


def _load(path: Path) -> dict[str, NativeArray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (
        OSError,
        EOFError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
        KeyError,
        AttributeError,
        TypeError,
    ) as error:
        raise BadData(
            f"{path.name} cannot be read as .npz.",
            "It is damaged, cut short, no zip file of arrays, or holds pickled objects, which are never loaded.",
            "Write it again with numpy.savez.",
        ) from error


def _axes(arrays: dict[str, NativeArray]) -> tuple[str, bool]:
    images = arrays["images"]
    if "axes" in arrays:
        axes = str(arrays["axes"].item() if arrays["axes"].size == 1 else "")
        if axes not in CHANNEL_AXIS or len(axes) != images.ndim:
            raise BadData(
                f"`axes` does not fit `images`, which has {images.ndim} dimensions.",
                "",
                f"Give one of {', '.join(CHANNEL_AXIS)}.",
            )
        return axes, False
    colour = images.ndim == 4 and images.shape[-1] <= MAX_COLOUR_CHANNELS
    axes = {3: "NHW", 4: "NHWC" if colour else "NDHW"}.get(images.ndim, "")
    if not axes:
        raise BadData(f"`images` has {images.ndim} dimensions and no `axes`.", "", f"Give {', '.join(CHANNEL_AXIS)}.")
    return axes, True


def _channels_first(images: NativeArray, axes: str) -> NativeArray:
    if images.dtype.kind not in "buif" or not len(images):
        raise BadData("`images` is empty or does not hold numbers.", "", "Write plain numbers of one shape.")
    channel = CHANNEL_AXIS[axes]
    return images[:, None] if channel is None else np.moveaxis(images, channel, 1)


def _labels(arrays: dict[str, NativeArray], count: int) -> list[str]:
    if "labels" not in arrays:
        return [UNLABELLED] * count
    labels = arrays["labels"]
    if labels.shape == (count, 1):
        labels = labels[:, 0]
    if labels.shape == (count,) and labels.dtype.kind in "US":
        return [text or UNLABELLED for text in _texts({"labels": labels}, "labels", count)]
    if labels.shape != (count,) or labels.dtype.kind not in "bui":
        raise BadData("`labels` must be one whole number or text for each image.", "", "Correct `labels`.")
    return _names(labels.astype(np.int64), _texts(arrays, "class_names", None))


def _names(labels: NativeArray, names: list[str]) -> list[str]:
    if not names:
        return [str(label) for label in labels]
    if labels.min() < 0 or labels.max() >= len(names):
        raise BadData(
            f"`labels` holds numbers that `class_names` ({len(names)} names) does not name.", "", "Correct it."
        )
    return [names[label] for label in labels]


def _texts(arrays: dict[str, NativeArray], key: str, count: int | None) -> list[str]:
    if key not in arrays:
        return []
    values = arrays[key]
    if values.ndim != 1 or values.dtype.kind not in "USbui" or (count is not None and len(values) != count):
        expected = "a list of texts" if count is None else "one text or whole number for each image"
        raise BadData(f"`{key}` must be {expected}.", "", f"Correct `{key}`.")
    if values.dtype.kind == "S":
        return [bytes(value).decode("utf-8", "replace").strip() for value in values]
    return [str(value).strip() for value in values]


def _masks(arrays: dict[str, NativeArray], images: NativeArray) -> NativeArray | None:
    if "mask" not in arrays:
        return None
    masks = arrays["mask"]
    if masks.shape != (len(images), *images.shape[2:]) or masks.dtype.kind not in "bui":
        raise BadData("`mask` must hold whole numbers, with the shape of `images` without channels.", "", "Correct it.")
    return masks


def _spacing(arrays: dict[str, NativeArray], spatial_dims: int) -> tuple[float, ...] | None:
    if "spacing_mm" not in arrays:
        return None
    spacing = arrays["spacing_mm"]
    good = spacing.shape == (spatial_dims,) and spacing.dtype.kind in "uif" and np.isfinite(spacing).all()
    if not good or not (spacing > 0).all():
        raise BadData(f"`spacing_mm` must be {spatial_dims} positive numbers.", "", "Correct `spacing_mm`.")
    return tuple(float(value) for value in spacing)
