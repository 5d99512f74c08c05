"""NIfTI files and BIDS folders.

Volumes are turned to RAS: the axes of the array run to the patient's right, front and head. Channels of a 4D file
(its last axis) become channels. A single axial slice becomes a 2D image as a radiologist hangs it: front up, the
patient's right on the left.
"""

from __future__ import annotations

import csv
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from manikin.client.cohort.labels import Entry, Labels
from manikin.client.cohort.native import UNLABELLED, NativeArray, NativeImage, Scan, UnusableError
from manikin.client.cohort.report import ImportReport

NIFTI_SUFFIXES = (".nii", ".nii.gz")
NOT_SCANS = ("mask", "defacemask", "dseg", "probseg")
LABEL_COLUMNS = ("label", "diagnosis", "group")
MM_PER_UNIT = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
MAX_CHANNELS = 64


class NiftiFiles:
    """Reads NIfTI files; without patient ids in a labels.csv each file stands for a patient."""

    kind = "NIfTI"

    def __init__(self, root: Path, files: Sequence[Path], labels: Labels) -> None:
        self._root, self._files, self._labels = root, files, labels
        self.total = len(files)

    def read(self, report: ImportReport, advance: Callable[[int], None]) -> Iterator[Scan]:
        """One scan for each file."""
        names = [path.relative_to(self._root).as_posix() for path in self._files]
        self._labels.check_all_found(names)
        for path, name in zip(self._files, names, strict=True):
            entry = self._labels.find(name)
            try:
                if entry is None and self._labels.has_patients:
                    raise UnusableError("no patient", "the labels file does not name it")
                image = read_nifti(path)
                yield Scan(image, name, self._labels.label(name), *((entry.patient_id, entry.site) if entry else ()))
            except UnusableError as error:
                report.refuse(name, error.reason, error.detail)
            advance(1)


class BidsFolder:
    """Reads the anatomical images of a BIDS folder; the participant is the patient.

    Labels come from a labels.csv (which may name files or participants), else from participants.tsv if that has a
    column `label`, `diagnosis` or `group`.
    """

    kind = "BIDS"

    def __init__(self, root: Path, files: Sequence[Path], labels: Labels) -> None:
        self._root, self._files, self._labels = root, files, labels
        self.total = len(files)

    def read(self, report: ImportReport, advance: Callable[[int], None]) -> Iterator[Scan]:
        """One scan for each file below `anat` that is not a mask."""
        names = [path.relative_to(self._root).as_posix() for path in self._files]
        participants = _participants(self._root)
        self._labels.check_all_found([*names, *(name.split("/")[0] for name in names)])
        contrasts: Counter[str] = Counter()
        for path, name in zip(self._files, names, strict=True):
            contrast = path.name.split(".")[0].rsplit("_", 1)[-1]
            if contrast in NOT_SCANS:
                report.non_images += 1
            else:
                contrasts[contrast] += 1
                subject = name.split("/")[0]
                entry = self._labels.find(name, subject) or participants.get(subject, Entry(UNLABELLED))
                try:
                    yield Scan(read_nifti(path), name, entry.label, entry.patient_id or subject, entry.site)
                except UnusableError as error:
                    report.refuse(name, error.reason, error.detail)
            advance(1)
        if len(contrasts) > 1:
            shares = ", ".join(f"{count} {contrast}" for contrast, count in contrasts.most_common())
            report.note(
                f"images of several contrasts were taken side by side ({shares}); a labels.csv can tell them apart"
            )


def anatomical_files(root: Path) -> list[Path]:
    """The images of a BIDS folder that lie in sub-*/[ses-*/]anat; empty if it is none."""
    found = {path for pattern in ("sub-*/anat/*", "sub-*/ses-*/anat/*") for path in root.glob(pattern)}
    return sorted(path for path in found if path.name.endswith(NIFTI_SUFFIXES))


def read_nifti(path: Path) -> NativeImage:
    """A NIfTI file as an image of 2 or 3 spatial dimensions.

    Raises:
        UnusableError: it cannot be read, or is neither 3D nor 3D with channels.
    """
    try:
        image = nibabel.load(path)
        unit = image.header.get_xyzt_units()[0] if hasattr(image.header, "get_xyzt_units") else "mm"
        if len(image.shape) == 2:
            image = nibabel.Nifti1Image(np.asanyarray(image.dataobj)[..., None], image.affine)
        image = nibabel.as_closest_canonical(image)
        pixels = np.asanyarray(image.dataobj)
    except EOFError as error:
        raise UnusableError("truncated") from error
    except (ImageFileError, HeaderDataError, OSError, ValueError, TypeError, KeyError, zlib.error) as error:
        short = isinstance(error, OSError | ValueError) and "xpected" in str(error)
        raise UnusableError("truncated" if short else "unreadable") from error
    return _as_image(pixels, voxel_sizes(image.affine) * MM_PER_UNIT.get(unit, 1.0))


def _as_image(pixels: NativeArray, spacing: NativeArray) -> NativeImage:
    if pixels.ndim == 5 and pixels.shape[3] == 1:
        pixels = pixels[..., 0, :]
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or pixels.shape[-1] > MAX_CHANNELS or pixels.dtype.kind not in "buif":
        raise UnusableError("unsupported", "it is neither a volume nor a volume with a few channels")
    pixels = np.moveaxis(pixels, -1, 0)
    known = bool(np.isfinite(spacing).all() and (spacing > 0).all())
    if pixels.shape[-1] > 1:
        return NativeImage(pixels, "RAS", tuple(map(float, spacing)) if known else None)
    return NativeImage(hang(pixels[..., 0]), "HW", (float(spacing[1]), float(spacing[0])) if known else None)


def hang(axial: NativeArray) -> NativeArray:
    """Axial slices (..., right, front) as rows and columns: front up, the patient's right on the left."""
    return axial[..., ::-1, ::-1].swapaxes(-1, -2)


def _participants(root: Path) -> dict[str, Entry]:
    path = root / "participants.tsv"
    if not path.is_file():
        return {}
    reader = csv.DictReader(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), delimiter="\t")
    column = next((name for name in LABEL_COLUMNS if name in (reader.fieldnames or ())), None)
    entries = {}
    for row in reader:
        label = (row.get(column) or "").strip() if column else ""
        if row.get("participant_id"):
            known = label if label not in ("", "n/a") else UNLABELLED
            entries[row["participant_id"]] = Entry(known, row["participant_id"], (row.get("site") or "").strip())
    return entries
