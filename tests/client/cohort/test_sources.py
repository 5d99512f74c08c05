"""What a path is taken for."""

import numpy as np
import pytest
from PIL import Image

from manikin.client.cohort.report import ImportReport
from manikin.client.cohort.sources import open_source
from manikin.common.errors import BadData, Misconfigured

VOLUME = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)


def read(source):
    report = ImportReport()
    return list(source.read(report, lambda _: None)), report


def test_kinds_are_recognised(tmp_path, write_npz, write_nifti, write_dicom):
    write_nifti(tmp_path / "n" / "deep" / "a.nii.gz", VOLUME)
    write_nifti(tmp_path / "b" / "sub-1" / "anat" / "sub-1_T1w.nii.gz", VOLUME)
    write_dicom(tmp_path / "d" / "IM0001")
    picture(tmp_path / "p" / "a.PNG")
    (tmp_path / "p" / "labels.csv").write_text("file,patient,label\na.PNG,1,ill\n")
    assert open_source(write_npz()).kind == "npz"
    assert open_source(tmp_path / "n").kind == "NIfTI"
    assert open_source(tmp_path / "n" / "deep" / "a.nii.gz").kind == "NIfTI"
    assert open_source(tmp_path / "b").kind == "BIDS"
    assert open_source(tmp_path / "d").kind == "DICOM"
    assert open_source(tmp_path / "d" / "IM0001").kind == "DICOM"
    assert open_source(tmp_path / "p").kind == "pictures"


def test_the_majority_decides_and_the_rest_is_said(tmp_path, write_nifti):
    write_nifti(tmp_path / "a.nii", VOLUME)
    write_nifti(tmp_path / "b.nii", VOLUME)
    picture(tmp_path / "screenshot.png")
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden").touch()
    scans, report = read(open_source(tmp_path))
    assert len(scans) == 2
    assert report.non_images == 2
    assert "1 PNG or JPEG files" in report.notes[0]


def test_the_labels_file_itself_is_no_non_image(tmp_path, write_nifti):
    write_nifti(tmp_path / "a.nii", VOLUME)
    (tmp_path / "labels.csv").write_text("file,label\na.nii,ill\n")
    (scan,), report = read(open_source(tmp_path))
    assert scan.label == "ill"
    assert report.non_images == 0


def test_given_labels_win_over_those_in_the_folder(tmp_path, write_nifti):
    write_nifti(tmp_path / "s" / "a.nii", VOLUME)
    (tmp_path / "s" / "labels.csv").write_text("file,label\na.nii,ill\n")
    (tmp_path / "other.csv").write_text("file,label\na.nii,well\n")
    (scan,), _ = read(open_source(tmp_path / "s", tmp_path / "other.csv"))
    assert scan.label == "well"


def test_paths_outside_the_source_name_nothing(tmp_path, write_nifti):
    write_nifti(tmp_path / "s" / "a.nii", VOLUME)
    write_nifti(tmp_path / "b.nii", VOLUME)
    (tmp_path / "s" / "labels.csv").write_text("file,label\n../b.nii,ill\n")
    with pytest.raises(BadData, match="name no file"):
        read(open_source(tmp_path / "s"))


def test_pictures_need_patients(tmp_path):
    picture(tmp_path / "a.png")
    with pytest.raises(BadData, match=r"labels\.csv with a patient column"):
        open_source(tmp_path)


def test_nothing_there_is_misconfigured(tmp_path, write_npz):
    with pytest.raises(Misconfigured):
        open_source(tmp_path / "none")
    with pytest.raises(Misconfigured, match="own labels"):
        open_source(write_npz(), tmp_path / "labels.csv")


def test_an_empty_folder_is_bad_data(tmp_path):
    with pytest.raises(BadData, match="no files"):
        open_source(tmp_path)


def test_a_folder_around_an_npz_is_refused_with_what_to_do(write_npz, tmp_path):
    picture(write_npz().parent / "contact.png")
    with pytest.raises(BadData, match="one by one"):
        open_source(tmp_path)
