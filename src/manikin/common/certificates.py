"""A coordinator's own certificate authority, and the keys that open lines: server, gateways, reviewer.

None of these keys vouches for a document or a release: those are `keys`. Certificates say to whom a TLS line leads,
a gateway's key which hospital connects, the reviewer's key which bundle a gateway accepts. Made with `cryptography`
only. Not promised: revocation by certificate; who is no longer enrolled is looked up when a line opens.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from manikin.common.errors import Misconfigured, VerificationFailed

AUTHORITY_DAYS = 3650
SERVER_DAYS = 730
CLIENT_DAYS = 730
CLOCK_SLACK = datetime.timedelta(days=1)  # a clock that is a little behind still trusts a fresh certificate
LOOPBACK = ("localhost", "127.0.0.1")

_PRIVATE = serialization.PrivateFormat
_PLAIN = serialization.NoEncryption()


@dataclass(frozen=True)
class KeyPair:
    """A private key and its public half, as they lie on disk."""

    private: bytes
    public: bytes


@dataclass(frozen=True)
class Authority:
    """A coordinator's certificate authority.

    Args:
        certificate: PEM; public.
        key: PEM; never leaves the coordinator.
    """

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Authority()"

    @classmethod
    def create(cls, name: str) -> Authority:
        """A new authority; it signs certificates of servers and gateways, and no other authority."""
        key = ec.generate_private_key(ec.SECP384R1())
        subject = _subject(name)
        usage = _usage(certificates=True)
        certificate = (
            _builder(subject, subject, key.public_key(), AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, hashes.SHA384())
        )
        return cls(_pem(certificate), _private_pem(key))

    @classmethod
    def load(cls, folder: Path) -> Authority:
        """The authority in `ca.pem` and `ca.key`.

        Raises:
            Misconfigured: a file is missing.
        """
        try:
            return cls((folder / "ca.pem").read_bytes(), (folder / "ca.key").read_bytes())
        except FileNotFoundError as error:
            raise Misconfigured(f"There is no {error.filename}.", "", "Restore it from your backup.") from None

    def issue_server(self, hosts: Iterable[str]) -> KeyPair:
        """A key on P-256 and its certificate for a server under these names and addresses, and on loopback.

        Returns:
            The private key and, as `public`, the certificate; both PEM.
        """
        key = _private_pem(ec.generate_private_key(ec.SECP256R1()))
        return KeyPair(key, self.renew_server(key, hosts))

    def renew_server(self, key: bytes, hosts: Iterable[str]) -> bytes:
        """A new certificate for a server's key, under these names and addresses, and on loopback.

        Args:
            key: the private key, PEM.
            hosts: names and addresses.

        Raises:
            Misconfigured: it is no such key.
        """
        try:
            private = serialization.load_pem_private_key(key, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            private = None
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise Misconfigured("The server's key is damaged.", "", "Restore it from your backup.")
        names = tuple(dict.fromkeys((*hosts, *LOOPBACK)))
        purpose = ExtendedKeyUsageOID.SERVER_AUTH
        return self._issue(names[0], private.public_key(), SERVER_DAYS, purpose, names)

    def issue_client(self, name: str, public_key: bytes) -> bytes:
        """A certificate with which the holder of a gateway's key opens a line, and can serve none.

        Args:
            name: the hospital.
            public_key: in OpenSSH form.

        Raises:
            VerificationFailed: it is not a key on P-384.
        """
        return self._issue(name, _public_key(public_key), CLIENT_DAYS, ExtendedKeyUsageOID.CLIENT_AUTH, ())

    def _issue(
        self,
        name: str,
        public_key: ec.EllipticCurvePublicKey,
        days: int,
        purpose: ObjectIdentifier,
        hosts: Sequence[str],
    ) -> bytes:
        issuer = x509.load_pem_x509_certificate(self.certificate)
        key = serialization.load_pem_private_key(self.key, password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        builder = (
            _builder(_subject(name), issuer.subject, public_key, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        )
        if hosts:
            names = x509.SubjectAlternativeName([_alternative(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        return _pem(builder.sign(key, hashes.SHA384()))


def new_node_key() -> KeyPair:
    """A gateway's key on P-384, both halves in OpenSSH form, as Flower's node authentication wants it."""
    return _openssh(ec.generate_private_key(ec.SECP384R1()))


def new_reviewer_key() -> KeyPair:
    """An Ed25519 key in OpenSSH form: whoever reviewed the bundle signs it, and gateways accept no other."""
    return _openssh(ed25519.Ed25519PrivateKey.generate())


def node_key_pem(private: bytes) -> bytes:
    """A gateway's private key in PEM, as TLS wants it.

    Raises:
        Misconfigured: it is not an unencrypted P-384 key in OpenSSH form.
    """
    try:
        key = serialization.load_ssh_private_key(private, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Misconfigured("The gateway's node.key is damaged.", "", "Remove it and enrol again.")
    return _private_pem(key)


def certificate_key(certificate: bytes) -> bytes:
    """The public key of a gateway's certificate, in OpenSSH form.

    Raises:
        VerificationFailed: it is not a certificate in PEM.
    """
    try:
        return _openssh_public(x509.load_pem_x509_certificate(certificate).public_key())
    except (ValueError, UnsupportedAlgorithm):
        raise VerificationFailed("A certificate was refused.", "It is not one.", "Ask for another.") from None


def check_authority(certificate: bytes) -> None:
    """Whether these bytes are one certificate of an authority, and nothing besides.

    Raises:
        VerificationFailed: they are not.
    """
    try:
        found = x509.load_pem_x509_certificates(certificate)
        held = [c.extensions.get_extension_for_class(x509.BasicConstraints).value.ca for c in found]
    except (ValueError, x509.ExtensionNotFound):
        held = []
    if held != [True]:
        raise VerificationFailed(
            "A certificate was refused.", "It is not that of one authority.", "Ask the coordinator for its card again."
        )


def reviewer_id(public_key: str) -> str:
    """The name under which a gateway's list of trusted entities and the bundle's signature know a reviewer's key."""
    blob = public_key.split()[1]
    return "fpk_" + hashlib.sha256(blob.encode()).hexdigest()[:32]


def host_of(address: str) -> str:
    """The host of `host:port`.

    >>> host_of("[::1]:8443"), host_of("study.example.org:8443")
    ('::1', 'study.example.org')
    """
    return address.rsplit(":", 1)[0].strip("[]")


def _public_key(openssh: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_ssh_public_key(openssh)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise VerificationFailed(
            "A gateway's key was refused.", "It is not a P-384 key in OpenSSH form.", "Ask the hospital to enrol again."
        )
    return key


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _subject(name: str) -> x509.Name:
    short = name.encode()[:64].decode(errors="ignore")  # the longest that X.509 allows; the key counts, not the name
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, short or "-")])


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, _PRIVATE.PKCS8, _PLAIN)


def _openssh(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> KeyPair:
    private = key.private_bytes(serialization.Encoding.PEM, _PRIVATE.OpenSSH, _PLAIN)
    return KeyPair(private, _openssh_public(key.public_key()))


def _openssh_public(key: object) -> bytes:
    if not isinstance(key, (ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey)):
        raise ValueError("not a key that gateways use")
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
