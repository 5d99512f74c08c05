"""`manikin synthesize`, and what `manikin hospital import` makes of its files."""

import json

import numpy as np
import pytest

from manikin.client.cohort.report import ImportReport
from manikin.client.cohort.sources import open_source
from manikin.common.errors import Misconfigured, VerificationFailed


def synthesize(manikin, bundle, out, *more):
    return manikin("synthesize", bundle, "--count", 10, "--out", out, *more)


def scans(path):
    report = ImportReport()
    return list(open_source(path).read(report, lambda _: None)), report


def generated(manikin, bundle, folder):
    """The images of the same request in native units."""
    synthesize(manikin, bundle, folder, "--format", "npz")
    return np.load(folder / "shard-00000.npz")["images"]


def test_a_data_set_is_made_and_described(manikin, bundle, trust, tmp_path):
    out_folder = tmp_path / "out"
    mix = ("--mix", "normal=0.7", "--mix", "pneumonia=0.3")
    code, out, _ = synthesize(manikin, bundle, out_folder, "--format", "png", "--trust", trust, *mix, "--json")
    answer = json.loads(out.splitlines()[-1])
    assert code == 0
    assert answer["counts"] == {"normal": 7, "pneumonia": 3}
    assert (answer["made"], answer["found"], answer["signer"]) == (10, 0, "North")
    assert "10 images" in out
    assert "WARNING" not in out


def test_a_second_run_goes_on_and_counts_nothing_twice(manikin, bundle, tmp_path):
    synthesize(manikin, bundle, tmp_path / "out", "--format", "png")
    code, out, _ = synthesize(manikin, bundle, tmp_path / "out", "--format", "png", "--json")
    assert code == 0
    assert "10 images were there from an earlier run" in out
    assert json.loads(out.splitlines()[-1])["made"] == 0


def test_without_a_trust_file_it_warns(manikin, bundle, tmp_path):
    code, out, _ = synthesize(manikin, bundle, tmp_path / "out", "--format", "png")
    assert code == 0
    assert "WARNING: the signature was NOT checked" in out


def test_a_changed_bundle_is_refused_even_without_a_trust_file(manikin, bundle, tmp_path):
    (bundle / "README.md").write_text("changed")
    code, _, err = synthesize(manikin, bundle, tmp_path / "out", "--format", "png")
    assert code == VerificationFailed.exit_code
    assert "README.md" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--format", "bmp"), "no format 'bmp'"),
        (("--format", "png", "--mix", "normal=0.5"), "sum to 0.5"),
        (("--format", "png", "--mix", "other=1"), "no class 'other'"),
        (("--format", "png", "--mix", "normal=nan", "--mix", "pneumonia=1"), "share"),
        (("--format", "png", "--seed", "-1"), "seed"),
        (("--format", "png", "--count", "0"), "cannot be made"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_in_one_sentence(manikin, bundle, tmp_path, more, named):
    code, _, err = synthesize(manikin, bundle, tmp_path / "out", *more)
    assert code == Misconfigured.exit_code
    assert named in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file_format", ["png", "nifti", "dicom"])
def test_pictures_are_imported_as_they_were_drawn(manikin, bundle, tmp_path, file_format):
    expected = generated(manikin, bundle, tmp_path / "npz")
    synthesize(manikin, bundle, tmp_path / "out", "--format", file_format)
    found, _ = scans(tmp_path / "out")
    assert [scan.label for scan in found] == ["normal", "pneumonia"] * 5
    assert len({scan.patient_id for scan in found}) == 10
    for scan, image in zip(found, expected, strict=True):
        assert np.abs(scan.image.pixels[0] - image).max() <= 0.5 + 1e-4
        if file_format != "png":
            assert scan.image.spacing_mm == pytest.approx((2.0, 1.5))


@pytest.mark.parametrize("file_format", ["nifti", "dicom"])
def test_volumes_are_imported_as_they_were_drawn(manikin, volume_bundle, tmp_path, file_format):
    expected = generated(manikin, volume_bundle, tmp_path / "npz")
    synthesize(manikin, volume_bundle, tmp_path / "out", "--format", file_format)
    found, report = scans(tmp_path / "out")
    assert [scan.label for scan in found] == ["normal", "pneumonia"] * 5
    assert report.refused == []
    for scan, image in zip(found, expected, strict=True):
        assert (scan.image.axes, scan.image.spacing_mm) == ("RAS", pytest.approx((1.0, 1.5, 2.5)))
        assert np.abs(scan.image.pixels[0] - image).max() <= 0.5 * 2000 / 4095 + 1e-3


def test_archives_are_imported_with_labels_and_patients(manikin, volume_bundle, tmp_path):
    expected = generated(manikin, volume_bundle, tmp_path / "npz")
    found, _ = scans(tmp_path / "npz" / "shard-00000.npz")
    assert [scan.label for scan in found] == ["normal", "pneumonia"] * 5
    assert np.array_equal(np.stack([scan.image.pixels[0] for scan in found]), expected)
    assert found[0].image.spacing_mm == (1.0, 1.5, 2.5)
