"""Envelopes open for trusted keys only, and for nothing but the bytes that were signed."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manikin.common.documents import (
    ENVELOPE_BYTES_MAX,
    PAYLOAD_TYPE,
    SigningKey,
    Statement,
    Subject,
    canonical_json,
    open_envelope,
    pre_authentication_encoding,
    sign,
)
from manikin.common.errors import Misconfigured, VerificationFailed

KIND = "urn:manikin:test:v1"
KEY = SigningKey.generate()
TRUSTED = [KEY.trusted("coordinator", "coordinator")]
STATEMENT = Statement(KIND, (Subject.of("a/b.txt", b"content"),), {"epsilon": 3.0, "labels": ["normal", "größer"]})


def edited(**changes):
    """The envelope of STATEMENT with fields replaced."""
    return json.dumps(json.loads(sign(STATEMENT, KEY)) | changes).encode()


def enveloped(payload: bytes, key: SigningKey = KEY, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """A correctly signed envelope around any bytes."""
    keyid = json.loads(sign(STATEMENT, key))["signatures"][0]["keyid"]
    signature = base64.b64encode(key.sign(pre_authentication_encoding(payload_type, payload))).decode()
    return json.dumps(
        {
            "payloadType": payload_type,
            "payload": base64.b64encode(payload).decode(),
            "signatures": [{"keyid": keyid, "sig": signature}],
        }
    ).encode()


def assert_refused(content: bytes, why: str, *, trusted=TRUSTED):
    with pytest.raises(VerificationFailed, match=why):
        open_envelope(content, trusted, predicate_type=KIND)


def test_a_signed_statement_opens_with_its_signer_named():
    opened = open_envelope(sign(STATEMENT, KEY), TRUSTED, predicate_type=KIND)
    assert opened.signers == ("coordinator",)
    assert (opened.subjects, opened.predicate) == (STATEMENT.subjects, STATEMENT.predicate)
    assert opened.digest == STATEMENT.digest


def test_the_same_statement_gives_the_same_envelope():
    assert sign(STATEMENT, KEY) == sign(STATEMENT, KEY)


def test_pae_is_the_one_of_the_specification():
    assert pre_authentication_encoding("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_pae_counts_bytes_not_characters():
    assert pre_authentication_encoding("ä", "ö".encode()) == b"DSSEv1 2 \xc3\xa4 2 \xc3\xb6"


def test_an_unknown_key_is_refused():
    assert_refused(sign(STATEMENT, SigningKey.generate()), "No key of the trust file")


def test_an_empty_trust_list_trusts_nobody():
    assert_refused(sign(STATEMENT, KEY), "No key of the trust file", trusted=[])


def test_the_key_id_of_a_trusted_key_does_not_help_another_key():
    forged = json.loads(sign(STATEMENT, SigningKey.generate()))
    forged["signatures"][0]["keyid"] = json.loads(sign(STATEMENT, KEY))["signatures"][0]["keyid"]
    assert_refused(json.dumps(forged).encode(), "signature of 'coordinator' is wrong")


def test_unknown_signatures_neither_help_nor_harm():
    opened = open_envelope(sign(STATEMENT, SigningKey.generate(), KEY), TRUSTED, predicate_type=KIND)
    assert opened.signers == ("coordinator",)


def test_one_wrong_signature_of_a_trusted_key_refuses_the_whole():
    envelope = json.loads(sign(STATEMENT, KEY))
    bad = envelope["signatures"][0] | {"sig": base64.b64encode(bytes(64)).decode()}
    assert_refused(edited(signatures=[*envelope["signatures"], bad]), "is wrong")


def test_another_payload_type_is_refused_even_when_signed():
    assert_refused(enveloped(STATEMENT.canonical, payload_type="application/json"), "not well-formed")


def test_another_predicate_type_is_refused():
    other = Statement("urn:manikin:other:v1", (), {})
    assert_refused(sign(other, KEY), "other:v1")


def test_a_changed_payload_is_refused():
    payload = STATEMENT.canonical.replace(b"normal", b"abnorm")
    assert_refused(edited(payload=base64.b64encode(payload).decode()), "is wrong")


def test_without_trusted_keys_the_content_is_checked_and_nobody_is_named():
    opened = open_envelope(sign(STATEMENT, KEY), None, predicate_type=KIND)
    assert opened.signers == ()


@pytest.mark.parametrize(
    "payload",
    [
        STATEMENT.canonical + b" ",
        STATEMENT.canonical.replace(b'"epsilon":3', b'"epsilon":3,"epsilon":3'),
        STATEMENT.canonical.replace(b'"epsilon":3', b'"epsilon":NaN'),
        STATEMENT.canonical.replace(b'"epsilon":3', b'"epsilon":1' + b"0" * 400),
        STATEMENT.canonical.replace(b"normal", b"\\ud800"),
        STATEMENT.canonical.replace(b'"size_bytes":7', b'"size_bytes":-7'),
        STATEMENT.canonical.replace(b'"name"', b'"nome"'),
        STATEMENT.canonical.replace(b"Statement/v1", b"Statement/v2"),
        b"[" * 100_000,
        b"",
    ],
    ids=["space", "twice", "nan", "huge", "surrogate", "negative", "unknown-key", "version", "deep", "empty"],
)
def test_a_signed_payload_that_is_not_a_canonical_statement_is_refused(payload):
    assert_refused(enveloped(payload), "not well-formed|not canonical")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"null", b"{}", b'{"payload":1}', b"[" * 100_000])
def test_malformed_envelopes_are_refused(content):
    assert_refused(content, "not well-formed")


@pytest.mark.parametrize("changes", [{"signatures": []}, {"payload": "!"}, {"extra": 1}, {"payload": None}])
def test_envelopes_of_another_shape_are_refused(changes):
    assert_refused(edited(**changes), "not well-formed")


def test_an_oversize_envelope_is_refused_before_it_is_parsed():
    assert_refused(b"{" + b" " * ENVELOPE_BYTES_MAX, "larger")


@given(position=st.integers(0, len(sign(STATEMENT, KEY)) - 2), bit=st.integers(0, 7))
def test_no_single_flipped_bit_changes_what_is_read(position, bit):
    content = bytearray(sign(STATEMENT, KEY))
    content[position] ^= 1 << bit
    try:
        opened = open_envelope(bytes(content), TRUSTED, predicate_type=KIND)
    except VerificationFailed:
        return
    assert opened.canonical == STATEMENT.canonical


numbers = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcé", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(predicate=st.dictionaries(st.text("xyz", max_size=3), json_values, max_size=3))
def test_every_json_predicate_survives_the_envelope(predicate):
    statement = Statement(KIND, (), predicate)
    opened = open_envelope(sign(statement, KEY), TRUSTED, predicate_type=KIND)
    assert opened.canonical == statement.canonical


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53, "\ud800"])
def test_values_without_a_canonical_form_cannot_be_signed(value):
    with pytest.raises(Misconfigured):
        canonical_json({"value": value})
