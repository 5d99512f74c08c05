"""The bundle: the same bytes everywhere, no code in them, and a signature that a gateway checks."""

import hashlib
import io
import json
import tomllib
import zipfile

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.supercore.primitives.asymmetric_ed25519 import create_message_to_sign, decode_base64url, verify_signature

from manikin.common.certificates import new_node_key, new_reviewer_key, reviewer_id
from manikin.common.errors import Misconfigured
from manikin.common.files import write_atomically
from manikin.server.bundle import build_bundle, sign_bundle


@pytest.fixture
def reviewer(tmp_path):
    write_atomically(tmp_path / "reviewer", new_reviewer_key().private, mode=0o600)
    return tmp_path / "reviewer"


def test_the_bundle_names_our_apps_and_carries_no_code():
    content = build_bundle()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        project = tomllib.loads(archive.read("pyproject.toml").decode())
    assert sorted(names) == [".info/CONTENT", "LICENSE", "pyproject.toml"]
    assert project["tool"]["flwr"]["app"]["components"] == {
        "serverapp": "manikin.server.app:app",
        "clientapp": "manikin.client.app:app",
    }
    assert content == build_bundle()


def test_the_bundle_in_the_deploy_folder_is_the_one_that_is_sent(repository):
    with zipfile.ZipFile(io.BytesIO(build_bundle())) as archive:
        for name in ("pyproject.toml", "LICENSE"):
            shown = (repository / "deploy" / "flower-app" / name).read_text()
            sent = archive.read(name).decode()
            assert sent == shown if name == "LICENSE" else tomllib.loads(sent) == tomllib.loads(shown)


def test_the_signature_is_what_a_gateway_checks(tmp_path, reviewer):
    content = build_bundle()
    signed = sign_bundle(content, reviewer)
    (identity,) = set(signed) - {"valid_license"}
    record = json.loads(signed[identity])
    message = create_message_to_sign(hashlib.sha256(content).digest(), record["signed_at"])
    pair = new_reviewer_key()
    write_atomically(tmp_path / "other", pair.private, mode=0o600)
    other = json.loads(next(iter(sign_bundle(content, tmp_path / "other").values())))
    public = load_ssh_public_key(pair.public)
    assert verify_signature(public, message, decode_base64url(other["signature"]))
    assert not verify_signature(public, message, decode_base64url(record["signature"]))
    assert reviewer_id(pair.public.decode()) in sign_bundle(content, tmp_path / "other")


def test_a_reviewer_key_that_is_none_is_refused(tmp_path):
    (tmp_path / "reviewer").write_bytes(new_node_key().private)
    with pytest.raises(Misconfigured, match="reviewer"):
        sign_bundle(b"bundle", tmp_path / "reviewer")
    with pytest.raises(Misconfigured, match="reviewer"):
        sign_bundle(b"bundle", tmp_path / "nowhere")
