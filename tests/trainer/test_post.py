"""Reports by HTTPS, to a real server with a certificate of its own authority."""

import ipaddress
import json
import logging
import os
import shutil
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from finetune_api.report import MAX_REPORT_BYTES, Report, Stage
from finetune_trainer.reports.post import Poster
from tiny import save_chat_data, save_tiny_model
from trainer.gangs import config, run


def save_certificate(directory: Path) -> Path:
    """A certificate for 127.0.0.1 that vouches for itself, with its key; returns the certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "operator")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    directory.mkdir(exist_ok=True)
    (directory / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return directory / "ca.crt"


@dataclass
class Operator:
    """What the operator's endpoint saw, and how it answers."""

    url: str = ""
    ca: Path = Path()
    status: int = 200
    answer: str = '{"nextReportSeconds": 0.1}'
    retry_after: str | None = None
    answering: threading.Event = field(default_factory=threading.Event)
    """Cleared while it keeps its answers back."""
    requests: list[tuple[str, str, str, float]] = field(default_factory=list)
    """Path, authorization, body, time."""

    @property
    def bodies(self) -> list[str]:
        return [body for _, _, body, _ in self.requests]


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    made = Operator(ca=save_certificate(tmp_path / "tls"))
    made.answering.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            # Before a test, which waits for the request, has the next one answered otherwise.
            status = made.status
            made.requests.append((self.path, self.headers["Authorization"], body, time.monotonic()))
            made.answering.wait()
            self.send_response(status)
            if made.retry_after is not None:
                self.send_header("Retry-After", made.retry_after)
            self.end_headers()
            self.wfile.write(made.answer.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.ca, made.ca.with_name("key.pem"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    made.url = f"https://127.0.0.1:{server.server_port}/v1/namespaces/a/finetunejobs/b/report"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    made.answering.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("first\n")
    return file


def eventually(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_report_arrives_as_it_is_with_the_token_of_the_hour(operator: Operator, token: Path) -> None:
    poster = Poster(operator.url, ca=operator.ca, token=token)
    poster.offer('{"sequence":1}', urgent=False)
    eventually(lambda: len(operator.requests) == 1)
    token.write_text("second\n")
    poster.offer('{"sequence":2}', urgent=False)
    poster.close()
    assert [request[:3] for request in operator.requests] == [
        ("/v1/namespaces/a/finetunejobs/b/report", "Bearer first", '{"sequence":1}'),
        ("/v1/namespaces/a/finetunejobs/b/report", "Bearer second", '{"sequence":2}'),
    ]


def test_the_operator_says_when_the_next_one_comes_and_the_latest_wins(
    operator: Operator, token: Path
) -> None:
    # Far more than a hundred offers take.
    operator.answer = '{"nextReportSeconds": 5}'
    poster = Poster(operator.url, ca=operator.ca, token=token)
    poster.offer("first", urgent=False)
    eventually(lambda: operator.bodies == ["first"])
    for number in range(100):
        poster.offer(f"{number}", urgent=False)
    eventually(lambda: len(operator.requests) == 2)
    assert operator.bodies == ["first", "99"]
    # It counts from before the first one was on its way.
    assert operator.requests[1][3] - operator.requests[0][3] >= 3
    poster.close()
    assert operator.bodies == ["first", "99"]


def test_what_is_urgent_does_not_wait_for_the_interval(operator: Operator, token: Path) -> None:
    operator.answer = '{"nextReportSeconds": 3600}'
    poster = Poster(operator.url, ca=operator.ca, token=token)
    poster.offer("first", urgent=False)
    eventually(lambda: operator.bodies == ["first"])
    poster.offer("saved", urgent=True)
    eventually(lambda: operator.bodies == ["first", "saved"])
    poster.offer("last", urgent=False)
    poster.close()
    assert operator.bodies == ["first", "saved", "last"]


@pytest.mark.parametrize("status", [429, 503])
def test_who_is_told_to_come_again_does_so_with_the_newest_and_not_before(
    operator: Operator, token: Path, status: int
) -> None:
    operator.status, operator.retry_after = status, "1"
    poster = Poster(operator.url, ca=operator.ca, token=token)
    poster.offer("first", urgent=True)
    eventually(lambda: operator.bodies == ["first"])
    operator.status = 200
    poster.offer("saved", urgent=True)
    eventually(lambda: operator.bodies == ["first", "saved"])
    assert operator.requests[1][3] - operator.requests[0][3] >= 1
    # Nor is anything sent again that was taken.
    poster.close()
    assert operator.bodies == ["first", "saved"]


def test_what_was_not_taken_is_sent_again_even_if_nothing_follows(operator: Operator, token: Path) -> None:
    operator.status, operator.retry_after = 503, "1"
    poster = Poster(operator.url, ca=operator.ca, token=token)
    poster.offer("only", urgent=False)
    eventually(lambda: operator.bodies == ["only"])
    operator.status = 200
    eventually(lambda: operator.bodies == ["only", "only"])
    poster.close()


def test_the_last_one_is_sent_again_as_long_as_there_is_time(operator: Operator, token: Path) -> None:
    operator.status, operator.retry_after = 503, "1"
    poster = Poster(operator.url, ca=operator.ca, token=token)
    operator.answering.clear()
    poster.offer("last", urgent=True)

    def recover() -> None:
        eventually(lambda: operator.bodies == ["last"])
        operator.status = 200
        operator.answering.set()

    recovering = threading.Thread(target=recover)
    recovering.start()
    poster.close(within=60)
    recovering.join()
    assert operator.bodies == ["last", "last"]


@pytest.mark.parametrize("wait", ["30", None])
def test_nobody_waits_longer_than_there_is_time_for_the_last_one(
    operator: Operator, token: Path, wait: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What it waits where the operator does not say.
    monkeypatch.setattr("finetune_trainer.reports.post._DEFAULT_INTERVAL", 30.0)
    operator.status, operator.retry_after = 503, wait
    poster = Poster(operator.url, ca=operator.ca, token=token)
    poster.offer("last", urgent=True)
    eventually(lambda: operator.bodies == ["last"])
    began = time.monotonic()
    poster.close(within=9)
    assert time.monotonic() - began < 9


def test_who_offers_does_not_wait_for_the_answer(
    operator: Operator, token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As long would whoever waits.
    monkeypatch.setattr("finetune_trainer.reports.post._TIMEOUT_SECONDS", 60)
    operator.answering.clear()
    poster = Poster(operator.url, ca=operator.ca, token=token)
    began = time.monotonic()
    poster.offer("first", urgent=True)
    eventually(lambda: operator.bodies == ["first"])
    poster.offer("second", urgent=True)
    assert time.monotonic() - began < 50
    operator.answering.set()
    poster.close()
    assert operator.bodies == ["first", "second"]


def test_what_found_nobody_is_sent_when_the_end_comes(operator: Operator, token: Path) -> None:
    away = token.with_name("elsewhere")
    token.rename(away)
    poster = Poster(operator.url, ca=operator.ca, token=token)
    poster.offer("only", urgent=False)
    time.sleep(0.5)
    away.rename(token)
    poster.close()
    assert operator.bodies == ["only"]


@pytest.mark.parametrize("trouble", ["refusal", "nonsense", "stranger", "nobody", "no token"])
def test_trouble_is_told_once_and_never_disturbs(
    operator: Operator, token: Path, tmp_path: Path, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    ca, url, said = (
        operator.ca,
        operator.url,
        {
            "refusal": "503",
            "nonsense": "an answer that is no ReportReply",
            "stranger": "certificate verify failed",
            "nobody": "Connection refused",
            "no token": "No such file",
        },
    )
    match trouble:
        case "refusal":
            operator.status = 503
        case "nonsense":
            operator.answer = "<html>"
        case "stranger":
            ca = save_certificate(tmp_path / "other")
        case "nobody":
            url = "https://127.0.0.1:1/report"
        case "no token":
            token.unlink()
    with caplog.at_level(logging.WARNING):
        poster = Poster(url, ca=ca, token=token)
        for number in range(2):
            poster.offer(json.dumps(number), urgent=True)
            time.sleep(0.7)
        poster.close()
    [record] = caplog.records
    assert said[trouble] in record.message
    if trouble in ("stranger", "nobody", "no token"):
        assert operator.requests == []


def test_nothing_that_the_endpoint_would_refuse_is_sent(
    operator: Operator, token: Path, caplog: pytest.LogCaptureFixture
) -> None:
    poster = Poster(operator.url, ca=operator.ca, token=token)
    poster.offer("x" * (MAX_REPORT_BYTES + 1), urgent=True)
    poster.close()
    assert operator.requests == []
    assert "longer than the endpoint takes" in caplog.text


def test_the_end_is_posted_for_the_pod_may_be_gone_at_once(
    operator: Operator, token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the first process, which alone knows it; training is not needed for that."""
    (tmp_path / "sitecustomize.py").write_text(f"""
import os, sys
from finetune_api import names
names.TOKEN_DIR = {str(tmp_path)!r}
if "finetune_trainer.worker" in sys.orig_argv:
    from finetune_trainer.ends import causes
    causes.leave("rank 0", 65, "line 3 is bad", log="Traceback")
    os._exit(1)
""")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    save_tiny_model(tmp_path / "model")
    save_chat_data(tmp_path / "train.jsonl", samples=1)
    # Where its RunConfig will lie.
    (tmp_path / ".run-1").mkdir()
    shutil.copy(operator.ca, tmp_path / ".run-1")
    [end] = run(config(tmp_path).model_copy(update={"report_url": operator.url}))
    assert end.exit_code == 65, end.output
    assert [Report.from_json(body) for body in operator.bodies] == [end.report]
    assert (end.report.stage, end.report.failure and end.report.failure.log) == (Stage.FAILED, "Traceback")
