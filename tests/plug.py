"""A plug that can be pulled: a TCP proxy which cuts all connections in the middle of a transfer, byte for byte."""

import contextlib
import socket
import threading
from typing import Literal

Way = Literal["up", "down"]
"""up: from those who connect to the server behind; down: back."""


class Plug:
    """Passes connections on to a server. Pulled, it cuts them, and new ones at once, until it is put back."""

    def __init__(self, server: tuple[str, int], *, listen: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self._server = server
        self._listener = socket.create_server(listen)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._passed: dict[Way, int] = {"up": 0, "down": 0}
        # How many more bytes pass before it is pulled, where that is wanted.
        self._left: dict[Way, int | None] = {"up": None, "down": None}
        self._pulled = False
        self._refused = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def pull(self) -> None:
        """Cut all connections now."""
        with self._lock:
            self._pulled = True
            for one in self._open:
                _cut(one)

    def pull_after(self, size: int, way: Way) -> None:
        """Cut all connections as soon as so many more bytes have passed that way."""
        with self._lock:
            self._left[way] = size

    def put_back(self) -> None:
        """Let everything pass again."""
        with self._lock:
            self._pulled = False
            self._refused = 0
            self._left = {"up": None, "down": None}

    def is_pulled(self) -> bool:
        """Whether nothing passes."""
        with self._lock:
            return self._pulled

    def refused(self) -> int:
        """Connections that were tried since it was pulled."""
        with self._lock:
            return self._refused

    def passed(self, way: Way) -> int:
        """Bytes that have passed that way from the beginning on."""
        with self._lock:
            return self._passed[way]

    def close(self) -> None:
        """Cut everything, and listen no longer."""
        self.pull()
        _cut(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            with self._lock:
                if self._pulled:
                    self._refused += 1
                    return
            with socket.create_connection(self._server) as server:
                with self._lock:
                    self._open |= {client, server}
                back = threading.Thread(target=self._pass_on, args=(server, client, "down"), daemon=True)
                back.start()
                self._pass_on(client, server, "up")
                back.join()
                with self._lock:
                    self._open -= {client, server}

    def _pass_on(self, source: socket.socket, sink: socket.socket, way: Way) -> None:
        try:
            while data := source.recv(1 << 16):
                may_pass = self._take(len(data), way)
                sink.sendall(data[:may_pass])
                if may_pass < len(data):
                    self.pull()
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            # One of the two is gone: so is the connection.
            _cut(source)
            _cut(sink)

    def _take(self, size: int, way: Way) -> int:
        """How many of so many bytes may pass."""
        with self._lock:
            left = self._left[way]
            if left is not None:
                size = min(size, left)
                self._left[way] = left - size
            self._passed[way] += size
            return size


def _cut(connection: socket.socket) -> None:
    # It may be cut already.
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
