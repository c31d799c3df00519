"""When what happens in a cluster is told: a watch of one kind of objects, with the time at which each line came."""

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

from kubernetes import config

Wire = dict[str, Any]
Heard = Callable[[str, Wire, float], None]
"""Called with the type of an event (ADDED, MODIFIED, DELETED), the object, and when the event came."""

# Longer than anything that is measured.
_WATCH_SECONDS = 3600


class Watch:
    """A watch of one kind of objects, in a thread, while the context lasts.

    Times are those of time.perf_counter, in microseconds or better, and taken before an event is parsed. What is there
    already when the watch begins is not told. An API server closes a watch that does not keep up for a moment; it is
    taken up from the last event then.

        with Watch(plane.kubeconfig, "/api/v1/pods", heard) as watch:
            ...
            watch.check()
    """

    def __init__(self, kubeconfig: Path, path: str, heard: Heard, *, selector: str = "") -> None:
        """`path` is that of a list, of one namespace or of all; `selector` leaves out what has other labels."""
        self._server = Server(kubeconfig)
        self._path = path
        self._heard = heard
        self._query = {"labelSelector": selector} if selector else {}
        self._failure: BaseException | None = None
        self._ends = False
        self._thread = threading.Thread(target=self._follow, name=f"watch of {path}", daemon=True)

    def __enter__(self) -> Self:
        listed = self._server.get(f"{self._path}?{urlencode(self._query | {'limit': '1'})}")
        self._connect(listed["metadata"]["resourceVersion"])
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends = True
        while self._thread.is_alive():
            # Not once: it may be taking the watch up again.
            self._server.cut(self._connection)
            self._thread.join(timeout=0.1)
        self._close()

    def check(self) -> None:
        """Raise what ended the watch, if something has: from then on nothing was told any more."""
        if self._failure is not None:
            raise RuntimeError(f"the watch of {self._path} has ended: {self._failure!r}") from self._failure

    def _connect(self, version: str) -> None:
        query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(_WATCH_SECONDS)}
        self._version = version
        self._connection = self._server.connect()
        self._connection.request("GET", f"{self._path}?{urlencode(self._query | query)}")
        self._answer = self._connection.getresponse()
        if self._answer.status != 200:
            raise RuntimeError(f"watch of {self._path}: {self._answer.status} {self._answer.read().decode()}")

    def _close(self) -> None:
        self._answer.close()
        self._connection.close()

    def _follow(self) -> None:
        try:
            while not self._ends:
                for line in self._answer:
                    when = time.perf_counter()
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise RuntimeError(event["object"].get("message", "ERROR"))
                    self._heard(event["type"], event["object"], when)
                    self._version = event["object"]["metadata"]["resourceVersion"]
                if not self._ends:
                    print(
                        f"the API server closed the watch of {self._path}; it is taken up again", flush=True
                    )
                    self._close()
                    self._connect(self._version)
        except Exception as error:  # noqa: BLE001 - told by check(), in the thread that measures
            if not self._ends:
                self._failure = error


class Arrivals:
    """When objects were first told of, and when they were told to be gone; give `heard` to a Watch.

    Both are by namespace and name, such as `team/demo-1-0-x7k2p`.
    """

    def __init__(self, keeps: Callable[[Wire], bool] = lambda _: True) -> None:
        """Only objects that `keeps` says are counted."""
        self.first: dict[str, float] = {}
        self.gone: dict[str, float] = {}
        self._keeps = keeps

    def heard(self, type_: str, wire: Wire, when: float) -> None:
        """An event of the watch."""
        if self._keeps(wire):
            key = f"{wire['metadata']['namespace']}/{wire['metadata']['name']}"
            self.first.setdefault(key, when)
            if type_ == "DELETED":
                self.gone.setdefault(key, when)


class Server:
    """Plain connections to the API server with a kubeconfig's credentials: nothing between caller and socket."""

    def __init__(self, kubeconfig: Path) -> None:
        client = config.new_client_from_config(str(kubeconfig))  # type: ignore[no-untyped-call]
        found = client.configuration
        self._address = urlsplit(found.host)
        self._context = ssl.create_default_context(cafile=found.ssl_ca_cert)
        self._context.load_cert_chain(found.cert_file, found.key_file)

    def connect(self) -> http.client.HTTPSConnection:
        """A connection of the caller's own."""
        assert self._address.hostname is not None
        return http.client.HTTPSConnection(self._address.hostname, self._address.port, context=self._context)

    def get(self, path: str) -> Wire:
        """The answer to one GET."""
        connection = self.connect()
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"GET {path}: {answer.status} {text.decode()}")
            found: Wire = json.loads(text)
            return found
        finally:
            connection.close()

    @staticmethod
    def cut(connection: http.client.HTTPSConnection) -> None:
        """End a connection on which another thread is reading, if the other side has not done so already."""
        if connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
