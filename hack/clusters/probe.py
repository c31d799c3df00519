"""Waiting for the cluster: a small HTTPS client for the API server, and one loop that all waiting goes through."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Callable
from pathlib import Path

from clusters.console import ClusterError
from clusters.pki import KeyPair

_INTERVAL = 0.1


class ApiProbe:
    """Asks the API server on this machine's loopback, as the given client, whether something is there."""

    def __init__(self, port: int, ca: Path, client: KeyPair) -> None:
        self._port = port
        self._context = ssl.create_default_context(cafile=str(ca))
        self._context.load_cert_chain(client.certificate, client.key)

    def get(self, path: str) -> bytes | None:
        """The body of the answer to a GET of `path`; None when the answer is not 200, or there is none."""
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=5, context=self._context)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            return None  # not listening yet, or going down
        finally:
            connection.close()
        return body if response.status == http.HTTPStatus.OK else None

    def answers(self, path: str) -> bool:
        """Whether a GET of `path` is answered with 200."""
        return self.get(path) is not None


def wait_until(
    what: str, ready: Callable[[], bool], check: Callable[[], None] = lambda: None, *, seconds: float = 60.0
) -> None:
    """Wait until `ready()`; `check()` may raise, to end a wait that can no longer succeed.

    Raises:
        ClusterError: not ready after `seconds`; the message names `what` was awaited.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        check()
        if time.monotonic() > deadline:
            raise ClusterError(f"{what}: not so after {seconds:.0f} s")
        time.sleep(_INTERVAL)
