"""PNG and JPEG folders."""

import numpy as np
import pytest
from PIL import Image

from manikin.client.cohort.labels import Labels
from manikin.client.cohort.native import UnusableError
from manikin.client.cohort.pictures import PictureFolder, read_picture
from manikin.client.cohort.report import ImportReport
from manikin.common.errors import BadData

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


@pytest.mark.parametrize(
    ("mode", "pixels", "expected"),
    [
        ("L", RAMP, RAMP),
        ("I;16", RAMP.astype(np.uint16) * 250, RAMP.astype(np.uint16) * 250),
        ("RGB", np.stack([RAMP] * 3, -1), RAMP),
        ("RGBA", np.stack([RAMP] * 3 + [255 - RAMP], -1), RAMP),
    ],
)
def test_grey_values_are_kept(tmp_path, mode, pixels, expected):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), expected[None])


def test_palettes_and_bits_become_grey(tmp_path):
    Image.fromarray(RAMP).convert("P").save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "p.png"), RAMP[None])
    Image.fromarray(RAMP > 100).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "b.png"), (RAMP > 100)[None] * 255)


def test_a_turned_photograph_is_set_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the first row is the right edge
    Image.fromarray(RAMP).save(tmp_path / "a.jpg", exif=exif, quality=100)
    assert read_picture(tmp_path / "a.jpg").shape == (1, 8, 6)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("kept", [0, 20, 0.6])
def test_broken_pictures_are_refused(tmp_path, suffix, kept):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40)).astype(np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if kept > 1 or kept == 0 else int(kept * len(whole))])
    with pytest.raises(UnusableError) as caught:
        read_picture(path)
    assert caught.value.reason in ("truncated", "unreadable")


def test_only_pictures_that_the_labels_name_are_taken(tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(RAMP).save(tmp_path / name)
    (tmp_path / "labels.csv").write_text("file,patient,label,site\na.png,7,ill,north\n")
    report = ImportReport()
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    (scan,) = PictureFolder(tmp_path, files, Labels.read(tmp_path / "labels.csv")).read(report, lambda _: None)
    assert (scan.label, scan.patient_id, scan.site, scan.image.axes) == ("ill", "7", "north", "HW")
    assert [(refusal.file, refusal.reason) for refusal in report.refused] == [("b.png", "no patient")]


def test_patients_must_be_known(tmp_path):
    with pytest.raises(BadData, match="patient column"):
        PictureFolder(tmp_path, [], Labels.none())
