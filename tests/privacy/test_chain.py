"""Hashes that nothing can be shifted in, and heads that have one form only."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manikin.common.documents import Statement, sign
from manikin.common.errors import VerificationFailed
from manikin.common.keys import SigningKey
from manikin.privacy.chain import GENESIS, HEAD_TYPE, LedgerHead, link, read_head, sign_head

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
HEAD = LedgerHead(hospital="North", sequence=3, hash="ab" * 32, plan="cd" * 32, step=1, request="ef" * 32)

VALUE = st.none() | st.text(max_size=3) | st.binary(max_size=3) | st.integers() | st.floats(allow_nan=False)


def typed(fields):
    return [(type(field), repr(field)) for field in fields]


@given(left=st.lists(VALUE, max_size=3), right=st.lists(VALUE, max_size=3))
def test_two_lists_of_fields_have_one_hash_only_if_they_are_the_same(left, right):
    assert (link(GENESIS, *left) == link(GENESIS, *right)) == (typed(left) == typed(right))


def test_nothing_is_shifted_from_one_field_to_the_next():
    assert link(GENESIS, "a", "b") != link(GENESIS, "asb")
    assert link(GENESIS, b"a", None) != link(GENESIS, b"an")


def test_the_hash_before_counts():
    assert link(GENESIS, "x") != link(bytes([1]) * 32, "x")


def test_a_head_is_read_as_it_was_signed_and_says_by_which_key():
    envelope = sign_head(HEAD, KEY)
    assert envelope == sign_head(HEAD, KEY)
    assert read_head(envelope, [OTHER.public_key, KEY.public_key]) == (HEAD, 1)
    with pytest.raises(VerificationFailed):
        read_head(envelope, [OTHER.public_key])
    with pytest.raises(VerificationFailed):
        read_head(envelope, [])


def slack(envelope):
    """Another last letter in a base64 text: the bits that decoding drops."""
    raw = json.loads(envelope)
    text = raw["signatures"][0]["sig"]
    raw["signatures"][0]["sig"] = text[:-3] + chr(ord(text[-3]) + 1) + text[-2:]
    assert base64.b64decode(raw["signatures"][0]["sig"]) == base64.b64decode(text)
    return json.dumps(raw, separators=(",", ":"), sort_keys=True) + "\n"


def signed_twice(envelope):
    raw = json.loads(envelope)
    raw["signatures"] *= 2
    return json.dumps(raw, separators=(",", ":"), sort_keys=True) + "\n"


@pytest.mark.parametrize("rewrite", [slack, signed_twice, str.strip, lambda e: e.replace(",", ", "), lambda e: " " + e])
def test_a_head_written_in_another_way_is_refused(rewrite):
    with pytest.raises(VerificationFailed):
        read_head(rewrite(sign_head(HEAD, KEY)), [KEY.public_key])


@pytest.mark.parametrize(
    "wrong", [{"sequence": 0}, {"hash": "AB" * 32}, {"step": -1}, {"step": "1"}, {"patients": 12}, {"hospital": None}]
)
def test_a_signed_head_that_says_more_less_or_nonsense_is_refused(wrong):
    envelope = sign(Statement(HEAD_TYPE, (), HEAD.model_dump() | wrong), KEY).decode()
    with pytest.raises(VerificationFailed, match="well-formed"):
        read_head(envelope, [KEY.public_key])


def test_another_kind_of_document_is_no_head():
    envelope = sign(Statement("urn:manikin:release:v1", (), HEAD.model_dump()), KEY).decode()
    with pytest.raises(VerificationFailed):
        read_head(envelope, [KEY.public_key])
