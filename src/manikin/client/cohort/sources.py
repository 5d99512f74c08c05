"""What a hospital hands over: finding out what a path is, and the reader for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from manikin.client.cohort.arrays import ArrayFile
from manikin.client.cohort.dicom import DicomFolder
from manikin.client.cohort.labels import Labels
from manikin.client.cohort.native import Scan
from manikin.client.cohort.nifti import NIFTI_SUFFIXES, BidsFolder, NiftiFiles, anatomical_files
from manikin.client.cohort.pictures import PICTURE_SUFFIXES, PictureFolder
from manikin.client.cohort.report import ImportReport
from manikin.common.errors import BadData, Misconfigured

LABELS_NAME = "labels.csv"
DICOM_MAGIC_AT = 128


class Source(Protocol):
    """Something that hands out scans.

    `kind` names it for the report; `total` is how many units `read` will tell `advance` about.
    """

    kind: str
    total: int

    def read(self, report: ImportReport, advance: Callable[[int], None]) -> Iterator[Scan]:
        """Every usable scan, in a fixed order; what is refused or skipped goes into `report`."""
        ...


def open_source(path: Path, labels_path: Path | None = None) -> Source:
    """The reader for `path`, a file or a folder; a labels.csv in the folder is used unless another is given.

    Raises:
        Misconfigured: there is nothing at `path`, or labels were given for a source that has its own.
        BadData: it is a file of an unknown kind, or labels are needed and missing.
    """
    if not path.exists():
        raise Misconfigured(f"There is nothing at {path}.", "", "Give the path of a folder, a NIfTI or an .npz file.")
    if path.suffix == ".npz" and path.is_file():
        if labels_path is not None:
            raise Misconfigured("An .npz file carries its own labels.", "", "Leave --labels away.")
        return ArrayFile(path)
    root = path if path.is_dir() else path.parent
    if labels_path is None and path.is_dir() and (root / LABELS_NAME).is_file():
        labels_path = root / LABELS_NAME
    labels = Labels.none() if labels_path is None else Labels.read(labels_path)
    if path.is_dir() and (anatomical := anatomical_files(root)):
        return BidsFolder(root, anatomical, labels)
    files = [path] if path.is_file() else _walk(root)
    return _open_files(root, [file for file in files if not _is_labels(file, labels_path)], labels)


def _open_files(root: Path, files: list[Path], labels: Labels) -> Source:
    """The reader for the most frequent kind of file; the rest is counted as no images."""
    nifti = [file for file in files if file.name.lower().endswith(NIFTI_SUFFIXES)]
    pictures = [file for file in files if file.name.lower().endswith(PICTURE_SUFFIXES)]
    dicom = [file for file in files if is_dicom(file)]
    largest = max(len(nifti), len(pictures), len(dicom))
    if not nifti and not dicom and not labels.given and any(file.suffix == ".npz" for file in files):
        raise BadData(f"{root.name} holds .npz files, which are imported one by one.", "", "Give the path of the file.")
    if largest == 0 or len(dicom) == largest:
        return Beside(DicomFolder(root, files, labels), {"NIfTI": len(nifti), "PNG or JPEG": len(pictures)}, 0)
    chosen: Source = NiftiFiles(root, nifti, labels) if len(nifti) == largest else PictureFolder(root, pictures, labels)
    others = {"DICOM": len(dicom), "PNG or JPEG": len(pictures), "NIfTI": len(nifti)}
    del others["NIfTI" if len(nifti) == largest else "PNG or JPEG"]
    return Beside(chosen, others, len(files) - largest)


class Beside:
    """A source in a folder that holds other things as well, which the report must mention."""

    def __init__(self, source: Source, others: dict[str, int], non_images: int) -> None:
        self._source, self._others, self._non_images = source, others, non_images
        self.kind, self.total = source.kind, source.total

    def read(self, report: ImportReport, advance: Callable[[int], None]) -> Iterator[Scan]:
        """What the source reads, after counting the rest."""
        report.non_images += self._non_images
        for kind, count in self._others.items():
            if count:
                report.note(f"{count} {kind} files beside the {self.kind} files were not read: import them apart")
        yield from self._source.read(report, advance)


def is_dicom(path: Path) -> bool:
    """Whether a file says that it is DICOM, by its magic word or its name."""
    if path.suffix.lower() in (".dcm", ".dicom", ".ima"):
        return True
    try:
        with path.open("rb") as file:
            file.seek(DICOM_MAGIC_AT)
            return file.read(4) == b"DICM"
    except OSError:
        return False


def _walk(root: Path) -> list[Path]:
    found = []
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
    files = [path for path in found if path.is_file()]
    if not files:
        raise BadData(f"{root.name} holds no files.", "", "Give a folder with scans.")
    return files


def _is_labels(file: Path, labels_path: Path | None) -> bool:
    return labels_path is not None and labels_path.is_file() and file.samefile(labels_path)
