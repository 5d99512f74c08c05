"""How long the coordinator's server certificate holds, and a new one from the same authority.

Only `tls/server.pem` changes: the key stays, hospitals trust the authority and not the certificate, and so nobody has
to enrol again. Not promised: a new authority or a new coordinator's key; those are another federation
(docs/coordinator.md).
"""

from __future__ import annotations

import datetime

from cryptography import x509

from manikin.common.certificates import Authority, host_of
from manikin.common.errors import Misconfigured
from manikin.common.files import write_atomically
from manikin.server.agreements import Coordinator

WARNING = datetime.timedelta(days=30)


def valid_until(home: Coordinator) -> datetime.datetime:
    """When the server's certificate or the authority's ends, whichever is first.

    Raises:
        Misconfigured: one of them is missing or is none.
    """
    tls = home.folder / "tls"
    try:
        read = [x509.load_pem_x509_certificate((tls / name).read_bytes()) for name in ("server.pem", "ca.pem")]
    except (OSError, ValueError):
        raise Misconfigured(
            "The server's certificate cannot be read.", "", "Run: manikin coordinator renew --coordinator DIR"
        ) from None
    return min(certificate.not_valid_after_utc for certificate in read)


def warning(home: Coordinator, now: datetime.datetime) -> str:
    """What to say before the server is started; nothing while its certificate holds for more than 30 days.

    Raises:
        Misconfigured: it has ended: no hospital would connect.
    """
    until = valid_until(home)
    step = f"manikin coordinator renew --coordinator {home.folder}"
    if until <= now:
        raise Misconfigured("The server's certificate has expired.", f"It was valid until {until:%Y-%m-%d}.", step)
    return "" if until > now + WARNING else f"The server's certificate ends on {until:%Y-%m-%d}. Renew it: {step}"


def renew(home: Coordinator) -> datetime.datetime:
    """Replace the server's certificate by a new one for the same key and the same hosts.

    Returns:
        When it ends, or the authority, if that is sooner.

    Raises:
        Misconfigured: the authority's key or the server's is missing, or the authority itself has expired.
    """
    tls = home.folder / "tls"
    authority = Authority.load(tls)
    if x509.load_pem_x509_certificate(authority.certificate).not_valid_after_utc <= datetime.datetime.now(datetime.UTC):
        raise Misconfigured(
            "The authority has expired, and cannot make certificates.",
            "",
            "Make a new coordinator's folder, and have every hospital enrol again.",
        )
    try:
        key = (tls / "server.key").read_bytes()
    except FileNotFoundError:
        raise Misconfigured("There is no tls/server.key.", "", "Restore it from your backup.") from None
    hosts = [host_of(address) for address in (home.address, home.registry) if address]
    write_atomically(tls / "server.pem", authority.renew_server(key, hosts))
    return valid_until(home)
