"""The privacy card: what is promised to whom, by which mechanisms, on whose word, and what is not promised."""

from __future__ import annotations

import math
from typing import Any

from manikin.common.officers import INSTITUTIONS_MIN
from manikin.common.release.cards import escape_markdown
from manikin.common.release.facts import DECISIONS_FOLDER, ReleaseFacts

FALSE_ALARMS = 0.01

TRUSTED = (
    "Each hospital's own software, machine and random numbers: they clip and add noise before anything leaves.",
    "The plan's numbers (window, labels, batch size, sample rate) were chosen without looking at these patients.",
)
TRUSTED_IDS = "Each hospital's statement about which images belong to one patient."
TRUSTED_LOCAL = (
    "Not trusted with privacy: the coordinator, the other hospitals, and whoever holds this release. Each hospital's "
    "messages satisfy the guarantee by themselves, so it holds for all of them together with the release."
)
TRUSTED_DISTRIBUTED = (
    "Not trusted with privacy: the coordinator, up to {collusion} hospital(s) that work with it, and whoever holds "
    "this release. Only sums over all hospitals of a step can be read, by a secure sum: masks by X25519, HKDF-SHA256 "
    "and ChaCha20, which cancel in the sum alone.",
    "All but {collusion} of the hospitals add their share of the noise, as their software does.",
)
NOT_PROTECTED = (
    "A patient in more hospitals than the stated multiplicity.",
    "What is true of the population: learning that a finding goes with an age group is not prevented, nor meant to be.",
    "A hospital that lies about its data or does not run this software.",
    "Choices made by looking at patients outside of the plan, such as tuning by hand.",
    "Withdrawal after training: a patient's effect is bounded, not removable.",
    "Copies: coordinator and hospitals held the weights before this release.",
)
NUMBERS = {
    "local": "Attacks on floating-point noise (Mironov 2012) are mitigated, not excluded; side channels are not "
    "addressed.",
    "distributed": "Side channels are not addressed. (Noise and sums are integers: attacks on floating-point noise do "
    "not apply to them.)",
}
IMAGE_UNIT = (
    "The guarantee is for one image, since the data carry no patient ids. Someone with k images is protected by the "
    "weaker guarantee of a group of k: k times ε, and a δ that grows with it."
)


def privacy_record(facts: ReleaseFacts) -> dict[str, Any]:
    """privacy.json: the card for programs."""
    return {
        "schema": 1,
        "unit": facts.unit,
        "neighbouring": f"add or remove one {facts.unit}",
        "epsilon": facts.epsilon,
        "delta": facts.delta,
        "multiplicity": facts.multiplicity,
        "mode": facts.mode,
        "collusion": facts.collusion,
        "adversaries": None if facts.adversaries is None else dict(facts.adversaries),
        "hospitals": facts.hospitals,
        "accountants": dict(facts.accountants),
        "mechanisms": facts.mechanisms,
        "plan_digest": facts.plan_digest,
        "trusted": _trusted(facts),
        "not_protected": _not_protected(facts),
        "audit": facts.audit_statement,
        "officers": [{"name": o.name, "institution": o.institution} for o in facts.officers],
        "officers_needed": facts.officers_needed,
    }


def privacy_card(facts: ReleaseFacts) -> str:
    """PRIVACY.md: the card for people."""
    accountants = ", ".join(f"{name} {value:.4g}" for name, value in facts.accountants.items())
    return f"""# Privacy card: {facts.study_name}

{promise(facts)}

| | |
|---|---|
| unit | {facts.unit} |
| neighbouring data sets | differ by adding or removing one {facts.unit} |
| ε | {facts.epsilon:.4g} ({_largest(facts)}{accountants}) |
| δ | {facts.delta:.4g} |
| multiplicity | counts {_whose(facts)} in up to {facts.multiplicity} hospital(s) |
| mode | {facts.mode} |
| hospitals | {facts.hospitals} |
| plan | sha256:{facts.plan_digest} |
{_adversaries(facts)}
## Mechanisms, {_where(facts)}

{_mechanism_table(facts)}

σ is the noise's standard deviation in units of the largest contribution of one {facts.unit}, q the chance of each to
be drawn in a step (Poisson sampling).

## What is trusted

{_bullets(_trusted(facts))}

## What is not protected

{_bullets(_not_protected(facts))}

## Audit

{facts.audit_statement}

## Who decided

{deciders(facts)}
"""


def deciders(facts: ReleaseFacts) -> str:
    """Who decides on the release, in words."""
    if not facts.officers:
        return "No officer decided on this release: its plan names none. Whoever ran the study released it."
    named = ", ".join(f"{escape_markdown(o.name)} ({escape_markdown(o.institution)})" for o in facts.officers)
    return (
        f"It takes {facts.officers_needed} of these officers, from at least {INSTITUTIONS_MIN} institutions: {named}. "
        "Where the audit is inconclusive, each of them must accept that in writing. What they signed, with their "
        f"reasons, is in {DECISIONS_FOLDER}."
    )


def promise(facts: ReleaseFacts) -> str:
    """The guarantee as a bound on a test: its power is at most e^ε times its false alarms, plus δ."""
    seen = "this release and every message of its training"
    if facts.collusion is not None:
        seen += f", and what up to {facts.collusion} hospital(s) know,"
    power = min(1.0, math.exp(min(facts.epsilon, 700.0)) * FALSE_ALARMS + facts.delta)
    return (
        f"Whoever sees {seen} and guesses whether one {facts.unit} was used is bounded: a test that is wrong about "
        f"{FALSE_ALARMS:.0%} of those who were not used is right about at most {power:.1%} of those who were, "
        "whatever else is known (Wasserman and Zhou 2010)."
    )


def _whose(facts: ReleaseFacts) -> str:
    return "a patient" if facts.unit == "patient" else "an image"


def _trusted(facts: ReleaseFacts) -> list[str]:
    if facts.mode == "local":
        mode = [TRUSTED_LOCAL]
    else:
        mode = [line.format(collusion=facts.collusion) for line in TRUSTED_DISTRIBUTED]
    return list(TRUSTED) + ([TRUSTED_IDS] if facts.unit == "patient" else []) + mode


def _largest(facts: ReleaseFacts) -> str:
    return "the larger of both accountants: " if len(facts.accountants) > 1 else "by "


def _where(facts: ReleaseFacts) -> str:
    return "at each hospital" if facts.mode == "local" else "on the sum over all hospitals"


def _adversaries(facts: ReleaseFacts) -> str:
    """Three statements of distributed mode, as a table."""
    if facts.adversaries is None:
        return ""
    found, unit = facts.adversaries, facts.unit
    rows = (
        ("holds this release alone, if every hospital added its share of the noise", found["release"]),
        (f"is the coordinator, with {facts.collusion} hospital(s) that tell it their noise", found["collusion"]),
        ("could take the masks off: each hospital's part, with its own share of the noise alone", found["broken"]),
    )
    table = "\n".join(f"| {who} | {value:.4g} |" for who, value in rows)
    return f"""
## Against whom

| who | ε at the same δ, for one {unit} |
|---|---|
{table}

The second is what this card promises. For sums over as many hospitals as the plan's quorum: with more of them, the
first is smaller and the last larger.
"""


def _not_protected(facts: ReleaseFacts) -> list[str]:
    return ([IMAGE_UNIT] if facts.unit == "image" else []) + list(NOT_PROTECTED) + [NUMBERS[facts.mode]]


def _mechanism_table(facts: ReleaseFacts) -> str:
    columns = (("kind", ""), ("noise_multiplier", ""), ("sample_rate", 1), ("steps", 1))
    cells = [[_cell(mechanism.get(key, default)) for key, default in columns] for mechanism in facts.mechanisms]
    rows = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join(["| mechanism | σ | q | steps |", "|---|---|---|---|", *rows])


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else escape_markdown(str(value))
