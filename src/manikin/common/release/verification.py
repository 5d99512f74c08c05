"""Verifying a release, offline: a trusted signature over a list of files, and exactly these files, byte for byte.

Where the plan names officers, also: the audit report of this very generator, the hospitals' ledger heads, and enough
officers' decisions, each checked with keys of the trust file. What is not promised: that the claims on the cards are
true. Signatures say who makes them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from manikin.common import generators
from manikin.common.documents import OpenedStatement, Statement
from manikin.common.errors import AuditFailed, ManikinError, PolicyRefusal, VerificationFailed
from manikin.common.generators.base import Generator, GeneratorSpec
from manikin.common.keys import Trust, load_trust
from manikin.common.release.evidence import read_evidence, require_decisions
from manikin.common.release.facts import (
    CANDIDATE_TYPE,
    DECISIONS_FOLDER,
    ENVELOPE_FILE,
    PLAN_FILE,
    PREDICATE_TYPE,
    SPEC_FILE,
    STATE_FILE,
    Release,
    ReleaseFacts,
)
from manikin.common.release.reading import read_listed, refused

VALUES_MAX = 1 << 28  # of one image: a 640-cube, above which the spec is a mistake or an attack


def verify_bundle(bundle: Path, trust: Path) -> Release:
    """Check a release against a trust file that was obtained elsewhere.

    Raises:
        VerificationFailed: at the first step that does not hold; nothing of the bundle should be used.
    """
    # (1) The trust file loads. Keys inside the bundle are never looked at.
    return _open(bundle, load_trust(trust))


def load_release(bundle: Path, trust: Path | None = None) -> Release:
    """A release to sample from; without a trust file only its inner consistency is checked and `signer_name` is None.

    Raises:
        VerificationFailed: as `verify_bundle`; without a trust file, signatures excepted.
    """
    return _open(bundle, None) if trust is None else verify_bundle(bundle, trust)


def _open(bundle: Path, trust: Trust | None) -> Release:
    # (2) The envelope opens, and exactly the listed files are there. What is read here is what is used below.
    keys = None if trust is None else trust.keys
    statement, content = read_listed(bundle, keys, envelope=ENVELOPE_FILE, predicate_type=PREDICATE_TYPE)
    # (3) The plan is the one that the statement names, and the claims are well-formed.
    facts = read_facts(statement, content)
    # (4) The spec parses, and the state fits it and is finite.
    spec, generator = read_generator(content)
    signer = statement.signers[0] if statement.signers else None
    release = Release(bundle, statement.digest, spec, facts, generator, signer)
    # (5) Those decided who had to, on exactly this.
    return release if trust is None else _decided(release, statement, content, trust)


def _decided(release: Release, statement: OpenedStatement, content: Mapping[str, bytes], trust: Trust) -> Release:
    facts = release.facts
    if trust.plan and trust.plan != facts.plan_digest:
        raise refused("It is the release of another plan than the one that the trust file names.")
    if set(trust.officers) != set(facts.officers) or trust.officers_needed != facts.officers_needed:
        raise refused("Its plan and the trust file do not name the same officers.")
    if not facts.officers:
        return release
    try:
        evidence = read_evidence(facts, content, trust)
        decisions = require_decisions(facts, evidence, candidate_of(statement).digest, _decisions(content), trust)
    except (PolicyRefusal, AuditFailed) as error:
        raise refused(f"{error.what} {error.why}") from None
    return replace(release, audit=evidence.audit, decisions=decisions)


def candidate_of(statement: Statement) -> Statement:
    """The candidate that a release was: all but the decisions on it."""
    subjects = tuple(s for s in statement.subjects if not s.name.startswith(DECISIONS_FOLDER))
    return Statement(CANDIDATE_TYPE, subjects, statement.predicate)


def _decisions(content: Mapping[str, bytes]) -> list[bytes]:
    return [file for name, file in sorted(content.items()) if name.startswith(DECISIONS_FOLDER)]


def read_facts(statement: OpenedStatement, content: Mapping[str, bytes]) -> ReleaseFacts:
    """What a release or a candidate claims, with the plan that it names.

    Raises:
        VerificationFailed: the plan is another one, or a claim is malformed.
    """
    plan = content.get(PLAN_FILE, b"")
    if hashlib.sha256(plan).hexdigest() != statement.predicate.get("plan_digest"):
        raise refused("Its plan is not the one that the statement names.")
    return ReleaseFacts.from_predicate(statement.predicate, _read_json(PLAN_FILE, plan))


def _read_json(name: str, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        raise refused(f"{name!r} is not JSON.") from None
    if not isinstance(value, dict):
        raise refused(f"{name!r} is not a JSON object.")
    return value


def read_generator(content: Mapping[str, bytes]) -> tuple[GeneratorSpec, Generator]:
    """The generator of a release or a candidate, ready to sample, and its spec.

    Raises:
        VerificationFailed: the spec is none, or the tensors do not fit it or are not finite.
    """
    spec = _read_spec(content)
    return spec, _read_generator(spec, content)


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
        raise refused(f"{SPEC_FILE!r} is no generator's spec.")
    return spec


def _read_generator(spec: GeneratorSpec, content: Mapping[str, bytes]) -> Generator:
    try:
        state = load_tensors(content[STATE_FILE])
        if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
            raise refused("A tensor of the generator is not finite.")
        return generators.load(spec, state)
    except VerificationFailed:
        raise
    except (KeyError, SafetensorError) as error:
        raise refused(f"{STATE_FILE!r} holds no tensors ({type(error).__name__}).") from None
    except ManikinError as error:
        raise refused(f"Its generator does not load: {error.what}") from error
