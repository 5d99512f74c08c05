"""A hospital's folder: its name, its secret, and where its cohort lies.

    hospital.toml          name and schema
    secret.key             32 random bytes, mode 0600: keys the hashes that stand for patients
    keys/vault.pem         Ed25519, mode 0600: signs replies, ledger heads, approvals and the enrolment
    cohort/cohort.sqlite   native images
    cohort/import-report.json   what the last import took and refused

`hospital.toml` is written last, so that a folder either is a hospital or is not one.
"""

from __future__ import annotations

import json
import secrets
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path

from manikin.client.cohort.pseudonyms import SECRET_BYTES, Pseudonyms
from manikin.client.cohort.store import Store
from manikin.common.errors import Misconfigured
from manikin.common.files import storage_errors, write_atomically
from manikin.common.keys import SigningKey

SCHEMA = 1
MAX_NAME_LENGTH = 64


@dataclass(frozen=True)
class Hospital:
    """An initialised hospital folder.

    Args:
        folder: the folder.
        name: what reports and other parties call the hospital.
        secret: 32 bytes, never to be sent or logged.
    """

    folder: Path
    name: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Hospital({self.name!r})"

    @property
    def database(self) -> Path:
        return database_path(self.folder)

    @property
    def report(self) -> Path:
        return self.folder / "cohort" / "import-report.json"

    @property
    def signing_key(self) -> SigningKey:
        """The vault's key.

        Raises:
            Misconfigured: it is missing, or readable by others.
        """
        return SigningKey.load(key_path(self.folder))

    @property
    def pseudonyms(self) -> Pseudonyms:
        return Pseudonyms(self.secret)

    @classmethod
    def open(cls, folder: Path) -> Hospital:
        """Read a hospital folder.

        Raises:
            Misconfigured: it is none, or its secret is missing, of the wrong size or readable by others.
        """
        return cls(folder, _read_name(folder), _read_secret(folder / "secret.key"))


def create_hospital(folder: Path, name: str) -> Hospital:
    """Make a hospital folder with a fresh secret and an empty cohort.

    Raises:
        Misconfigured: the folder is a hospital already or holds other files, or the name is not printable.
        StorageFailure: the disk is full or not writable.
    """
    if not 0 < len(name.strip()) <= MAX_NAME_LENGTH or not name.isprintable():
        raise Misconfigured(f"A hospital's name is 1 to {MAX_NAME_LENGTH} printable characters.", "", "Give --name.")
    _refuse_taken(folder)
    database = database_path(folder)
    with storage_errors(folder):
        database.parent.mkdir(parents=True, exist_ok=True)
        database.parent.chmod(0o700)
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) & 0o711)  # others may pass to run/ and gateway/, not look
    if not (folder / "secret.key").exists():
        write_atomically(folder / "secret.key", secrets.token_bytes(SECRET_BYTES), mode=0o600)
    if not key_path(folder).exists():
        with storage_errors(folder):
            key_path(folder).parent.mkdir(mode=0o700, exist_ok=True)
        SigningKey.generate().save(key_path(folder))
    Store.create(database)
    content = f"schema = {SCHEMA}\nname = {json.dumps(name.strip(), ensure_ascii=False)}\n"
    write_atomically(folder / "hospital.toml", content.encode())
    return Hospital.open(folder)


def database_path(folder: Path) -> Path:
    """Where the cohort of the hospital in `folder` lies."""
    return folder / "cohort" / "cohort.sqlite"


def key_path(folder: Path) -> Path:
    """Where the key of the vault in `folder` lies."""
    return folder / "keys" / "vault.pem"


def _refuse_taken(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise Misconfigured(f"{folder} is a file.", "", "Give the path of a new folder.")
    if (folder / "hospital.toml").exists():
        raise Misconfigured(
            f"{folder} is a hospital already.",
            "A second secret would make its patients strangers to their own ledger.",
            "Go on with `manikin hospital import`, or choose another folder.",
        )
    if folder.exists() and {entry.name for entry in folder.iterdir()} - {"secret.key", "cohort", "keys"}:
        raise Misconfigured(f"{folder} holds other files.", "", "Give the path of a new or empty folder.")


def _read_name(folder: Path) -> str:
    try:
        raw = tomllib.loads((folder / "hospital.toml").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise Misconfigured(
            f"{folder} is not a hospital.", "It has no hospital.toml.", "Make it with `manikin hospital init`."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise Misconfigured("hospital.toml is not TOML.", "", "Restore it: two lines, schema and name.") from None
    if raw.get("schema") != SCHEMA or not isinstance(raw.get("name"), str):
        raise Misconfigured("hospital.toml has no name or another schema.", "", f"It needs schema = {SCHEMA} and name.")
    return str(raw["name"])


def _read_secret(path: Path) -> bytes:
    try:
        secret = path.read_bytes()
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        raise Misconfigured("The hospital has no secret.key.", "", "Restore it from your backup.") from None
    if len(secret) != SECRET_BYTES:
        raise Misconfigured(f"secret.key is not {SECRET_BYTES} bytes long.", "", "Restore it from your backup.")
    if mode & 0o077:
        raise Misconfigured("secret.key can be read by other users.", "", f"Run: chmod 600 {path}")
    return secret
