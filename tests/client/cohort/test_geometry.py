"""Slices to volumes: grouping, order, gaps, and where an array lies in the patient."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manikin.client.cohort.geometry import Slice, assemble, group, stacks
from manikin.client.cohort.native import UnusableError

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def a_slice(location=0.0, *, instance=0, series=("study", "series"), orientation=AXIAL, spacing=(0.5, 0.8), **changes):
    normal = np.cross(orientation[:3], orientation[3:]) if orientation else np.zeros(3)
    position = tuple(float(x) for x in location * normal) if orientation else None
    values = {"position": position, "orientation": orientation, "spacing_mm": spacing} | changes
    return Slice(Path(f"{instance}.dcm"), 0, series, "p", "CT", (instance, 0), **values)


@given(st.permutations(range(6)))
def test_the_order_of_files_does_not_matter(order):
    slices = [a_slice(2.0 * i, instance=int(9 - i)) for i in order]
    (stack,) = stacks(slices)
    assert [s.location_mm for s in stack] == [0, 2, 4, 6, 8, 10]


def test_series_orientations_and_spacings_are_told_apart_and_jitter_is_not():
    jitter = (1.0, 0.004999, 0.0, 0.0, 1.0, 0.0)
    jitter_too = (1.0, 0.005001, 0.0, 0.0, 1.0, 0.0)
    slices = [
        a_slice(0),
        a_slice(0, series=("study", "other")),
        a_slice(0, orientation=SAGITTAL),
        a_slice(0, spacing=(0.5, 0.9)),
        a_slice(0, spacing=None),
        a_slice(1, orientation=jitter),
        a_slice(2, orientation=jitter_too),
        a_slice(0, orientation=None),
    ]
    assert sorted(len(alike) for alike in group(slices)) == [1, 1, 1, 1, 1, 3]


def test_slices_without_geometry_are_single_images_in_order_of_their_number():
    slices = [a_slice(orientation=None, instance=i) for i in (3, 1, 2)]
    assert [[s.instance[0] for s in stack] for stack in stacks(slices)] == [[1], [2], [3]]


def test_repeated_places_make_several_volumes():
    slices = [a_slice(z, instance=int(10 * z + echo)) for z in (2.0, 0.0, 1.0) for echo in (2, 1)]
    assert [[s.instance[0] for s in stack] for stack in stacks(slices)] == [[1, 11, 21], [2, 12, 22]]


def test_one_place_imaged_often_makes_single_images():
    assert [len(stack) for stack in stacks([a_slice(0, instance=i) for i in range(3)])] == [1, 1, 1]


def test_a_missing_slice_is_refused_and_rounding_is_not():
    stacks([a_slice(z) for z in (0.0, 0.6, 1.3, 1.9, 2.5)])
    with pytest.raises(UnusableError, match="missing"):
        stacks([a_slice(z) for z in (0, 1, 2, 4, 5)])


def test_uneven_repeats_are_refused():
    with pytest.raises(UnusableError, match="more often"):
        stacks([a_slice(z, instance=i) for i, z in enumerate((0, 0, 1, 2))])


@pytest.mark.parametrize(
    ("orientation", "head_first_axes"),
    [
        # DICOM: rows run along the first triple, columns of pixels along the second, in (left, back, head).
        (AXIAL, "columns to the left, rows to the back, slices to the head"),
        (SAGITTAL, "columns to the back, rows to the feet, slices to the right"),
    ],
)
def test_a_volume_is_turned_to_right_front_head(orientation, head_first_axes):
    """A voxel is marked by where it lies in the patient, computed here from the header's own formula (C.7.6.2.1.1)."""
    rows, columns, count = 3, 4, 5
    slices = [a_slice(2.0 * k, orientation=orientation) for k in range(count)]
    across, down = np.array(orientation[:3]), np.array(orientation[3:])
    planes, places = [], []
    for s in slices:
        i, j = np.mgrid[:rows, :columns]
        lps = np.array(s.position) + j[..., None] * 0.8 * across + i[..., None] * 0.5 * down
        places.append(lps * [-1, -1, 1])
        planes.append(np.arange(rows * columns).reshape(rows, columns) + 100 * len(planes))
    image = assemble(planes, slices)
    where = {int(v): tuple(p) for v, p in zip(np.ravel(planes), np.reshape(places, (-1, 3)), strict=True)}
    volume = image.pixels[0]
    for axis in range(3):
        step = np.zeros(3)
        step[axis] = image.spacing_mm[axis]
        last = np.zeros(3, int)
        last[axis] = 1
        np.testing.assert_allclose(np.subtract(where[int(volume[tuple(last)])], where[int(volume[0, 0, 0])]), step)
    assert image.axes == "RAS"


def test_a_single_slice_stays_rows_and_columns():
    plane = np.arange(6).reshape(2, 3)
    image = assemble([plane], [a_slice(7.0)])
    np.testing.assert_array_equal(image.pixels, plane[None])
    assert (image.axes, image.spacing_mm, image.modality) == ("HW", (0.5, 0.8), "CT")
