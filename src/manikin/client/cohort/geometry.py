"""From DICOM slices to volumes: which slices belong together, in which order, and how the array lies in the patient.

DICOM's patient axes run to the left, back and head (PS3.3, C.7.6.2.1.1); volumes leave here turned to RAS, the axes
of an oblique acquisition each to the nearest of the patient's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation

from manikin.client.cohort.native import NativeArray, NativeImage, UnusableError

SAME_PLACE_MM = 0.02
SAME_DIRECTION = 0.01  # of a direction cosine
SAME_SPACING_MM = 0.001
GAP_TOLERANCE = 0.25  # of the median gap; a missing slice doubles a gap
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Slice:
    """One frame of one file, as its header describes it.

    Args:
        file: path of the file.
        frame: number of the frame in the file, from 0.
        series: what must be equal for slices to belong together (study, series, patient, size, echo).
        patient_id: as the header says; "" where it does not.
        modality: as the header says.
        instance: InstanceNumber, and the frame within it.
        spacing_mm: between rows, between columns.
        orientation: ImageOrientationPatient, six direction cosines.
        position: ImagePositionPatient, mm.
    """

    file: Path
    frame: int
    series: tuple[str, ...]
    patient_id: str
    modality: str
    instance: tuple[int, int]
    spacing_mm: tuple[float, float] | None
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None

    @property
    def normal(self) -> NativeArray:
        assert self.orientation is not None
        return np.cross(self.orientation[:3], self.orientation[3:])

    @property
    def location_mm(self) -> float:
        """Where the slice lies along its own normal."""
        assert self.position is not None
        return float(np.dot(self.normal, self.position))


def group(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices of one series and one geometry, in a fixed order."""
    groups: dict[tuple[str, ...], list[list[Slice]]] = defaultdict(list)
    for s in slices:
        for alike in groups[s.series]:
            if _same_geometry(alike[0], s):
                alike.append(s)
                break
        else:
            groups[s.series].append([s])
    return [alike for series in groups.values() for alike in series]


def _same_geometry(one: Slice, other: Slice) -> bool:
    return (
        (one.position is None) == (other.position is None)
        and _close(one.orientation, other.orientation, SAME_DIRECTION)
        and _close(one.spacing_mm, other.spacing_mm, SAME_SPACING_MM)
    )


def _close(one: Sequence[float] | None, other: Sequence[float] | None, tolerance: float) -> bool:
    if one is None or other is None:
        return one is other
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= tolerance


def stacks(slices: Sequence[Slice]) -> list[list[Slice]]:
    """The images in one group: a list of one slice is a 2D image, a longer one a volume, sorted along its normal.

    Slices without geometry are 2D images each. Where every place was imaged k times (echoes, time points), there are
    k volumes.

    Raises:
        UnusableError: slices are missing, or some places were imaged more often than others.
    """
    ordered = sorted(slices, key=lambda s: s.instance)
    if len(ordered) == 1 or any(s.orientation is None or s.position is None for s in ordered):
        return [[s] for s in ordered]
    places: list[list[Slice]] = []
    for s in sorted(ordered, key=lambda s: s.location_mm):
        if places and s.location_mm - places[-1][0].location_mm <= SAME_PLACE_MM:
            places[-1].append(s)
        else:
            places.append([s])
    repeats = len(places[0])
    if any(len(place) != repeats for place in places):
        raise UnusableError("geometry", "some of its slices exist more often than others")
    _check_gaps([place[0].location_mm for place in places])
    for place in places:
        place.sort(key=lambda s: s.instance)
    return [[place[i] for place in places] for i in range(repeats)]


def _check_gaps(locations: list[float]) -> None:
    gaps = np.diff(locations)
    if len(gaps) and np.abs(gaps - np.median(gaps)).max() > GAP_TOLERANCE * np.median(gaps):
        raise UnusableError("geometry", "slices are missing, or not equally far apart")


def assemble(planes: Sequence[NativeArray], slices: Sequence[Slice]) -> NativeImage:
    """One image from decoded planes (rows, columns) and their slices, in the order of `stacks`.

    Returns:
        (1, rows, columns) for one slice; else (1, right, front, head) with the spacing along these axes.
    """
    first, last = slices[0], slices[-1]
    if len(slices) == 1:
        return NativeImage(planes[0][None], "HW", first.spacing_mm, first.modality)
    assert first.orientation is not None
    assert first.position is not None
    assert last.position is not None
    volume = np.stack(planes, axis=-1).swapaxes(0, 1)  # columns, rows, slices
    along = np.array(last.position) - np.array(first.position)
    directions = np.stack([first.orientation[:3], first.orientation[3:], along], axis=1)
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ directions  # their lengths do not matter for the orientation
    orientation = io_orientation(affine)
    spacing = first.spacing_mm or (1.0, 1.0)
    native_mm = (spacing[1], spacing[0], (last.location_mm - first.location_mm) / (len(slices) - 1))
    order = np.argsort(orientation[:, 0])
    known = None if first.spacing_mm is None else tuple(float(native_mm[axis]) for axis in order)
    return NativeImage(apply_orientation(volume, orientation)[None], "RAS", known, first.modality)
