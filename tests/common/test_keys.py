"""Keys are private on disk, and a trust file is refused unless it is exactly one."""

import itertools
import json
import stat

import pytest

from manikin.common.errors import Misconfigured, VerificationFailed
from manikin.common.keys import SigningKey, Trust, TrustedKey, fingerprint, key_digest, load_trust, matches, write_trust


def test_a_saved_key_signs_the_same(tmp_path):
    key = SigningKey.generate()
    key.save(tmp_path / "key.pem")
    loaded = SigningKey.load(tmp_path / "key.pem")
    assert loaded.public_key == key.public_key
    assert loaded.sign(b"message") == key.sign(b"message")


def test_a_key_file_is_readable_by_its_owner_only(tmp_path):
    SigningKey.generate().save(tmp_path / "key.pem")
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert b"BEGIN PRIVATE KEY" in (tmp_path / "key.pem").read_bytes()


def test_a_key_is_never_overwritten(tmp_path):
    SigningKey.generate().save(tmp_path / "key.pem")
    before = (tmp_path / "key.pem").read_bytes()
    with pytest.raises(Misconfigured, match="never overwritten"):
        SigningKey.generate().save(tmp_path / "key.pem")
    assert (tmp_path / "key.pem").read_bytes() == before


def test_a_key_that_others_can_read_is_not_used(tmp_path):
    SigningKey.generate().save(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o644)
    with pytest.raises(Misconfigured, match="chmod 600"):
        SigningKey.load(tmp_path / "key.pem")


def test_a_missing_key_says_so(tmp_path):
    with pytest.raises(Misconfigured, match="no key"):
        SigningKey.load(tmp_path / "key.pem")


@pytest.mark.parametrize("content", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_junk_is_not_a_key(tmp_path, content):
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(Misconfigured, match="not an Ed25519 key"):
        SigningKey.load(path)


def test_repr_shows_no_secret():
    key = SigningKey.generate()
    assert repr(key) == f"SigningKey({fingerprint(key.public_key)})"


def test_fingerprints_are_sixteen_groups_of_four():
    groups = fingerprint(SigningKey.generate().public_key).split(" ")
    assert [len(group) for group in groups] == [4] * 16


KEY = SigningKey.generate()
DIGEST = key_digest(KEY.public_key)


@pytest.mark.parametrize(
    "said", [DIGEST, DIGEST[:16], DIGEST[:20].upper(), fingerprint(KEY.public_key)[:24], "x"], ids=itertools.count()
)
def test_a_fingerprint_read_out_is_found_again(said):
    said = ":".join(DIGEST[i : i + 2] for i in range(0, 16, 2)) if said == "x" else said
    assert matches(KEY.public_key, said)
    assert not matches(SigningKey.generate().public_key, said)


@pytest.mark.parametrize("changed", [0, 7, 15])
def test_one_wrong_digit_of_a_fingerprint_is_seen(changed):
    wrong = "0" if DIGEST[changed] != "0" else "1"
    assert not matches(KEY.public_key, DIGEST[:changed] + wrong + DIGEST[changed + 1 : 16])


@pytest.mark.parametrize("said", ["", DIGEST[:15], "north" * 4, DIGEST[:16] + "g", " " * 20], ids=itertools.count())
def test_a_fingerprint_that_is_too_short_or_not_one_is_no_answer(said):
    with pytest.raises(Misconfigured, match="16 hex digits"):
        matches(KEY.public_key, said)


def test_a_trust_file_gives_back_its_keys(tmp_path):
    roles = {"North": "coordinator", "Süd": "hospital"}
    keys = tuple(SigningKey.generate().trusted(name, role) for name, role in roles.items())
    write_trust(tmp_path / "trust.json", keys)
    assert load_trust(tmp_path / "trust.json") == Trust(keys)


def test_a_trust_file_gives_back_officers_how_many_are_needed_and_the_plan(tmp_path):
    keys = tuple(TrustedKey(n, "officer", SigningKey.generate().public_key, f"{n} Clinic") for n in ("Ada", "Bo"))
    write_trust(tmp_path / "trust.json", keys, officers_needed=2, plan="c" * 64)
    trust = load_trust(tmp_path / "trust.json")
    assert trust == Trust(keys, 2, "c" * 64)
    assert [(o.name, o.institution, o.public_key) for o in trust.officers] == [
        (k.name, k.institution, k.public_key) for k in keys
    ]


def test_a_missing_trust_file_says_what_to_do(tmp_path):
    with pytest.raises(VerificationFailed) as caught:
        load_trust(tmp_path / "trust.json")
    assert "another way" in caught.value.next_step


GOOD = {"name": "North", "role": "coordinator", "public_key": "A" * 43 + "="}
ADA = {"name": "Ada", "role": "officer", "public_key": "B" * 42 + "A=", "institution": "North"}
BO = ADA | {"name": "Bo", "public_key": "C" * 42 + "A=", "institution": "South"}


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"schema": 1, "keys": []},
        {"schema": 2, "keys": [GOOD]},
        {"schema": 1, "keys": [GOOD], "more": 1},
        {"schema": 1, "keys": [GOOD | {"role": "janitor"}]},
        {"schema": 1, "keys": [GOOD | {"name": ""}]},
        {"schema": 1, "keys": [GOOD | {"public_key": "AAAA"}]},
        {"schema": 1, "keys": [GOOD | {"public_key": "?"}]},
        {"schema": 1, "keys": [GOOD, GOOD | {"name": "Twice"}]},
        {"schema": 1, "keys": [GOOD], "officers_needed": 1},
        {"schema": 1, "keys": [GOOD], "plan": "x"},
        {"schema": 1, "keys": [GOOD | {"institution": "North"}]},
        {"schema": 1, "keys": [GOOD, ADA, BO]},
        {"schema": 1, "keys": [GOOD, ADA, BO], "officers_needed": 1},
        {"schema": 1, "keys": [GOOD, ADA, BO], "officers_needed": True},
        {"schema": 1, "keys": [GOOD, ADA, BO | {"institution": "NORTH"}], "officers_needed": 2},
        {"schema": 1, "keys": [GOOD, ADA, BO | {"institution": "\n"}], "officers_needed": 2},
        {"schema": 1, "keys": [GOOD, ADA, {k: v for k, v in BO.items() if k != "institution"}], "officers_needed": 2},
    ],
)
def test_trust_files_of_another_shape_are_refused(tmp_path, content):
    (tmp_path / "trust.json").write_text(json.dumps(content))
    with pytest.raises(VerificationFailed, match=r"trust\.json"):
        load_trust(tmp_path / "trust.json")


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 100_000])
def test_junk_is_not_a_trust_file(tmp_path, content):
    (tmp_path / "trust.json").write_bytes(content)
    with pytest.raises(VerificationFailed, match="not a trust file"):
        load_trust(tmp_path / "trust.json")
