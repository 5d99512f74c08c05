"""Who may read a hospital's folder: all of it is the vault's alone, but for a few names that hold no patients."""

from __future__ import annotations

import grp
import os
import shlex
import stat
from pathlib import Path

from manikin.common.errors import Misconfigured

FOLDER_MODE = 0o711  # others pass through to the socket and the gateway's files, and cannot list it
SHARED = frozenset({"run", "gateway", "hospital.toml", "policy.toml"})
SHARED_SUFFIX = ".dsse.json"  # signed documents are made to be handed on


def remedies(folder: Path) -> list[str]:
    """The commands that would close what is open in a hospital's folder; none where all is well."""
    commands = []
    if folder.stat().st_uid != os.geteuid():
        commands.append(f"chown -R {os.geteuid()} {shlex.quote(str(folder))}")
    if stat.S_IMODE(folder.stat().st_mode) & ~FOLDER_MODE & 0o077:
        commands.append(f"chmod {FOLDER_MODE:o} {shlex.quote(str(folder))}")
    private = [entry for entry in sorted(folder.iterdir()) if not _is_shared(entry.name)]
    exposed = [shlex.quote(str(entry)) for entry in private if stat.S_IMODE(entry.stat().st_mode) & 0o077]
    if exposed:
        commands.append(f"chmod -R go= {' '.join(exposed)}")
    return commands


def check_private(folder: Path) -> None:
    """Refuse a hospital's folder that other users can read.

    Raises:
        Misconfigured: says which commands close it, or that there is no hospital.
    """
    if not (folder / "hospital.toml").is_file():
        raise Misconfigured(
            f"{folder} is not a hospital.", "It has no hospital.toml.", "Make it with `manikin hospital init`."
        )
    commands = remedies(folder)
    if commands:
        raise Misconfigured(
            "The hospital's folder is open to other users.",
            "Scans, keys and ledger are for the vault's user alone.",
            "Run: " + " && ".join(commands),
        )


def group_id(name: str) -> int:
    """The number of a group, given by its name or number.

    Raises:
        Misconfigured: this system has no such group.
    """
    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise Misconfigured(
            f"This system has no group {name!r}.", "", f"Make it: groupadd --system {shlex.quote(name)}"
        ) from None


def _is_shared(name: str) -> bool:
    return name in SHARED or name.endswith(SHARED_SUFFIX)
