"""Certificates open lines for those they name, in the direction that they are for, and nothing more."""

import itertools
import socket
import ssl
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from manikin.common.certificates import (
    Authority,
    certificate_key,
    check_authority,
    host_of,
    new_node_key,
    new_reviewer_key,
    node_key_pem,
    reviewer_id,
)
from manikin.common.errors import Misconfigured, VerificationFailed

AUTHORITY = Authority.create("Study")
NODE = new_node_key()


def shake_hands(tmp_path, *, certificate, key, trusted, host="127.0.0.1", client=None):
    """A TLS 1.3 handshake on a socket pair; raises what the side that refuses raises."""
    for name, content in {"c.pem": certificate, "k.pem": key, "ca.pem": trusted}.items():
        (tmp_path / name).write_bytes(content)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
    asking = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    asking.verify_flags |= ssl.VERIFY_X509_STRICT
    if client is not None:
        serving.verify_mode = ssl.CERT_REQUIRED
        serving.load_verify_locations(tmp_path / "ca.pem")
        (tmp_path / "cc.pem").write_bytes(client[0])
        (tmp_path / "ck.pem").write_bytes(client[1])
        asking.load_cert_chain(tmp_path / "cc.pem", tmp_path / "ck.pem")
    left, right = socket.socketpair()
    errors = []

    def serve():
        try:
            with serving.wrap_socket(left, server_side=True) as line:
                line.sendall(b"hello")
        except (ssl.SSLError, OSError) as error:
            errors.append(error)
            left.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with asking.wrap_socket(right, server_hostname=host) as line:
            assert line.recv(5) == b"hello"
            return line.version()
    finally:
        right.close()
        thread.join()
        left.close()


@pytest.mark.parametrize("host", ["study.example.org", "localhost", "127.0.0.1", "192.0.2.7"])
def test_a_server_is_known_by_its_names_and_on_loopback(tmp_path, host):
    pair = AUTHORITY.issue_server(["study.example.org", "192.0.2.7"])
    version = shake_hands(tmp_path, certificate=pair.public, key=pair.private, trusted=AUTHORITY.certificate, host=host)
    assert version == "TLSv1.3"


def test_a_server_under_another_name_is_refused(tmp_path):
    pair = AUTHORITY.issue_server(["study.example.org"])
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(
            tmp_path, certificate=pair.public, key=pair.private, trusted=AUTHORITY.certificate, host="example.com"
        )


def test_a_server_of_another_authority_is_refused(tmp_path):
    pair = Authority.create("Study").issue_server(["localhost"])
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(tmp_path, certificate=pair.public, key=pair.private, trusted=AUTHORITY.certificate)


def test_a_gateway_opens_a_line_with_its_certificate(tmp_path):
    pair = AUTHORITY.issue_server([])
    client = (AUTHORITY.issue_client("North", NODE.public), node_key_pem(NODE.private))
    shake_hands(tmp_path, certificate=pair.public, key=pair.private, trusted=AUTHORITY.certificate, client=client)


def test_a_gateway_cannot_serve_with_its_certificate(tmp_path):
    certificate = AUTHORITY.issue_client("localhost", NODE.public)
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        shake_hands(
            tmp_path,
            certificate=certificate,
            key=node_key_pem(NODE.private),
            trusted=AUTHORITY.certificate,
            host="localhost",
        )


def test_a_gateways_certificate_carries_its_key():
    assert certificate_key(AUTHORITY.issue_client("North", NODE.public)) == NODE.public
    with pytest.raises(VerificationFailed):
        certificate_key(b"junk")


def test_keys_have_the_forms_that_flower_reads():
    node = serialization.load_ssh_private_key(NODE.private, password=None)
    assert isinstance(node, ec.EllipticCurvePrivateKey)
    assert isinstance(node.curve, ec.SECP384R1)
    reviewer = new_reviewer_key()
    assert isinstance(serialization.load_ssh_private_key(reviewer.private, password=None), ed25519.Ed25519PrivateKey)
    assert reviewer_id(reviewer.public.decode()) == reviewer_id(reviewer.public.decode() + " comment")
    assert reviewer_id(reviewer.public.decode()) != reviewer_id(new_reviewer_key().public.decode())


def test_the_server_leaf_is_on_p256_and_no_authority():
    leaf = x509.load_pem_x509_certificate(AUTHORITY.issue_server(["h"]).public)
    assert isinstance(leaf.public_key().curve, ec.SECP256R1)
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize(
    "public", [b"junk", new_reviewer_key().public, b"ecdsa-sha2-nistp384 AAAA"], ids=itertools.count()
)
def test_only_a_gateways_key_is_certified(public):
    with pytest.raises(VerificationFailed):
        AUTHORITY.issue_client("North", public)


@pytest.mark.parametrize("private", [b"", b"junk", new_reviewer_key().private])
def test_a_damaged_gateway_key_says_what_to_do(private):
    with pytest.raises(Misconfigured, match="enrol again"):
        node_key_pem(private)


def test_an_authority_is_one_certificate_of_an_authority():
    check_authority(AUTHORITY.certificate)
    leaf = AUTHORITY.issue_server([]).public
    for content in (b"", b"junk", leaf, AUTHORITY.certificate * 2, AUTHORITY.certificate + leaf):
        with pytest.raises(VerificationFailed):
            check_authority(content)


def test_an_authority_comes_back_from_its_folder(tmp_path):
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.certificate)
    with pytest.raises(Misconfigured, match=r"ca\.key"):
        Authority.load(tmp_path)
    (tmp_path / "ca.key").write_bytes(AUTHORITY.key)
    assert Authority.load(tmp_path) == AUTHORITY
    assert repr(AUTHORITY) == "Authority()"


@pytest.mark.parametrize("name", ["Süd" * 21 + "x", "院" * 64])
def test_long_names_are_cut_to_what_a_certificate_holds(name):
    assert certificate_key(AUTHORITY.issue_client(name, NODE.public)) == NODE.public


def test_hosts_of_addresses():
    assert [host_of(a) for a in ("127.0.0.1:1", "[::1]:1", "a.b:1")] == ["127.0.0.1", "::1", "a.b"]
