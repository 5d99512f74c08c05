"""The import report: what is printed, what is saved."""

import json
import stat

import pytest

from manikin.client.cohort.report import ImportReport


@pytest.fixture
def report():
    report = ImportReport(kind="DICOM", hospital="North", patients=2, images=3, added=3)
    report.labels = {"ill": {"patients": 2, "images": 3}}
    report.refuse("ward/a.dcm", "burnt in")
    report.refuse("ward/b.dcm", "geometry", "slices are missing", files=20)
    report.headers_dropped = ["PatientName"]
    report.note("once")
    report.note("once")
    return report


def test_refused_files_are_counted_by_reason(report):
    assert report.refusals() == {"geometry": 20, "burnt in": 1}


def test_what_is_printed_names_no_file(report):
    text = "\n".join(report.lines()) + json.dumps(report.summary())
    assert "ward" not in text
    assert "Refused 20: geometry" in text
    assert "PatientName" in text
    assert report.lines().count("Note: once") == 1
    assert "Private tags" not in text.split("{")[0]


def test_what_is_saved_names_files_and_is_for_its_owner_only(report, tmp_path):
    report.save(tmp_path / "r.json")
    saved = json.loads((tmp_path / "r.json").read_text())
    assert saved["refused"][1] == {
        "file": "ward/b.dcm",
        "reason": "geometry",
        "detail": "slices are missing",
        "files": 20,
    }
    assert saved["refused_by_reason"] == {"geometry": 20, "burnt in": 1}
    assert stat.S_IMODE((tmp_path / "r.json").stat().st_mode) == 0o600


def test_the_unit_is_said_where_there_are_no_patients(report):
    report.unit = "image"
    assert "no patient ids" in report.lines()[0]
