"""Verifying a release, offline: a trusted signature over a list of files, and exactly these files, byte for byte.

What is not promised: that the claims on the cards are true. A signature says who makes them.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from manikin.common import generators
from manikin.common.documents import (
    ENVELOPE_BYTES_MAX,
    OpenedStatement,
    Subject,
    TrustedKey,
    load_trust,
    open_envelope,
)
from manikin.common.errors import ManikinError, VerificationFailed
from manikin.common.generators.base import Generator, GeneratorSpec
from manikin.common.release.facts import (
    ENVELOPE_FILE,
    PLAN_FILE,
    PREDICATE_TYPE,
    SPEC_FILE,
    STATE_FILE,
    Release,
    ReleaseFacts,
)
from manikin.common.release.paths import is_safe_name

FILES_MAX = 4096  # a bundle has a dozen files; reports may add some
BUNDLE_BYTES_MAX = 8 << 30  # larger than any generator that a hospital would sample from
VALUES_MAX = 1 << 28  # of one image: a 640-cube, above which the spec is a mistake or an attack


def verify_bundle(bundle: Path, trust: Path) -> Release:
    """Check a release against a trust file that was obtained elsewhere.

    Raises:
        VerificationFailed: at the first step that does not hold; nothing of the bundle should be used.
    """
    # (1) The trust file loads. Keys inside the bundle are never looked at.
    return _open(bundle, load_trust(trust).keys)


def load_release(bundle: Path, trust: Path | None = None) -> Release:
    """A release to sample from; without a trust file only its inner consistency is checked and `signer_name` is None.

    Raises:
        VerificationFailed: as `verify_bundle`; without a trust file, signatures excepted.
    """
    return _open(bundle, None) if trust is None else verify_bundle(bundle, trust)


def _open(bundle: Path, trusted: Collection[TrustedKey] | None) -> Release:
    # (2) The envelope opens: signed by a trusted coordinator, and a release statement.
    statement = open_envelope(_read_envelope(bundle), trusted, predicate_type=PREDICATE_TYPE)
    # (3) Exactly the listed files are there: none more, none missing, no links, no way out of the folder.
    _check_listing(bundle, statement.subjects)
    # (4) Every file has the listed size and digest. What is read here is what is used below.
    content = {subject.name: _read_subject(bundle, subject) for subject in statement.subjects}
    # (5) The plan is the one that the statement names, and the claims are well-formed.
    facts = _read_facts(statement, content)
    # (6) The spec parses, and the state fits it and is finite.
    spec = _read_spec(content)
    generator = _read_generator(spec, content)
    signer = statement.signers[0] if statement.signers else None
    return Release(bundle, statement.digest, spec, facts, generator, signer)


def _refused(why: str) -> VerificationFailed:
    return VerificationFailed("The bundle is refused.", why, "Do not use it; fetch it again from the coordinator.")


def _read_envelope(bundle: Path) -> bytes:
    path = bundle / ENVELOPE_FILE
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise _refused(f"{ENVELOPE_FILE} is not a plain file.")
        with path.open("rb") as file:
            return file.read(ENVELOPE_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise VerificationFailed(
            f"{bundle} is not a release.", f"It holds no {ENVELOPE_FILE}.", "Give the folder that `release` wrote."
        ) from None


def _check_listing(bundle: Path, subjects: tuple[Subject, ...]) -> None:
    listed = [subject.name for subject in subjects]
    if len(listed) > FILES_MAX or sum(subject.size_bytes for subject in subjects) > BUNDLE_BYTES_MAX:
        raise _refused("It is larger than any release.")
    if len({name.lower() for name in listed}) != len(listed) or not all(map(is_safe_name, listed)):
        raise _refused("Its statement lists unsafe or repeated names.")
    found = _walk(bundle)
    missing, added = set(listed) - found, found - set(listed) - {ENVELOPE_FILE}
    if missing:
        raise _refused(f"{len(missing)} listed file(s) are missing, such as {min(missing)!r}.")
    if added:
        raise _refused(f"{len(added)} file(s) are not listed, such as {min(added)!r}.")


def _walk(bundle: Path) -> set[str]:
    """POSIX names of all plain files; anything but plain files and the folders that hold them is refused."""
    names: set[str] = set()
    for folder, folders, files in os.walk(bundle, followlinks=False):
        here = Path(folder)
        if not folders and not files:
            raise _refused(f"{here.name!r} is an empty folder.")
        for name in folders + files:
            mode = (here / name).lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise _refused(f"{name!r} is a link or no plain file.")
        names.update((here / name).relative_to(bundle).as_posix() for name in files)
        if len(names) > FILES_MAX + 1:
            raise _refused("It holds more files than any release.")
    return names


def _read_subject(bundle: Path, subject: Subject) -> bytes:
    with (bundle / subject.name).open("rb") as file:
        content = file.read(subject.size_bytes + 1)
    if len(content) != subject.size_bytes:
        raise _refused(f"{subject.name!r} has not the listed size.")
    if hashlib.sha256(content).hexdigest() != subject.sha256:
        raise _refused(f"{subject.name!r} has not the listed digest.")
    return content


def _read_facts(statement: OpenedStatement, content: Mapping[str, bytes]) -> ReleaseFacts:
    plan = content.get(PLAN_FILE, b"")
    if hashlib.sha256(plan).hexdigest() != statement.predicate.get("plan_digest"):
        raise _refused("Its plan is not the one that the statement names.")
    return ReleaseFacts.from_predicate(statement.predicate, _read_json(PLAN_FILE, plan))


def _read_json(name: str, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        raise _refused(f"{name!r} is not JSON.") from None
    if not isinstance(value, dict):
        raise _refused(f"{name!r} is not a JSON object.")
    return value


def _read_spec(content: Mapping[str, bytes]) -> GeneratorSpec:
    try:
        spec = GeneratorSpec.from_json(content[SPEC_FILE].decode())
        values = spec.channels
        for length in spec.shape:
            values *= length
        fits = min(spec.channels, *spec.shape) >= 1 and values <= VALUES_MAX and bool(spec.labels)
    except (KeyError, TypeError, ValueError, RecursionError):
        fits = False
    if not fits:
        raise _refused(f"{SPEC_FILE!r} is no generator's spec.")
    return spec


def _read_generator(spec: GeneratorSpec, content: Mapping[str, bytes]) -> Generator:
    try:
        state = load_tensors(content[STATE_FILE])
        if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
            raise _refused("A tensor of the generator is not finite.")
        return generators.load(spec, state)
    except VerificationFailed:
        raise
    except (KeyError, SafetensorError) as error:
        raise _refused(f"{STATE_FILE!r} holds no tensors ({type(error).__name__}).") from None
    except ManikinError as error:
        raise _refused(f"Its generator does not load: {error.what}") from error
