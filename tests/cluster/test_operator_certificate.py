"""A certificate is replaced while the operator runs: whoever connects gets it, and what starts later trusts it."""

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from certificates import write_certificate
from cluster.kube import CONFIGMAPS, Kube, Namespace, eventually
from cluster.operators import Operator
from world import INLINE, report


@pytest.fixture
def operator(lonely: Kube, tmp_path: Path) -> Iterator[Operator]:
    """One of this test's own, and alone: its certificate is nobody else's."""
    operator = Operator(lonely.kubeconfig, tmp_path)
    operator.start()
    yield operator
    assert operator.stop() == 0, operator.log.read_text()


@pytest.fixture
def namespace(lonely: Kube) -> Iterator[Namespace]:
    """A namespace that nobody else's operator sees."""
    with lonely.namespace() as made:
        yield made


def gets_through(port: int, authorities: str) -> bool:
    """Whether a client with these authorities gets a connection."""
    context = ssl.create_default_context(cadata=authorities)
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1"),
        ):
            return True
    except ssl.SSLCertVerificationError:
        return False


def given(namespace: Namespace, name: str) -> str:
    """The authorities that the pods of a job were given."""
    [found] = namespace.all(CONFIGMAPS, labelSelector=f"finetune.dev/job={name}")
    authorities: str = found["data"]["ca.crt"]
    return authorities


def test_a_new_certificate_is_served_without_a_restart_and_a_broken_one_is_not(
    operator: Operator, namespace: Namespace
) -> None:
    files = operator.directory / "tls"
    ports = (operator.report_port, operator.webhook_port)
    old = (files / "ca.crt").read_text()
    namespace.submit("before", dataset=INLINE)
    [pod, *_] = namespace.pods("before")
    token = namespace.token(pod)
    assert given(namespace, "before") == old

    (files / "tls.key").write_text("")
    eventually(lambda: "is not served" in operator.log.read_text())
    assert all(gets_through(port, old) for port in ports)

    write_certificate(files)
    new = (files / "ca.crt").read_text()
    (files / "ca.crt").write_text(new + old)
    eventually(lambda: all(gets_through(port, new) for port in ports))
    assert not any(gets_through(port, old) for port in ports)
    assert operator.post(namespace.name, "before", report(), token=token)[0] == 200
    namespace.submit("after", dataset=INLINE)
    namespace.pods("after")
    assert given(namespace, "after") == new + old
    assert given(namespace, "before") == old
    assert operator.log.read_text().count("the operator runs") == 1
