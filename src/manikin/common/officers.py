"""Who decides on a release: officers with keys and institutions of their own, of whom k must approve.

A plan names its officers, or none. What is promised here: that k of them cannot be one person's work alone, since they
are named with different keys and in at least two institutions. What is
not: that an institution is what it calls itself; its officer's fingerprint was read out to the coordinator, and the
hospitals see the names in the plan before they approve it.

>>> problem_with([Officer("Ada", "a" * 64, "North"), Officer("Bo", "b" * 64, "NORTH ")], 2)
'Its officers are of one institution; it takes 2.'
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from manikin.common.errors import ProtocolViolation

OFFICERS_MAX = 32  # more than any consortium has; bounds what a bundle may carry
INSTITUTIONS_MIN = 2
NAME_CHARACTERS_MAX = 64

_KEY = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Officer:
    """A person who decides on releases.

    Args:
        name: the officer.
        key: raw Ed25519 public key in 64 hex digits.
        institution: for whom the officer speaks.
    """

    name: str
    key: str
    institution: str

    def __post_init__(self) -> None:
        words = (self.name, self.institution)
        named = all(w.strip() and w.isprintable() and len(w) <= NAME_CHARACTERS_MAX for w in words)
        if not named or not _KEY.fullmatch(self.key):
            raise ProtocolViolation(
                "A plan was refused.",
                "An officer has no name, no institution or no key of 64 hex digits.",
                "Ask for the plan again.",
            )

    @property
    def public_key(self) -> bytes:
        """32 raw bytes."""
        return bytes.fromhex(self.key)


def institutions(officers: Iterable[Officer]) -> frozenset[str]:
    """The different institutions of officers; capitals, spaces and punctuation make no other one."""
    return frozenset(_plain(officer.institution) for officer in officers)


def problem_with(officers: Sequence[Officer], needed: int) -> str:
    """Why `needed` of these officers cannot decide; empty if they can, and for none of whom none is needed."""
    if not officers and needed == 0:
        return ""
    if len(officers) > OFFICERS_MAX:
        return f"It names more than {OFFICERS_MAX} officers."
    if len({o.name for o in officers}) < len(officers) or len({o.key for o in officers}) < len(officers):
        return "Two officers share a name or a key."
    if not INSTITUTIONS_MIN <= needed <= len(officers):
        return f"{needed} of {len(officers)} officers cannot decide: it takes {INSTITUTIONS_MIN} or more."
    if len(institutions(officers)) < INSTITUTIONS_MIN:
        return f"Its officers are of one institution; it takes {INSTITUTIONS_MIN}."
    return ""


def _plain(name: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", name).casefold() if c.isalnum())
