"""The release: one folder that holds a generator, what is claimed of it, and a signature over every byte."""

from manikin.common.release.bundle import write_bundle
from manikin.common.release.candidate import Candidate, decide, open_candidate
from manikin.common.release.facts import Release, ReleaseFacts
from manikin.common.release.verification import load_release, verify_bundle

__all__ = [
    "Candidate",
    "Release",
    "ReleaseFacts",
    "decide",
    "load_release",
    "open_candidate",
    "verify_bundle",
    "write_bundle",
]
