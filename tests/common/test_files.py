import errno
import os

import pytest

from manikin.common.errors import StorageFailure
from manikin.common.files import file_digest, write_atomically


def test_writes_whole_content_with_the_mode_asked_for(tmp_path):
    file = tmp_path / "a" / "secret"
    write_atomically(file, b"content", mode=0o600)
    assert file.read_bytes() == b"content"
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_leaves_the_old_content_and_no_temporary_file(tmp_path, monkeypatch):
    file = tmp_path / "state"
    write_atomically(file, b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFailure, match="could not be written"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_an_error_of_another_kind_is_not_called_a_full_disk(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "folder", b"content")


def test_file_digest_is_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_digest(tmp_path / "abc").startswith("ba7816bf8f01cfea")
