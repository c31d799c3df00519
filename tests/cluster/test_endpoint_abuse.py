"""The report endpoint under those who mean it ill: it holds, and whoever behaves is served as ever."""

import base64
import contextlib
import gzip
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.kube import Namespace, eventually
from cluster.operators import Operator
from finetune_api import names
from finetune_api.report import MAX_REPORT_BYTES
from finetune_operator.endpoint.callers import MAX_CONNECTIONS
from finetune_operator.endpoint.identity import REFUSALS_BURST
from finetune_operator.endpoint.listener import CONNECTION_BYTES, CONNECTION_SECONDS
from finetune_operator.endpoint.receiver import MAX_ERROR_LENGTH, REPORTS_BURST
from world import INLINE, checkpoint, report

# Those who behave are at 127.0.0.1.
STRANGERS = [f"127.0.1.{number}" for number in range(1, 21)]
MIB = 1024 * 1024


@dataclass(frozen=True)
class Gang:
    """A gang whose pods run; rank 0 reports."""

    namespace: Namespace
    operator: Operator
    name: str
    token: str

    @property
    def path(self) -> str:
        return names.report_path(self.namespace.name, self.name)

    def post(self, sequence: int, **said: object) -> int:
        """Report; returns the status of the answer."""
        told = report(sequence=sequence, **said)  # type: ignore[arg-type]
        return self.operator.post(self.namespace.name, self.name, told, token=self.token)[0]

    def head(self, *headers: str, token: str | None = None) -> bytes:
        """A request up to its body."""
        lines = [f"POST {self.path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token or self.token}"]
        return "\r\n".join([*lines, *headers, "", ""]).encode()


@pytest.fixture
def gang(namespace: Namespace, operator: Operator) -> Gang:
    return begun(namespace, operator, "demo")


def begun(namespace: Namespace, operator: Operator, name: str) -> Gang:
    namespace.submit(name, dataset=INLINE)
    pods = namespace.pods(name)
    namespace.run_pods(pods)
    return Gang(namespace, operator, name, namespace.token(pods[0]))


def connected(operator: Operator, address: str = STRANGERS[0], *, tls: bool = True) -> socket.socket:
    """A connection from another address of this machine."""
    plain = socket.create_connection(("127.0.0.1", operator.report_port), 30, (address, 0))
    if not tls:
        return plain
    context = ssl.create_default_context(cafile=str(operator.directory / "tls" / "ca.crt"))
    return context.wrap_socket(plain, server_hostname="127.0.0.1")


def rest(connection: socket.socket) -> bytes:
    """What comes until the other side closes it."""
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except OSError:
        pass
    return found


def asked(
    operator: Operator, request: bytes, address: str = STRANGERS[0]
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and all that follows, of the answer to a request that is sent as it is."""
    with connected(operator, address) as connection:
        connection.sendall(request)
        head, _, body = rest(connection).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body


def forged(number: int, namespace: str) -> str:
    """A token that claims what it should, and that nobody has signed."""
    about = {"namespace": namespace, "pod": {"name": "demo-1-0", "uid": "1"}}
    claims = {"aud": [names.TOKEN_AUDIENCE], "exp": 2**31, "kubernetes.io": about}
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.{number}"


def resident(operator: Operator) -> int:
    """The operator's memory, in bytes."""
    return metric(operator, "process_resident_memory_bytes")


def metric(operator: Operator, name: str) -> int:
    [value] = re.findall(rf"^{name} (\S+)$", operator.get("/metrics")[1], re.MULTILINE)
    return int(float(value))


@contextlib.contextmanager
def flood(operator: Operator, kind: str, addresses: list[str], head: bytes = b"") -> Iterator[None]:
    """Have a process flood the endpoint meanwhile."""
    script = Path(__file__).with_name("flood.py")
    command = [sys.executable, str(script), kind, str(operator.report_port), *addresses]
    # What its own event loop has to say about connections that are cut is of no interest.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        process.stdin.write(head)
        process.stdin.close()
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.stdout is not None
            tries = int(process.stdout.read() or 0)
    assert process.returncode == 0
    assert tries > 100, "that was no flood"


@pytest.mark.parametrize(
    ("kind", "addresses"),
    [("connect", STRANGERS), ("connect", STRANGERS[:1]), ("post", STRANGERS), ("hold", STRANGERS)],
    ids=["connections", "connections of one", "made-up tokens", "silent connections"],
)
def test_a_flood_keeps_nobody_from_reporting_and_the_operator_from_nothing(
    gang: Gang, kind: str, addresses: list[str]
) -> None:
    head = gang.head("Content-Length: 2", token=forged(0, gang.namespace.name)[:-1]).removesuffix(b"\r\n\r\n")
    if kind == "post":
        # Numbers follow on the token, which comes last.
        lines = head.split(b"\r\n")
        head = b"\r\n".join([*lines[:2], lines[3], lines[2]])
    assert gang.post(1) == 200
    before, files = resident(gang.operator), metric(gang.operator, "process_open_fds")
    reviews, logged = gang.operator.writes()["post tokenreviews"], len(gang.operator.log.read_text())
    with flood(gang.operator, kind, addresses, head):
        began = time.monotonic()
        gang.namespace.submit("another", dataset=INLINE)
        for sequence in range(2, 10):
            assert gang.post(sequence, step=sequence, checkpoints=[checkpoint(sequence)]) == 200
            time.sleep(0.4)
        eventually(lambda: gang.namespace.status()["progress"]["step"] == 9, seconds=60)
        assert len(gang.namespace.pods("another")) == 2
        assert gang.operator.get("/healthz")[0] == 200
        seconds = time.monotonic() - began
        assert metric(gang.operator, "process_open_fds") <= files + MAX_CONNECTIONS
    assert resident(gang.operator) - before < 48 * MIB
    assert "Traceback" not in gang.operator.log.read_text()[logged:]
    # Of each address a burst, and one a second.
    most = len(addresses) * (REFUSALS_BURST + 1 + seconds)
    assert gang.operator.writes()["post tokenreviews"] - reviews <= (most if kind == "post" else 1)


def test_nobody_who_is_slow_stays_for_long(gang: Gang) -> None:
    """In the handshake, in headers, in the body, in chunks without end, and in reading the answer."""
    operator = gang.operator
    files = metric(operator, "process_open_fds")
    long = report().to_json().encode()
    began = {
        "handshake": b"\x16\x03\x01",
        "headers": gang.head()[:-4],
        "body": gang.head(f"Content-Length: {len(long)}") + long[:10],
        "chunks": gang.head("Transfer-Encoding: chunked") + b"1\r\n \r\n",
        "nothing": b"",
    }
    drips = {"headers": b"\r\nX: 1", "chunks": b"1\r\n \r\n", "body": b" "}

    def stay(what: str, address: str) -> tuple[str, float, bytes]:
        started = time.monotonic()
        with connected(operator, address, tls=what != "handshake") as connection:
            connection.settimeout(0.5)
            connection.sendall(began[what])
            while time.monotonic() - started < 2 * CONNECTION_SECONDS:
                try:
                    connection.sendall(drips.get(what, b""))
                    return what, time.monotonic() - started, connection.recv(65536)
                except TimeoutError:
                    continue
                except OSError:
                    break
            return what, time.monotonic() - started, b""

    # Who never reads has its answer ready, and does not take it.
    unread = [connected(operator, address) for address in STRANGERS[:4]]
    for connection in unread:
        connection.sendall(gang.head("Content-Length: 2", token="x") + b"{}")
    with ThreadPoolExecutor(40) as pool:
        ends = list(pool.map(stay, list(began) * 4, STRANGERS[:20]))
    for what, seconds, answer in ends:
        assert seconds < 2 * CONNECTION_SECONDS, what
        assert not answer or b" 408 " in answer.splitlines()[0], what
    assert {what for what, _, answer in ends if answer} >= {"body"}
    assert gang.post(1) == 200
    eventually(lambda: metric(operator, "process_open_fds") <= files + 1)
    for connection in unread:
        connection.close()


def test_one_connection_brings_one_request(gang: Gang) -> None:
    body = report(sequence=1).to_json().encode()
    request = gang.head(f"Content-Length: {len(body)}") + body
    code, headers, answer = asked(gang.operator, request * 5)
    assert (code, headers["Connection"]) == (200, "close")
    assert b"HTTP/1.1" not in answer


def test_who_sends_without_end_is_cut_off(gang: Gang) -> None:
    sent, part = 0, b" " * 65536
    with connected(gang.operator) as connection, contextlib.suppress(OSError):
        connection.sendall(gang.head(f"Content-Length: {2**40}"))
        while sent < 64 * MIB:
            connection.sendall(part)
            sent += len(part)
    # And what fits into the buffers of both sides.
    assert sent < CONNECTION_BYTES + 16 * MIB


def test_a_body_is_not_unpacked(gang: Gang) -> None:
    bomb = gzip.compress(b" " * 50 * MIB)
    assert len(bomb) < MAX_REPORT_BYTES
    before = resident(gang.operator)
    code, _, answer = asked(
        gang.operator, gang.head(f"Content-Length: {len(bomb)}", "Content-Encoding: gzip") + bomb
    )
    assert (code, "gzip" in json.loads(answer)["error"]) == (415, True)
    assert resident(gang.operator) - before < 16 * MIB


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 60_000,
        b"{" + b",".join(b'"%x": 1' % number for number in range(6_000)) + b"}",
        b'{"attempt": ' + b"9" * 4_000 + b"}",
        rb'{"attempt": 1, "sequence": 1, "stage": "Failed", "\ud800": 1}',
        b"\xff" * 60_000,
    ],
    ids=["depth", "fields", "digits", "surrogates", "no text"],
)
def test_nonsense_is_refused_in_few_words(gang: Gang, body: bytes) -> None:
    code, _, answer = asked(gang.operator, gang.head(f"Content-Length: {len(body)}") + body)
    assert code == 422
    assert 0 < len(json.loads(answer)["error"]) <= MAX_ERROR_LENGTH


def test_what_is_no_http_does_not_fill_the_log(gang: Gang) -> None:
    operator = gang.operator
    before = len(operator.log.read_text())
    for address in STRANGERS[:3]:
        assert asked(operator, b"\x00\x01\r\n\r\n", address)[0] == 400
        assert asked(operator, gang.head(*(f"X-{number}: 1" for number in range(100))), address)[0] == 400
        assert asked(operator, gang.head("Transfer-Encoding: chunked") + b"zz\r\n", address)[0] == 400
        assert asked(operator, gang.head("X: " + "x" * 100_000), address)[0] == 400
    for _ in range(50):
        assert asked(operator, gang.head("Content-Length: 0", token="x"), STRANGERS[3])[0] == 401
    told = operator.log.read_text()[before:]
    assert "Traceback" not in told
    assert told.count("refused with 401") < 40


def test_a_gang_that_reports_too_often_is_told_when_to_come_again_and_others_are_taken(
    namespace: Namespace, operator: Operator
) -> None:
    hasty, other = begun(namespace, operator, "hasty"), begun(namespace, operator, "other")
    body = report(sequence=1).to_json().encode()
    request = hasty.head(f"Content-Length: {len(body)}") + body
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: asked(operator, request), range(3 * REPORTS_BURST)))
    codes = [code for code, *_ in answers]
    assert set(codes) == {200, 429}
    assert codes.count(200) >= REPORTS_BURST
    [wait] = {headers["Retry-After"] for code, headers, _ in answers if code == 429}
    assert other.post(1) == 200
    time.sleep(int(wait))
    assert hasty.post(2, step=7) == 200
    eventually(lambda: namespace.status("hasty")["progress"]["step"] == 7)


def test_who_makes_up_tokens_is_not_heard_for_long_and_the_api_server_hardly_asked(gang: Gang) -> None:
    operator, namespace = gang.operator, gang.namespace.name
    assert gang.post(1) == 200
    before = operator.writes()["post tokenreviews"]
    stranger = "127.0.2.1"
    started = time.monotonic()
    requests = [
        gang.head("Content-Length: 0", token=forged(number, namespace))
        for number in range(4 * REFUSALS_BURST)
    ]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda request: asked(operator, request, stranger), requests))
    codes = [code for code, *_ in answers]
    assert codes.count(401) >= REFUSALS_BURST
    assert 429 in codes
    assert all("Retry-After" in headers for code, headers, _ in answers if code == 429)
    # One more a second.
    allowed = REFUSALS_BURST + 1 + time.monotonic() - started
    assert operator.writes()["post tokenreviews"] - before <= allowed
    # Tokens that cannot be good are not even asked about, and the same one is only once.
    asked_about = operator.writes()["post tokenreviews"]
    for token in ("x", "a.b.c", forged(0, "elsewhere"), forged(0, namespace)):
        code, *_ = asked(operator, gang.head("Content-Length: 0", token=token), "127.0.2.2")
        assert code in (401, 403)
    assert operator.writes()["post tokenreviews"] - asked_about <= 1
    assert gang.post(2) == 200


def test_what_somebody_has_listened_in_on_changes_nothing_when_it_is_sent_again(gang: Gang) -> None:
    old = report(sequence=1, step=3).to_json().encode()
    assert gang.operator.post(gang.namespace.name, "demo", old, token=gang.token)[0] == 200
    assert gang.post(2, step=30, checkpoints=[checkpoint(30)]) == 200
    eventually(lambda: gang.namespace.status()["progress"]["step"] == 30)
    version = gang.namespace.job()["metadata"]["resourceVersion"]
    for _ in range(10):
        assert gang.operator.post(gang.namespace.name, "demo", old, token=gang.token)[0] == 200
    time.sleep(1.5)
    assert gang.namespace.job()["metadata"]["resourceVersion"] == version
