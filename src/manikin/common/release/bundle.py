"""Writing a release: every file beside its final place, synced, then one rename. Nothing half-written is ever seen.

Where officers decide there is first a *candidate*: the same folder under another envelope, which no verification takes
for a release. It becomes one by adding the decisions, byte for byte the same otherwise.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save

from manikin.common.documents import SigningKey, Statement, Subject, canonical_json, sign
from manikin.common.errors import Misconfigured
from manikin.common.files import storage_errors, sync_folder, write_atomically
from manikin.common.generators.base import Generator
from manikin.common.release.cards import bundle_metadata, model_card
from manikin.common.release.facts import (
    CANDIDATE_FILE,
    CANDIDATE_TYPE,
    CARD_FILE,
    DECISIONS_FOLDER,
    ENVELOPE_FILE,
    METADATA_FILE,
    PLAN_FILE,
    PREDICATE_TYPE,
    PRIVACY_CARD_FILE,
    PRIVACY_FILE,
    SPEC_FILE,
    STATE_FILE,
    ReleaseFacts,
)
from manikin.common.release.paths import is_safe_name
from manikin.common.release.privacy_card import privacy_card, privacy_record

NO_EXTRA: Mapping[str, bytes] = {}


def write_bundle(
    folder: Path,
    *,
    generator: Generator,
    facts: ReleaseFacts,
    signer: SigningKey,
    extra: Mapping[str, bytes] = NO_EXTRA,
) -> str:
    """Write a release and sign it.

    Args:
        folder: the bundle; must not exist yet.
        generator: what is released.
        facts: what is claimed of it.
        signer: the coordinator's key.
        extra: further files by POSIX path inside the bundle, such as an audit report.

    Returns:
        The release's digest: SHA-256 of the signed statement, hex.

    Raises:
        Misconfigured: the folder exists, the facts do not fit the generator or the plan, or a name is unsafe.
        StorageFailure: the disk is full or not writable; no bundle is left behind.
    """
    _check(folder, generator, facts, extra)
    if facts.officers:
        raise Misconfigured("This release is not signed yet.", "Its plan names officers.", "Write a candidate first.")
    return _write_signed(folder, _files(generator, facts) | dict(extra), facts, signer, ENVELOPE_FILE, PREDICATE_TYPE)


def write_candidate(
    folder: Path, *, generator: Generator, facts: ReleaseFacts, signer: SigningKey, extra: Mapping[str, bytes]
) -> str:
    """Write what officers decide on; as `write_bundle`, for a plan that names officers.

    Args:
        folder, generator, facts, signer: see `write_bundle`.
        extra: further files, the audit report and the ledger heads among them (`evidence`).

    Returns:
        The candidate's digest, hex: what decisions name.

    Raises:
        Misconfigured: as `write_bundle`, or the plan names no officers.
        StorageFailure: the disk is full or not writable; nothing is left behind.
    """
    _check(folder, generator, facts, extra)
    if not facts.officers:
        raise Misconfigured("Nobody would decide on this candidate.", "Its plan names no officers.", "Release it.")
    return _write_signed(folder, _files(generator, facts) | dict(extra), facts, signer, CANDIDATE_FILE, CANDIDATE_TYPE)


def write_decided(
    folder: Path, *, files: Mapping[str, bytes], facts: ReleaseFacts, decisions: Mapping[str, bytes], signer: SigningKey
) -> str:
    """Write the release of a candidate, and sign it. Whether the decisions suffice is the caller's to check, before.

    Args:
        folder: the bundle; must not exist yet.
        files: the candidate's, by name.
        facts: the candidate's.
        decisions: signed decisions by the officer's key in hex.
        signer: the coordinator's key.

    Returns:
        The release's digest.

    Raises:
        Misconfigured: the folder exists.
        StorageFailure: the disk is full or not writable; no bundle is left behind.
    """
    _refuse_existing(folder)
    given = {f"{DECISIONS_FOLDER}{key}.dsse.json": decision for key, decision in decisions.items()}
    return _write_signed(folder, dict(files) | given, facts, signer, ENVELOPE_FILE, PREDICATE_TYPE)


def state_file(generator: Generator) -> bytes:
    """A generator's tensors, as the release holds them: the audit report names this file's digest."""
    content: bytes = save({name: tensor.detach().cpu().contiguous() for name, tensor in generator.state().items()})
    return content


def _write_signed(
    folder: Path, files: Mapping[str, bytes], facts: ReleaseFacts, signer: SigningKey, envelope: str, kind: str
) -> str:
    subjects = tuple(Subject.of(name, files[name]) for name in sorted(files))
    statement = Statement(kind, subjects, facts.to_predicate())
    _write_folder(folder, {**files, envelope: sign(statement, signer)})
    return statement.digest


def _refuse_existing(folder: Path) -> None:
    if folder.exists():
        raise Misconfigured(f"{folder} exists.", "A release is never overwritten.", "Choose another folder.")


def _check(folder: Path, generator: Generator, facts: ReleaseFacts, extra: Mapping[str, bytes]) -> None:
    spec = generator.spec
    _refuse_existing(folder)
    if Subject.of(PLAN_FILE, canonical_json(facts.plan)).sha256 != facts.plan_digest:
        raise Misconfigured("The plan is not the one of the digest.", "", "Pass the plan that was run.")
    if tuple(facts.data.get("shape", ())) != spec.shape or tuple(facts.data.get("labels", ())) != spec.labels:
        raise Misconfigured("The generator does not fit the study.", "Shape or labels differ.", "Pass the study's own.")
    for name in extra:
        if not is_safe_name(name) or name in _own_names() or name.startswith(DECISIONS_FOLDER):
            raise Misconfigured(f"A bundle cannot hold {name!r}.", "The name is unsafe or taken.", "Rename the file.")


def _own_names() -> frozenset[str]:
    return frozenset(
        (
            STATE_FILE,
            SPEC_FILE,
            PLAN_FILE,
            CARD_FILE,
            METADATA_FILE,
            PRIVACY_FILE,
            PRIVACY_CARD_FILE,
            ENVELOPE_FILE,
            CANDIDATE_FILE,
        )
    )


def _files(generator: Generator, facts: ReleaseFacts) -> dict[str, bytes]:
    return {
        STATE_FILE: state_file(generator),
        SPEC_FILE: canonical_json(json.loads(generator.spec.to_json())),
        PLAN_FILE: canonical_json(facts.plan),
        CARD_FILE: model_card(generator.spec, facts).encode(),
        METADATA_FILE: _readable_json(bundle_metadata(generator.spec, facts)),
        PRIVACY_FILE: _readable_json(privacy_record(facts)),
        PRIVACY_CARD_FILE: privacy_card(facts).encode(),
    }


def _readable_json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """All files or no folder."""
    staging = folder.with_name(f".{folder.name}.partial")
    with storage_errors(folder):
        shutil.rmtree(staging, ignore_errors=True)
        try:
            for name, content in files.items():
                write_atomically(staging / name, content)
            sync_folder(staging)
            staging.rename(folder)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        sync_folder(folder.parent)
