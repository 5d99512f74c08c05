"""A tiny release, written once: a real generator, real facts, a real signature."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from manikin.common.documents import SigningKey, canonical_json, write_trust
from manikin.common.generators import GeneratorSpec, create
from manikin.common.release import ReleaseFacts, write_bundle

OPTIONS = {"coefficients": 4, "bands": 2}


def make_facts(**changes) -> ReleaseFacts:
    """Facts of a 2D study of two classes, with changes to its data section under `data`."""
    data = {
        "modality": "CR",
        "spatial_dims": 2,
        "shape": [8, 6],
        "spacing_mm": [2.0, 1.5],
        "window": [0.0, 255.0],
        "channels": [0],
        "labels": ["normal", "pneumonia"],
    } | changes.pop("data", {})
    plan = {"study": {"name": "tiny", "data": data}, "noise_multipliers": [5.0]}
    facts = {
        "plan": plan,
        "plan_digest": hashlib.sha256(canonical_json(plan)).hexdigest(),
        "hospitals": 3,
        "epsilon": 2.5,
        "delta": 1e-5,
        "unit": "image",
        "multiplicity": 1,
        "mode": "local",
        "accountants": {"pld": 2.4, "prv": 2.5},
        "mechanisms": [{"kind": "gaussian", "noise_multiplier": 5.0, "sample_rate": 1.0, "steps": 1}],
        "data": data,
        "audit_statement": "Each hospital audited the generator and kept its answer.",
        "code_version": "0.1.0",
        "created": "2026-01-02T03:04:05+00:00",
    }
    return ReleaseFacts(**(facts | changes))


def make_generator(facts: ReleaseFacts):
    data = facts.data
    return create(GeneratorSpec("moments", len(data["channels"]), tuple(data["shape"]), tuple(data["labels"]), OPTIONS))


@dataclass(frozen=True)
class Published:
    """A bundle, the trust file that goes with it, and its digest."""

    bundle: Path
    trust: Path
    digest: str


def publish(folder: Path, signer: SigningKey, **changes) -> Published:
    facts = make_facts(**changes)
    digest = write_bundle(
        folder / "bundle",
        generator=make_generator(facts),
        facts=facts,
        signer=signer,
        extra={"audit/report.html": b"<p>kept in the hospital</p>"},
    )
    write_trust(folder / "trust.json", [signer.trusted("North", "coordinator")])
    return Published(folder / "bundle", folder / "trust.json", digest)


@pytest.fixture(scope="session")
def signer() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture(scope="session")
def pristine(tmp_path_factory, signer) -> Published:
    """Do not change: shared by all tests."""
    return publish(tmp_path_factory.mktemp("published"), signer)


@pytest.fixture
def published(pristine, tmp_path) -> Published:
    """A copy to tamper with."""
    shutil.copytree(pristine.bundle, tmp_path / "bundle")
    return Published(tmp_path / "bundle", pristine.trust, pristine.digest)


@pytest.fixture(name="make_facts")
def make_facts_fixture():
    return make_facts


@pytest.fixture(name="make_generator")
def make_generator_fixture():
    return make_generator


@pytest.fixture(name="publish")
def publish_fixture(signer):
    return lambda folder, **changes: publish(folder, signer, **changes)
