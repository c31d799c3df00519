"""The benchmark's own requests: jobs made by several threads, each with a connection of its own."""

import http.client
import json
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.operator.audit import USER_AGENT
from benchmarks.watching import Server

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
THREADS = 8

Body = dict[str, Any]


class Client:
    """One connection to the API server."""

    def __init__(self, kubeconfig: Path) -> None:
        self._server = Server(kubeconfig)
        self._connection = self._server.connect()

    def request(
        self, method: str, path: str, body: Body | bytes | None = None, content_type: str = "application/json"
    ) -> Body:
        """The answer to a request.

        Raises:
            RuntimeError: the API server refused it; the message has its words.
        """
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        answer = self._answer(method, path, data, {"Content-Type": content_type})
        text = answer.read()
        if not 200 <= answer.status < 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text.decode(errors='replace')[:500]}")
        found: Body = json.loads(text)
        return found

    def text(self, path: str) -> str:
        """What is at a path, as it is."""
        return self._answer("GET", path, None, {}).read().decode()

    def _answer(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        headers["User-Agent"] = USER_AGENT
        try:
            self._connection.request(method, path, data, headers)
            return self._connection.getresponse()
        except (http.client.HTTPException, OSError):
            # It had been idle for too long.
            self._connection.close()
            self._connection = self._server.connect()
            self._connection.request(method, path, data, headers)
            return self._connection.getresponse()


def at_once(kubeconfig: Path, tasks: Sequence[Callable[[Client], None]]) -> None:
    """Have all tasks done, by threads that each take the next one; the first error is raised."""
    waiting: queue.SimpleQueue[Callable[[Client], None]] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    errors: list[Exception] = []

    def work() -> None:
        client = Client(kubeconfig)
        try:
            while not errors:
                waiting.get_nowait()(client)
        except queue.Empty:
            return
        except Exception as error:  # noqa: BLE001 - raised by the thread that waits
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(min(THREADS, len(tasks)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def wait_until(ready: Callable[[], bool], what: str, *, seconds: float) -> None:
    """Wait for something; TimeoutError says what has not come."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not so after {seconds:.0f} s")
        time.sleep(0.02)
