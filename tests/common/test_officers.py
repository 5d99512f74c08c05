"""Officers who cannot decide are refused before anybody relies on them."""

import pytest

from manikin.common.errors import ProtocolViolation
from manikin.common.officers import OFFICERS_MAX, Officer, institutions, problem_with


def officers(*institutions):
    return [Officer(f"O{i}", f"{i:064x}", institution) for i, institution in enumerate(institutions)]


@pytest.mark.parametrize(("named", "needed"), [((), 0), (("N", "S"), 2), (("N", "N", "S"), 2), (("N", "S", "C"), 3)])
def test_k_of_n_from_two_institutions_can_decide(named, needed):
    assert problem_with(officers(*named), needed) == ""


@pytest.mark.parametrize(
    ("named", "needed", "why"),
    [
        ((), 2, "2 of 0"),
        (("N", "S"), 0, "0 of 2"),
        (("N", "S"), 1, "1 of 2"),
        (("N", "S"), 3, "3 of 2"),
        (("N", "S"), -1, "-1 of 2"),
        (("N", "N"), 2, "one institution"),
        (("St. Mary", "st  mary", "ST-MARY"), 2, "one institution"),
        (tuple(str(i) for i in range(OFFICERS_MAX + 1)), 2, "more than"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_who_cannot_decide_is_told_why(named, needed, why):
    assert why in problem_with(officers(*named), needed)


def test_officers_are_different_people_with_different_keys():
    one, other = officers("N", "S")
    assert "share" in problem_with([one, Officer(one.name, other.key, "S")], 2)
    assert "share" in problem_with([one, Officer("Else", one.key, "S")], 2)


def test_spelling_makes_no_institution():
    assert len(institutions(officers("Süd Klinik", "SÜD-KLINIK", "Sued"))) == 2


@pytest.mark.parametrize(
    "change",
    [{"name": ""}, {"name": "\x1b[2J"}, {"institution": " "}, {"institution": "x" * 65}, {"key": "a"}],
    ids=str,
)
def test_an_officer_has_a_name_an_institution_and_a_key(change):
    with pytest.raises(ProtocolViolation):
        Officer(**({"name": "Ada", "key": "a" * 64, "institution": "North"} | change))
