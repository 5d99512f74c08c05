"""A folder of DICOM files, in any mixture of patients, studies and series.

All headers are read first: they say which files are images, which belong together, and whether the labels name
files that exist. Then each image is decoded. A series becomes a volume where its slices have a geometry, else 2D
images. Pixels go through the modality's rescale; MONOCHROME1 is inverted; colours become luminance. Windows
and overlays are not applied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder

from manikin.client.cohort import geometry, headers
from manikin.client.cohort.geometry import Slice
from manikin.client.cohort.inventory import Inventory
from manikin.client.cohort.labels import Entry, Labels
from manikin.client.cohort.native import UNLABELLED, NativeArray, Scan, UnusableError, canonical, luminance
from manikin.client.cohort.report import ImportReport


class DicomFolder:
    """Reads DICOM files.

    Args:
        root: the source folder.
        files: every file in it, DICOM or not.
        labels: rows may name a file, a SeriesInstanceUID or a PatientID, in this order of precedence.
    """

    kind = "DICOM"

    def __init__(self, root: Path, files: Sequence[Path], labels: Labels) -> None:
        self._root, self._files, self._labels = root, files, labels
        self.total = 2 * len(files)  # headers, then pixels
        self._open: tuple[Path, list[NativeArray]] | None = None
        self._refused: set[Path] = set()

    def read(self, report: ImportReport, advance: Callable[[int], None]) -> Iterator[Scan]:
        """One scan for each volume or 2D image."""
        inventory = Inventory(report)
        for path in self._files:
            inventory.add(path, self._name(path))
            advance(1)
        names = {self._name(path) for path in self._files}
        self._labels.check_all_found(names.union(*({s.series[1], s.patient_id} for s in inventory.slices)))
        advance(len(self._files) - _count_files(inventory.slices))
        for series in geometry.group(inventory.slices):
            for stack in self._stacks(series, report):
                yield from self._read_stack(stack, inventory.broken, report)
            advance(_count_files(series))

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _entries(self, slices: Sequence[Slice]) -> list[Entry]:
        """What the labels say of these slices, each entry once."""
        found = (self._labels.find(self._name(s.file), s.series[1], s.patient_id) for s in slices)
        return list(dict.fromkeys(entry for entry in found if entry is not None))

    def _stacks(self, series: Sequence[Slice], report: ImportReport) -> list[list[Slice]]:
        """The images of a series; one whose slices have labels of their own falls into 2D images."""
        if len(self._entries(series)) > 1:
            return [[s] for s in series]
        try:
            return geometry.stacks(series)
        except UnusableError as error:
            report.refuse(self._name(series[0].file), error.reason, error.detail, files=_count_files(series))
            return []

    def _read_stack(self, stack: Sequence[Slice], broken: set[str], report: ImportReport) -> Iterator[Scan]:
        first = stack[0]
        if first.file in self._refused:
            return
        entry = next(iter(self._entries(stack)), Entry(UNLABELLED))
        patient_id = entry.patient_id or first.patient_id
        try:
            if not patient_id:
                raise UnusableError("no patient", "it has no PatientID")
            if len(stack) > 1 and first.series[1] in broken:
                raise UnusableError("geometry", "another file of its series is unusable")
            planes = [self._plane(s) for s in stack]
            yield Scan(geometry.assemble(planes, stack), self._name(first.file), entry.label, patient_id, entry.site)
        except UnusableError as error:
            self._refused.add(first.file)
            report.refuse(self._name(first.file), error.reason, error.detail, files=_count_files(stack))

    def _plane(self, s: Slice) -> NativeArray:
        if self._open is None or self._open[0] != s.file:
            self._open = (s.file, read_planes(s.file))
        planes = self._open[1]
        if s.frame >= len(planes):
            raise UnusableError("truncated", "it has fewer frames than its header says")
        return planes[s.frame]


def _count_files(slices: Sequence[Slice]) -> int:
    return len({s.file for s in slices})


def read_planes(path: Path) -> list[NativeArray]:
    """The frames of a DICOM file: grey, rescaled, bright is dense; each (rows, columns).

    Raises:
        UnusableError: they cannot be decoded.
    """
    with headers.reading():
        dataset = pydicom.dcmread(path)
        return [_compact(_rescaled(dataset, frame, i)) for i, frame in enumerate(_grey(dataset))]


def _grey(dataset: Dataset) -> NativeArray:
    """Stored values (frames, rows, columns), MONOCHROME1 inverted within the stored range."""
    pixels: NativeArray
    pixels, told = get_decoder(dataset.file_meta.TransferSyntaxUID).as_array(dataset)
    interpretation = str(told["photometric_interpretation"])
    if interpretation == "PALETTE COLOR":
        pixels, interpretation = apply_color_lut(pixels, dataset), "RGB"
    if int(dataset.get("NumberOfFrames") or 1) == 1:
        pixels = pixels[None]
    if interpretation == "RGB":
        pixels = luminance(pixels)
    elif interpretation.startswith("YBR"):
        pixels = pixels[..., 0]
    elif interpretation == "MONOCHROME1":
        last = -1 if dataset.PixelRepresentation else (1 << int(dataset.BitsStored)) - 1
        pixels = last - pixels.astype(np.int64)
    return pixels


def _rescaled(dataset: Dataset, frame: NativeArray, index: int) -> NativeArray:
    group = headers.functional(dataset, index, "PixelValueTransformationSequence")
    if frame.dtype.kind == "f" and "RescaleSlope" not in group:
        return frame
    rescaled: NativeArray = apply_modality_lut(frame, group)
    return rescaled


def _compact(plane: NativeArray) -> NativeArray:
    """As `canonical`, but a plane of a volume may well be constant: air above the head."""
    try:
        return canonical(plane)
    except UnusableError as error:
        if error.reason != "constant" or plane.size == 0:
            raise
        return plane.astype(np.float32)
