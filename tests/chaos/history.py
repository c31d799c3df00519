"""Every version of everything in a namespace, by watches of their own that no fault touches."""

import http.client
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlencode, urlsplit

from chaos.changes import Change, in_order
from cluster.kube import (
    CONFIGMAPS,
    EVENTS,
    FINETUNEJOBS,
    JOBS,
    NETWORK_POLICIES,
    PODS,
    SERVICES,
    Namespace,
    Wire,
    eventually,
)

KINDS = {
    "FineTuneJob": FINETUNEJOBS,
    "Job": JOBS,
    "Pod": PODS,
    "ConfigMap": CONFIGMAPS,
    "Service": SERVICES,
    "NetworkPolicy": NETWORK_POLICIES,
    "Event": EVENTS,
}


class History:
    """A record that only grows; one thread for each kind."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._changes: list[Change] = []
        self._broken: list[str] = []
        self._connections: list[http.client.HTTPSConnection] = []
        self._threads: list[threading.Thread] = []
        self._closing = False

    @property
    def changes(self) -> list[Change]:
        """All there were so far, as they happened, once everything that is there now has been told."""
        eventually(self._is_complete)
        assert not self._broken, self._broken
        return in_order(list(self._changes))

    @property
    def length(self) -> int:
        """How many versions are known by now."""
        return len(self._changes)

    def _is_complete(self) -> bool:
        told = list(self._changes)
        known = {(change.uid, change.revision) for change in told}
        gone = {change.uid for change in told if change.type == "DELETED"}
        there: set[str] = set()
        for template in KINDS.values():
            for wire in self._namespace.all(template):
                metadata = wire["metadata"]
                there.add(metadata["uid"])
                if (metadata["uid"], int(metadata["resourceVersion"])) not in known:
                    return False
        return {change.uid for change in told} - gone <= there

    def _watch(self, kind: str, version: str) -> None:
        upstream = self._namespace.kube.configuration
        context = ssl.create_default_context(cafile=upstream.ssl_ca_cert)
        assert upstream.cert_file is not None
        context.load_cert_chain(upstream.cert_file, upstream.key_file)
        connection = http.client.HTTPSConnection(str(urlsplit(upstream.host).netloc), context=context)
        self._connections.append(connection)
        query = {"watch": "true", "resourceVersion": version}
        connection.request("GET", f"{self._namespace.path(KINDS[kind])}?{urlencode(query)}")
        answer = connection.getresponse()

        def listen() -> None:
            try:
                for line in answer:
                    change: Wire = json.loads(line)
                    if change["type"] == "ERROR":
                        self._broken.append(f"{kind}: {change['object']}")
                        return
                    self._changes.append(Change(change["type"], kind, change["object"]))
            except (OSError, ValueError, http.client.HTTPException) as error:
                if not self._closing:
                    self._broken.append(f"{kind}: {error!r}")
            finally:
                answer.close()

        thread = threading.Thread(target=listen, name=f"history of {kind}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _begin(self) -> None:
        for kind, template in KINDS.items():
            answer = self._namespace.kube.request("GET", self._namespace.path(template))
            self._changes += [Change("ADDED", kind, wire) for wire in answer["items"]]
            self._watch(kind, answer["metadata"]["resourceVersion"])

    def _end(self) -> None:
        self._closing = True
        for connection in self._connections:
            if connection.sock is not None:
                connection.sock.shutdown(2)
        for thread in self._threads:
            thread.join(10)
        for connection in self._connections:
            connection.close()


@contextmanager
def recorded(namespace: Namespace) -> Iterator[History]:
    """The history of a namespace, from now on."""
    history = History(namespace)
    history._begin()
    try:
        yield history
    finally:
        history._end()
