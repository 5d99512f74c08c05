"""Populations: the hospitals lie outside what pre-training sees, in anatomy, in scanner and in one finding."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from manikin.common.errors import Misconfigured
from manikin.common.phantoms import HOSPITALS, KINDS, finding_names, phantom_for, population


def _ranges(value: object) -> dict[str, tuple[float, float]]:
    pairs = {field.name: getattr(value, field.name) for field in fields(value)}  # type: ignore[arg-type]
    return {name: pair for name, pair in pairs.items() if isinstance(pair, tuple)}


def _apart(first: object, second: object) -> set[str]:
    left, right = _ranges(first), _ranges(second)
    return {name for name in left if left[name][1] <= right[name][0] or right[name][1] <= left[name][0]}


@pytest.mark.parametrize("name", HOSPITALS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_hospital_leaves_the_public_ranges_in_anatomy_and_in_scanner(name: str, kind: str) -> None:
    public, hospital = population("public", kind), population(name, kind)
    assert _apart(public.anatomy, hospital.anatomy)
    assert _apart(public.scanner, hospital.scanner)


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_hospitals_share_a_scanner_and_all_share_the_findings(kind: str) -> None:
    hospitals = [population(name, kind) for name in HOSPITALS]
    assert len({tuple(h.findings) for h in hospitals}) == 1
    for i, first in enumerate(hospitals):
        for second in hospitals[i + 1 :]:
            assert _apart(first.scanner, second.scanner)


@pytest.mark.parametrize("kind", KINDS)
def test_one_rare_finding_of_the_hospitals_is_unknown_to_the_public(kind: str) -> None:
    public = set(population("public", kind).findings)
    for name in HOSPITALS:
        findings = population(name, kind).findings
        (rare,) = set(findings) - public
        assert 0.05 <= findings[rare] <= 0.08
        assert next(iter(findings)) == "normal"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["public", *HOSPITALS])
def test_shares_sum_to_one_and_ranges_are_in_order(name: str, kind: str) -> None:
    one = population(name, kind)
    assert sum(one.findings.values()) == pytest.approx(1.0)
    assert set(one.findings) <= set(finding_names(kind))
    for part in (one.anatomy, one.scanner):
        assert all(low <= high for low, high in _ranges(part).values())


def test_populations_cannot_be_changed() -> None:
    one = population("public", "chest-xr")
    with pytest.raises(FrozenInstanceError):
        one.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        one.findings["effusion"] = 1.0  # type: ignore[index]


@pytest.mark.parametrize(
    ("modality", "kind"),
    [("CR", "chest-xr"), ("DX", "chest-xr"), ("MR", "brain-mr"), ("CT", "brain-mr"), ("OT", "brain-mr")],
)
def test_each_modality_has_its_phantom(modality: str, kind: str) -> None:
    assert phantom_for(modality) == kind


@pytest.mark.parametrize(
    "call", [lambda: phantom_for("US"), lambda: finding_names("knee"), lambda: population("west", "chest-xr")]
)
def test_strangers_are_refused(call: object) -> None:
    with pytest.raises(Misconfigured):
        call()  # type: ignore[operator]
