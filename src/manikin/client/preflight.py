"""What must hold before a hospital takes part, looked at one by one: problem, and fix.

A look at a coordinator that is not running yet is put off, not failed; clock and TLS are then held against what is at
hand: the dates of the card's authority, and what this hospital wrote last. What the cohort holds is for the hospital's
own screen; nothing here leaves.
"""

from __future__ import annotations

import contextlib
import datetime
import shutil
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from manikin.client import isolation
from manikin.client.cohort import Cohort
from manikin.client.gateway import Gateway
from manikin.client.policy import Policy
from manikin.client.service.access import remedies
from manikin.common.certificates import check_authority
from manikin.common.errors import ManikinError
from manikin.common.processes import accepts, script, split_address

DISK_BYTES_MIN = 2 << 30
CLOCK_S_MAX = 60.0  # Flower refuses a node whose clock is 300 s off
EXPIRY_WARNING = datetime.timedelta(days=30)
WRITTEN = ("hospital.toml", "enrolment.dsse.json", "policy.toml", "ledger.sqlite", "egress.sqlite")

State = Literal["ok", "problem", "later"]


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Args:
        subject: what was looked at.
        state: "ok", "problem", or "later" for what cannot be known before the coordinator runs.
        found: what was found.
        fix: what to do about it.
    """

    subject: str
    state: State
    found: str
    fix: str = ""


def preflight(folder: Path) -> list[Finding]:
    """Look at everything; an error in one look is its finding, and the others go on.

    Args:
        folder: the hospital's folder.
    """
    looks: list[tuple[str, Callable[[Path], Iterator[Finding]]]] = [
        ("versions", _versions),
        ("keys", _keys),
        ("cohort", _cohort),
        ("policy", _policy),
        ("disk", _disk),
        ("vault", _isolation),
        ("certificate", _certificate),
        ("line", _line),
    ]
    findings: list[Finding] = []
    for subject, look in looks:
        try:
            findings += look(folder)
        except ManikinError as error:
            findings.append(Finding(subject, "problem", f"{error.what} {error.why}".strip(), error.next_step))
        except OSError as error:
            findings.append(
                Finding(subject, "problem", f"{error.strerror or error}", "Check the folder's permissions.")
            )
    return findings


def _versions(folder: Path) -> Iterator[Finding]:
    del folder
    python = ".".join(map(str, sys.version_info[:3]))
    fit = (3, 11) <= sys.version_info < (3, 14)
    yield Finding("Python", "ok" if fit else "problem", python, "" if fit else "Install Python 3.11 to 3.13.")
    wanted = next((r.partition("==")[2] for r in requires("manikin") or [] if r.startswith("flwr==")), "")
    try:
        found = version("flwr")
    except PackageNotFoundError:
        found = "none"
    fix = "" if found == wanted else f"Install manikin afresh: it needs flwr {wanted}."
    yield Finding("Flower", "problem" if fix else "ok", found, fix)
    missing = [name for name in ("flower-supernode", "flower-superexec") if not Path(script(name)).exists()]
    if missing:
        yield Finding("commands", "problem", f"{', '.join(missing)} not beside python", "Install manikin afresh.")


def _keys(folder: Path) -> Iterator[Finding]:
    wrong = remedies(folder)
    yield Finding("permissions", "problem" if wrong else "ok", f"{len(wrong)} too open", "; ".join(wrong))
    gateway = Gateway.open(folder / "gateway")
    try:
        private = load_ssh_private_key((gateway.folder / "node.key").read_bytes(), None)
        public = load_ssh_public_key((gateway.folder / "node.pub").read_bytes())
        fit = private.public_key() == public
    except ValueError:
        fit = False
    fix = "" if fit else "Enrol again with --rotate."
    yield Finding("gateway key", "ok" if fit else "problem", "node.key fits node.pub" if fit else "does not fit", fix)


def _cohort(folder: Path) -> Iterator[Finding]:
    counts = Cohort.open(folder).counts()
    patients = counts["patients"]
    fix = "" if patients else "Import scans: manikin hospital import SCANS --hospital " + str(folder)
    yield Finding("cohort", "ok" if patients else "problem", f"{patients} patients, {counts['images']} images", fix)


def _policy(folder: Path) -> Iterator[Finding]:
    policy = Policy.load(folder)
    limits = policy.limits
    yield Finding("policy", "ok", f"ε at most {limits.epsilon:g}, quorum at least {limits.quorum_min}")


def _disk(folder: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free
    fix = "" if free >= DISK_BYTES_MIN else f"Free {DISK_BYTES_MIN >> 30} GiB: the ledger must never find a full disk."
    yield Finding("disk", "problem" if fix else "ok", f"{free / 2**30:.1f} GiB free", fix)


def _isolation(folder: Path) -> Iterator[Finding]:
    del folder
    if not isolation.isolated():
        isolation.prefix_without_network()
    yield Finding("vault", "ok", "can run without a network")


def _certificate(folder: Path) -> Iterator[Finding]:
    authority = _authority(folder)
    now = datetime.datetime.now(datetime.UTC)
    until = f"until {authority.not_valid_after_utc:%Y-%m-%d}"
    if now < authority.not_valid_before_utc:
        yield Finding("certificate", "problem", "not valid yet", "Set this machine's clock.")
    elif now > authority.not_valid_after_utc:
        yield Finding("certificate", "problem", f"expired: valid {until}", "Ask the coordinator for a new card.")
    elif now > authority.not_valid_after_utc - EXPIRY_WARNING:
        yield Finding("certificate", "ok", f"valid {until}", "Ask the coordinator for a new card soon.")
    else:
        yield Finding("certificate", "ok", f"valid {until}")


def _authority(folder: Path) -> x509.Certificate:
    """The card's authority.

    Raises:
        VerificationFailed: ca.pem is no authority's certificate.
    """
    content = (folder / "gateway" / "ca.pem").read_bytes()
    check_authority(content)
    return x509.load_pem_x509_certificate(content)


def _line(folder: Path) -> Iterator[Finding]:
    gateway = Gateway.open(folder / "gateway")
    host, port = split_address(gateway.address)
    if not accepts(host, port):
        fix = f"If a study should be running: let {host} port {port} out through the firewall."
        yield Finding("coordinator", "later", f"not reachable: {gateway.address} does not answer", fix)
        yield Finding("TLS", "later", "the coordinator's certificate is seen when it answers")
        yield _clock_alone(folder, time.time())
        return
    yield Finding("coordinator", "ok", f"{gateway.address} answers")
    asked = time.time()
    try:
        date, until = gateway.greeting()
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", "") or error.reason or str(error)
        fix = "Ask the coordinator for its card, and enrol again."
        if "expired" in why or "not yet valid" in why:
            fix = "Set this machine's clock; if it is right, the coordinator runs `manikin coordinator renew`."
        yield Finding("TLS", "problem", why, fix)
        yield _clock_alone(folder, asked)
        return
    soon = until < asked + EXPIRY_WARNING.total_seconds()
    day = datetime.datetime.fromtimestamp(until, datetime.UTC).date()
    fix = "Ask the coordinator to run `manikin coordinator renew`." if soon else ""
    yield Finding("TLS", "ok", f"the certificate is the coordinator's own, for this host, until {day}", fix)
    yield _clock(date, asked)


def _clock_alone(folder: Path, now: float) -> Finding:
    """What can be said of the clock without the coordinator: whether it lies before what has happened already."""
    written = [(folder / name).stat().st_mtime for name in WRITTEN if (folder / name).exists()]
    known = [_authority(folder).not_valid_before_utc.timestamp(), *written]
    behind = max(known) - now
    if behind > CLOCK_S_MAX:
        return Finding(
            "clock", "problem", f"{behind:.0f} s before what this hospital wrote last", "Set the clock (NTP)."
        )
    text = f"{datetime.datetime.fromtimestamp(now, datetime.UTC):%Y-%m-%d %H:%M} UTC, after all that was written here"
    return Finding("clock", "later", f"{text}; held against the coordinator's when it answers")


def _clock(date: str, asked: float) -> Finding:
    with contextlib.suppress(ValueError, TypeError):
        off = asked - parsedate_to_datetime(date).timestamp()
        good = abs(off) <= CLOCK_S_MAX
        fix = "" if good else "Set the clock (NTP): nodes more than 300 s off are refused."
        return Finding("clock", "ok" if good else "problem", f"{off:+.0f} s from the coordinator's", fix)
    return Finding("clock", "later", "the coordinator gives no date")
