"""The certificate that is served follows its files, and never becomes one that clients would not take."""

import datetime
import logging
import shutil
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from certificates import DAY, write_certificate
from finetune_operator.certificate import Certificate

HOST = "localhost"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_certificate(tmp_path / "tls")
    return tmp_path / "tls"


def takes(certificate: Certificate, trusted: str, host: str = HOST) -> bool:
    """Whether a client that trusts this authority gets through to the operator."""
    client_context = ssl.create_default_context(cadata=trusted)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=host)
    server = certificate.context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
    return client.getpeercert() is not None


def test_new_connections_get_what_the_files_have_last(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    certificate = Certificate(files, HOST)
    old = certificate.authorities
    assert not certificate.renew()
    write_certificate(files, ends=10 * DAY)
    new = (files / "ca.crt").read_text()
    assert takes(certificate, old)
    assert not takes(certificate, new)
    assert certificate.renew()
    assert not takes(certificate, old)
    assert takes(certificate, new)
    assert certificate.authorities == new
    assert abs(certificate.expiry - time.time() - 10 * DAY.total_seconds()) < 60
    [record] = caplog.records
    assert "a new certificate is served" in record.message


def test_the_old_authority_may_stay_beside_the_new_one(files: Path) -> None:
    certificate = Certificate(files, HOST)
    old = certificate.authorities
    write_certificate(files)
    with (files / "ca.crt").open("a") as file:
        file.write(f"# l'autorité d'hier\n{old}")
    assert certificate.renew()
    assert old in certificate.authorities
    assert takes(certificate, certificate.authorities)


def other_key(files: Path) -> None:
    write_certificate(files.with_name("other"))
    shutil.copy(files.with_name("other") / "tls.key", files)


def other_authority(files: Path) -> None:
    write_certificate(files.with_name("other"))
    for file in ("tls.crt", "tls.key"):
        shutil.copy(files.with_name("other") / file, files)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (other_key, "key values mismatch"),
        (other_authority, "self-signed certificate"),
        (lambda files: write_certificate(files, "elsewhere.example"), "not valid for 'localhost'"),
        (lambda files: write_certificate(files, begins=-2 * DAY, ends=-DAY), "expired"),
        (lambda files: write_certificate(files, begins=DAY, ends=2 * DAY), "not yet valid"),
        (lambda files: (files / "ca.crt").write_text(""), "ca.crt: Empty certificate data"),
        (lambda files: (files / "tls.crt").write_text("?"), "PEM"),
        (lambda files: (files / "tls.key").unlink(), "No such file"),
    ],
)
def test_a_new_one_of_no_use_is_told_of_once_and_the_old_one_is_kept(
    files: Path, spoil: Callable[[Path], None], complaint: str, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = Certificate(files, HOST)
    old = certificate.authorities
    spoil(files)
    assert not certificate.renew()
    assert not certificate.renew()
    assert takes(certificate, old)
    assert certificate.authorities == old
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert complaint in record.message
    write_certificate(files)
    assert certificate.renew()
    assert takes(certificate, certificate.authorities)


def test_one_that_is_over_at_the_start_is_served_all_the_same_and_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_certificate(tmp_path / "tls", begins=-2 * DAY, ends=-DAY)
    certificate = Certificate(tmp_path / "tls", HOST)
    assert "certificate has expired" in caplog.text
    ended = datetime.datetime.fromtimestamp(certificate.expiry, datetime.UTC)
    assert datetime.datetime.now(datetime.UTC) - ended >= DAY


def test_one_that_nobody_would_ever_take_ends_at_no_time(files: Path) -> None:
    assert Certificate(files, "elsewhere.example").expiry == 0


def test_what_cannot_be_served_is_an_error(files: Path) -> None:
    other_key(files)
    with pytest.raises(OSError, match="key values mismatch"):
        Certificate(files, HOST)
