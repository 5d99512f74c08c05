"""A hospital's folder: made once, never overwritten, its secret for its owner only."""

import stat

import pytest

from manikin.client.cohort import Hospital, create_hospital
from manikin.common.errors import Misconfigured


def test_a_new_hospital_has_a_name_a_secret_and_an_empty_cohort(tmp_path):
    made = create_hospital(tmp_path / "h", 'St. "Mary" Süd')
    assert Hospital.open(tmp_path / "h") == made
    assert made.name == 'St. "Mary" Süd'
    assert len(made.secret) == 32
    assert stat.S_IMODE((tmp_path / "h" / "secret.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(made.database.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.database.parent.stat().st_mode) == 0o700


def test_secrets_differ(tmp_path):
    assert create_hospital(tmp_path / "a", "a").secret != create_hospital(tmp_path / "b", "b").secret


def test_a_hospital_is_never_overwritten(tmp_path):
    made = create_hospital(tmp_path / "h", "one")
    with pytest.raises(Misconfigured, match="already"):
        create_hospital(tmp_path / "h", "two")
    assert Hospital.open(tmp_path / "h") == made


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "scan.dcm").touch()
    with pytest.raises(Misconfigured, match="other files"):
        create_hospital(tmp_path, "one")
    assert [path.name for path in tmp_path.iterdir()] == ["scan.dcm"]


def test_an_init_that_was_cut_short_is_completed_with_its_secret(tmp_path):
    made = create_hospital(tmp_path / "h", "one")
    (tmp_path / "h" / "hospital.toml").unlink()
    assert create_hospital(tmp_path / "h", "one").secret == made.secret


@pytest.mark.parametrize("name", ["", "  ", "a" * 65, "two\nlines", "bell\a"])
def test_names_must_be_printable_and_short(tmp_path, name):
    with pytest.raises(Misconfigured):
        create_hospital(tmp_path / "h", name)
    assert not (tmp_path / "h").exists()


def test_a_folder_that_is_no_hospital_is_refused(tmp_path):
    with pytest.raises(Misconfigured, match="not a hospital"):
        Hospital.open(tmp_path)


@pytest.mark.parametrize("content", [b"\xff", b"name = 3\nschema = 1\n", b"schema = 2\nname = 'x'\n", b"= ="])
def test_a_damaged_hospital_file_is_refused(hospital, content):
    (hospital / "hospital.toml").write_bytes(content)
    with pytest.raises(Misconfigured):
        Hospital.open(hospital)


def test_a_secret_that_others_can_read_is_refused(hospital):
    (hospital / "secret.key").chmod(0o640)
    with pytest.raises(Misconfigured, match="chmod 600"):
        Hospital.open(hospital)


def test_a_short_or_missing_secret_is_refused(hospital):
    (hospital / "secret.key").write_bytes(bytes(31))
    with pytest.raises(Misconfigured, match="32 bytes"):
        Hospital.open(hospital)
    (hospital / "secret.key").unlink()
    with pytest.raises(Misconfigured, match="no secret"):
        Hospital.open(hospital)


def test_the_secret_is_not_shown(hospital):
    opened = Hospital.open(hospital)
    assert repr(opened.secret) not in repr(opened)
    assert opened.secret.hex() not in repr(opened)
