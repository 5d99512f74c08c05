"""Keyed hashes: how a cohort knows patients and images without storing who they are.

HMAC-SHA256 (RFC 2104) with the hospital's secret, one purpose word for each use, parts framed by their length, so
that no two inputs share a hash by concatenation. Without the secret nobody can test a guessed patient id.
Not promised: the secret file is what re-identifies; whoever holds it can test guesses.
"""

from __future__ import annotations

import hmac
import unicodedata
from collections.abc import Iterable

from manikin.common.study import Split

SECRET_BYTES = 32


class Pseudonyms:
    """The keyed hashes of one hospital.

    Args:
        secret: 32 bytes that never leave the hospital.

    >>> Pseudonyms(bytes(32)).patient("MRN 17")[:16]
    '4c9abbe50abf892c'
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def patient(self, patient_id: str) -> str:
        """Key of a patient; blanks around the id and its Unicode form do not matter."""
        return self._hash("patient", unicodedata.normalize("NFC", patient_id).strip().encode())

    def unidentified(self, content: str, occurrence: int) -> str:
        """Key of an image that is its own patient; equal images are told apart by their count in the source."""
        return self._hash("image", content.encode(), str(occurrence).encode())

    def content(self, *parts: bytes) -> str:
        """Key of an image's pixels."""
        return self._hash("content", *parts)

    def row(self, patient: str, content: str, label: str) -> str:
        """Key of one row of the cohort: this image of this patient under this label."""
        return self._hash("row", patient.encode(), content.encode(), label.encode())

    def commitment(self, rows: Iterable[str]) -> str:
        """Keyed digest of a whole cohort, whatever the order in which it was imported."""
        return self._hash("cohort", *(row.encode() for row in sorted(rows)))

    def part(self, patient: str, split: Split) -> str:
        """ "train", "holdout" or "calibration": decided by this patient's key alone, so nobody moves anybody."""
        position = int(self._hash("split", patient.encode())[:13], 16) / 16**13
        if position < split.train:
            return "train"
        return "holdout" if position < split.train + split.holdout else "calibration"

    def _hash(self, purpose: str, *parts: bytes) -> str:
        state = hmac.new(self._secret, purpose.encode() + b"\0", "sha256")
        for part in parts:
            state.update(len(part).to_bytes(8, "big"))
            state.update(part)
        return state.hexdigest()
