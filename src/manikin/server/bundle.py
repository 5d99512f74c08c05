"""The bundle that Flower sends to the hospitals, and its reviewer's signature: it names our apps, and has no code."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key
from flwr.cli.build import build_fab_from_files
from flwr.supercore.primitives.asymmetric_ed25519 import create_message_to_sign

from manikin.common.certificates import reviewer_id
from manikin.common.errors import Misconfigured

SIGNED_AT = 0  # the bundle is the same for every study of a version, and so is its signature


def build_bundle(extra: Mapping[str, bytes] | None = None) -> bytes:
    """The code-free bundle: the same bytes wherever this version is installed.

    Args:
        extra: files to add; only tests add any.
    """
    source = resources.files("manikin.server") / "flower-app.toml"
    files: dict[str, bytes | Path] = {"pyproject.toml": source.read_bytes(), "LICENSE": b"Apache-2.0\n"}
    content, _ = build_fab_from_files({**files, **(extra or {})})
    return content


def sign_bundle(content: bytes, reviewer: Path) -> dict[str, str]:
    """Flower's verification record of a bundle, as a gateway's `--trusted-entities` checks it.

    Raises:
        Misconfigured: the key is missing or no Ed25519 key in OpenSSH form.
    """
    try:
        key = load_ssh_private_key(reviewer.read_bytes(), None)
    except (OSError, ValueError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise Misconfigured("The reviewer's key cannot be used.", f"{reviewer} is no ssh-ed25519 key.", "Restore it.")
    signature = key.sign(create_message_to_sign(hashlib.sha256(content).digest(), SIGNED_AT))
    text = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
    openssh = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return {reviewer_id(openssh): json.dumps({"signature": text, "signed_at": SIGNED_AT}), "valid_license": "Valid"}
