"""From a finished generator to a signed bundle, and the coordinator's key that signs it."""

from __future__ import annotations

from pathlib import Path

from manikin.common.generators import Generator
from manikin.common.keys import SigningKey, write_trust
from manikin.common.plan import Plan
from manikin.common.release import ReleaseFacts, verify_bundle, write_bundle
from manikin.privacy.budget import plan_epsilon, plan_mechanisms, plan_statements
from manikin.privacy.costs import Total, describe

AUDIT_STATEMENT = (
    "Each hospital ran a membership-inference test and a nearest-neighbour re-identification test on this generator. "
    "Their answers were computed from patients, not noised and not charged to ε, so they stay in the hospitals "
    "and are not part of this bundle."
)


def coordinator_key(folder: Path) -> SigningKey:
    """The coordinator's key of a run folder, made on first use; private to its owner."""
    file = folder / "keys" / "coordinator.pem"
    if file.exists():
        return SigningKey.load(file)
    key = SigningKey.generate()
    key.save(file)
    return key


def release(
    folder: Path,
    *,
    plan: Plan,
    generator: Generator,
    hospitals: int,
    created: str,
    audit_statement: str,
    key: SigningKey,
) -> tuple[Path, Path, Total]:
    """Write and sign the bundle; returns the bundle, the trust file beside it, and ε.

    Raises:
        StorageFailure: the disk is full; no bundle is left behind.
    """
    study = plan.study
    privacy = study.privacy
    spent = plan_epsilon(plan)
    facts = ReleaseFacts(
        plan=plan.to_dict(),
        plan_digest=plan.digest,
        hospitals=hospitals,
        epsilon=spent.value,
        delta=privacy.delta,
        unit=privacy.unit,
        multiplicity=privacy.multiplicity,
        mode=study.federation.mode,
        accountants=spent.accountants,
        mechanisms=describe(plan_mechanisms(plan)),
        data=study.data.model_dump(mode="json"),
        audit_statement=audit_statement,
        code_version=plan.code_version,
        created=created,
        collusion=study.federation.collusion,
        adversaries=_adversaries(plan),
    )
    name = plan.coordinator.name if plan.coordinator else "coordinator"
    bundle, trust = folder / "release", folder / "trust.json"
    write_trust(trust, [key.trusted(name, "coordinator")])
    if bundle.exists():
        verify_bundle(bundle, trust)  # a resumed run that had already signed
    else:
        write_bundle(bundle, generator=generator, facts=facts, signer=key)
    return bundle, trust, spent


def _adversaries(plan: Plan) -> dict[str, float] | None:
    found = plan_statements(plan)
    if found is None:
        return None
    return {name: getattr(found, name).value for name in ("release", "collusion", "broken")}
