"""A server certificate that ends is said in time, and renewed without anything else being touched."""

import datetime
import shutil
import ssl

import pytest
from cryptography import x509

from manikin.common import certificates
from manikin.common.errors import Misconfigured
from manikin.common.processes import LOOPBACK, free_port
from manikin.server.agreements import create_coordinator
from manikin.server.renewal import renew, valid_until, warning

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.fixture
def home(tmp_path):
    return create_coordinator(tmp_path / "c", "coordinator", f"study.example.org:{free_port()}", "registry.org:9")


def content(home):
    return {file.relative_to(home.folder): file.read_bytes() for file in home.folder.rglob("*") if file.is_file()}


def test_a_renewal_changes_the_servers_certificate_and_nothing_else(home):
    before, modes = content(home), {file: file.stat().st_mode for file in home.folder.rglob("*")}
    until = renew(home)
    after = content(home)
    assert {str(name) for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == {
        "tls/server.pem"
    }
    assert {file: file.stat().st_mode for file in home.folder.rglob("*")} == modes
    assert until == valid_until(home) > NOW + (certificates.SERVER_DAYS - 1) * DAY


def test_the_renewed_certificate_is_of_the_same_key_hosts_and_authority(home):
    tls = home.folder / "tls"
    old = x509.load_pem_x509_certificate((tls / "server.pem").read_bytes())
    renew(home)
    new = x509.load_pem_x509_certificate((tls / "server.pem").read_bytes())
    assert new.public_key() == old.public_key()
    assert new.serial_number != old.serial_number
    names = x509.SubjectAlternativeName
    assert new.extensions.get_extension_for_class(names) == old.extensions.get_extension_for_class(names)
    new.verify_directly_issued_by(x509.load_pem_x509_certificate((tls / "ca.pem").read_bytes()))
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls / "server.pem", tls / "server.key")


@pytest.mark.parametrize(("left", "said"), [(31, False), (30, True), (1, True)])
def test_the_last_thirty_days_are_said(home, left, said):
    text = warning(home, valid_until(home) - left * DAY - (DAY / 2 if left == 31 else 0 * DAY))
    assert ("manikin coordinator renew" in text) == said


def test_a_certificate_that_has_ended_stops_the_run_and_a_renewal_lets_it_go_on(home, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(certificates, "SERVER_DAYS", -1)
        patch.setattr(certificates, "CLOCK_SLACK", 2 * DAY)
        renew(home)
    with pytest.raises(Misconfigured, match="expired") as refused:
        warning(home, NOW)
    assert "renew" in refused.value.next_step
    renew(home)
    assert warning(home, NOW) == ""


def test_an_authority_that_has_ended_renews_nothing(home, tmp_path, monkeypatch):
    monkeypatch.setattr(certificates, "AUTHORITY_DAYS", -1)
    monkeypatch.setattr(certificates, "CLOCK_SLACK", 2 * DAY)
    old = create_coordinator(tmp_path / "old", "coordinator", f"{LOOPBACK}:{free_port()}")
    before = content(old)
    with pytest.raises(Misconfigured, match="authority has expired"):
        renew(old)
    assert content(old) == before


@pytest.mark.parametrize("name", ["server.key", "ca.key"])
def test_a_key_that_is_missing_or_damaged_leaves_the_certificate(home, name):
    before = (home.folder / "tls" / "server.pem").read_bytes()
    kept = home.folder / "kept"
    shutil.move(home.folder / "tls" / name, kept)
    with pytest.raises(Misconfigured, match=name):
        renew(home)
    if name == "server.key":
        (home.folder / "tls" / name).write_bytes(b"-----BEGIN")
        with pytest.raises(Misconfigured, match="damaged"):
            renew(home)
    assert (home.folder / "tls" / "server.pem").read_bytes() == before
