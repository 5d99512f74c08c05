"""Keyed hashes: no collisions by concatenation, no dependence on others, and the shares of the split."""

import doctest

from hypothesis import given
from hypothesis import strategies as st

from manikin.client.cohort import pseudonyms
from manikin.client.cohort.pseudonyms import Pseudonyms
from manikin.common.study import Split

KEYED = Pseudonyms(bytes(range(32)))
SPLIT = Split(train=0.7, holdout=0.2, calibration=0.1)


def test_the_example_in_the_docstring_holds():
    assert doctest.testmod(pseudonyms).failed == 0


@given(st.tuples(st.text(), st.text(), st.text()), st.tuples(st.text(), st.text(), st.text()))
def test_rows_with_different_parts_never_share_a_key(one, other):
    encodable = all(not any("\ud800" <= c <= "\udfff" for c in part) for part in one + other)
    if encodable:
        assert (KEYED.row(*one) == KEYED.row(*other)) == (one == other)


def test_another_hospital_gives_another_key():
    assert KEYED.patient("MRN 1") != Pseudonyms(bytes(32)).patient("MRN 1")


def test_blanks_and_unicode_form_do_not_split_a_patient():
    assert KEYED.patient(" Mu\u0308ller ") == KEYED.patient("M\u00fcller")


def test_a_patient_and_an_image_never_share_a_key():
    assert KEYED.patient("x") != KEYED.unidentified("x", 0)


def test_the_split_has_the_shares_of_the_study():
    """Binomial with n = 20,000 and share 0.7: 5 standard deviations are 324, passed once in 1.7 million runs."""
    parts = [KEYED.part(KEYED.patient(str(i)), SPLIT) for i in range(20_000)]
    for part, share in (("train", 0.7), ("holdout", 0.2), ("calibration", 0.1)):
        assert abs(parts.count(part) - 20_000 * share) < 5 * (20_000 * share * (1 - share)) ** 0.5


@given(st.permutations(["a", "b", "c", "d"]))
def test_a_commitment_does_not_depend_on_order(rows):
    assert KEYED.commitment(rows) == KEYED.commitment("abcd")
    assert KEYED.commitment(rows) != KEYED.commitment(rows[1:])
