"""The port of the report endpoint: one connection brings one request, within bounds of number, rate, time and size."""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import cast

from aiohttp import web

from finetune_operator.endpoint.callers import Callers
from finetune_operator.monitoring.metrics import NO_ANSWER, Metrics

logger = logging.getLogger(__name__)

# Who does not finish its handshake in this time has something else in mind.
HANDSHAKE_SECONDS = 5.0
# From the end of the handshake to the end of the answer. Whatever is slow about it, headers, body, or reading the
# answer, is over then. A little more than receiver.READ_TIMEOUT_SECONDS, which has an answer for a slow body.
CONNECTION_SECONDS = 15.0
# Of whatever it is made: headers, chunks, a body that has been answered as too large, or more requests.
CONNECTION_BYTES = 1024 * 1024
# How long more of a body is read, and thrown away, once it has been answered: closed at once, a connection would take
# the answer with it.
LINGERING_SECONDS = 1.0
# Trainers send six, of which the token is the longest.
MAX_HEADERS = 32
# What waits in the kernel to be accepted,
BACKLOG = 128
# and how many of those are looked at before others of the event loop have their turn.
ACCEPTED_AT_ONCE = 16
# When there is no file or memory left for a connection, there is none a moment later either.
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
EXHAUSTED_SECONDS = 1.0
SHUTDOWN_SECONDS = 1.0

# aiohttp logs a traceback for whatever is no HTTP: strangers would decide how much there is to log. What goes wrong in
# answering a request is told by the application.
_silent = logging.getLogger(f"{__name__}.http")
_silent.setLevel(logging.CRITICAL + 1)


class Listener:
    """Serves an application under TLS to whom Callers let in; others are hung up on before the handshake."""

    def __init__(
        self, application: web.Application, port: int, context: ssl.SSLContext, metrics: Metrics
    ) -> None:
        self._port = port
        self._context = context
        self._turned_away = metrics.reports.labels(code=NO_ANSWER)
        self._callers = Callers()
        self._welcomes: set[asyncio.Task[None]] = set()
        self._runner = web.AppRunner(
            application,
            logger=_silent,
            access_log=None,
            # A body that is compressed is taken for what it is, and not for what it would become.
            auto_decompress=False,
            # Nothing is worked on whose connection no longer counts.
            handler_cancellation=True,
            lingering_time=LINGERING_SECONDS,
            max_headers=MAX_HEADERS,
            shutdown_timeout=SHUTDOWN_SECONDS,
        )

    async def open(self) -> None:
        """Take the port, and let callers in from now on. Raises OSError where somebody else has it."""
        await self._runner.setup()
        if socket.has_dualstack_ipv6():
            self._socket = socket.create_server(
                ("", self._port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG
            )
        else:
            self._socket = socket.create_server(("", self._port), backlog=BACKLOG)
        self._socket.setblocking(False)
        self._listen()

    async def close(self) -> None:
        """Give the port back; what is being answered has a moment to be so."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        for welcome in self._welcomes:
            welcome.cancel()
        await self._runner.cleanup()

    def _listen(self) -> None:
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        """Look at those who wait. Of a server of asyncio's own, nobody would be told from where they come."""
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, (address, *_) = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # Any other error is of a connection that is over before it began.
                if error.errno in EXHAUSTED:
                    logger.warning("connections to the report endpoint have to wait: %s", error)
                    loop.remove_reader(self._socket)
                    loop.call_later(EXHAUSTED_SECONDS, self._listen)
                    return
                continue
            if self._callers.enter(address, loop.time()):
                connection.setblocking(False)
                welcome = loop.create_task(self._welcome(connection, address))
                self._welcomes.add(welcome)
                welcome.add_done_callback(self._welcomes.discard)
            else:
                connection.close()
                self._turned_away.inc()

    async def _welcome(self, connection: socket.socket, address: str) -> None:
        serve = self._runner.server
        assert serve is not None, "it is set up before anybody is let in"
        guest = _Guest(serve(), lambda: self._callers.leave(address))
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: guest, connection, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except OSError as error:
            logger.debug("a connection from %s came to nothing: %s", address, error)
        finally:
            if not guest.is_in:
                self._callers.leave(address)


class _Guest(asyncio.Protocol):
    """A connection whose handshake is done: tells when it is over, and sees to it that it will be."""

    def __init__(self, inner: asyncio.Protocol, left: Callable[[], None]) -> None:
        self._inner = inner
        self._left = left
        self._bytes = 0
        self.is_in = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.is_in = True
        # uvloop's transports are none of asyncio's classes.
        self._abort = cast(asyncio.WriteTransport, transport).abort
        self._end = asyncio.get_running_loop().call_later(CONNECTION_SECONDS, self._abort)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()
        self._left()
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > CONNECTION_BYTES:
            self._abort()
        else:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
