"""npz sources: axes, labels, patients, and what does not fit."""

import numpy as np
import pytest

from manikin.client.cohort.arrays import ArrayFile
from manikin.client.cohort.report import ImportReport
from manikin.common.errors import BadData


def scans_of(path):
    report = ImportReport()
    steps = []
    source = ArrayFile(path)
    scans = list(source.read(report, steps.append))
    assert sum(steps) == source.total
    return scans, report


@pytest.mark.parametrize(
    ("axes", "shape", "expected", "frame"),
    [
        ("NHW", (2, 3, 4), (1, 3, 4), "HW"),
        ("NHWC", (2, 3, 4, 2), (2, 3, 4), "HW"),
        ("NDHW", (2, 3, 4, 5), (1, 3, 4, 5), "DHW"),
        ("NCDHW", (2, 3, 4, 5, 6), (3, 4, 5, 6), "DHW"),
    ],
)
def test_axes_are_brought_to_channels_first(tmp_path, axes, shape, expected, frame):
    images = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    np.savez(tmp_path / "a.npz", images=images, axes=axes)
    scans, report = scans_of(tmp_path / "a.npz")
    assert [scan.image.pixels.shape for scan in scans] == [expected] * 2
    assert scans[0].image.axes == frame
    assert report.notes == []
    channel_last = np.moveaxis(scans[1].image.pixels, 0, -1)
    np.testing.assert_array_equal(channel_last if axes == "NHWC" else scans[1].image.pixels.squeeze(), images[1])


@pytest.mark.parametrize(("shape", "axes"), [((2, 3, 4), "NHW"), ((2, 3, 4, 3), "NHWC"), ((2, 3, 4, 5), "NDHW")])
def test_missing_axes_are_inferred_and_said(tmp_path, shape, axes):
    np.savez(tmp_path / "a.npz", images=np.zeros(shape))
    _, report = scans_of(tmp_path / "a.npz")
    assert report.notes == [f"the file does not say its axes; they were taken for {axes}"]


def test_labels_are_named_by_class_names_or_by_themselves(write_npz):
    scans, _ = scans_of(write_npz(count=3))
    assert [scan.label for scan in scans] == ["a", "b", "a"]
    scans, _ = scans_of(write_npz(count=3, class_names=None, labels=np.array([[7], [1], [0]], np.uint8)))
    assert [scan.label for scan in scans] == ["7", "1", "0"]
    scans, _ = scans_of(write_npz(count=3, class_names=None, labels=np.array([b"x", b"", b"y"])))
    assert [scan.label for scan in scans] == ["x", "unlabelled", "y"]
    scans, _ = scans_of(write_npz(count=3, labels=None))
    assert {scan.label for scan in scans} == {"unlabelled"}


def test_patients_sites_spacing_and_masks_are_kept(write_npz):
    masks = np.arange(3 * 64).reshape(3, 8, 8) % 2 == 0
    path = write_npz(
        count=3,
        patients=np.array([5, 5, 6]),
        sites=np.array(["n", "s", "s"]),
        mask=masks,
        spacing_mm=[0.5, 2],
        extra=[1],
    )
    scans, report = scans_of(path)
    assert [(scan.patient_id, scan.site) for scan in scans] == [("5", "n"), ("5", "s"), ("6", "s")]
    assert scans[0].image.spacing_mm == (0.5, 2.0)
    np.testing.assert_array_equal(scans[2].image.mask, masks[2])
    assert report.notes == ["arrays that an import does not use: extra"]


def test_without_patients_nobody_is_named(write_npz):
    scans, _ = scans_of(write_npz(count=3, patients=None))
    assert [scan.patient_id for scan in scans] == [None] * 3


def test_an_empty_patient_id_is_refused(write_npz):
    scans, report = scans_of(write_npz(count=3, patients=np.array(["x", " ", "y"])))
    assert len(scans) == 2
    assert report.refusals() == {"no patient": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"images": None},
        {"images": np.zeros((0, 8, 8))},
        {"images": np.array(["x"] * 40)},
        {"axes": "NDHW"},
        {"axes": "HWN"},
        {"axes": None, "images": np.zeros((2, 3, 4, 5, 6))},
        {"labels": np.zeros(39, int)},
        {"labels": np.full(40, np.nan)},
        {"labels": np.full(40, 2)},
        {"labels": np.full(40, -1)},
        {"patients": np.array(["x"])},
        {"sites": np.zeros((40, 2), int)},
        {"mask": np.zeros((40, 8, 9), int)},
        {"spacing_mm": [1.0]},
        {"spacing_mm": [1.0, np.nan]},
        {"spacing_mm": [1.0, 0.0]},
    ],
)
def test_arrays_that_do_not_fit_are_refused(write_npz, changes):
    with pytest.raises(BadData):
        ArrayFile(write_npz(**changes))


def test_pickled_objects_are_never_loaded(write_npz):
    with pytest.raises(BadData, match="cannot be read"):
        ArrayFile(write_npz(patients=np.array([object()] * 40)))


def test_a_damaged_file_is_refused(write_npz, tmp_path):
    whole = write_npz().read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 5):
        (tmp_path / "cut.npz").write_bytes(whole[:size])
        with pytest.raises(BadData):
            ArrayFile(tmp_path / "cut.npz")
    with (tmp_path / "cut.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(BadData):
        ArrayFile(tmp_path / "cut.npz")
