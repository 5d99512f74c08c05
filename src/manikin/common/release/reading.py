"""A signed folder: an envelope that lists files, and exactly these files, byte for byte: a release, or a candidate.

What is read for its digest is what is given back, so that nothing can change in between.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection
from pathlib import Path

from manikin.common.documents import ENVELOPE_BYTES_MAX, OpenedStatement, Subject, TrustedKey, open_envelope
from manikin.common.errors import VerificationFailed
from manikin.common.release.paths import is_safe_name

FILES_MAX = 4096  # a bundle has a dozen files; reports may add some
BUNDLE_BYTES_MAX = 8 << 30  # larger than any generator that a hospital would sample from


def read_listed(
    folder: Path, trusted: Collection[TrustedKey] | None, *, envelope: str, predicate_type: str
) -> tuple[OpenedStatement, dict[str, bytes]]:
    """The statement of a folder, and the content of every file that it lists.

    Args:
        folder: the folder.
        trusted: keys of which a coordinator's must have signed; None looks at no signature.
        envelope: name of the envelope's file.
        predicate_type: the only type accepted.

    Raises:
        VerificationFailed: a signature, a digest or the list does not hold.
    """
    # (1) The envelope opens: signed by a trusted coordinator, and of the type asked for.
    statement = open_envelope(read_envelope(folder, envelope), trusted, predicate_type=predicate_type)
    # (2) Exactly the listed files are there: none more, none missing, no links, no way out of the folder.
    _check_listing(folder, statement.subjects, envelope)
    # (3) Every file has the listed size and digest.
    return statement, {subject.name: _read_subject(folder, subject) for subject in statement.subjects}


def refused(why: str) -> VerificationFailed:
    """The error of whatever does not hold in a bundle."""
    return VerificationFailed("The bundle is refused.", why, "Do not use it; fetch it again from the coordinator.")


def read_envelope(bundle: Path, name: str) -> bytes:
    """The envelope of a folder; one that is too large is cut off and will not open.

    Raises:
        VerificationFailed: there is none, or it is no plain file.
    """
    path, kind = bundle / name, name.split(".")[0]
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise refused(f"{name} is not a plain file.")
        with path.open("rb") as file:
            return file.read(ENVELOPE_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise VerificationFailed(
            f"{bundle} is not a {kind}.", f"It holds no {name}.", "Give the folder that the coordinator wrote."
        ) from None


def _check_listing(bundle: Path, subjects: tuple[Subject, ...], envelope: str) -> None:
    listed = [subject.name for subject in subjects]
    if len(listed) > FILES_MAX or sum(subject.size_bytes for subject in subjects) > BUNDLE_BYTES_MAX:
        raise refused("It is larger than any release.")
    if len({name.lower() for name in listed}) != len(listed) or not all(map(is_safe_name, listed)):
        raise refused("Its statement lists unsafe or repeated names.")
    found = _walk(bundle)
    missing, added = set(listed) - found, found - set(listed) - {envelope}
    if missing:
        raise refused(f"{len(missing)} listed file(s) are missing, such as {min(missing)!r}.")
    if added:
        raise refused(f"{len(added)} file(s) are not listed, such as {min(added)!r}.")


def _walk(bundle: Path) -> set[str]:
    """POSIX names of all plain files; anything but plain files and the folders that hold them is refused."""
    names: set[str] = set()
    for folder, folders, files in os.walk(bundle, followlinks=False):
        here = Path(folder)
        if not folders and not files:
            raise refused(f"{here.name!r} is an empty folder.")
        for name in folders + files:
            mode = (here / name).lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise refused(f"{name!r} is a link or no plain file.")
        names.update((here / name).relative_to(bundle).as_posix() for name in files)
        if len(names) > FILES_MAX + 1:
            raise refused("It holds more files than any release.")
    return names


def _read_subject(bundle: Path, subject: Subject) -> bytes:
    with (bundle / subject.name).open("rb") as file:
        content = file.read(subject.size_bytes + 1)
    if len(content) != subject.size_bytes:
        raise refused(f"{subject.name!r} has not the listed size.")
    if hashlib.sha256(content).hexdigest() != subject.sha256:
        raise refused(f"{subject.name!r} has not the listed digest.")
    return content
