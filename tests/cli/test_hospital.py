"""`manikin hospital`, as a hospital engineer types it."""

import json

import numpy as np
import pytest


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "scans.npz", images=images, axes="NHW", labels=np.arange(20) % 2, patients=np.arange(20) // 2)
    return tmp_path / "scans.npz"


def test_the_whole_journey(manikin, tmp_path, source):
    home = tmp_path / "north"
    code, out, _ = manikin("hospital", "init", home, "--name", "North")
    assert code == 0
    assert f"Next: manikin hospital import SCANS --hospital {home}" in out
    code, out, _ = manikin("hospital", "import", source, "--hospital", home, "--json")
    assert code == 0
    assert "North: 10 patients, 20 images" in out
    result = json.loads(out.splitlines()[-1])
    assert (result["patients"], result["images"], result["unit"], result["refused"]) == (10, 20, "patient", {})
    code, out, _ = manikin("hospital", "show", home, "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["labels"]["0"] == {"patients": 10, "images": 10}


def test_a_second_import_of_the_same_source_succeeds(manikin, tmp_path, source):
    manikin("hospital", "init", tmp_path / "h", "--name", "h")
    manikin("hospital", "import", source, "--hospital", tmp_path / "h")
    code, out, _ = manikin("hospital", "import", source, "--hospital", tmp_path / "h")
    assert code == 0
    assert "0 images added, 20 already there" in out


def test_init_refuses_to_overwrite(manikin, tmp_path):
    manikin("hospital", "init", tmp_path / "h", "--name", "h")
    code, _, err = manikin("hospital", "init", tmp_path / "h", "--name", "h")
    assert code == 10
    assert "is a hospital already" in err


@pytest.mark.parametrize("content", [b"junk", b"PK\x03\x04 junk"])
def test_junk_is_one_clear_message(manikin, tmp_path, content):
    manikin("hospital", "init", tmp_path / "h", "--name", "h")
    (tmp_path / "junk.npz").write_bytes(content)
    code, _, err = manikin("hospital", "import", tmp_path / "junk.npz", "--hospital", tmp_path / "h")
    assert code == 11
    assert "cannot be read" in err
    assert "Traceback" not in err


def test_a_folder_of_junk_is_bad_data(manikin, tmp_path):
    manikin("hospital", "init", tmp_path / "h", "--name", "h")
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "letter.txt").write_text("hello")
    code, _, err = manikin("hospital", "import", tmp_path / "junk", "--hospital", tmp_path / "h")
    assert code == 11
    assert "no usable scan" in err


def test_an_empty_cohort_shows_as_bad_data(manikin, tmp_path):
    manikin("hospital", "init", tmp_path / "h", "--name", "h")
    assert manikin("hospital", "show", tmp_path / "h")[0] == 11
    assert manikin("hospital", "show", tmp_path)[0] == 10
