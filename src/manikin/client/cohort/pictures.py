"""A folder of PNG and JPEG files with a labels.csv that says whose they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from manikin.client.cohort.labels import Labels
from manikin.client.cohort.native import NativeArray, NativeImage, Scan, UnusableError, luminance
from manikin.client.cohort.report import ImportReport
from manikin.common.errors import BadData

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
GREY_MODES = ("L", "I;16", "I;16B", "I", "F")


class PictureFolder:
    """Reads pictures as 2D images; colours become luminance.

    Args:
        root: the source folder.
        files: the pictures in it.
        labels: required, with a patient column.
    """

    kind = "pictures"

    def __init__(self, root: Path, files: Sequence[Path], labels: Labels) -> None:
        if not labels.has_patients:
            raise BadData(
                "An image folder needs a labels.csv with a patient column.",
                "PNG and JPEG files do not say which patient they show.",
                "Write file,patient,label[,site] and give it with --labels.",
            )
        self._root, self._files, self._labels = root, files, labels
        self.total = len(files)

    def read(self, report: ImportReport, advance: Callable[[int], None]) -> Iterator[Scan]:
        """One scan for each picture that the labels name."""
        names = [path.relative_to(self._root).as_posix() for path in self._files]
        self._labels.check_all_found(names)
        for path, name in zip(self._files, names, strict=True):
            entry = self._labels.find(name)
            try:
                if entry is None:
                    raise UnusableError("no patient", "the labels file does not name it")
                image = NativeImage(read_picture(path), "HW")
                yield Scan(image, name, entry.label, entry.patient_id, entry.site)
            except UnusableError as error:
                report.refuse(name, error.reason, error.detail)
            advance(1)


def read_picture(path: Path) -> NativeArray:
    """A picture as (1, rows, columns), upright as its EXIF orientation says.

    Raises:
        UnusableError: it cannot be read.
    """
    try:
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture)
            if upright.mode in GREY_MODES:
                return np.asarray(upright)[None]
            if upright.mode == "1":
                return np.asarray(upright.convert("L"))[None]
            return luminance(np.asarray(upright.convert("RGB")))[None]
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "truncated" if "truncated" in str(error) else "unreadable"
        raise UnusableError(reason) from error
